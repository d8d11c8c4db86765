"""coturn's configuration: a relay between operators and the homes' tunnel, and no way to anywhere else.

A browser's allocation gets an address inside the tunnel's network, so the home needs no open port and no STUN. What
keeps the relay from being everybody's door into the centre: peers are the homes' addresses and the relay's own (for a
home that came without its tunnel and has an allocation itself), everything else is denied, the centre's other
addresses in the tunnel included; credentials are made for one check; no TCP relaying, no multicast, no command line.

Source: turnserver(1) 4.6; `allowed-peer-ip` wins over `denied-peer-ip`.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

LEAST_PORT: Final = 49152
MOST_PORT: Final = 65535
QUOTA_PER_CHECK: Final = 8
"""A browser allocates for each of the relay's addresses, and tries again after a lost answer."""


def turnserver_conf(
    *,
    listen: str,
    relay: str,
    homes: str,
    udp_port: int,
    tls_port: int,
    realm: str,
    secret: str,
    certificate: Path,
    key: Path,
    user: str | None,
) -> str:
    """The file, which holds the shared secret: keep it with mode 0600.

    `listen` is the public address, `relay` an address of the centre inside the tunnel on which nothing else listens,
    `homes` the network of the homes' tunnel addresses; `user` is whom coturn becomes, None to stay who starts it.
    Raises ValueError for what would not stay on its line or would open more than the homes.
    """
    network = ipaddress.ip_network(homes)
    relay_address = ipaddress.ip_address(relay)
    if network.version != relay_address.version:
        raise ValueError("the relay's address and the homes' network are of two IP versions")
    if network.prefixlen < 8 or network.is_loopback or not network.is_private:
        raise ValueError(f"not a network of homes in a tunnel: {homes}")
    if relay_address in network:
        raise ValueError("the relay's address lies among the homes'")
    ipaddress.ip_address(listen)
    for word in (realm, secret, str(certificate), str(key)):
        if not word.isprintable() or not word or word != word.strip():
            raise ValueError("not one word on one line")
    lines = (
        f"listening-ip={listen}",
        f"listening-port={udp_port}",
        f"tls-listening-port={tls_port}",
        f"relay-ip={relay}",
        f"min-port={LEAST_PORT}",
        f"max-port={MOST_PORT}",
        f"cert={certificate}",
        f"pkey={key}",
        "no-tlsv1",
        "no-tlsv1_1",
        "# Not no-tlsv1_2: coturn 4.6 as Debian builds it knows no TLS 1.3, and with it would answer no TLS at all.",
        "cipher-list=ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305",
        "no-dtls",
        f"realm={realm}",
        "use-auth-secret",
        f"static-auth-secret={secret}",
        "fingerprint",
        "# Who has no credential gets no answer, not even his own address.",
        "secure-stun",
        "no-rfc5780",
        "no-stun-backward-compatibility",
        "no-software-attribute",
        "no-multicast-peers",
        "no-tcp-relay",
        "no-cli",
        "# Peers are the homes, and the relay's own allocations. The broker is not.",
        "denied-peer-ip=0.0.0.0-255.255.255.255",
        "denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        f"allowed-peer-ip={network[0]}-{network[-1]}",
        f"allowed-peer-ip={relay}",
        f"user-quota={QUOTA_PER_CHECK}",
        "total-quota=2000",
        "stale-nonce=600",
        "max-allocate-lifetime=600",
        "pidfile=/dev/null",
        "log-file=stdout",
        "simple-log",
        *(() if user is None else (f"proc-user={user}", f"proc-group={user}")),
    )
    return "\n".join(lines) + "\n"
