"""Which way the link takes: the broker that can be reached decides, the picture goes the same way.

Mutations that turn these red, each tried: `connect_timeout` not set; the way not put back to the first one after a
connection that worked; `relayed_only` False in a tunnel; the fallback's credentials not asked for their form.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import LinkConfig, load
from gateway.core.error import ConfigError, TransientError
from gateway.edge.broker_paho import Broker, BrokerAddress, BrokerDown, BrokerUp, can_reach
from gateway.edge.ice_aioice import ByAddress, ByRelay
from gateway.services.link_address import provisioned
from gateway.services.link_way import WayOut
from provisioning import bench_home
from provisioning.bench_home import Places

PLACES = Places(
    "lo", "10.90.128.0/17", "10.90.128.1", "10.90.0.1", "10.90.0.2", "127.0.0.1", "127.0.0.1", "https://c.example"
)
GOOD = b'{"username":"1795000600:gw-demo.1f","credential":"c2VhbGVk"}'
CONNACK = bytes([0x20, 3, 0, 0, 0])
SUBACK = 0x90


@pytest.fixture
def config(tmp_path: Path) -> LinkConfig:
    home = bench_home.make(tmp_path / "bench", places=PLACES, isolate=False)
    return load(home.directory / "home" / "link.toml", LinkConfig)


def test_in_the_tunnel_the_tunnels_address_is_offered_and_only_the_relay_is_a_peer(config: LinkConfig) -> None:
    way = WayOut(config, provisioned(config))
    way.take_credentials(GOOD)
    assert (way.word, way.ice()) == ("up", ByAddress(("127.0.0.1",), relayed_only=True))


def test_by_the_fallback_the_relay_is_asked_with_the_newest_credentials(config: LinkConfig) -> None:
    way = WayOut(config, provisioned(config))
    way.note_up(by_fallback=True)
    assert isinstance(way.ice(), ByAddress), "without credentials there is no relay"
    way.take_credentials(GOOD.replace(b"1f", b"2f"))
    way.take_credentials(GOOD)
    ice = way.ice()
    assert isinstance(ice, ByRelay)
    assert (way.word, ice.host, ice.port, ice.username) == ("fallback", "127.0.0.1", 443, "1795000600:gw-demo.1f")
    assert ice.tls.verify_mode is ssl.CERT_REQUIRED
    assert ice.tls.check_hostname


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"{}",
        b"[" * 900,
        GOOD.replace(b"1f", b"9f")[:-1] + b',"host":"attacker.example"}',
        GOOD.replace(b"1795000600:", b""),
        GOOD.replace(b"c2VhbGVk", b"a b"),
        b" " * 2000 + GOOD,
        b"\xff",
    ],
)
def test_what_is_no_credential_is_dropped_and_the_last_one_kept(config: LinkConfig, hostile: bytes) -> None:
    way = WayOut(config, provisioned(config))
    way.note_up(by_fallback=True)
    way.take_credentials(GOOD)
    before = way.ice()
    way.take_credentials(hostile)
    assert way.ice() == before


def test_a_bench_without_a_tunnel_says_so(tmp_path: Path) -> None:
    home = bench_home.make(tmp_path / "bench", isolate=False)
    config = load(home.directory / "home" / "link.toml", LinkConfig)
    way = WayOut(config, provisioned(config))
    assert (way.word, way.ice()) == ("none", ByAddress(("127.0.0.1",), relayed_only=False))


def test_a_link_with_two_kinds_of_addresses_or_none_does_not_start(tmp_path: Path) -> None:
    home = bench_home.make(tmp_path / "bench", isolate=False)
    path = home.directory / "home" / "link.toml"
    text = path.read_text()
    none = re.sub(r"ice_addresses = \[[^]]*\]", "", text)
    assert none != text
    for wrong in (text + '\ntunnel_interface = "tillsyn0"\n', none):
        path.write_text(wrong)
        with pytest.raises(ConfigError):
            load(path, LinkConfig)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose connections never come about: its queue is full, and the kernel drops what asks further."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


@contextlib.contextmanager
def tiny_broker(folder: Path) -> Iterator[int]:
    """TLS and MQTT 5 as far as CONNACK and SUBACK; a connection that ends is followed by the next."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
                    tls.recv(4096)
                    tls.sendall(CONNACK)
                    asked = tls.recv(4096)
                    tls.sendall(bytes([SUBACK, 4]) + asked[2:4] + bytes([0, 1]))
                    while tls.recv(4096):
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.slow
def test_a_broker_that_the_tunnel_does_not_reach_is_reached_by_the_fallback_within_five_seconds(tmp_path: Path) -> None:
    home = bench_home.make(tmp_path / "bench", isolate=False)
    folder = home.directory / "home"

    def address(port: int) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", port, folder / "ca.pem", folder / "cert.pem", folder / "key.pem", "localhost")

    async def work() -> None:
        with black_hole() as dead, tiny_broker(home.directory / "broker") as alive:
            broker = Broker(address(dead), client_id="gw-demo", subscriptions=["x"], fallback=address(alive))
            began_s = time.monotonic()
            task = asyncio.create_task(broker.run())
            events: list[Any] = []
            while not events or not isinstance(events[-1], BrokerUp):
                events.append(await asyncio.wait_for(broker.next_event(), 10.0))
            took_s = time.monotonic() - began_s
            assert [type(event) for event in events] == [BrokerDown, BrokerUp]
            assert events[-1].by_fallback
            assert took_s < 5.0
            # What worked is left when it ends; the tunnel is tried first again.
            await asyncio.sleep(1.5)
            broker.hang_up()
            events.clear()
            while len(events) < 3:
                events.append(await asyncio.wait_for(broker.next_event(), 10.0))
            assert [type(event) for event in events] == [BrokerDown, BrokerDown, BrokerUp]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(work())


@pytest.mark.slow
def test_reaching_is_one_connection_within_its_limit() -> None:
    async def work() -> None:
        with black_hole() as dead, pytest.raises(TransientError):
            await can_reach("127.0.0.1", dead, limit_s=0.2)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await can_reach("127.0.0.1", listener.getsockname()[1])

    asyncio.run(work())
