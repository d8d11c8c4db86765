"""Reading records back: for the outbox, for recovery after a crash, for the centre's copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.ledger.record import Record, RecordKind
from gateway.ledger.segment import Scan


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """`body` is None when it was erased. `line` is what stands in the file, newline included."""

    seq: int
    body: Record | None
    leaf_hash: bytes
    line: bytes


@dataclass(frozen=True, slots=True)
class UnclosedCheck:
    """A check that has an `opened` and no `closed`; it was seen to run until `last_seen`."""

    opened: Record
    last_seen: Record


def read_records(path: Path) -> Iterator[StoredRecord]:
    """Iterate over a ledger's records, oldest first; a torn tail is left out.

    Each line is checked by itself and against the one before, and LedgerRefusedError comes at the first that does not
    fit: what was given before it is good. Checkpoints are not looked at; that is `verify_directory`.
    """
    for scanned in Scan(path):
        yield StoredRecord(scanned.stored.seq, scanned.stored.record(), scanned.leaf_hash, scanned.line)


def unclosed_check(records: Iterable[StoredRecord]) -> UnclosedCheck | None:
    """Find the last check that was opened and never closed, with the last sign that it ran.

    The service closes it with why="recovered". The sign is the last `live` or `heartbeat` of that check, or the opening
    itself; its `boottime` counts within its `boot` only.
    """
    unclosed: UnclosedCheck | None = None
    for stored in records:
        record = stored.body
        if record is None:
            continue
        if record.kind is RecordKind.OPENED:
            unclosed = UnclosedCheck(record, record)
        elif unclosed is not None and record.check == unclosed.opened.check:
            if record.kind is RecordKind.CLOSED:
                unclosed = None
            elif record.kind in (RecordKind.LIVE, RecordKind.HEARTBEAT):
                unclosed = UnclosedCheck(unclosed.opened, record)
    return unclosed
