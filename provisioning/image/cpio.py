"""The one archive format that the kernel takes as an initial RAM disk, the same bytes for the same tree."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path


def write_cpio(root: Path, path: Path) -> None:
    """Pack `root` as "newc": by name, owned by root, without times. Source: Linux, early-userspace/buffer-format."""
    with path.open("wb") as out:
        for number, (name, mode, content) in enumerate(_entries(root), start=1):
            encoded = name.encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
            header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
            out.write(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))


def _entries(root: Path) -> Iterator[tuple[str, int, bytes]]:
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        if stat.S_ISDIR(status.st_mode):
            yield name, stat.S_IFDIR | 0o755, b""
        elif stat.S_ISREG(status.st_mode):
            # Who may write or read is the same whatever the builder's umask was.
            yield name, stat.S_IFREG | (0o755 if status.st_mode & 0o100 else 0o644), path.read_bytes()
    yield "TRAILER!!!", 0, b""
