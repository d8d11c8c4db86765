"""The lab's network: namespaces, addresses, NAT, and the wires between them.

    home ─ router (NAT, no inbound) ─ wire ─ isp ─ internet ─ centre
      └─── mobile (NAT of a carrier) ─ wire ────────┘    └─ wire ─ operator

All of it lives in a network and mounts of the run's own (`seclude`), and goes with its last process.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "tl-"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
"""Source: clone(2)."""
NAMESPACES = ("home", "router", "mobile", "isp", "internet", "centre", "operator")

HOME = "10.11.0.2"
HOME_MOBILE = "10.12.0.2"
CENTRE_BROKER = "198.51.100.10"
"""Public: WireGuard's UDP port, and MQTT over TLS 443 for homes without a tunnel."""
CENTRE_RELAY = "198.51.100.11"
CENTRE_CONSOLE = "198.51.100.12"
OPERATOR = "192.0.2.20"
TUNNEL_NETWORK = "10.90.128.0/17"
TUNNEL_BROKER = "10.90.0.1"
TUNNEL_RELAY = "10.90.0.2"
TUNNEL_HOME = "10.90.128.17"
WIREGUARD_PORT = 51820

Plan = Sequence[str]


class LabError(RuntimeError):
    """The lab could not be built or did not hold; the message says what to mend."""


def sh(command: str, *, namespace: str | None = None, check: bool = True, stdin: str | None = None) -> str:
    """Run one command, in a namespace of the lab if one is named; its output."""
    words = ["sh", "-c", command]
    if namespace is not None:
        words = [*within(namespace), *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False, input=stdin)
    if check and done.returncode:
        raise LabError(f"{namespace or ''}: {command}: {done.stderr.strip()}")
    return done.stdout


def within(namespace: str) -> list[str]:
    """The words before a command that is to run in a namespace of the lab."""
    return ["ip", "netns", "exec", PREFIX + namespace]


