"""A steward sends a running home to another address of the broker: it goes there, the centre answers, a check works.

Mutations that turn it red, each tried: leave `CentreAnswered` out of `TimeKeeping.hear` (it stays on trial); leave
`move_to` out of the link (it stays where it was, and is said to be elsewhere).
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec
import pytest
from running_bench import bench, run, watching

from centre.operator import Operator
from gateway.protocol.envelope import sign, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import Accepted, ConfigPut, LinkSettings
from provisioning.bench_home import ADDRESS, BenchHome, free_port, new_id

pytestmark = pytest.mark.service


def _connections(port: int) -> int:
    """Established IPv4 connections on this machine from a client to `port`; Linux's table has both in hexadecimal."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.timeout(120)
def test_a_home_goes_where_its_steward_sends_it_and_stays_where_the_centre_answers(tmp_path: Path) -> None:
    token, port = secrets.token_urlsafe(24), free_port()

    def second_address(home: BenchHome) -> None:
        text = home.broker_config.read_text()
        listener = text[text.index("listener ") : text.index("allow_anonymous")]
        more = listener.replace(f"listener {home.broker_port} ", f"listener {port} ")
        home.broker_config.write_text(text.replace(listener, listener + more))
        config = msgspec.toml.decode(home.centre_config.read_bytes())
        login = hashlib.sha256(token.encode()).hexdigest()
        config["accounts"].append({"who": "steward-demo", "roles": ["steward"], "login_sha256": login})
        home.centre_config.write_bytes(msgspec.toml.encode(config))

    async def work() -> None:
        async with bench(tmp_path, before=second_address) as home:
            gateway = home.home.gateway
            async with Operator(home.running.url, token) as steward:
                known = await steward.wait_for_home(gateway, 20.0)
                assert _connections(port) == 0
                order = ConfigPut(known["audience"], new_id("j"), LinkSettings(2, ADDRESS, port, "localhost"))
                reply = await steward.send_envelope(gateway, steward._grant + b"~" + sign(order, steward.key))
                device = VerifyingKey.from_jwk(known["device_jwk"])
                assert verify(reply, {device.kid: device}, Accepted).version == 2
            await home.until(lambda: ("config-kept", 2) in [(r.why, r.version) for r in home.records()], 20.0)
            assert [r.who for r in home.records() if r.why == "config"] == ["steward-demo"]
            assert _connections(port) == 1
            async with watching(home):
                pass

    run(work())
