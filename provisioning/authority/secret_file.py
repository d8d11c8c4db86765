"""Files of the authority: written whole or not at all, never over another, and private keys with mode 0600.

A file is written under another name beside its place, made durable, and then given its name. A cut in the middle leaves
at most a file called `.tillsyn-…`, which nothing reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.core.error import ConfigError
from gateway.core.secret_mode import is_open_to_others

_PART: Final = ".tillsyn-"
MAX_FILE_BYTES: Final = 64 * 1024


def write_secret(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 from its first byte; raises FileExistsError rather than overwrite a key.

    Raises ConfigError on a file system that does not keep modes, such as a USB stick's FAT.
    """
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Create `path`, readable by all. Raises FileExistsError where there is one already, unless `replace`."""
    _write(path, content, 0o644, replace=replace)


def write_directory(path: Path, *, public: Mapping[str, bytes], secret: Mapping[str, bytes]) -> None:
    """Make the directory `path` (new, or there and empty) with all of these files, or nothing.

    Raises FileExistsError where something lies in it already; ConfigError as `write_secret`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise FileExistsError(errno.EEXIST, "exists and is not empty", str(path))
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=path.parent))
    try:
        for name, content in public.items():
            _write(part / name, content, 0o644)
        for name, content in secret.items():
            _write(part / name, content, 0o600)
        try:
            part.rename(path)
        except OSError as exc:
            # Somebody put a file there since we looked. The system's word for it is ENOTEMPTY.
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, "exists and is not empty", str(path)) from exc
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _sync(path.parent)


def read_secret(path: Path) -> bytes:
    """The content of a private file. Raises ConfigError when others than its owner may read it, and OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a file")
        mode = stat.S_IMODE(status.st_mode)
        if is_open_to_others(path, mode):
            raise ConfigError(
                f"{path}: mode {mode:04o}, so others than its owner may use this secret. If nobody else has had it, "
                f"run `chmod 600 {path}`; else make a new one."
            )
        return _bounded(path, file.read(MAX_FILE_BYTES + 1))


def read_public(path: Path) -> bytes:
    """The content of a file that is no secret. Raises ConfigError when it is larger than any of ours, and OSError."""
    with path.open("rb") as file:
        return _bounded(path, file.read(MAX_FILE_BYTES + 1))


def _bounded(path: Path, content: bytes) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so it is none of our files")
    return content


def _write(path: Path, content: bytes, mode: int, *, replace: bool = False) -> None:
    fd, name = tempfile.mkstemp(prefix=_PART, dir=path.parent)  # 0600, created exclusively
    part = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            with contextlib.suppress(PermissionError):  # what FAT says to a mode it can't keep
                os.fchmod(fd, mode)
            if mode == 0o600 and stat.S_IMODE(os.fstat(fd).st_mode) != mode:
                raise ConfigError(
                    f"{path.parent}: this file system does not keep file modes, so a private key can't be kept there. "
                    "Choose a directory on ext4 or another file system of Linux."
                )
            file.write(content)
            file.flush()
            os.fsync(fd)
        if replace:
            part.replace(path)
        else:
            _give_name(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    _sync(path.parent)


def _give_name(part: Path, path: Path) -> None:
    """Rename, but never over something: a hard link fails where a name is taken, a rename does not."""
    try:
        path.hardlink_to(part)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A stick with FAT has no hard links. Between looking and renaming another process could come; on the one
        # machine of a ceremony none does.
        if path.exists() or path.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from exc
        part.rename(path)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
