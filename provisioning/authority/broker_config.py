"""Mosquitto's configuration and access list: each certificate its own branch, and nothing for anybody else.

Two forms of access list. By *pattern*: every certificate of a gateway has the branch of its name (`%u`, the
certificate's common name; never `%c`, which the client chooses). One list fits any number of homes, and a new home
needs no change at the broker. It rests on names without wildcards: `x509.CertificateAuthority.issue` gives none, and
Mosquitto refuses names with `+` or `#` once more. By *list*: each gateway is written out, and one that is left out has
nothing, at once, whatever its certificate says.

What the broker can't be told, and who minds it instead:
* Retained messages must be available, because a home's status is retained and its will is too; the access list has no
  word for `retain`. Homes drop whatever arrives retained.
* A subscription is acknowledged whatever it asks for; the list is applied to each message on its way out.

Source: mosquitto.conf(5) of 2.0. An empty access list would mean no access list at all, so one is always written.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CENTRE: Final = "centre"
MAX_HOMES: Final = 100_000
_FROM_GATEWAY: Final = ("reply", "ledger", "signal", "log", "health", "status", "ask")
_TO_GATEWAY: Final = ("command", "time", "relay", "witness", "wanted")
_GATEWAY: Final = re.compile(r"gw-[a-z0-9-]{1,40}\Z")
_WORKER: Final = re.compile(rf"{CENTRE}(-[a-z0-9]{{1,20}})?\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")


def is_gateway(name: str) -> bool:
    """Whether `name` is a gateway's id. Source: gateway.protocol.message.GatewayId."""
    return _GATEWAY.match(name) is not None


def is_centre(name: str) -> bool:
    """Whether `name` is the centre's or one of its further workers': `centre`, `centre-2`."""
    return _WORKER.match(name) is not None


def mosquitto_conf(
    *,
    address: str,
    port: int,
    ca: Path,
    certificate: Path,
    key: Path,
    acl: Path,
    user: str,
    also: Sequence[tuple[str, int]] = (),
) -> str:
    """The broker's configuration file: a listener with client certificates, TLS 1.3 only, nothing persisted.

    `also` are further listeners of the same kind: a public address and port 443, for homes without a tunnel. Raises
    ValueError for what would not stay on its line.
    """
    for path in (ca, certificate, key, acl):
        if not path.is_absolute() or not str(path).isprintable() or str(path) != str(path).strip():
            raise ValueError(f"not a whole path on one line: {str(path)!r}")
    listeners: list[str] = []
    for host, number in ((address, port), *also):
        if not (_is_address(host) or _HOST.match(host)):
            raise ValueError(f"not an address to listen at: {host!r}")
        if not 1 <= number <= 65535:
            raise ValueError(f"not a port: {number}")
        listeners += [
            f"listener {number} {host}",
            f"cafile {ca}",
            f"certfile {certificate}",
            f"keyfile {key}",
            "tls_version tlsv1.3",
            "require_certificate true",
            "use_identity_as_username true",
            "# Nobody takes over another's session: the client id is the certificate's name too.",
            "use_username_as_clientid true",
        ]
    if not _USER.match(user):
        raise ValueError(f"not a user's name: {user!r}")
    lines = (
        "# Who has no certificate of our CA has no connection.",
        f"user {user}",
        "per_listener_settings false",
        *listeners,
        "allow_anonymous false",
        f"acl_file {acl}",
        "# A home's status and its will are retained; who lost the right to a topic loses what he retained there.",
        "retain_available true",
        "check_retain_source true",
        "# Nothing about others: no broker statistics.",
        "sys_interval 0",
        "# Nothing queued last night may run tonight: no session outlives its connection by more than this.",
        "persistence false",
        "persistent_client_expiration 1h",
        "# Short, for all that is queued delays a genuine command behind it. Of evidence that is lost here homes send",
        "# again what the centre says it lacks.",
        "max_queued_messages 1000",
        "max_inflight_messages 64",
        "message_size_limit 65536",
        "max_packet_size 70000",
        "max_keepalive 120",
        "connection_messages true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
    )
    return "\n".join(lines) + "\n"


def acl(gateways: Sequence[str] | None, *, centres: Sequence[str] = (CENTRE,)) -> str:
    """The access list: by pattern with None, else for these gateways only. Never empty.

    `centres` are the names of the centre's workers. Raises ValueError for a name that is no gateway's id, or no
    worker's.
    """
    lines = ["# The centre: everything of our tree, in the direction that is its own."]
    for centre in centres:
        if not is_centre(centre):
            raise ValueError(f"not a centre's name: {centre!r}")
        lines += ["", f"user {centre}"]
        lines += [f"topic read tillsyn/v1/+/{branch}" for branch in _FROM_GATEWAY]
        lines += [f"topic write tillsyn/v1/+/{branch}" for branch in _TO_GATEWAY]
    if gateways is None:
        lines += ["", "# Each gateway: the branch of its certificate's name."]
        lines += [f"pattern write tillsyn/v1/%u/{branch}" for branch in _FROM_GATEWAY]
        lines += [f"pattern read tillsyn/v1/%u/{branch}" for branch in _TO_GATEWAY]
    for gateway in dict.fromkeys(gateways or ()):
        if not is_gateway(gateway):
            raise ValueError(f"not a gateway id: {gateway!r}")
        lines += ["", f"user {gateway}"]
        lines += [f"topic write tillsyn/v1/{gateway}/{branch}" for branch in _FROM_GATEWAY]
        lines += [f"topic read tillsyn/v1/{gateway}/{branch}" for branch in _TO_GATEWAY]
    return "\n".join(lines) + "\n"


def parse_homes(text: str) -> list[str]:
    """Gateway ids, one a line; empty lines and lines from `#` on are skipped. Raises ValueError naming the line."""
    found: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if not is_gateway(name):
            raise ValueError(f"line {number}: not a gateway id: {name!r}")
        if name in found:
            raise ValueError(f"line {number}: {name} stands there twice")
        found[name] = None
    if len(found) > MAX_HOMES:
        raise ValueError(f"{len(found)} homes; at most {MAX_HOMES}")
    return list(found)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
