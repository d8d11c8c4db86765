"""What one mounted servo needs to be known: which pulse is which angle, and which angles are parked and aimed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from gateway.core.error import ConfigError

LEAST_CLEARANCE_DEG = 45.0
"""Parked, the aimed point must be well outside the picture. The Camera Module 3 Wide sees 67° vertically, 33.5° on
either side of its axis. Source: Raspberry Pi, Camera Module 3 product brief."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One servo as it is mounted.

    Angles are degrees above the aimed horizon as the installer measures them: parked is up. `min_deg` is the angle at
    `min_pulse_us` and `max_deg` the one at `max_pulse_us`; a servo mounted the other way round has min_deg > max_deg.
    The mount is never sent outside these two. Pulses are in µs in a frame of 20 ms. Speed is the peak of the profile,
    in °/s, acceleration in °/s²: the defaults travel 80° in 1.36 s.

    Raises ConfigError for a value of the wrong type, out of range, or a parked angle too near to the aimed one.
    """

    parked_deg: float = 90.0
    aim_deg: float = 10.0
    min_deg: float = 0.0
    max_deg: float = 180.0
    min_pulse_us: float = 500.0
    max_pulse_us: float = 2500.0
    max_speed_deg_s: float = 110.0
    max_accel_deg_s2: float = 360.0
    clearance_deg: float = LEAST_CLEARANCE_DEG
    """How far parked and aimed are apart at least; 0 for an axis that does not turn the camera away."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"mount: {entry.name} must be a finite number, not {value!r}")
        _demand_range("min_deg", self.min_deg, -270.0, 270.0)
        _demand_range("max_deg", self.max_deg, -270.0, 270.0)
        # A pulse beyond these drives a hobby servo against its stop, where it hums and burns.
        _demand_range("min_pulse_us", self.min_pulse_us, 400.0, 2600.0)
        _demand_range("max_pulse_us", self.max_pulse_us, 400.0, 2600.0)
        _demand_range("max_speed_deg_s", self.max_speed_deg_s, 5.0, 360.0)
        _demand_range("max_accel_deg_s2", self.max_accel_deg_s2, 5.0, 5000.0)
        if self.max_pulse_us - self.min_pulse_us < 100.0:
            raise ConfigError("mount: max_pulse_us must be at least 100 µs above min_pulse_us")
        if abs(self.max_deg - self.min_deg) < LEAST_CLEARANCE_DEG:
            raise ConfigError(f"mount: min_deg and max_deg must be {LEAST_CLEARANCE_DEG:g}° apart or more")
        for name in ("parked_deg", "aim_deg"):
            if not self.reaches(getattr(self, name)):
                raise ConfigError(f"mount: {name} is outside min_deg to max_deg")
        if abs(self.parked_deg - self.aim_deg) < self.clearance_deg:
            raise ConfigError(f"mount: parked_deg and aim_deg must be {self.clearance_deg:g}° apart or more")

    def reaches(self, angle_deg: float) -> bool:
        """Whether the mount may be sent to this angle; never true for NaN."""
        return min(self.min_deg, self.max_deg) <= angle_deg <= max(self.min_deg, self.max_deg)

    def pulse_us(self, angle_deg: float) -> float:
        """The pulse for an angle, in µs. Not clamped: ask `reaches` first."""
        share = (angle_deg - self.min_deg) / (self.max_deg - self.min_deg)
        return self.min_pulse_us + share * (self.max_pulse_us - self.min_pulse_us)

    def angle_deg(self, pulse_us: float) -> float:
        """The angle a pulse holds, in degrees; the inverse of `pulse_us`."""
        share = (pulse_us - self.min_pulse_us) / (self.max_pulse_us - self.min_pulse_us)
        return self.min_deg + share * (self.max_deg - self.min_deg)


def _demand_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"mount: {name} must be {least:g} to {most:g}, not {value:g}")
