"""A real coturn with the configuration that `tillsyn authority relay-config` writes: who gets in, and how far.

Mutations that turn these red, each tried: both `denied-peer-ip` left out (one alone denies the rest); `use-auth-secret`
replaced by `no-auth`; the client's CA not asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aioice import stun, turn

from centre.relay import Relay
from gateway.edge.ice_aioice import ByRelay, OneWayConnection, relay_tls
from provisioning.authority.relay_config import turnserver_conf
from provisioning.authority.x509 import CertificateAuthority
from provisioning.bench_home import free_port

pytestmark = pytest.mark.slow

SECRET = "s" * 40
FORBIDDEN = 403
UNAUTHORIZED = 401


@dataclass
class Coturn:
    way: ByRelay
    udp_port: int


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    program = shutil.which("turnserver")
    assert program, "no coturn on this machine: apt-get install coturn (`make test` does it)"
    folder = tmp_path_factory.mktemp("relay")
    authority = CertificateAuthority.make("tillsyn test CA")
    identity = authority.issue("relay", server_names=("127.0.0.1",))
    for name, content in (("ca.pem", authority.pem()), ("cert.pem", identity.certificate), ("key.pem", identity.key)):
        (folder / name).write_bytes(content)
    udp_port, tls_port = free_port(), free_port()
    conf = turnserver_conf(
        listen="127.0.0.1",
        relay="127.0.0.2",
        homes="10.90.128.0/17",
        udp_port=udp_port,
        tls_port=tls_port,
        realm="tillsyn.test",
        secret=SECRET,
        certificate=folder / "cert.pem",
        key=folder / "key.pem",
        user=None,
    )
    (folder / "turnserver.conf").write_text(conf)
    process = subprocess.Popen(
        [program, "-c", str(folder / "turnserver.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + 20.0
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", tls_port), 0.5):
                break
            time.sleep(0.05)
        given = Relay(SECRET.encode(), 600).credentials("gw-a.1", now_unix_s=time.time())
        tls = relay_tls(folder / "ca.pem")
        yield Coturn(ByRelay("127.0.0.1", tls_port, tls, given.username, given.credential), udp_port)
    finally:
        process.terminate()
        process.wait(10)


@contextlib.asynccontextmanager
async def allocation(way: ByRelay) -> AsyncIterator[Any]:
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=(way.host, way.port),
        username=way.username,
        password=way.credential,
        ssl=way.tls,
        transport="tcp",
    )
    try:
        yield transport._TurnTransport__inner_protocol
    finally:
        transport.close()
        await asyncio.sleep(0.1)


def test_a_home_without_its_tunnel_gets_one_address_at_the_relay_over_tls(coturn: Coturn) -> None:
    async def work() -> None:
        connection = OneWayConnection(coturn.way)
        await connection.gather_candidates()
        assert [(one.type, one.host) for one in connection.local_candidates] == [("relay", "127.0.0.2")]
        await connection.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    "peer", ["10.90.0.1", "10.90.127.255", "192.0.2.1", "127.0.0.1", "169.254.169.254", "224.0.0.1"]
)
def test_the_relay_reaches_no_peer_but_homes(coturn: Coturn, peer: str) -> None:
    async def work() -> None:
        async with allocation(coturn.way) as inner:
            with pytest.raises(stun.TransactionFailed) as failed:
                await inner.channel_bind(0x4000, (peer, 50000))
            assert failed.value.response.attributes["ERROR-CODE"][0] == FORBIDDEN
            await inner.channel_bind(0x4001, ("10.90.128.9", 50000))

    asyncio.run(work())


def test_wrong_and_ended_credentials_get_nothing(coturn: Coturn) -> None:
    ended = Relay(SECRET.encode(), 60).credentials("gw-a.1", now_unix_s=time.time() - 3600)
    stranger = Relay(b"t" * 40, 600).credentials("gw-a.1", now_unix_s=time.time())
    longer = f"{int(time.time()) + 99999}:gw-a.1"
    for username, credential in (
        (ended.username, ended.credential),
        (stranger.username, stranger.credential),
        (longer, coturn.way.credential),
        ("gw-a.1", coturn.way.credential),
    ):

        async def work(way: ByRelay) -> None:
            with pytest.raises(stun.TransactionFailed) as failed:
                async with allocation(way):
                    pass
            assert failed.value.response.attributes["ERROR-CODE"][0] == UNAUTHORIZED

        asyncio.run(work(replace(coturn.way, username=username, credential=credential)))


def test_a_relay_that_our_ca_does_not_vouch_for_is_not_spoken_to(coturn: Coturn, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(CertificateAuthority.make("another").pem())
    wrong_ca = replace(coturn.way, tls=relay_tls(tmp_path / "other.pem"))
    wrong_name = replace(coturn.way, host="localhost")
    for way in (wrong_ca, wrong_name):

        async def work(way: ByRelay) -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                async with allocation(way):
                    pass

        asyncio.run(work(way))
