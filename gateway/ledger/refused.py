"""Why a ledger is not believed."""

from __future__ import annotations

from enum import StrEnum

from gateway.core.error import IntegrityError


class Finding(StrEnum):
    """What seems to have been done to the ledger; the best reading of the traces, not a proof of it."""

    EDITED = "edited"
    REMOVED = "removed"
    REORDERED = "reordered"
    INSERTED = "inserted"
    TRUNCATED = "truncated"
    FORKED = "forked"
    KEY_SUBSTITUTED = "key-substituted"
    UNREADABLE = "unreadable"


class LedgerRefusedError(IntegrityError):
    """The ledger is not what was written. The message says in plain English which file, which line and what."""

    def __init__(self, code: Finding, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
