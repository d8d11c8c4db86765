"""How the board is: temperature, throttling, room on the disk, and which slot runs. None is for what it can't say.

Read from sysfs and the kernel's command line, so that no privilege and no device node is needed (vcgencmd would need
/dev/vcio, by which a Pi's one-time key can be read). Source: the kernel's thermal sysfs API; Raspberry Pi's firmware
driver, `get_throttled`: bit 0 under-voltage, 1 frequency capped, 2 throttled, 3 soft temperature limit, and the same
from bit 16 on for what has happened since the start. Not run on a board yet.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FLAGS: Final = ("under-voltage", "frequency-capped", "throttled", "soft-temperature-limit")
_SLOT: Final = re.compile(r"(?:^|\s)rauc\.slot=([a-z0-9-]{1,40})(?:\s|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Board:
    """`sysfs` is /sys or a simulated home's; `data` is a directory on the file system that holds the ledger."""

    sysfs: Path
    data: Path
    cmdline: Path = Path("/proc/cmdline")

    def temperature_c(self) -> float | None:
        """Of the hottest zone."""
        found = [self._number(path) for path in self.sysfs.glob("class/thermal/thermal_zone*/temp")]
        return max((milli / 1000 for milli in found if milli is not None), default=None)

    def throttled(self) -> list[str] | None:
        """What holds now, and with `-past` what has held since the start; empty when all is well."""
        path = next(self.sysfs.glob("devices/platform/soc*/*firmware/get_throttled"), None)
        bits = None if path is None else self._number(path, base=16)
        if bits is None:
            return None
        now = [flag for bit, flag in enumerate(_FLAGS) if bits >> bit & 1]
        past = [f"{flag}-past" for bit, flag in enumerate(_FLAGS) if bits >> bit + 16 & 1]
        return now + past

    def disk_free_bytes(self) -> int | None:
        try:
            found = os.statvfs(self.data)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def slot(self) -> str | None:
        """The name of the running system slot."""
        try:
            match = _SLOT.search(self.cmdline.read_text())
        except (OSError, UnicodeDecodeError):
            return None
        return None if match is None else match[1].lower()

    @staticmethod
    def _number(path: Path, base: int = 10) -> int | None:
        try:
            return int(path.read_text().strip(), base)
        except (OSError, ValueError):
            return None
