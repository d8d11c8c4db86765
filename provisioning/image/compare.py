"""Two builds of one release, compared to the byte; and a build compared with what a publisher says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provisioning.image.error import ImageMismatchError, RecipeError

FILES: Final = ("root.img", "boot.vfat", "disk.img")
SAME: Final = (
    "board",
    "variant",
    "version",
    "source_date_epoch",
    "lock_sha256",
    "wheels_lock_sha256",
    "keyring_sha256",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file of two builds; `first_difference` is the offset of the first byte that differs."""

    name: str
    left_sha256: str
    right_sha256: str
    first_difference: int | None

    @property
    def same(self) -> bool:
        return self.left_sha256 == self.right_sha256


def compare(left: Path, right: Path) -> tuple[Comparison, ...]:
    """Every file of two builds, read from the disk and not from what the builds say of themselves."""
    found = []
    for name in FILES:
        one, other = left / name, right / name
        for path in (one, other):
            if not path.is_file():
                raise RecipeError(f"{path}: not there; is this the directory of a build?")
        found.append(Comparison(name, sha256(one), sha256(other), _first_difference(one, other)))
    return tuple(found)


def read_release(path: Path) -> dict[str, Any]:
    """A publisher's release.json, or the one in a directory. Raises RecipeError."""
    file = path / "release.json" if path.is_dir() else path
    try:
        facts = json.loads(file.read_text())
    except (OSError, ValueError) as exc:
        raise RecipeError(f"{file}: no release: {exc}") from exc
    if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict) or set(facts["files"]) != set(FILES):
        raise RecipeError(f"{file}: no release: it must name {', '.join(FILES)}")
    return facts


def require_published(release: dict[str, Any], built: Path) -> list[str]:
    """Lines that say what was compared. Raises ImageMismatchError when a built file isn't what was published."""
    ours = read_release(built)
    differing = [key for key in SAME if ours.get(key) != release.get(key)]
    if differing:
        raise ImageMismatchError(
            f"not a build of this release: {', '.join(differing)} differ; check out the release's commit and give its "
            "keyring, version and SOURCE_DATE_EPOCH"
        )
    lines, wrong = [], []
    for name in FILES:
        measured, published = sha256(built / name), str(release["files"][name]["sha256"])
        lines.append(f"{'same  ' if measured == published else 'DIFFER'} {name} {measured}")
        if measured != published:
            wrong.append(name)
    if wrong:
        raise ImageMismatchError("\n".join([*lines, f"{', '.join(wrong)}: not the bytes that were published"]))
    return lines


def sha256(path: Path) -> str:
    """Of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_difference(left: Path, right: Path) -> int | None:
    offset = 0
    with left.open("rb") as one, right.open("rb") as other:
        while True:
            first, second = one.read(1 << 20), other.read(1 << 20)
            if first != second:
                same = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
                return offset + (same if same is not None else min(len(first), len(second)))
            if not first:
                return None
            offset += len(first)
