"""Taking the network away from a process, by util-linux's unshare."""

from __future__ import annotations

import shutil
import subprocess


def isolation() -> list[str] | None:
    """The command before a service that takes its network away, or None where the kernel lets us have none.

    Root makes a network namespace; anybody else a user namespace first, where that is allowed. Source: unshare(1).
    """
    if shutil.which("unshare") is None:
        return None
    ways = (["unshare", "--net", "--"], ["unshare", "--user", "--map-current-user", "--net", "--"])
    for way in ways:
        if subprocess.run([*way, "true"], capture_output=True, check=False, timeout=10).returncode == 0:
            return way
    return None
