"""The device's packet filter, loaded in a namespace: what leaves, what does not, and that nothing comes in.

Mutations that turn these red, each tried: the output's policy accept; `@centre` left out of the TLS rule; the
endpoint's address not asked; TCP let in from the tunnel. The input's policy alone is not seen from outside: the
output's lets no answer out either. setup-door: `close` that flushes nothing; 22 among its ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.authority.tunnel_config import device_filter

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "image-build/root/usr/lib/tillsyn/setup-door"
RULES = ROOT / "systemd" / "nftables" / "tillsyn.nft"
HOME, OUTSIDE = "tlfw-home", "tlfw-outside"
CENTRE, OTHER, INSIDE = "10.9.8.2", "10.9.8.3", "10.90.0.1"

TRY = """
import json, socket, sys
def tcp(host, port):
    with socket.socket() as sock:
        sock.settimeout(0.4)
        try:
            sock.connect((host, port))
        except ConnectionRefusedError:
            return True  # it left, and somebody answered
        except OSError:
            return False
        return True
def udp(host, port):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", (host, port))
        except PermissionError:
            return False
        return True
print(json.dumps([{"tcp": tcp, "udp": udp}[kind](host, port) for kind, host, port in json.loads(sys.argv[1])]))
"""


def sh(command: str, namespace: str | None = None, stdin: str | None = None) -> str:
    words = ["sh", "-ec", command]
    words = words if namespace is None else ["ip", "netns", "exec", namespace, *words]
    return subprocess.run(words, check=True, capture_output=True, text=True, input=stdin).stdout


def tried(namespace: str, *ways: tuple[str, str, int]) -> list[bool]:
    """Which of these (tcp or udp, address, port) get out of the namespace and, for TCP, are answered."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", TRY, json.dumps(ways)]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


@pytest.fixture(scope="module")
def walls() -> Iterator[None]:
    assert os.getuid() == 0, "namespaces need root"
    try:
        for name in (HOME, OUTSIDE):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
            sh(f"ip netns add {name}")
            sh("ip link set lo up", name)
        for interface in ("eth0", "tillsyn0"):
            sh(f"ip link add {interface} netns {HOME} type veth peer name {interface} netns {OUTSIDE}")
            for name in (HOME, OUTSIDE):
                sh(f"ip link set {interface} up", name)
        sh("ip address add 10.9.8.1/24 dev eth0; ip address add 10.90.128.1/16 dev tillsyn0", HOME)
        sh(f"ip address add {CENTRE}/24 dev eth0; ip address add {OTHER}/24 dev eth0", OUTSIDE)
        sh(f"ip address add {INSIDE}/16 dev tillsyn0", OUTSIDE)
        sh(f"nft -f {RULES}; nft -f -", HOME, device_filter([CENTRE]))
        sh(f"nft 'add element inet tillsyn endpoint {{ {CENTRE} . 51820 }}'", HOME)
        yield
    finally:
        for name in (HOME, OUTSIDE):
            with contextlib.suppress(subprocess.CalledProcessError):
                sh(f"ip netns delete {name}")


def test_the_tunnel_addresses_names_time_and_tls_to_the_centre_get_out(walls: None) -> None:
    ways = [("udp", CENTRE, 51820), ("tcp", CENTRE, 443), ("udp", OTHER, 53), ("tcp", OTHER, 53), ("udp", OTHER, 123)]
    assert tried(HOME, *ways, ("tcp", OTHER, 4460), ("tcp", INSIDE, 8883), ("udp", INSIDE, 50000)) == [True] * 8


def test_nothing_else_gets_out(walls: None) -> None:
    ways = [("udp", OTHER, 51820), ("udp", CENTRE, 51821), ("udp", CENTRE, 3478), ("udp", CENTRE, 443)]
    more = [("tcp", OTHER, 443), ("tcp", CENTRE, 80), ("tcp", CENTRE, 8883), ("tcp", OTHER, 22), ("udp", OTHER, 5353)]
    assert tried(HOME, *ways, *more) == [False] * 9


def test_nobody_gets_in_neither_from_the_home_nor_from_the_tunnel(walls: None) -> None:
    ports = (22, 80, 443, 8883, 40000)
    assert tried(OUTSIDE, *(("tcp", "10.9.8.1", port) for port in ports)) == [False] * 5
    assert tried(OUTSIDE, *(("tcp", "10.90.128.1", port) for port in ports)) == [False] * 5


def test_set_up_mode_opens_its_ports_and_closes_them_again(walls: None) -> None:
    ports = [("tcp", "10.9.8.1", port) for port in (80, 443, 22, 8443, 8883)]
    outward = [("tcp", OTHER, 8883), ("udp", OTHER, 5353), ("udp", OTHER, 51820)]
    try:
        sh(f"{DOOR} open", HOME)
        assert tried(OUTSIDE, *ports) == [True, True, False, False, False]
        assert tried(HOME, *outward)[:2] == [True, True]
        # Opened twice, as after a crash, it is no wider; closed it is what it was.
        sh(f"{DOOR} open; {DOOR} close", HOME)
    finally:
        sh(f"{DOOR} close", HOME)
    assert tried(OUTSIDE, *ports) == [False] * 5
    assert tried(HOME, *outward) == [False] * 3
    for chain in ("setup_in", "setup_out"):  # the one without the other is not seen from outside
        assert "accept" not in sh(f"nft list chain inet tillsyn {chain}", HOME)


def test_a_device_that_was_never_enrolled_speaks_to_no_centre(walls: None) -> None:
    listed = sh("nft -j list table inet tillsyn", HOME)
    sh(f"nft -f {RULES}", HOME)
    assert tried(HOME, ("udp", CENTRE, 51820), ("tcp", CENTRE, 443)) == [False, False]
    assert tried(HOME, ("udp", OTHER, 53)) == [True]
    sh("nft -f -", HOME, device_filter([CENTRE]))
    assert "centre" in listed