@dataclass
class Wire:
    """A running `wire.py`."""

    process: subprocess.Popen[bytes]

    def set(self, **settings: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(settings).encode() + b"\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(5)


@dataclass
class Network:
    """Built by `build`, gone after `close`."""

    wires: dict[str, Wire] = field(default_factory=dict)

    def build(self, *, carrier_nat: bool = False, udp_blocked: bool = False, mtu_bytes: int = 1500) -> None:
        sweep()
        for name in NAMESPACES:
            sh(f"ip netns add {PREFIX}{name}")
            sh(
                "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 "
                "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
                namespace=name,
            )
        for name in ("home", "operator"):
            sh("sysctl -qw net.ipv4.ip_forward=0", namespace=name)
        _cable("home", "eth0", f"{HOME}/24", "router", "lan", "10.11.0.1/24")
        _cable("home", "wwan0", f"{HOME_MOBILE}/24", "mobile", "lan", "10.12.0.1/24")
        _cable("isp", "core", "203.0.113.2/24", "internet", "isp", "203.0.113.1/24")
        _cable("centre", "eth0", f"{CENTRE_BROKER}/24", "internet", "centre", "198.51.100.1/24")
        self._wire("line", ("wan", "router", "100.64.0.2/24"), ("line", "isp", "100.64.0.1/24"), mtu_bytes)
        self._wire("radio", ("wan", "mobile", "203.0.114.2/24"), ("radio", "internet", "203.0.114.1/24"), mtu_bytes)
        self._wire("office", ("eth0", "operator", f"{OPERATOR}/24"), ("office", "internet", "192.0.2.1/24"), 1500)
        for address in (CENTRE_RELAY, CENTRE_CONSOLE):
            sh(f"ip addr add {address}/24 dev eth0", namespace="centre")
        for name, way in (
            ("home", "10.11.0.1"),
            ("router", "100.64.0.1"),
            ("mobile", "203.0.114.1"),
            ("isp", "203.0.113.1"),
            ("centre", "198.51.100.1"),
            ("operator", "192.0.2.1"),
        ):
            sh(f"ip route add default via {way}", namespace=name)
        # Each home's router translates and lets nothing in. A carrier's NAT translates again; else the ISP routes.
        nat("router", "wan")
        nat("mobile", "wan")
        if carrier_nat:
            nat("isp", "core")
        else:
            sh("ip route add 100.64.0.0/24 via 203.0.113.2", namespace="internet")
        if udp_blocked:
            # What a guest network or a strict company lets through: names, and TCP to the web's ports.
            sh(
                "nft add chain inet lab forward '{ type filter hook forward priority 0; policy accept; }';"
                "nft add rule inet lab forward meta l4proto udp udp dport != 53 drop;"
                "nft add rule inet lab forward 'tcp flags & (syn | ack) == syn tcp dport != { 80, 443 } drop'",
                namespace="router",
            )

    def move_to_mobile(self) -> None:
        """The broadband is gone; the home goes on by mobile network, from another address."""
        sh("ip link set eth0 down; ip route replace default via 10.12.0.1", namespace="home")

    def close(self) -> None:
        for wire in self.wires.values():
            wire.close()
        self.wires.clear()
        sweep()

    def _wire(self, name: str, one: tuple[str, str, str], other: tuple[str, str, str], mtu_bytes: int) -> None:
        # Made under names of their own: the two sides may want the same name, each in its namespace.
        places = [f"{PREFIX}{name}{side}@{PREFIX}{end[1]}" for side, end in (("a", one), ("b", other))]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.net_lab.wire", *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        self.wires[name] = Wire(process)
        if process.stdout.readline() != b"ready\n":
            raise LabError("no TAP device: this machine's kernel has no /dev/net/tun, or does not let us use it")
        for side, (interface, namespace, address) in (("a", one), ("b", other)):
            sh(
                f"ip link set {PREFIX}{name}{side} name {interface}; ip link set {interface} mtu {mtu_bytes} up;"
                f"ip addr add {address} dev {interface}",
                namespace=namespace,
            )


def nat(namespace: str, outside: str) -> None:
    """Masquerade what leaves by `outside`, with ports at random, and let nothing in that was not asked for."""
    sh(
        "nft add table inet lab;"
        "nft add chain inet lab out '{ type nat hook postrouting priority srcnat; }';"
        f"nft add rule inet lab out oifname {outside} masquerade fully-random;"
        "nft add chain inet lab inward '{ type filter hook forward priority 0; policy accept; }';"
        f"nft add rule inet lab inward iifname {outside} ct state new drop",
        namespace=namespace,
    )


def _cable(one: str, name: str, address: str, other: str, other_name: str, other_address: str) -> None:
    sh(
        f"ip link add {name} netns {PREFIX}{one} type veth peer name {other_name} netns {PREFIX}{other}",
    )
    for namespace, interface, its_address in ((one, name, address), (other, other_name, other_address)):
        sh(f"ip link set {interface} up; ip addr add {its_address} dev {interface}", namespace=namespace)


def sweep() -> None:
    """Remove what is there of a lab: its namespaces, and with them their interfaces. Processes are their owner's."""
    for line in sh("ip netns list", check=False).splitlines():
        name = line.split()[0]
        if name.startswith(PREFIX):
            sh(f"ip netns delete {name}", check=False)


def seclude() -> None:
    """Take this process and all that it starts into a network and mounts of its own. Raises OSError.

    Two labs at a time don't meet, nothing of one is seen outside, and when its last process has ended, however it did,
    the kernel removes all of it. Call it before any thread is started.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    sh("mount --make-rprivate /")
    for place in ("/run/netns", "/run/wireguard"):
        sh(f"mkdir -p {place}; mount -t tmpfs none {place}")
    sh("ip link set lo up")


def obstacle() -> str | None:
    """Why there can be no lab on this machine, or None."""
    if os.getuid() != 0:
        return "the network lab needs root: it makes network namespaces"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun on this machine: neither WireGuard nor the wires of the lab"
    try:
        sh(f"ip netns add {PREFIX}probe")
        sh(f"ip netns delete {PREFIX}probe")
    except LabError as exc:
        return f"this machine makes no network namespaces ({exc})"
    return None
