"""WireGuard at the centre and what a home gets at its enrolment.

The centre's end is one interface with a peer for each home: its public key and its one address. Homes are not routed to
one another, and nothing is routed through the centre: broker and relay are the centre's own addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.protocol.message import TunnelSettings
from gateway.protocol.tunnel_key import TunnelKey, new_private_key, public_key
from provisioning.authority.broker_config import MAX_HOMES, is_gateway
from provisioning.authority.secret_file import read_secret, write_public, write_secret

KEY_FILE: Final = "tunnel.key"
SETTINGS_FILE: Final = "tunnel.json"
MTU_BYTES: Final = 1200
"""Inside. With WireGuard's 60 (IPv4) or 80 bytes (IPv6) around it, it fits the smallest path of IPv6, 1280."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One home at the centre's end."""

    gateway: str
    public_key: str
    address: str


def make_key(folder: Path) -> str:
    """Make a home's private key (`tunnel.key`, mode 0600) unless it is there; the public half, for the centre.

    Asked again after a lost answer it gives the same. Raises ConfigError for a key that others may read, ValueError for
    a file that holds none.
    """
    path = folder / KEY_FILE
    if not path.exists():
        write_secret(path, new_private_key() + b"\n")
    return public_key(read_secret(path))


def enrol(
    folder: Path,
    *,
    address: str,
    centre: Sequence[str],
    centre_key: str,
    endpoint_host: str,
    endpoint_port: int,
) -> str:
    """Make a home's settings in `folder`, and its key unless it is there; the public key, for the centre's peers.

    `tunnel.key` is private (mode 0600) and never leaves the device; `tunnel.json` are the first settings, version 1.
    `centre` are the centre's addresses inside the tunnel. Where the centre gives addresses by public keys, call
    `make_key` first. Raises FileExistsError where there are settings already, ValueError for what the device would
    refuse.
    """
    settings = TunnelSettings(
        version=1,
        address=address,
        centre=list(centre),
        centre_key=centre_key,
        endpoint_host=endpoint_host,
        endpoint_port=endpoint_port,
        mtu_bytes=MTU_BYTES,
    )
    content = msgspec.json.encode(settings)
    msgspec.json.decode(content, type=TunnelSettings)  # what the device would refuse is refused here
    write_public(folder / SETTINGS_FILE, content + b"\n")
    return make_key(folder)


def device_filter(fallback: Sequence[str]) -> str:
    """`centre.nft` of a device: the centre's public addresses that it may speak to by TLS on port 443.

    Raises ValueError for what is no IPv4 address.
    """
    addresses = ", ".join(str(ipaddress.IPv4Address(each)) for each in fallback)
    return f"flush set inet tillsyn centre\nadd element inet tillsyn centre {{ {addresses} }}\n"


def parse_peers(text: str, *, network: str) -> list[Peer]:
    """`gw-… PUBLIC_KEY ADDRESS`, one home a line; `#` begins a comment.

    A home may stand there twice, with another key and another address, while its key is being changed. Raises
    ValueError that names the line.
    """
    homes = ipaddress.ip_network(network)
    found: list[Peer] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3:
            raise ValueError(f"line {number}: expected a gateway id, a public key and an address")
        gateway, key, address = words
        if not is_gateway(gateway):
            raise ValueError(f"line {number}: not a gateway id: {gateway!r}")
        try:
            msgspec.convert(key, TunnelKey)
        except msgspec.ValidationError as exc:
            raise ValueError(f"line {number}: not a public key of WireGuard") from exc
        if ipaddress.ip_address(address) not in homes:
            raise ValueError(f"line {number}: {address} is not in {network}")
        if any(key == peer.public_key or address == peer.address for peer in found):
            raise ValueError(f"line {number}: this key or this address stands there twice")
        found.append(Peer(gateway, key, address))
    if len(found) > MAX_HOMES:
        raise ValueError(f"{len(found)} homes; at most {MAX_HOMES}")
    return found


def endpoint_conf(private: bytes, *, port: int, peers: Sequence[Peer]) -> str:
    """The centre's end, as `wg setconf` and `wg syncconf` take it. It holds the private key: keep it with mode 0600."""
    public_key(private)
    if not 1 <= port <= 65535:
        raise ValueError(f"not a port: {port}")
    blocks = [f"[Interface]\nPrivateKey = {private.decode().strip()}\nListenPort = {port}\n"]
    blocks += [
        f"# {peer.gateway}\n[Peer]\nPublicKey = {peer.public_key}\nAllowedIPs = {peer.address}/32\n" for peer in peers
    ]
    return "\n".join(blocks)


def firewall(*, interface: str, broker: str, broker_port: int, relay: str, bundles_port: int | None = None) -> str:
    """The centre's packet filter (nftables): a home reaches broker and relay, and no other home and nothing else.

    With `bundles_port` also the server with the updates, at the broker's address.
    """
    ports = f"{broker_port}" if bundles_port is None else f"{{ {broker_port}, {bundles_port} }}"
    return f"""\
# Made by `tillsyn authority tunnel-config`. Load with `nft -f`; it replaces its own table only.
table inet tillsyn_centre
delete table inet tillsyn_centre
table inet tillsyn_centre {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{interface}" ct state established,related accept
    iifname "{interface}" ip daddr {broker} tcp dport {ports} accept
    iifname "{interface}" ip daddr {relay} udp dport 49152-65535 accept
    iifname "{interface}" ip protocol icmp icmp type {{ destination-unreachable, time-exceeded }} accept
    iifname "{interface}" drop
    # What the centre has inside the tunnel is not reached from outside of it.
    ip daddr {{ {broker}, {relay} }} iifname != {{ "{interface}", "lo" }} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{interface}" drop
    oifname "{interface}" drop
  }}
}}
"""
