"""The whole card: GPT with fixed ids; slot selection, two slots, and what the first boot fills."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provisioning.image.error import RecipeError
from provisioning.image.profile import Profile

SELECT_MIB: Final = 32
FAT_TYPE: Final = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
LINUX_TYPE: Final = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
FIRST_MIB: Final = 4
DATA_MIB: Final = 8
"""Of the data partition as it is written; the first boot lets it take the rest of the card."""
AUTOBOOT: Final = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
"""Source: Raspberry Pi documentation, "autoboot.txt". Slot A is partition 2, slot B partition 3."""


def table(profile: Profile, ids: Callable[[str], str]) -> tuple[str, dict[str, int]]:
    """The card as a script for sfdisk, and where each partition begins in MiB."""
    lines = ["label: gpt", f"label-id: {ids('disk')}", "unit: sectors"]
    begins: dict[str, int] = {}
    at_mib = FIRST_MIB
    for name, size_mib, kind in (
        ("select", SELECT_MIB, FAT_TYPE),
        ("boot-a", profile.boot_mib, FAT_TYPE),
        ("boot-b", profile.boot_mib, FAT_TYPE),
        ("root-a", profile.root_mib, LINUX_TYPE),
        ("root-b", profile.root_mib, LINUX_TYPE),
        ("data", DATA_MIB, LINUX_TYPE),
    ):
        begins[name] = at_mib
        lines.append(f"start={at_mib * 2048}, size={size_mib * 2048}, type={kind}, uuid={ids(name)}, name={name}")
        at_mib += size_mib
    begins["end"] = at_mib
    return "\n".join(lines) + "\n", begins


def write_disk(
    path: Path,
    profile: Profile,
    *,
    boot: Path,
    root: Path,
    ids: Callable[[str], str],
    epoch_unix_s: int,
    work: Path,
) -> Path:
    """A card with slot A filled, slot B and data empty. Returns `path`. Raises RecipeError."""
    from provisioning.image.build import make_fat

    script, begins = table(profile, ids)
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, (begins["end"] + 1) << 20)
    done = subprocess.run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(path)],
        input=script,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise RecipeError(f"sfdisk: {done.stderr.strip()}")
    source = work / "select"
    source.mkdir()
    (source / "autoboot.txt").write_text(AUTOBOOT)
    select = work / "select.vfat"
    make_fat(select, SELECT_MIB, source, label="SELECT", epoch_unix_s=epoch_unix_s)
    for name, content in (("select", select), ("boot-a", boot), ("root-a", root)):
        _put(content, path, begins[name] << 20)
    return path


def _put(source: Path, target: Path, offset_bytes: int) -> None:
    with source.open("rb") as read, target.open("r+b") as write:
        write.seek(offset_bytes)
        while block := read.read(1 << 20):
            # Holes stay holes: a card image is mostly empty.
            if block.count(0) == len(block):
                write.seek(len(block), os.SEEK_CUR)
            else:
                write.write(block)
