"""What answers the wizard on a device that belongs to nobody yet: makes its keys, and takes its place in the world.

Unit: tillsyn-fresh, run as the guard's user in the guard's place while there is no `guard.toml`. The keys never leave
this user: the wizard, which has the network, sees public halves only. `guard.toml` is written last and is the commit:
before it the device is factory-fresh whatever lies beside it, after it the device is enrolled whole. The button is read
here too, for set-up's physical act (`fresh_button`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.config.file import AbsolutePath, Config, GuardConfig, load
from gateway.core.boottime import boottime_s
from gateway.core.error import ConfigError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.edge.service_systemd import bound_socket, demand_isolation, feed_watchdog, harden, run_until_signal
from gateway.ipc import frame, setup
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger import NoteSigner
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.envelope import make_trust
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import GatewayId
from gateway.protocol.tunnel_key import new_private_key, public_key
from gateway.services.fresh_button import fitted_button
from gateway.services.guard_core import close_fds
from gateway.services.guard_state import load_device_key, load_ledger_key

LOG = logging.getLogger("tillsyn.fresh")

DEVICE_KEY: Final = "device.pem"
LEDGER_KEY: Final = "ledger.pem"
ROOTS: Final = "roots.json"
TRUST: Final = "trust.jws"
TUNNEL_KEY: Final = "tunnel.key"
TUNNEL: Final = "tunnel.json"
FILTER: Final = "centre.nft"
GUARD: Final = "guard.toml"
KEYS: Final = (DEVICE_KEY, LEDGER_KEY, TUNNEL_KEY)
BEAT_S: Final = 1.0


class FreshConfig(Config, frozen=True):
    gateway: GatewayId
    """As the factory named it."""
    setup_socket: AbsolutePath
    identity_dir: AbsolutePath
    """Where keys, trust and `guard.toml` will lie."""
    guard_template: AbsolutePath
    """TOML with everything of `guard.toml` that does not depend on the installation."""
    demand_isolation: bool
    keys_named_in: AbsolutePath | None = None
    """Where the guard will find its keys, if root moves them there afterwards; `identity_dir` where None."""
    trust_named_in: AbsolutePath | None = None
    """The same of roots and trust."""


class _InstalledError(Exception):
    """The device is enrolled; the guard takes over."""


class Fresh:
    """The running service; ends by itself once the device is enrolled."""

    def __init__(self, config: FreshConfig, *, now_s: Callable[[], float] = boottime_s) -> None:
        self._config = config
        self._now_s = now_s
        self._directory = Path(config.identity_dir)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def run(self) -> None:
        """Serve one wizard after another until the device is enrolled. Raises ConfigError."""
        button = fitted_button(self._template(), self._now_s)
        listener = bound_socket(Path(self._config.setup_socket), 0o660)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(feed_watchdog(), name="watchdog")
                group.create_task(self._accept(listener), name="setup")
                if button is not None:
                    group.create_task(button.run(), name="button")
        except* _InstalledError:
            LOG.info("enrolled: the guard takes over")
        finally:
            listener.close()

    async def _accept(self, listener: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            channel: Channel[setup.ToGuardFromSetup] = Channel(sock, setup.ToGuardFromSetup)
            try:
                async with asyncio.TaskGroup() as group:
                    beats = group.create_task(self._beat(channel))
                    await self._serve(channel)
                    beats.cancel()
            except* ChannelLostError as lost:
                LOG.info("setup: %s", lost.exceptions[0])
            finally:
                channel.close()

    async def _beat(self, channel: Channel[setup.ToGuardFromSetup]) -> None:
        while True:
            channel.send(frame.Beat())
            await asyncio.sleep(BEAT_S)

    async def _serve(self, channel: Channel[setup.ToGuardFromSetup]) -> None:
        while True:
            got, fds = await channel.receive()
            close_fds(fds)
            if isinstance(got, frame.Beat):
                continue
            try:
                answer = self._obey(got)
            except RefusedError as refused:
                LOG.warning("refused: %s", refused)
                answer = setup.Denied(refused.code.value)
            channel.send(answer)
            if isinstance(got, setup.Install) and isinstance(answer, setup.Done):
                raise _InstalledError

    def _obey(self, got: setup.ToGuardFromSetup) -> setup.Answer:
        match got:
            case setup.AskStanding():
                return setup.Standing(is_fresh=True, is_open=True, gateway=self._config.gateway)
            case setup.MakeKeys():
                return self._keys()
            case setup.ForgetKeys():
                for name in KEYS:
                    (self._directory / name).unlink(missing_ok=True)
                return setup.Done()
            case setup.Install():
                self._install(got)
                return setup.Done()
            case _:
                raise RefusedError(RefusalCode.NOT_AGREED, "not enrolled yet")

    def _keys(self) -> setup.Answer:
        """Those that are there; else new ones. A cut in between leaves what the next call completes."""
        device, ledger = self._directory / DEVICE_KEY, self._directory / LEDGER_KEY
        try:
            if not device.exists():
                replace_durably(Disk(), device, SigningKey.generate().to_pem())
            if not ledger.exists():
                replace_durably(Disk(), ledger, _ed25519_pem())
            tunnel = self._tunnel_key()
        except OSError as exc:
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
        signer: NoteSigner = load_ledger_key(ledger, self._config.gateway)
        return setup.KeysMade(load_device_key(device).verifying.jwk(), str(signer.verifier), tunnel)

    def _tunnel_key(self) -> str | None:
        """The public half of the tunnel's key, which is made here if it is missing; None for a device without one."""
        if self._template().get("tunnel_socket") is None:
            return None
        path = self._directory / TUNNEL_KEY
        if not path.exists():
            replace_durably(Disk(), path, new_private_key() + b"\n")
        return public_key(path.read_bytes())

    def _install(self, got: setup.Install) -> None:
        if got.gateway != self._config.gateway:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "the place is another device's")
        for name in (DEVICE_KEY, LEDGER_KEY):
            if not (self._directory / name).exists():
                raise RefusedError(RefusalCode.UNKNOWN_KEY, "no keys were made")
        roots = {key.kid: key for key in map(VerifyingKey.from_jwk, got.roots)}
        make_trust(got.trust, roots)
        if got.tunnel is not None and not (self._directory / TUNNEL_KEY).exists():
            raise RefusedError(RefusalCode.UNKNOWN_KEY, "a tunnel, and no key was made for one")
        content = self._guard_toml(got)
        try:
            replace_durably(Disk(), self._directory / ROOTS, json.dumps(got.roots).encode())
            replace_durably(Disk(), self._directory / TRUST, got.trust)
            if got.tunnel is not None:
                replace_durably(Disk(), self._directory / TUNNEL, msgspec.json.encode(got.tunnel))
                replace_durably(Disk(), self._directory / FILTER, _filter(got.fallback))
            replace_durably(Disk(), self._directory / GUARD, content)
        except OSError as exc:
            # Without guard.toml nothing of it counts; with it, should the last fsync have failed, all of it is there.
            with contextlib.suppress(OSError):
                (self._directory / GUARD).unlink(missing_ok=True)
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc

    def _guard_toml(self, got: setup.Install) -> bytes:
        """Raises ConfigError when template and place make no configuration: the image's fault, not the wizard's."""
        table = self._template()
        keys = Path(self._config.keys_named_in or self._directory)
        trust = Path(self._config.trust_named_in or self._directory)
        try:
            table |= {
                "gateway": got.gateway,
                "install_epoch": got.install_epoch,
                "groups": list(got.groups),
                "setup_socket": self._config.setup_socket,
                "device_key": str(keys / DEVICE_KEY),
                "ledger_key": str(keys / LEDGER_KEY),
                "roots": str(trust / ROOTS),
                "trust": str(trust / TRUST),
            }
            if got.tunnel is None:
                table.pop("tunnel_socket", None)
            if got.witness is not None:
                table["witness"] = got.witness
            msgspec.convert(table, GuardConfig, strict=True)
        except msgspec.MsgspecError as exc:
            raise ConfigError(f"{self._config.guard_template}: {exc}") from exc
        return msgspec.toml.encode(table)

    def _template(self) -> dict[str, Any]:
        path = Path(self._config.guard_template)
        try:
            return dict(msgspec.toml.decode(path.read_bytes()))
        except (OSError, msgspec.MsgspecError) as exc:
            raise ConfigError(f"{path}: {exc}") from exc


def is_enrolled(config: FreshConfig) -> bool:
    return (Path(config.identity_dir) / GUARD).exists()


def read(path: Path) -> FreshConfig:
    """Raises ConfigError."""
    return load(path, FreshConfig)


def main(config: FreshConfig) -> None:
    """Run until the device is enrolled; at once over where it is. Raises ConfigError."""
    harden()
    if config.demand_isolation:
        demand_isolation()
    if not is_enrolled(config):
        run_until_signal(Fresh(config).run())


def _filter(addresses: list[str]) -> bytes:
    """The set `centre` of the device's packet filter: systemd/nftables."""
    elements = f"add element inet tillsyn centre {{ {', '.join(addresses)} }}\n" if addresses else ""
    return f"flush set inet tillsyn centre\n{elements}".encode()


def _ed25519_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
