"""BOOTTIME: the clock of every limit and timeout. It never jumps and goes on through suspend."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")


def boottime_s() -> float:
    """Seconds since boot, suspend included. Source: clock_gettime(2), CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """32 hex digits that are new at each boot of the kernel."""
    return uuid.UUID(BOOT_ID_PATH.read_text().strip()).hex
