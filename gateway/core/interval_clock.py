"""What time is it, and how sure are we? Wall time as an interval on BOOTTIME.

A gateway has no clock it may trust by itself: the board may have no RTC, and plain NTP can be forged. So wall time is
an interval [lo, hi] that only authenticated facts may narrow, and an opening needs the whole interval inside the
agreed window.

States (docs/protocol.md, "Clock"):

* FLOOR: only a lower bound is known (build time, last ledger record, newest verified signed time). Opening is refused.
* ATTESTED: the centre signed {nonce, time, radius} and the round trip was at most 5 s.
* CROSS_CHECKED: an independent source (NTS, battery RTC) agrees within 120 s.

The floor is raised by authenticated time only, never by what NTP or the system clock says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_ROUND_TRIP_S = 5.0
MAX_RADIUS_S = 60.0
CROSS_CHECK_S = 120.0
ATTESTATION_LIFE_S = 24 * 3600.0
"""After this long without a new statement the clock falls back to FLOOR: drift alone would by then cost 8.6 s."""
DRIFT = 100e-6
"""Largest drift of the board's oscillator, as a fraction: twice the ±50 ppm of a cheap crystal."""


class ClockState(StrEnum):
    FLOOR = "floor"
    ATTESTED = "attested"
    CROSS_CHECKED = "cross-checked"
    CONTRADICTED = "contradicted"


@dataclass(frozen=True, slots=True)
class Interval:
    """Wall time lies in [lo_unix_s, hi_unix_s]; `hi` may be infinite."""

    lo_unix_s: float
    hi_unix_s: float


@dataclass(frozen=True, slots=True)
class Attestation:
    """A verified time statement, pinned to the BOOTTIME at which its nonce left and its answer came."""

    unix_s: float
    radius_s: float
    asked_boottime_s: float
    heard_boottime_s: float


@dataclass(frozen=True, slots=True)
class IntervalClock:
    """Frozen; every method that learns something gives a new clock."""

    floor_unix_s: float
    floor_boottime_s: float
    attestation: Attestation | None = None
    independent_offset_s: float | None = None
    """Unix time minus BOOTTIME by an independent source, if there is one."""
    demand_cross_check: bool = False

    def with_floor(self, unix_s: float, *, boottime_s: float) -> IntervalClock:
        """Raise the floor to authenticated time `unix_s`; a lower value changes nothing."""
        if unix_s <= self._floor_at(boottime_s):
            return self
        return IntervalClock(unix_s, boottime_s, self.attestation, self.independent_offset_s, self.demand_cross_check)

    def with_attestation(self, attestation: Attestation) -> IntervalClock:
        """Take a verified statement. One that is too slow, too coarse or below the floor changes nothing."""
        round_trip_s = attestation.heard_boottime_s - attestation.asked_boottime_s
        if not 0.0 <= round_trip_s <= MAX_ROUND_TRIP_S or not 0.0 <= attestation.radius_s <= MAX_RADIUS_S:
            return self
        floor_s = self._floor_at(attestation.heard_boottime_s)
        if attestation.unix_s + attestation.radius_s + round_trip_s < floor_s:
            return self
        taken = IntervalClock(
            self.floor_unix_s,
            self.floor_boottime_s,
            attestation,
            self.independent_offset_s,
            self.demand_cross_check,
        )
        if taken.state(attestation.heard_boottime_s) is ClockState.CONTRADICTED:
            return taken
        return taken.with_floor(attestation.unix_s - attestation.radius_s, boottime_s=attestation.heard_boottime_s)

    def with_independent(self, unix_s: float | None, *, boottime_s: float) -> IntervalClock:
        """Take (or drop, with None) what an independent source says; it can confirm or contradict, never open alone."""
        offset_s = None if unix_s is None else unix_s - boottime_s
        taken = IntervalClock(
            self.floor_unix_s, self.floor_boottime_s, self.attestation, offset_s, self.demand_cross_check
        )
        if self.attestation is None or taken.state(boottime_s) not in (ClockState.ATTESTED, ClockState.CROSS_CHECKED):
            return taken
        # A statement that was contradicted until now could not raise the floor when it came.
        return taken.with_floor(self._attested_at(boottime_s, self.attestation).lo_unix_s, boottime_s=boottime_s)

    def state(self, boottime_s: float) -> ClockState:
        attestation = self.attestation
        if attestation is None or not 0.0 <= boottime_s - attestation.heard_boottime_s <= ATTESTATION_LIFE_S:
            return ClockState.FLOOR
        if self.independent_offset_s is None:
            return ClockState.ATTESTED
        attested = self._attested_at(boottime_s, attestation)
        independent_s = boottime_s + self.independent_offset_s
        if attested.lo_unix_s - CROSS_CHECK_S <= independent_s <= attested.hi_unix_s + CROSS_CHECK_S:
            return ClockState.CROSS_CHECKED
        return ClockState.CONTRADICTED

    def may_open(self, boottime_s: float) -> bool:
        """Is the state good enough for an opening? ATTESTED is, or CROSS_CHECKED where the setting demands it."""
        state = self.state(boottime_s)
        return state is ClockState.CROSS_CHECKED or (state is ClockState.ATTESTED and not self.demand_cross_check)

    def interval(self, boottime_s: float) -> Interval:
        """Where wall time lies now; `hi` is infinite in FLOOR and when the sources contradict one another."""
        floor_s = self._floor_at(boottime_s)
        if self.state(boottime_s) in (ClockState.FLOOR, ClockState.CONTRADICTED) or self.attestation is None:
            return Interval(floor_s, float("inf"))
        attested = self._attested_at(boottime_s, self.attestation)
        lo_s = max(floor_s, attested.lo_unix_s)
        return Interval(lo_s, max(lo_s, attested.hi_unix_s))

    def _floor_at(self, boottime_s: float) -> float:
        elapsed_s = max(0.0, boottime_s - self.floor_boottime_s)
        return self.floor_unix_s + elapsed_s * (1.0 - DRIFT)

    @staticmethod
    def _attested_at(boottime_s: float, attestation: Attestation) -> Interval:
        # The centre read its clock somewhere between the asking and the hearing.
        least_s = boottime_s - attestation.heard_boottime_s
        most_s = boottime_s - attestation.asked_boottime_s
        return Interval(
            attestation.unix_s - attestation.radius_s + least_s * (1.0 - DRIFT),
            attestation.unix_s + attestation.radius_s + most_s * (1.0 + DRIFT),
        )
