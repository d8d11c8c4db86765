"""The centre as it is started: a process, a real Mosquitto with client certificates, and a home on the other side."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.edge.broker_paho import Broker, BrokerAddress, BrokerUp, Incoming
from gateway.protocol.envelope import TrustStore, sign, verify, verify_command
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Accepted, Challenge, TimeAsk, TimeStatement

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")
pytestmark = [pytest.mark.service, pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto on this machine")]
TOKEN_SHA256 = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"  # of "token"


def _certificates(folder: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test ca")])

    def issue(cn: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(ca_name if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (folder / "ca.pem").write_bytes(issue("ca", ca_key, ca=True))
    for cn in ("broker", "centre", "gw-a"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{cn}.pem").write_bytes(issue(cn, key))
        (folder / f"{cn}.key").write_bytes(SigningKey(key).to_pem())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    _certificates(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\ncafile {tmp_path}/ca.pem\ncertfile {tmp_path}/broker.pem\n"
        f"keyfile {tmp_path}/broker.key\nrequire_certificate true\nuse_identity_as_username true\n"
        "allow_anonymous false\npersistence false\nuser root\n"
    )
    assert MOSQUITTO is not None
    with subprocess.Popen(
        [MOSQUITTO, "-c", str(tmp_path / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield tmp_path, port
        finally:
            process.terminate()


def test_the_centre_carries_a_command_to_a_home_by_a_real_broker_and_stops_in_order(place: tuple[Path, int]) -> None:
    folder, port = place
    issuing, device, person = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
    (folder / "issuing.pem").write_bytes(issuing.to_pem())
    jwk = device.verifying.jwk()
    (folder / "centre.toml").write_text(
        f"""
database_path = "centre.sqlite"
issuing_key_path = "issuing.pem"
http = {{ host = "127.0.0.1", port = 0 }}
ice = {{ policy = "all", servers = [] }}

[broker]
host = "127.0.0.1"
port = {port}
server_name = "localhost"
client_id = "centre"
ca_path = "ca.pem"
cert_path = "centre.pem"
key_path = "centre.key"

[[accounts]]
who = "op-1"
roles = ["operator"]
login_sha256 = "{TOKEN_SHA256}"

[[homes]]
gateway = "gw-a"
install_epoch = 1
groups = []
device_jwk = {{ kty = "EC", crv = "P-256", x = "{jwk["x"]}", y = "{jwk["y"]}" }}
"""
    )
    program = (
        "import argparse,sys; from centre import commands; p=argparse.ArgumentParser(); "
        "commands.register(p.add_subparsers()); a=p.parse_args(); sys.exit(a.run(a))"
    )
    with ExitStack() as stack:
        centre = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", program, "centre", "--config", str(folder / "centre.toml")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(centre.kill)
        assert centre.stdout is not None
        assert centre.stderr is not None
        words, url = centre.stdout.readline().split()
        assert words == "Console:"
        while "connected" not in (line := centre.stderr.readline()):
            assert "broker: down" in line, "at most the broker was not up yet"
        trust = TrustStore(1, 0, {}, {issuing.verifying.kid: issuing.verifying})
        asyncio.run(_a_home_and_an_operator(folder, port, url, trust, device, person))
        centre.send_signal(signal.SIGTERM)
        assert centre.wait(15) == 0
        assert "Traceback" not in centre.stderr.read()


async def _a_home_and_an_operator(
    folder: Path, port: int, url: str, trust: TrustStore, device: SigningKey, person: SigningKey
) -> None:
    address = BrokerAddress("127.0.0.1", port, folder / "ca.pem", folder / "gw-a.pem", folder / "gw-a.key", "localhost")
    broker = Broker(address, client_id="gw-a", subscriptions=("tillsyn/v1/gw-a/command", "tillsyn/v1/gw-a/time"))
    running = asyncio.create_task(broker.run())
    assert isinstance(await asyncio.wait_for(broker.next_event(), 10), BrokerUp)

    await broker.publish("tillsyn/v1/gw-a/ask", sign(TimeAsk("gw-a", "N" * 22), device))
    told = await asyncio.wait_for(broker.next_event(), 10)
    assert isinstance(told, Incoming)
    told.ack()
    statement = verify(told.payload, trust.issuers, TimeStatement)
    assert abs(statement.unix_s - time.time()) < 5

    async def answer_one() -> None:
        asked = await asyncio.wait_for(broker.next_event(), 10)
        assert isinstance(asked, Incoming)
        asked.ack()
        verified = verify_command(asked.payload, trust, audience="gw-a/1", gateway="gw-a", groups=frozenset())
        assert isinstance(verified.command, Challenge)
        assert asked.response_topic is not None
        reply = sign(Accepted("gw-a", verified.command.jti), device)
        await broker.publish(asked.response_topic, reply, correlation=asked.correlation)

    async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer token"}) as client:
        grant = (await client.post("/api/v1/grants", json={"jwk": person.verifying.jwk()})).json()["grant"]
        body = f"{grant}~{sign(Challenge('gw-a/1', 'j-1'), person).decode()}"
        answering = asyncio.create_task(answer_one())
        response = await client.post(
            "/api/v1/homes/gw-a/commands", content=body, headers={"Content-Type": "text/plain"}, timeout=20
        )
        await answering
        assert response.status_code == 200, response.text
        assert verify(response.json()["reply"].encode(), {device.verifying.kid: device.verifying}, Accepted).re == "j-1"
        async with client.stream("GET", "/api/v1/events", timeout=10) as stream:
            await broker.publish("tillsyn/v1/gw-a/status", json.dumps({"online": True}).encode())
            async for line in stream.aiter_lines():
                if line.startswith("event:"):
                    assert line == "event: home"
                    break
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
