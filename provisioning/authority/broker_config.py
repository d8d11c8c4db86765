"""Mosquitto's configuration and access list: each certificate its own branch, and nothing for anybody else.

Source: mosquitto.conf(5) of 2.0. An empty access list would mean no access list at all, so one is always written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

CENTRE: Final = "centre"
_FROM_GATEWAY: Final = ("reply", "ledger", "signal", "log", "health", "status", "ask")
_TO_GATEWAY: Final = ("command", "time")


def mosquitto_conf(*, address: str, port: int, ca: Path, certificate: Path, key: Path, acl: Path, user: str) -> str:
    """The broker's configuration file for one listener with client certificates, TLS 1.3 only, nothing persisted."""
    lines = (
        "# One listener; who has no certificate of our CA has no connection.",
        f"user {user}",
        "per_listener_settings false",
        f"listener {port} {address}",
        f"cafile {ca}",
        f"certfile {certificate}",
        f"keyfile {key}",
        "tls_version tlsv1.3",
        "require_certificate true",
        "use_identity_as_username true",
        "# Nobody takes over another's session: the client id is the certificate's name too.",
        "use_username_as_clientid true",
        "allow_anonymous false",
        f"acl_file {acl}",
        "# Nothing queued last night may run tonight: no session outlives its connection by more than this.",
        "persistence false",
        "persistent_client_expiration 1h",
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


def acl(gateways: Sequence[str]) -> str:
    """The access list. A gateway's rights follow from its certificate's name alone, by pattern.

    `gateways` are written out too, so that a name with a wildcard in it never becomes a pattern's `%u`.
    """
    lines = ["# The centre: everything of our tree, in the direction that is its own.", f"user {CENTRE}"]
    lines += [f"topic read tillsyn/v1/+/{branch}" for branch in _FROM_GATEWAY]
    lines += [f"topic write tillsyn/v1/+/{branch}" for branch in _TO_GATEWAY]
    for gateway in gateways:
        if not gateway.replace("-", "").isalnum():
            raise ValueError(f"not a gateway id: {gateway!r}")
        lines += ["", f"user {gateway}"]
        lines += [f"topic write tillsyn/v1/{gateway}/{branch}" for branch in _FROM_GATEWAY]
        lines += [f"topic read tillsyn/v1/{gateway}/{branch}" for branch in _TO_GATEWAY]
    return "\n".join(lines) + "\n"
