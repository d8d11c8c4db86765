"""What was on the card after each single write, from QEMU's log of them: each is what a power cut may leave.

Writes that are under way at the same time stand in the order of their ends. A card that finishes them in another order
without a flush between is not in this. Source: qemu, block/blklogwrites.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
SECTOR = 512
DISCARD = 4


class WriteLogError(Exception):
    """Not a log as QEMU writes it."""


def drive(card: Path, log: Path) -> str:
    """What QEMU's -drive wants for a raw card whose writes are logged into a new file."""
    log.unlink(missing_ok=True)
    log.touch()
    file = f"driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={card}"
    return f"{file},log.driver=file,log.filename={log}"


def writes(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset in bytes, content) of each write of a machine that stands still. Raises WriteLogError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        # With cache=unsafe nothing is flushed, and only a flush would write the head.
        head = file.read(SECTOR)
        if any(head) and SUPER.unpack(head[: SUPER.size])[0] != MAGIC:
            raise WriteLogError(f"{path.name}: not a log of writes")
        place = SECTOR
        while place < size:
            file.seek(place)
            begin, count, flags, _ = ENTRY.unpack(file.read(SECTOR)[: ENTRY.size])
            place += SECTOR
            if flags & DISCARD:
                continue
            content = file.read(count * SECTOR)
            if len(content) != count * SECTOR:
                raise WriteLogError(f"{path.name}: ends in a write")
            place += len(content)
            if content:
                yield begin * SECTOR, content


def states(path: Path, before: bytes, start: int) -> Iterator[bytearray]:
    """The part of the card that begins at `start` and was `before`, after each write to it. One and the same array."""
    now = bytearray(before)
    for offset, content in writes(path):
        begin, end = max(offset, start), min(offset + len(content), start + len(now))
        if begin < end:
            now[begin - start : end - start] = content[begin - offset : end - offset]
            yield now
