"""A new key for the tunnel by a steward's signed command, on a running WireGuard at both ends.

The home makes the key and uses it at once, when nobody at the centre can know it yet: its answer comes by the fallback.
Then the centre lets the new key in, the tunnel comes back by itself, and the old key opens nothing any more. Nobody
touches the device.

Mutations that turn it red, each tried: `private_key` gives the first key whatever its number (services/tunnel.py); the
second asking for the same order is refused (`is_stored` always false, services/guard_tunnel.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from pathlib import Path

import msgspec

from centre.operator import Operator, OperatorError
from gateway.ledger import verify_directory
from gateway.protocol.envelope import sign, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import Accepted, TunnelPut, TunnelSettings
from gateway.tunnel import State
from provisioning import bench_home
from provisioning.authority import tunnel_config
from provisioning.bench_home import BenchHome, new_id
from tests.net_lab.lab import INTERFACE, Lab, LabError, running
from tests.net_lab.network import sh

NEW_ADDRESS = "10.90.128.18"
ANSWER_LIMIT_S = 60.0
"""One asking that gets no answer takes the centre 12 s, and the link some seconds to change its way."""
BACK_LIMIT_S = 60.0
SETTLED_LIMIT_S = 15.0


def _steward(home: BenchHome, token: str) -> None:
    config = msgspec.toml.decode(home.centre_config.read_bytes())
    login = hashlib.sha256(token.encode()).hexdigest()
    config["accounts"].append({"who": "steward-demo", "roles": ["steward"], "login_sha256": login})
    home.centre_config.write_bytes(msgspec.toml.encode(config))


def _key_in_use() -> str:
    return sh(f"wg show {INTERFACE} public-key", namespace="home").strip()


def _handshake_s(key: str) -> int:
    """When the centre last spoke with this key, Unix time; 0: never, or not known to it."""
    for line in sh("wg show wg0 latest-handshakes", namespace="centre").splitlines():
        if line.split()[0] == key:
            return int(line.split()[1])
    return 0


def _state(lab: Lab) -> State:
    return msgspec.json.decode((lab.home.directory / "home" / "tunnel" / "tunnel-state.json").read_bytes(), type=State)


async def _ordered(lab: Lab, token: str, settings: TunnelSettings) -> str:
    """Give the order, again until it is answered; the home's new public key, as it signed it."""
    async with Operator(lab.url, token) as steward:
        home = await steward.home(lab.home.gateway)
        device = VerifyingKey.from_jwk(home["device_jwk"])
        deadline_s = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < deadline_s:
            order = TunnelPut(home["audience"], new_id("j"), settings, renew_key=True)
            envelope = steward._grant + b"~" + sign(order, steward.key)
            try:
                reply = await steward.send_envelope(lab.home.gateway, envelope)
            except OperatorError:
                await asyncio.sleep(1.0)
                continue
            answer = verify(reply, {device.kid: device}, Accepted)
            if answer.version == settings.version and answer.tunnel_key is not None:
                return answer.tunnel_key
    raise LabError(f"the order was not answered within {ANSWER_LIMIT_S:g} s\n{lab.log('home')}")


async def run(directory: Path) -> tuple[list[str], list[str]]:
    """(what was measured, what does not hold)."""
    lines: list[str] = []
    wrong: list[str] = []

    def say(words: str, holds: bool) -> None:
        lines.append(f"{'holds' if holds else 'DOES NOT HOLD'}: {words}")
        if not holds:
            wrong.append(words)

    token = secrets.token_urlsafe(24)
    async with running(directory, before=lambda home: _steward(home, token)) as lab:
        await lab.agree()
        await lab.until_tunnel("up", 30.0)
        old = _key_in_use()
        first = (lab.home.directory / "home" / tunnel_config.SETTINGS_FILE).read_bytes()
        settings = msgspec.structs.replace(
            msgspec.json.decode(first, type=TunnelSettings), version=2, address=NEW_ADDRESS
        )
        began_s = time.monotonic()
        new = await _ordered(lab, token, settings)
        took_s = time.monotonic() - began_s
        way = (await lab.facts())["tunnel"]
        say(f"answered with a new key after {took_s:.1f} s, by {way}", new != old and way == "fallback")
        addresses = sh(f"ip -br address show dev {INTERFACE}", namespace="home")
        say("the interface has that key and the new address", _key_in_use() == new and NEW_ADDRESS in addresses)
        say("on trial, and the centre has never heard it", _state(lab).trial is not None and not _handshake_s(new))

        sh(f"wg set wg0 peer {new} allowed-ips {NEW_ADDRESS}/32", namespace="centre")
        back_s = await lab.until_tunnel("up", BACK_LIMIT_S)
        say(f"let in, the tunnel was back after {back_s:.1f} s", _handshake_s(new) > 0)
        deadline_s = time.monotonic() + SETTLED_LIMIT_S
        while _state(lab).trial is not None and time.monotonic() < deadline_s:
            await asyncio.sleep(0.2)
        say("in force", _state(lab).trial is None and _state(lab).in_force.settings == settings)

        sh(f"wg set wg0 peer {old} remove", namespace="centre")
        await lab.agree(bench_home.agreement_now(lab.home, version=2))
        say("an agreement came through it with the old key gone", (await lab.facts())["tunnel"] == "up")
        orders = [record for record in lab.records() if record.kind == "setup" and record.why == "tunnel"]
        say("one order in the ledger, with who gave it", [one.who for one in orders] == ["steward-demo"])
        report = verify_directory(lab.home.ledger)
        lines.append(f"holds: the ledger verifies, {report.records} records")
    return lines, wrong
