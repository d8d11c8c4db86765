"""Reading the log of dm-log-writes, and putting a disk into the states it went through.

Source: Linux 6.1, drivers/md/dm-log-writes.c and Documentation/admin-guide/device-mapper/log-writes.rst. An entry is
one sector (32 bytes used; a mark's text follows in it) and then its data. The driver logs a plain write only when a
later flush has made it durable, and a FUA write when it is complete; so what stands before an entry is what a disk with
a volatile cache had certainly kept, and a mark set by an impatient writer comes before the write it boasts of.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = 0x6A736677736872
VERSION = 1
SECTOR_BYTES = 512
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


class LogFormatError(ValueError):
    """This is not a log of dm-log-writes, or it ends too soon."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`sector` and `sectors` in units of 512 bytes; `data_start` is where the data stands in the log."""

    sector: int
    sectors: int
    flags: int
    data_start: int
    mark: str = ""

    @property
    def is_write(self) -> bool:
        return self.sectors > 0 and not self.flags & (MARK | DISCARD)

    @property
    def flushes(self) -> bool:
        return bool(self.flags & FLUSH)

    @property
    def is_barrier(self) -> bool:
        return bool(self.flags & (FLUSH | FUA))


def read_log(path: Path) -> list[Entry]:
    """All entries in the order of the log. Raises LogFormatError."""
    with path.open("rb") as file:
        magic, version, count, sector_bytes = _SUPER.unpack(_exactly(file, _SUPER.size))
        if magic != MAGIC or version != VERSION or sector_bytes % SECTOR_BYTES:
            raise LogFormatError(f"{path}: magic {magic:#x}, version {version}, sectors of {sector_bytes} bytes")
        scale = sector_bytes // SECTOR_BYTES
        entries, position = [], sector_bytes
        for _ in range(count):
            file.seek(position)
            sector, sectors, flags, data_bytes = _ENTRY.unpack(_exactly(file, _ENTRY.size))
            mark = _exactly(file, data_bytes).decode() if flags & MARK else ""
            position += sector_bytes
            entries.append(Entry(sector * scale, sectors * scale, flags, position, mark))
            if not flags & (MARK | DISCARD):
                position += sectors * sector_bytes
        return entries


def apply(log: BinaryIO, disk: BinaryIO, entry: Entry, sectors: Iterable[int] | None = None) -> None:
    """Do to `disk` what `entry` did; with `sectors` only those of it, counted from its start."""
    if entry.flags & DISCARD:
        raise LogFormatError("a discard; the disk is mounted without them")
    if not entry.is_write:
        return
    log.seek(entry.data_start)
    content = _exactly(log, entry.sectors * SECTOR_BYTES)
    if sectors is None:
        disk.seek(entry.sector * SECTOR_BYTES)
        disk.write(content)
        return
    for each in sectors:
        disk.seek((entry.sector + each) * SECTOR_BYTES)
        disk.write(content[each * SECTOR_BYTES : (each + 1) * SECTOR_BYTES])


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise LogFormatError("the log ends within an entry")
    return content
