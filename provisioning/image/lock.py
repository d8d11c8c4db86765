"""The lock of Debian packages: which bytes an image may be made of.

One line a package: name, version, architecture, SHA-256, size in bytes, archive (`main` or `security`), path in that
archive, and the source it was built from with that source's version, by which known vulnerabilities are told. No
addresses: which mirror the archive is read from is a setting of whoever builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provisioning.image.error import ImageMismatchError, RecipeError

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION: Final = re.compile(r"(?:[0-9]+:)?[A-Za-z0-9.+~-]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PATH: Final = re.compile(r"pool/[A-Za-z0-9+._%~/-]+\.deb")
ARCHIVES: Final = ("main", "security")


@dataclass(frozen=True, slots=True, order=True)
class LockedPackage:
    """One .deb by its bytes."""

    name: str
    version: str
    architecture: str
    sha256: str
    size_bytes: int
    archive: str
    path: str
    source: str
    source_version: str

    @property
    def file_name(self) -> str:
        """The same for every mirror, and never that of another package."""
        return self.path.rsplit("/", 1)[1]


def parse(text: str, *, where: str = "lock") -> tuple[LockedPackage, ...]:
    """The packages of a lock file, by name. Raises RecipeError that names the line."""
    packages: dict[str, LockedPackage] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if (
            len(words) != 9
            or not _NAME.fullmatch(words[0])
            or not _VERSION.fullmatch(words[1])
            or words[2] not in {"all", "arm64", "amd64"}
            or not _SHA256.fullmatch(words[3])
            or not words[4].isdigit()
            or words[5] not in ARCHIVES
            or not _PATH.fullmatch(words[6])
            or ".." in words[6]
            or not _NAME.fullmatch(words[7])
            or not _VERSION.fullmatch(words[8])
        ):
            raise RecipeError(
                f"{where}:{number}: not `name version architecture sha256 size archive path source version`"
            )
        if words[0] in packages:
            raise RecipeError(f"{where}:{number}: {words[0]} stands here twice")
        packages[words[0]] = LockedPackage(
            words[0], words[1], words[2], words[3], int(words[4]), words[5], words[6], words[7], words[8]
        )
    return tuple(packages[name] for name in sorted(packages))


def read(path: Path) -> tuple[LockedPackage, ...]:
    """Raises RecipeError for a lock that is missing or wrong."""
    try:
        return parse(path.read_text(), where=path.name)
    except OSError as exc:
        raise RecipeError(f"{path}: {exc.strerror}; `make image-lock` makes it") from exc


def render(packages: Iterable[LockedPackage], *, head: str) -> str:
    """The lock file's text: one line a package, by name, so that a renewal reads as a diff."""
    lines = [f"# {line}" for line in head.splitlines()]
    lines += [
        f"{p.name} {p.version} {p.architecture} {p.sha256} {p.size_bytes} {p.archive} {p.path} "
        f"{p.source} {p.source_version}"
        for p in sorted(packages)
    ]
    return "\n".join(lines) + "\n"


def require_same(installed: Mapping[str, str], locked: Iterable[LockedPackage]) -> None:
    """Raises ImageMismatchError unless exactly the locked packages are installed, each in its locked version."""
    wanted = {package.name: package.version for package in locked}
    faults = [f"{name} {installed[name]} is not in the lock" for name in sorted(installed.keys() - wanted.keys())]
    faults += [f"{name} {wanted[name]} is missing" for name in sorted(wanted.keys() - installed.keys())]
    faults += [
        f"{name} is {installed[name]}, the lock says {wanted[name]}"
        for name in sorted(wanted.keys() & installed.keys())
        if wanted[name] != installed[name]
    ]
    if faults:
        raise ImageMismatchError("the image is not what the lock says: " + "; ".join(faults))
