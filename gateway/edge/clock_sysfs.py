"""The board's battery-backed clock, as a second opinion on what the centre says the time is.

Read from sysfs, so that no privilege and no device node is needed. A clock whose battery was missing says 1970 or 2000
at the next start: what lies before the floor is no opinion but a clock without memory, and is left out.
Source: the kernel's Documentation/ABI/testing/sysfs-class-rtc, `since_epoch`. Not run on a board yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BEHIND_S: Final = 120.0


def read_unix_s(device: Path, *, floor_unix_s: float) -> float | None:
    """Unix seconds by the clock at `device` (for example /sys/class/rtc/rtc0), or None where it can say nothing."""
    try:
        unix_s = float(int((device / "since_epoch").read_text().strip()))
    except (OSError, ValueError):
        return None
    return unix_s if unix_s >= floor_unix_s - BEHIND_S else None
