"""The few operating-system calls on which durability hangs, and the two ways in which we use them.

They are one object so that tests can make the n-th call fail, and can see in which order the calls came.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path

NO_ROOM = frozenset({ENOSPC, EDQUOT})
"""Error numbers that mean "the disk is full" and not "the disk is broken"."""
FILE_MODE = 0o600
PARTIAL_SUFFIX = ".tmp"


class Disk:
    """Thin: every method is one system call and raises its OSError."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)

    def write(self, fd: int, content: bytes) -> int:
        return os.write(fd, content)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def drop_cache(self, fd: int) -> None:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def close(self, fd: int) -> None:
        os.close(fd)


def write_all(disk: Disk, fd: int, content: bytes) -> None:
    """Write everything; a short write goes on, and then says by its OSError why it was short."""
    rest = content
    while rest:
        rest = rest[disk.write(fd, rest) :]


def sync_directory(disk: Disk, directory: Path) -> None:
    """Make names in `directory` durable: creations, renames and removals."""
    fd = disk.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def fill(disk: Disk, fd: int, content: bytes) -> None:
    """Write a new file's content, durably; closes `fd`. Raises OSError."""
    try:
        write_all(disk, fd, content)
        disk.fsync(fd)
    finally:
        disk.close(fd)


def replace_durably(disk: Disk, path: Path, content: bytes) -> None:
    """Give `path` new content: after a power cut it has the old or the new, whole.

    On OSError the old content stands, unless the very last step failed (the directory's fsync): then it is open which.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        fill(disk, disk.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), content)
        disk.rename(partial, path)
    except OSError:
        with suppress(OSError):
            disk.unlink(partial)
        raise
    sync_directory(disk, path.parent)
