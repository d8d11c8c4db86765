"""Looking for needles in everything that some processes can write to: files, and what they hold open without a name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_PIECE_BYTES = 1 << 20


@dataclass
class Found:
    """What was read, and what was found in it."""

    files: int = 0
    bytes_read: int = 0
    open_files: int = 0
    processes: int = 0
    unreadable: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)


class Needles:
    """Many needles at once: by their first three bytes, then their first ten, then whole."""

    def __init__(self, known: Mapping[bytes, str]) -> None:
        """Each at least ten bytes."""
        self.known = known
        self._first = np.zeros(1 << 24, bool)
        self._by_ten: dict[bytes, list[bytes]] = {}
        for needle in known:
            assert len(needle) >= 10
            self._first[int.from_bytes(needle[:3], "big")] = True
            self._by_ten.setdefault(needle[:10], []).append(needle)

    def find(self, data: bytes) -> list[str]:
        """What stands in the data, each once."""
        found: dict[str, None] = {}
        for start in range(0, len(data), _PIECE_BYTES):
            piece = np.frombuffer(data[start : start + _PIECE_BYTES + 2], np.uint8).astype(np.uint32)
            if len(piece) < 3:
                continue
            for at in np.flatnonzero(self._first[piece[:-2] << 16 | piece[1:-1] << 8 | piece[2:]]):
                here = start + int(at)
                for needle in self._by_ten.get(data[here : here + 10], ()):
                    if data.startswith(needle, here):
                        found[self.known[needle]] = None
        return list(found)


def scan(places: Iterable[Path], needles: Needles) -> Found:
    """Every regular file below the places, and every nameless file that a process beside us has open."""
    found = Found()
    for place in places:
        device = place.stat().st_dev
        for folder, inner, names in os.walk(place):
            # What is mounted inside is another place: writable, it is in the list itself.
            inner[:] = [name for name in inner if (Path(folder) / name).lstat().st_dev == device]
            for name in names:
                path = Path(folder) / name
                if not _is_regular(path):
                    continue
                found.files += 1
                _look(path, str(path), needles, found)
    for label, path in _open_and_nameless(found):
        found.open_files += 1
        _look(path, label, needles, found)
    return found


def _look(path: Path, label: str, needles: Needles, found: Found) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return  # gone in the meantime: it was temporary, and another scan comes
    except OSError as exc:
        found.unreadable.append(f"{label}: {exc.strerror}")
        return
    found.bytes_read += len(data)
    found.hits += [f"{label}: {name}" for name in needles.find(data)]


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _open_and_nameless(found: Found) -> Iterator[tuple[str, Path]]:
    """Deleted files and memfds of every process in our mount namespace, ourselves left out."""
    ours = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if (process / "ns" / "mnt").readlink() != ours:
                continue
            descriptors = list((process / "fd").iterdir())
        except FileNotFoundError:
            continue
        except PermissionError as exc:
            if _looks_ours(process):
                found.unreadable.append(f"{process}: {exc.strerror}")
            continue
        found.processes += 1
        for descriptor in descriptors:
            try:
                target = str(descriptor.readlink())
                is_file = stat.S_ISREG(descriptor.stat().st_mode)
            except OSError:
                continue
            if is_file and target.endswith(" (deleted)"):
                yield f"{process.name} holds {target}", descriptor


def _looks_ours(process: Path) -> bool:
    try:
        return b"tillsyn" in (process / "cmdline").read_bytes()
    except OSError:
        return False
