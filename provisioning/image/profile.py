"""A board as data: what it is made of, and what keeps its image from being built here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from provisioning.image.error import RecipeError

TREE: Final = Path(__file__).parents[2]
RECIPE: Final = TREE / "image-build"

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9+.-]{0,60}$")]
Mebibytes = Annotated[int, Meta(ge=1, le=65536)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections."""


class BoardArchive(Section, frozen=True):
    """A second archive that a board's kernel, firmware and camera stack come from; named by what it is, not where."""

    title: str
    suite: Name
    keyring: str
    """Name of the keyring file that has to be put beside the lock; none is in the tree."""
    pins: list[Name]
    """What is taken from this archive and from no other."""


class Profile(Section, frozen=True):
    """One file of image-build/boards."""

    title: str
    compatible: Annotated[str, Meta(pattern=r"^tillsyn-[a-z0-9-]+$")]
    """RAUC installs no bundle with another word here."""
    suite: Name
    architecture: Literal["arm64", "amd64"]
    kernel: Name
    packages: list[Name]
    """Beyond image-build/packages.txt."""
    modules: list[str]
    """Kernel modules that go into the root, with what they depend on."""
    early_modules: list[str]
    """Those that the initial RAM disk loads to find the root."""
    command_line: str
    disk: str
    """The block device that the root lies on, as the kernel names it."""
    firmware: Literal["qemu", "raspberry-pi"]
    """Who reads autoboot.txt, and how it is asked for a try: see gateway.edge.slots_tryboot."""
    data_key: Literal["credential", "otp"]
    """Where the key of the data partition comes from."""
    boot_mib: Mebibytes
    root_mib: Mebibytes
    unverified: list[str]
    """What nobody has seen work on this board."""
    archive: BoardArchive | None = None


def boards() -> list[str]:
    """Every board that has a profile."""
    return sorted(path.stem for path in (RECIPE / "boards").glob("*.toml"))


def read(board: str) -> Profile:
    """Raises RecipeError for a board without a profile, or a profile that is wrong."""
    path = RECIPE / "boards" / f"{board}.toml"
    if board not in boards():
        raise RecipeError(f"BOARD={board}: no such board. There are {', '.join(boards())}.")
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Profile, strict=True)
    except msgspec.MsgspecError as exc:
        raise RecipeError(f"{path.name}: {exc}") from exc


def require_buildable(board: str, profile: Profile) -> None:
    """Raises RecipeError that says what is missing when this board's image can't be made from this tree."""
    if profile.archive is not None:
        raise RecipeError(
            f"BOARD={board}: {profile.title} needs {', '.join(profile.archive.pins)} from {profile.archive.title} "
            f"(suite {profile.archive.suite}, keyring {profile.archive.keyring}). That archive was out of reach where "
            "this tree was made: the build has no second archive yet, there is no lock for this board, and no image of "
            "it was ever built or booted. docs/image.md says what is to be done where it can be reached."
        )


def wanted(profile: Profile) -> list[str]:
    """The names asked of Debian for this board, the kernel not among them."""
    lines = (RECIPE / "packages.txt").read_text().splitlines()
    names = [line.split("#")[0].strip() for line in lines]
    return [*(name for name in names if name), *profile.packages]
