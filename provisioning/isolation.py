"""Can this machine take the network away from a process?"""

from __future__ import annotations

import shutil
import subprocess


def can_isolate() -> bool:
    """True for root, and where unprivileged user namespaces are allowed. Source: unshare(1)."""
    if shutil.which("unshare") is None:
        return False
    ways = (["unshare", "--net", "--"], ["unshare", "--user", "--map-current-user", "--net", "--"])
    return any(
        subprocess.run([*way, "true"], capture_output=True, check=False, timeout=10).returncode == 0 for way in ways
    )
