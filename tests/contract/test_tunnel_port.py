"""One suite for both ways of making the tunnel: WireGuard's own tools, and NetworkManager over D-Bus.

`wg` is the real thing, in two namespaces with a cable between them, by the kernel or wireguard-go. NetworkManager is a
fake on a private bus: what reaches it is checked, what it would make of it is not.

Mutations that turn these red, each tried: `setconf` → `addconf` (an older session counts as an answer); the peer's
addresses /0 instead of /32; a keep-alive of 25 s; `persist` on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from networkmanager import networkmanager

from gateway.edge.tunnel_networkmanager import NetworkManagerTunnel
from gateway.edge.tunnel_port import TunnelError, TunnelPort
from gateway.edge.tunnel_wg import WgTunnel
from gateway.protocol.message import TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key

pytestmark = pytest.mark.slow

INTERFACE = "tlport0"
HOME_KEY, CENTRE_KEY = new_private_key(), new_private_key()


def settings(version: int = 1, address: str = "10.90.128.1") -> TunnelSettings:
    return TunnelSettings(version, address, ["10.90.0.1"], public_key(CENTRE_KEY), "10.9.9.2", 51820, 1200)


@dataclass
class Facts:
    """What stands where the tunnel should be."""

    address: str
    mtu_bytes: int
    allowed: list[str]
    keepalive: str
    public_key: str


@dataclass
class Way:
    """One adapter, and how the test looks at what it made and plays the centre."""

    port: TunnelPort
    facts: Callable[[], Facts | None]
    answer: Callable[[], Any]
    """The centre answers; may take a moment."""


@contextlib.asynccontextmanager
async def by_networkmanager(folder: Path) -> AsyncIterator[Way]:
    async with networkmanager(folder) as fake:

        def facts() -> Facts | None:
            ours = [one for one in fake.made.values() if one["connection"]["id"].value == INTERFACE]
            if not ours:
                return None
            (one,) = ours
            assert fake.options["persist"].value == "memory", "the private key would stand in NetworkManager's files"
            assert one["ipv4"]["never-default"].value is True
            (peer,) = one["wireguard"]["peers"].value
            (address,) = one["ipv4"]["address-data"].value
            return Facts(
                f"{address['address'].value}/{address['prefix'].value}",
                one["wireguard"]["mtu"].value,
                list(peer["allowed-ips"].value),
                str(peer["persistent-keepalive"].value).replace("0", "off"),
                public_key(one["wireguard"]["private-key"].value.encode()),
            )

        port = NetworkManagerTunnel(INTERFACE, bus_address=fake.address, interfaces=fake.interfaces)
        yield Way(port, facts, lambda: fake.answer(INTERFACE, 92))
        await port.remove()


def sh(command: str, namespace: str | None = None) -> str:
    words = ["sh", "-ec", command]
    words = words if namespace is None else ["ip", "netns", "exec", namespace, *words]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def home_and_centre(folder: Path) -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them, and WireGuard's other end in the second."""
    assert os.getuid() == 0, "WireGuard and namespaces need root"
    assert Path("/dev/net/tun").exists(), "this machine has no /dev/net/tun: no WireGuard here"
    home, centre = "tlport-home", "tlport-centre"
    endpoint: subprocess.Popen[bytes] | None = None
    try:
        for name in (home, centre):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
            sh(f"ip netns add {name}")
        sh(f"ip link add eth0 netns {home} type veth peer name eth0 netns {centre}")
        sh("ip address add 10.9.9.1/24 dev eth0; ip link set eth0 up; ip link set lo up", home)
        sh("ip address add 10.9.9.2/24 dev eth0; ip link set eth0 up", centre)
        sh("ip address add 10.90.0.1/32 dev lo; ip link set lo up", centre)
        endpoint = subprocess.Popen(
            ["ip", "netns", "exec", centre, "wireguard-go", "--foreground", "wgend"], stderr=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + 5.0
        while "wgend" not in sh("ip -br link", centre) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        time.sleep(0.2)
        key = folder / "centre.key"
        key.write_bytes(CENTRE_KEY)
        peer = f"peer {public_key(HOME_KEY)} allowed-ips 10.90.128.0/24"
        sh(f"wg set wgend private-key {key} listen-port 51820 {peer}; ip link set wgend up", centre)
        sh("ip route add 10.90.128.0/24 dev wgend", centre)
        yield home, centre
    finally:
        if endpoint is not None:
            endpoint.terminate()
            endpoint.wait(5)
        for name in (home, centre):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextlib.asynccontextmanager
async def by_wg(folder: Path) -> AsyncIterator[Way]:
    with home_and_centre(folder) as (home, _):

        def facts() -> Facts | None:
            if INTERFACE not in sh("ip -br link", home):
                return None
            ours = sh(f"ip -br address show dev {INTERFACE}", home).split()
            mtu_bytes = int(sh(f"cat /sys/class/net/{INTERFACE}/mtu", home))
            interface, one = sh(f"wg show {INTERFACE} dump", home).splitlines()
            fields = one.split("\t")
            return Facts(ours[2], mtu_bytes, fields[3].split(","), fields[7], interface.split("\t")[1])

        def answer() -> None:
            # Anything that is sent into the tunnel makes a handshake; the answer is the centre's.
            sh("python3 -c \"import socket; socket.socket(2, 2).sendto(b'x', ('10.90.0.1', 9))\"", home)
            time.sleep(0.5)

        port = WgTunnel(INTERFACE, before=("ip", "netns", "exec", home))
        yield Way(port, facts, answer)
        await port.remove()


WAYS = pytest.mark.parametrize("way", [by_networkmanager, by_wg], ids=["networkmanager", "wg"])


@WAYS
def test_settings_become_an_interface_that_routes_the_centre_alone_and_is_silent(way: Any, tmp_path: Path) -> None:
    async def work() -> None:
        async with way(tmp_path) as made:
            await made.port.apply(settings(), HOME_KEY)
            assert made.facts() == Facts("10.90.128.1/32", 1200, ["10.90.0.1/32"], "off", public_key(HOME_KEY))

    asyncio.run(work())


@WAYS
def test_reached_is_what_the_centre_answered_since_the_last_apply(way: Any, tmp_path: Path) -> None:
    async def work() -> None:
        async with way(tmp_path) as made:
            await made.port.apply(settings(), HOME_KEY)
            assert not await made.port.reached()
            made.answer()
            assert await made.port.reached()
            await made.port.apply(settings(2, "10.90.128.2"), HOME_KEY)
            assert not await made.port.reached(), "an answer to older settings must not count for newer ones"
            assert made.facts().address == "10.90.128.2/32"

    asyncio.run(work())


@WAYS
def test_another_key_is_another_interface(way: Any, tmp_path: Path) -> None:
    async def work() -> None:
        async with way(tmp_path) as made:
            await made.port.apply(settings(), HOME_KEY)
            other = new_private_key()
            await made.port.apply(settings(2), other)
            assert made.facts().public_key == public_key(other)

    asyncio.run(work())


@WAYS
def test_what_is_removed_is_gone_and_may_be_removed_again(way: Any, tmp_path: Path) -> None:
    async def work() -> None:
        async with way(tmp_path) as made:
            await made.port.remove()
            await made.port.apply(settings(), HOME_KEY)
            await made.port.remove()
            assert made.facts() is None
            await made.port.remove()
            with pytest.raises(TunnelError):
                await made.port.reached()

    asyncio.run(work())


def test_a_tunnel_that_networkmanager_gives_up_is_an_error_of_the_port(tmp_path: Path) -> None:
    async def work() -> None:
        async with networkmanager(tmp_path) as fake:
            fake.refuse = True
            port = NetworkManagerTunnel(INTERFACE, bus_address=fake.address, interfaces=fake.interfaces)
            with pytest.raises(TunnelError, match="gave the tunnel up"):
                await port.apply(settings(), HOME_KEY)
            await port.remove()

    asyncio.run(work())


def test_without_networkmanager_or_a_bus_the_error_is_the_ports(tmp_path: Path) -> None:
    async def work() -> None:
        port = NetworkManagerTunnel(INTERFACE, bus_address=f"unix:path={tmp_path}/nobody")
        with pytest.raises(TunnelError):
            await port.apply(settings(), HOME_KEY)

    asyncio.run(work())
