"""Reading records back: for the outbox, for recovery after a crash, for the centre's copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway.ledger.record import MAX_LINE_BYTES, Record, RecordKind, StoredLine, parse_line
from gateway.ledger.refused import Finding, LedgerRefusedError
from gateway.ledger.segment import SEGMENTS, Scan, segment_paths


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


class RecordFeed:
    """Records in portions from where the last one ended: a portion costs its own length, not the ledger's.

    For a reader beside the one writer, in the same process: the ledger was checked when it was opened, so each line is
    checked by itself, by its number, and within a run of portions against the one before. A segment that was rewritten
    in between (retention) is found anew by its number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._inode = 0
        self._segment = 0
        self._next = 0
        self._prev: str | None = None

    def portion(self, first: int, limit: int) -> list[StoredRecord]:
        """Records `first` and on, at most `limit`, fewer at the end. Raises LedgerRefusedError as `read_records`."""
        paths = segment_paths(self._path)
        if self._file is None or first != self._next or paths[self._segment].stat().st_ino != self._inode:
            self._seek(paths, first)
        found: list[StoredRecord] = []
        while len(found) < limit:
            line = self._line(paths)
            if line is None:
                break
            stored = _parsed(line, self._segment, self._next)
            if self._prev is not None and stored.prev != self._prev:
                raise LedgerRefusedError(Finding.EDITED, f"record {stored.seq} is not chained to the one before")
            leaf_hash = stored.leaf_hash()
            self._next, self._prev = self._next + 1, leaf_hash.hex()
            found.append(StoredRecord(stored.seq, stored.record(), leaf_hash, line))
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, paths: list[Path]) -> bytes | None:
        """The next whole line, in this segment or the one after it."""
        assert self._file is not None
        start = self._file.tell()
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line and self._segment + 1 < len(paths):
            self._open(paths, self._segment + 1)
            start, line = 0, self._file.readline(MAX_LINE_BYTES + 1)
        if not line.endswith(b"\n"):
            self._file.seek(start)  # half of a line, or none yet
            return None
        return line

    def _seek(self, paths: list[Path], first: int) -> None:
        self._prev = None
        for number in range(len(paths) - 1, -1, -1):
            self._open(paths, number)
            assert self._file is not None
            line = self._file.readline(MAX_LINE_BYTES + 1)
            begins = _parsed(line, number, None).seq if line.endswith(b"\n") else None
            if number == 0 or (begins is not None and begins <= first):
                break
        assert self._file is not None
        self._file.seek(0)
        self._next = begins or 0
        while self._next < first and (line := self._file.readline(MAX_LINE_BYTES + 1)).endswith(b"\n"):
            self._next += 1
        if self._next != first:
            raise LedgerRefusedError(Finding.REMOVED, f"record {first} is not there")

    def _open(self, paths: list[Path], number: int) -> None:
        self.close()
        self._file = paths[number].open("rb")
        self._segment, self._inode = number, paths[number].stat().st_ino


def _parsed(line: bytes, segment: int, seq: int | None) -> StoredLine:
    where = f"{SEGMENTS}/{segment:06d}.log"
    try:
        stored = parse_line(line)
    except ValueError as error:
        raise LedgerRefusedError(Finding.EDITED, f"{where}: {error}") from error
    if seq is not None and stored.seq != seq:
        raise LedgerRefusedError(Finding.EDITED, f"{where}: record {stored.seq} stands where {seq} is to stand")
    return stored


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
