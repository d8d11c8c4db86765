"""A room with walls: our own mount namespace, in which everything is read-only but a few fresh tmpfs.

So "everything that the gateway's processes can write to" is a short list by construction, and nothing that other
programs of the machine write at the same time is in it. Source: mount_namespaces(7), mount(8).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WRITABLE = [Path(path) for path in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/log")]
KEPT = Path("/mnt")
"""Read-only in the room: where the film lies."""
NO_STORAGE = {"proc", "sysfs", "devpts", "cgroup", "cgroup2", "binfmt_misc", "nsfs", "securityfs", "debugfs", "tracefs"}


def enter() -> None:
    """Run this program again inside a namespace of its own, as root of it; does nothing when we are there."""
    if os.environ.get("MARKER_SCAN_INSIDE") == "1":
        return
    way = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        way[1:1] = ["--user", "--map-root-user"]
    environment = dict(os.environ, MARKER_SCAN_INSIDE="1", TMPDIR="/tmp")
    os.execvpe(way[0], [*way, "--", sys.executable, *sys.argv], environment)


def build(repository: Path) -> None:
    """Cover what may be written with fresh tmpfs, make the rest read-only. Raises CalledProcessError."""
    _mount("-t", "tmpfs", "film", str(KEPT))
    covered = next((place for place in WRITABLE if repository.is_relative_to(place)), None)
    held = KEPT / "repository"
    if covered is not None:
        held.mkdir()
        _mount("--rbind", str(repository), str(held))
    for place in WRITABLE:
        if place.is_dir():
            _mount("-t", "tmpfs", "-o", "mode=1777", "room", str(place))
    if covered is not None:
        repository.mkdir(parents=True)
        _mount("--bind", str(held), str(repository))


def close() -> None:
    """Make all but the writable places read-only. Raises RuntimeError when something stays writable."""
    for target, kind, options in _mounts():
        if Path(target) not in WRITABLE and kind not in NO_STORAGE and "ro" not in options:
            subprocess.run(["mount", "-o", "remount,bind,ro", target], capture_output=True, check=False)
    still = [
        target
        for target, kind, options in _mounts()
        if Path(target) not in WRITABLE
        and kind not in NO_STORAGE
        and "ro" not in options
        and os.access(target, os.W_OK)
    ]
    if still:
        raise RuntimeError(f"still writable: {', '.join(still)}")


def _mounts() -> list[tuple[str, str, set[str]]]:
    """(where, file system, options) of each mount that is not covered by a later one."""
    last: dict[str, tuple[str, str, set[str]]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        last[fields[4]] = (fields[4], kind, set(fields[5].split(",")))
    return list(last.values())


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
