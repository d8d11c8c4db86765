"""The files of a ledger, and reading their lines in order.

    ledger.pub              the public key, a C2SP vkey; written last, so its presence says that the ledger is complete
    segments/000000.log …   one record a line
    checkpoint              the newest signed checkpoint
    checkpoints.log         every earlier one, oldest first
    reserve                 room for the closing record on a full disk

Reading never writes, takes no lock, and keeps one line in memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway.ledger.disk import PARTIAL_SUFFIX
from gateway.ledger.record import FIRST_PREV, MAX_LINE_BYTES, StoredLine, TornLineError, parse_line
from gateway.ledger.refused import Finding, LedgerRefusedError

PUBLIC_KEY = "ledger.pub"
SEGMENTS = "segments"
CHECKPOINT = "checkpoint"
CHECKPOINTS = "checkpoints.log"
RESERVE = "reserve"
_LINE_START = re.compile(rb'[0-9a-f]{8} \{"')
_SEGMENT_NAME = re.compile(r"[0-9]{6}\.log\Z")


def segment_path(directory: Path, number: int) -> Path:
    return directory / SEGMENTS / f"{number:06d}.log"


def segment_paths(directory: Path) -> list[Path]:
    """All segments, oldest first. LedgerRefusedError if one is missing or something else lies among them."""
    try:
        names = sorted(each.name for each in (directory / SEGMENTS).iterdir())
    except OSError as error:
        raise LedgerRefusedError(Finding.UNREADABLE, f"{SEGMENTS}: {error.strerror}") from error
    # A rewriting that was cut off leaves its partial file; the whole one is still there.
    names = [name for name in names if not name.endswith(PARTIAL_SUFFIX)]
    for number, name in enumerate(names):
        if not _SEGMENT_NAME.match(name):
            raise LedgerRefusedError(Finding.INSERTED, f"{SEGMENTS}/{name}: this file is not the ledger's")
        if name != segment_path(directory, number).name:
            raise LedgerRefusedError(Finding.REMOVED, f"{SEGMENTS}/{number:06d}.log: the file is missing")
    if not names:
        raise LedgerRefusedError(Finding.REMOVED, f"{SEGMENTS}: there is no segment")
    return [segment_path(directory, number) for number in range(len(names))]


@dataclass(frozen=True, slots=True)
class ScannedLine:
    """A line that fits the one before it; `segment` is the number of its file."""

    segment: int
    stored: StoredLine
    leaf_hash: bytes
    line: bytes


@dataclass(frozen=True, slots=True)
class TornTail:
    """The last line of the last segment was not written to its end. `start_bytes` is where it begins in its file."""

    where: str
    start_bytes: int
    size_bytes: int
    has_newline: bool


class Scan:
    """Iterate once over a ledger's lines, each checked by itself and against the one before.

    Raises LedgerRefusedError at the first line that is not what was written. After the last line `torn_tail` says
    whether a torn one was left out.
    """

    def __init__(self, directory: Path) -> None:
        self.segments = segment_paths(directory)
        self.torn_tail: TornTail | None = None

    def __iter__(self) -> Iterator[ScannedLine]:
        expected_seq, expected_prev, any_body = 0, FIRST_PREV, False
        for number, path in enumerate(self.segments):
            for where, line, stored in self._lines(number, path):
                if stored.seq != expected_seq:
                    raise self._misplaced(where, stored.seq, expected_seq)
                if stored.prev != expected_prev:
                    raise self._unchained(where, stored.seq)
                # Retention erases from the oldest on; a hole anywhere else is somebody else's work.
                if stored.record() is not None:
                    any_body = True
                elif any_body:
                    raise LedgerRefusedError(
                        Finding.REMOVED, f"{where}: the body of record {stored.seq} is missing, an older one is there"
                    )
                leaf = stored.leaf_hash()
                expected_seq, expected_prev = expected_seq + 1, leaf.hex()
                yield ScannedLine(number, stored, leaf, line)

    def _lines(self, number: int, path: Path) -> Iterator[tuple[str, bytes, StoredLine]]:
        start_bytes = 0
        for line_number, line, rest in _raw_lines(path):
            where = f"{SEGMENTS}/{path.name} line {line_number}"
            try:
                stored = parse_line(line)
            except TornLineError as error:
                if number == len(self.segments) - 1 and not rest and not _hides_a_line(line):
                    self.torn_tail = TornTail(where, start_bytes, len(line), line.endswith(b"\n"))
                    return
                raise LedgerRefusedError(Finding.EDITED, f"{where}: {error}") from error
            except ValueError as error:
                raise LedgerRefusedError(Finding.EDITED, f"{where}: {error}") from error
            yield where, line, stored
            start_bytes += len(line)

    def _misplaced(self, where: str, found: int, expected: int) -> LedgerRefusedError:
        if found < expected:
            return LedgerRefusedError(
                Finding.INSERTED, f"{where}: record {found} is here again, {expected} was to follow"
            )
        if self._count(expected):
            return LedgerRefusedError(
                Finding.REORDERED, f"{where}: record {found} stands here; {expected}, which was to follow, comes later"
            )
        return LedgerRefusedError(
            Finding.REMOVED, f"{where}: record {found} follows on {expected - 1}; {expected} is missing"
        )

    def _unchained(self, where: str, seq: int) -> LedgerRefusedError:
        if self._count(seq) > 1:
            return LedgerRefusedError(
                Finding.INSERTED, f"{where}: there are two records {seq}; this one is not chained to the one before"
            )
        return LedgerRefusedError(
            Finding.EDITED, f"{where}: record {seq} is not chained to the one before; one of them was edited"
        )

    def _count(self, seq: int) -> int:
        """How many readable lines of the whole ledger call themselves `seq`; only to name the fault."""
        found: Counter[int] = Counter()
        for path in self.segments:
            for _, line, _ in _raw_lines(path):
                try:
                    found[parse_line(line).seq] += 1
                except ValueError:
                    continue
        return found[seq]


def _hides_a_line(tail: bytes) -> bool:
    # One write holds one record, so a whole record at the end of a broken line was no torn write: somebody took the
    # newline before it, and cutting the tail off would lose a record that was acknowledged.
    for start in _LINE_START.finditer(tail, 1):
        try:
            parse_line(tail[start.start() :])
        except ValueError:
            continue
        return True
    return False


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes and "is there more" of each line; a line too long to be one of ours comes in pieces."""
    try:
        with path.open("rb") as file:
            line, number = _read_line(file), 0
            while line:
                number += 1
                following = _read_line(file)
                yield number, line, bool(following)
                line = following
    except OSError as error:
        raise LedgerRefusedError(Finding.UNREADABLE, f"{SEGMENTS}/{path.name}: {error.strerror}") from error


def _read_line(file: BinaryIO) -> bytes:
    return file.readline(MAX_LINE_BYTES + 1)
