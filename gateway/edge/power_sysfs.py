"""How the board is fed and cooled, as the Raspberry Pi's firmware says it in sysfs.

No mailbox: that would need /dev/vcio, through which the OTP key of a Pi 4 can be read. Two places say it: the hwmon
driver `rpi_volt` has an alarm for under-voltage, and the firmware driver, on kernels that have it, all flags.
Source: Linux, drivers/hwmon/raspberrypi-hwmon.c; Raspberry Pi's kernel, drivers/firmware/raspberrypi.c; the flags' bits
from Raspberry Pi's documentation of vcgencmd get_throttled. Not run on a board yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FLAGS: Final = "devices/platform/soc/soc:firmware/get_throttled"
UNDER_VOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT = 0x1, 0x2, 0x4, 0x8
"""What is now; the same 16 bits higher is what was since the boot."""


@dataclass(frozen=True, slots=True)
class Power:
    """`under_voltage`: below 4.63 V now. `throttled`: slower now, for heat or for want of power. None: nothing says."""

    under_voltage: bool | None
    throttled: bool | None


def read_power(sysfs: Path) -> Power:
    """What the firmware says under `sysfs` (/sys on a board). Never raises; cheap enough for once a second."""
    flags = _number(sysfs / FLAGS, 16)
    alarm = None
    for name in sorted(sysfs.glob("class/hwmon/hwmon*/name")):
        if _text(name) == "rpi_volt":
            alarm = _number(name.parent / "in0_lcrit_alarm", 10)
    said = [bool(alarm)] if alarm is not None else []
    if flags is not None:
        said.append(bool(flags & UNDER_VOLTAGE))
    throttled = None if flags is None else bool(flags & (CAPPED | THROTTLED | SOFT_LIMIT))
    return Power(any(said) if said else None, throttled)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path, base: int) -> int | None:
    try:
        return int(_text(path) or "", base)
    except ValueError:
        return None
