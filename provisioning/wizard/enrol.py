"""Enrolment as the wizard does it: what is asked of whom in which order, so that no cut leaves a half-enrolled device.

Until somebody has said that both short codes are the same, everything lies aside: the guard's keys with `fresh`, the
link's key in `pending-key.pem`, the rest in `progress.json`. Then the guard's part is made, and after it the link's;
each is whole or not there, each may be made again, and the step is left only when both are there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config.file import LinkConfig
from gateway.core.error import ConfigError, TransientError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.ipc import setup
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.envelope import make_trust
from gateway.protocol.key import VerifyingKey
from provisioning.authority.x509 import private_pem
from provisioning.enrolment.est_client import EstClient, Identity
from provisioning.enrolment.renewal import PAIR_FILE, read_pair, write_pair
from provisioning.enrolment.word import Keys, Place, decode, encode, short_code
from provisioning.wizard.guard_client import GuardAwayError, GuardClient, GuardDeniesError
from provisioning.wizard.machine import Pending

PENDING_KEY: Final = "pending-key.pem"
TAKE_OVER_S: Final = 30.0
"""From the end of `fresh` to the guard's first answer."""


@dataclass(slots=True)
class Enroller:
    gateway: str
    guard: GuardClient
    client: EstClient
    state_dir: Path
    link_dir: Path
    link_template: Path
    link_named_dir: Path | None = None
    """Where the link finds them, if root moves them there afterwards."""

    async def begin(self, code: str) -> Pending:
        """Keys, certificate, place. Repeating it after a lost answer gives the same.

        Raises UnreachableError, EnrolmentRefusedError, RefusedError, GuardAwayError, GuardDeniesError.
        """
        made = await self.guard.ask(setup.MakeKeys(), setup.KeysMade)
        keys = Keys(made.device_jwk, made.ledger_vkey, made.tunnel_key)
        key = await asyncio.to_thread(self._pending_key)
        certificate = await asyncio.to_thread(self.client.enrol, self.gateway, key, code)
        identified = self.client.with_identity(Identity(certificate, key))
        place = await asyncio.to_thread(identified.register, keys)
        self._demand_sound(place, keys)
        der = certificate.public_bytes(serialization.Encoding.DER)
        return Pending(
            certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            encode(keys).decode(),
            encode(place).decode(),
            short_code(certificate_der=der, keys=keys, place=place),
        )

    def identity(self, pending: Pending | None) -> Identity:
        """The certificate in hand: the pending one, else the link's. Raises ConfigError when there is none."""
        if pending is None:
            return read_pair(self.link_dir)
        return Identity(x509.load_pem_x509_certificate(pending.certificate_pem.encode()), self._pending_key())

    async def commit(self, pending: Pending) -> None:
        """Make the guard's part, wait for the guard, make the link's. Raises GuardAwayError; try again then."""
        place = decode(pending.place_json.encode(), Place)
        if (await self.guard.standing()).is_fresh:
            tunnel = place.tunnel
            fallback = None if tunnel is None else tunnel.fallback
            word = setup.Install(
                place.gateway,
                place.install_epoch,
                place.groups,
                place.roots,
                place.trust.encode("ascii"),
                place.witness,
                None if tunnel is None else tunnel.settings,
                [] if fallback is None else sorted({fallback.broker_host, fallback.relay_host}),
            )
            await self.guard.ask(word, setup.Done)
        async with asyncio.timeout(TAKE_OVER_S):
            while True:
                with contextlib.suppress(GuardAwayError):
                    standing = await self.guard.standing()
                    if not standing.is_fresh:
                        break
                await asyncio.sleep(0.2)
        if (standing.gateway, standing.install_epoch) != (place.gateway, place.install_epoch):
            raise TransientError("the guard is installed for another place than this one")
        await asyncio.to_thread(self._commit_link, pending, place)

    async def forget(self) -> None:
        """Throw away what was not compared as the same."""
        with contextlib.suppress(GuardAwayError, GuardDeniesError):
            await self.guard.ask(setup.ForgetKeys(), setup.Done)
        await asyncio.to_thread((self.state_dir / PENDING_KEY).unlink, missing_ok=True)

    def _commit_link(self, pending: Pending, place: Place) -> None:
        """The configuration is last: before it there is no link."""
        self.link_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (self.state_dir / PENDING_KEY).exists():
            write_pair(self.link_dir, self.identity(pending))
        replace_durably(Disk(), self.link_dir / "ca.pem", self.client.ca)
        replace_durably(Disk(), self.link_dir / "link.toml", self._link_toml(place))
        (self.state_dir / PENDING_KEY).unlink(missing_ok=True)

    def _link_toml(self, place: Place) -> bytes:
        named = self.link_named_dir or self.link_dir
        pair = str(named / PAIR_FILE)
        try:
            table: dict[str, Any] = msgspec.toml.decode(self.link_template.read_bytes())
            table |= {
                "gateway": place.gateway,
                "broker_host": place.broker.host,
                "broker_port": place.broker.port,
                "broker_name": place.broker.name,
                "ca": str(named / "ca.pem"),
                "cert": pair,
                "key": pair,
            }
            if place.tunnel is not None and place.tunnel.fallback is not None:
                table["fallback"] = msgspec.to_builtins(place.tunnel.fallback)
            msgspec.convert(table, LinkConfig, strict=True)
        except (OSError, msgspec.MsgspecError) as exc:
            raise ConfigError(f"{self.link_template}: {exc}") from exc
        return msgspec.toml.encode(table)

    def _pending_key(self) -> ec.EllipticCurvePrivateKey:
        path = self.state_dir / PENDING_KEY
        if path.exists():
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            return key
        fresh = ec.generate_private_key(ec.SECP256R1())
        replace_durably(Disk(), path, private_pem(fresh))
        return fresh

    def _demand_sound(self, place: Place, keys: Keys) -> None:
        """What guard and link would refuse is refused before anybody compares a code."""
        if place.gateway != self.gateway:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "the place is another device's")
        roots = {key.kid: key for key in map(VerifyingKey.from_jwk, place.roots)}
        make_trust(place.trust.encode("ascii"), roots)
        home_key = None if place.tunnel is None else place.tunnel.home_key
        if home_key != keys.tunnel_key:
            raise RefusedError(RefusalCode.UNKNOWN_KEY, "the tunnel is for another key, or there is none")
        self._link_toml(place)
