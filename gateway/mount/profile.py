"""How the mount travels from one angle to another: smooth, within a speed and an acceleration, never backwards.

The minimum-jerk polynomial is used because it starts and ends at rest in speed *and* acceleration: a hobby servo that
is stepped along it neither knocks at the ends nor rings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PEAK_SPEED = 1.875
"""Largest speed of s(u) = 10u³ - 15u⁴ + 6u⁵ on [0, 1], reached at u = 1/2."""
PEAK_ACCEL = 10.0 / math.sqrt(3.0)
"""Largest acceleration of the same polynomial, reached at u = 1/2 ± √3/6."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A travel that begins at t = 0 and ends at t = `duration_s`, both at rest.

    Angles in degrees, `max_speed_deg_s` in °/s, `max_accel_deg_s2` in °/s². The duration is the shortest that keeps
    both limits. Raises ValueError for anything not finite and for limits that are not positive.

    Source: Flash and Hogan, "The coordination of arm movements", J. Neurosci. 5(7), 1985 (the polynomial).
    """

    from_deg: float
    to_deg: float
    max_speed_deg_s: float
    max_accel_deg_s2: float
    duration_s: float = field(init=False)

    def __post_init__(self) -> None:
        values = (self.from_deg, self.to_deg, self.max_speed_deg_s, self.max_accel_deg_s2)
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"a profile needs finite numbers, not {values}")
        if self.max_speed_deg_s <= 0.0 or self.max_accel_deg_s2 <= 0.0:
            raise ValueError("a profile's limits are positive")
        distance_deg = abs(self.to_deg - self.from_deg)
        by_speed_s = PEAK_SPEED * distance_deg / self.max_speed_deg_s
        by_accel_s = math.sqrt(PEAK_ACCEL * distance_deg / self.max_accel_deg_s2)
        object.__setattr__(self, "duration_s", max(by_speed_s, by_accel_s))

    def angle_at(self, t_s: float) -> float:
        """The angle in degrees `t_s` seconds after the start; before it the first angle, after the end the last."""
        if t_s <= 0.0 and self.duration_s > 0.0:
            return self.from_deg
        if t_s >= self.duration_s:
            return self.to_deg
        u = t_s / self.duration_s
        share = u * u * u * (10.0 + u * (-15.0 + 6.0 * u))
        return self.from_deg + (self.to_deg - self.from_deg) * share

    def steps(self, step_s: float) -> tuple[float, ...]:
        """The angles at 0, `step_s`, 2 `step_s`, …; the last one is exactly `to_deg`. Never empty."""
        if step_s <= 0.0:
            raise ValueError("a step lasts longer than nothing")
        # The small subtraction keeps a duration that is a whole number of steps from gaining one by rounding.
        count = max(0, math.ceil(self.duration_s / step_s - 1e-9))
        return (*(self.angle_at(index * step_s) for index in range(count)), self.to_deg)
