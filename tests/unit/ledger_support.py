"""Ledgers to break, and disks that fail: the disks do the real calls and fail where a test says."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.ledger import Disk, Ledger, NoteSigner, Record, RecordKind

ORIGIN = "tillsyn/gw-test"
BOOT = "0123456789abcdef" * 2


def new_signer(name: str = ORIGIN) -> NoteSigner:
    return NoteSigner(name, Ed25519PrivateKey.generate())


def a_record(kind: RecordKind = RecordKind.REFUSED, **fields: Any) -> Record:
    return Record(**{"boot": BOOT, "boottime": 12.5, "time_lo": 1.7e9, "kind": kind, "sw": "0.1.0"} | fields)


def a_ledger(
    path: Path, signer: NoteSigner, records: int, *, segment_bytes: int = 1 << 20, signed: bool = True
) -> Path:
    """A ledger on the disk with so many records, under a checkpoint if `signed`."""
    with Ledger.open(path, signer, segment_bytes=segment_bytes, disk=QuickDisk()) as ledger:
        for number in range(records):
            ledger.append(a_record(attempt=number))
            if signed and number == records // 2:
                ledger.checkpoint()
        if signed:
            ledger.checkpoint()
    return path


class QuickDisk(Disk):
    """For tests that are not about durability."""

    def fsync(self, fd: int) -> None:
        pass

    def fdatasync(self, fd: int) -> None:
        pass


@dataclass
class Fault:
    """The next `call` on a file of this name fails; a write first takes `short` bytes."""

    call: str
    name: str
    errno: int
    short: int = 0


@dataclass
class WatchedDisk(Disk):
    """Does the real calls, writes them down, and fails once for each planned fault."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    synced_bytes: dict[Path, int] = field(default_factory=dict)

    def _note(self, call: str, name: str) -> Fault | None:
        self.calls.append((call, name))
        for fault in self.faults:
            if (fault.call, fault.name) == (call, name):
                self.faults.remove(fault)
                return fault
        return None

    def _do(self, call: str, name: str) -> None:
        if fault := self._note(call, name):
            raise OSError(fault.errno, os.strerror(fault.errno))

    @staticmethod
    def path_of(fd: int) -> Path:
        return Path(f"/proc/self/fd/{fd}").readlink()

    def open(self, path: Path, flags: int) -> int:
        self._do("open", path.name)
        return super().open(path, flags)

    def write(self, fd: int, content: bytes) -> int:
        if fault := self._note("write", self.path_of(fd).name):
            if not fault.short:
                raise OSError(fault.errno, os.strerror(fault.errno))
            # As the kernel does: first a short write, and the error on the next.
            self.faults.insert(0, Fault("write", fault.name, fault.errno))
            return super().write(fd, content[: fault.short])
        return super().write(fd, content)

    def _synced(self, fd: int) -> None:
        if self.path_of(fd).is_file():
            self.synced_bytes[self.path_of(fd)] = os.fstat(fd).st_size

    def fsync(self, fd: int) -> None:
        self._do("fsync", self.path_of(fd).name)
        self._synced(fd)

    def fdatasync(self, fd: int) -> None:
        self._do("fdatasync", self.path_of(fd).name)
        self._synced(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._do("truncate", self.path_of(fd).name)
        super().truncate(fd, size_bytes)

    def rename(self, old: Path, new: Path) -> None:
        self._do("rename", new.name)
        super().rename(old, new)
        self.synced_bytes[new] = self.synced_bytes.pop(old, 0)

    def unlink(self, path: Path) -> None:
        self._do("unlink", path.name)
        super().unlink(path)

    def cut_power(self) -> None:
        """Take from every file what was never synced."""
        for path, size_bytes in self.synced_bytes.items():
            if path.exists():
                os.truncate(path, size_bytes)


@dataclass
class SmallDisk(QuickDisk):
    """Has room for so many bytes; what is removed gives its room back."""

    room_bytes: int = 1 << 20

    def write(self, fd: int, content: bytes) -> int:
        taken = min(len(content), self.room_bytes)
        if not taken:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self.room_bytes -= taken
        return super().write(fd, content[:taken])

    def truncate(self, fd: int, size_bytes: int) -> None:
        self.room_bytes += os.fstat(fd).st_size - size_bytes
        super().truncate(fd, size_bytes)

    def rename(self, old: Path, new: Path) -> None:
        self.room_bytes += new.stat().st_size if new.exists() else 0
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self.room_bytes += path.stat().st_size
        super().unlink(path)
