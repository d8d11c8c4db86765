"""Which QEMU the lab runs in: the host's, or a newer one of the same Debian, unpacked beside other downloads.

Source for the least version: measured, a boot of the image takes the emulator of Debian 12 (7.2) too long for what
the guest's services are held to; 10.0.2 keeps up.

    python -m tests.image_lab.emulator CACHE

prints a directory to put first in PATH, or nothing where the host's emulator will do.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from provisioning.image.archive import host_mirror

LEAST_MAJOR: Final = 9
PROGRAM: Final = "qemu-system-aarch64"
PACKAGES: Final = ("qemu-system-arm", "qemu-system-common", "qemu-system-data")
"""What the program needs beside the libraries that the host's own `qemu-system-arm` has brought along."""


class EmulatorError(Exception):
    """There is no emulator that is new enough; the message says what to do."""


def major(program: str) -> int:
    """The first number of the version that `program` says of itself; 0 when it can't be run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r"version (\d+)\.", said)
    return 0 if found is None else int(found[1])


def directory(cache: Path) -> Path | None:
    """Where a new enough emulator lies, fetched if need be; None: the host's is. Raises EmulatorError."""
    if major(PROGRAM) >= LEAST_MAJOR:
        return None
    folder = cache / "qemu"
    programs = folder / "root" / "usr" / "bin"
    if major(str(programs / PROGRAM)) < LEAST_MAJOR:
        shutil.rmtree(folder, ignore_errors=True)
        _fetch(folder)
    if major(str(programs / PROGRAM)) < LEAST_MAJOR:
        raise EmulatorError(
            f"{PROGRAM}: version {LEAST_MAJOR} or newer is needed, and this system's backports have none that runs "
            "here; put one into PATH"
        )
    return programs


def _fetch(folder: Path) -> None:
    """Debian's backports alone, in an apt of its own: nothing is installed, and the host's apt learns nothing."""
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True)
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    source = folder / "sources.list"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source.write_text(f"deb [signed-by={keyring}] {host_mirror().main} {codename}-backports main\n")
    apt = ["apt-get", "-qq"]
    for name, value in (
        ("Etc::SourceList", source),
        ("Etc::SourceParts", "-"),
        ("State::Lists", folder / "lists"),
        ("Cache", folder / "cache"),
    ):
        apt += ["-o", f"Dir::{name}={value}"]
    try:
        subprocess.run([*apt, "update"], check=True, capture_output=True, text=True, timeout=600)
        subprocess.run(
            [*apt, "download", *PACKAGES], check=True, capture_output=True, text=True, timeout=900, cwd=folder
        )
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True, timeout=300)
    except subprocess.SubprocessError as exc:
        said = str(getattr(exc, "stderr", "") or "").strip()[-500:]
        raise EmulatorError(f"{codename}-backports gave no newer emulator ({exc}): {said}") from exc


if __name__ == "__main__":
    try:
        found = directory(Path(sys.argv[1]))
    except EmulatorError as error:
        sys.exit(str(error))
    if found is not None:
        print(found)
