"""MQTT topics. Source: docs/protocol.md, "Topics"."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

ROOT: Final = "tillsyn/v1"


class Branch(StrEnum):
    COMMAND = "command"
    REPLY = "reply"
    LEDGER = "ledger"
    SIGNAL = "signal"
    LOG = "log"
    HEALTH = "health"
    STATUS = "status"
    TIME = "time"
    ASK = "ask"
    RELAY = "relay"
    WITNESS = "witness"
    WANTED = "wanted"


TO_GATEWAY: Final = frozenset({Branch.COMMAND, Branch.TIME, Branch.RELAY, Branch.WITNESS, Branch.WANTED})


def topic(gateway: str, branch: Branch) -> str:
    return f"{ROOT}/{gateway}/{branch.value}"


def parse(text: str) -> tuple[str, Branch] | None:
    """(gateway, branch) of a topic of ours, else None."""
    parts = text.split("/")
    if len(parts) != 4 or "/".join(parts[:2]) != ROOT:
        return None
    try:
        return parts[2], Branch(parts[3])
    except ValueError:
        return None
