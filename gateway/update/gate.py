"""The health gate: what a tried system must show before it becomes the one that boots.

Everything is looked at again and again for ten minutes, and must hold all the time: a service that falls over once
begins the ten minutes anew. What reached the centre before the update must reach it after it; what did not, needs not:
a home whose router is off at the time must not lose an update for it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

STEADY_S: Final = 600.0
"""So long every check must hold without a break: ten of the watchdog's minutes."""
LIMIT_S: Final = 2400.0
"""Whoever has not shown it within this falls back. BOOTTIME, from when the gate began to look."""


class Reach(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of the centre was reached."""

    broker: bool = False
    tunnel: bool = False


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the guard says of the running system. Whatever it can't say is False."""

    parked: bool
    """The mount is up, measured where it can be."""
    guard_well: bool
    """No obstacle of its own: ledger writable, trust and agreement as recorded, mount and camera not given up."""
    ledger_verifies: bool
    eye_well: bool
    """The eye's process starts, loads its libraries and finds the camera; the sensor stays off."""
    reach: Reach
    restarts: int
    """Of guard, eye and link together, since the boot. Any change begins the steady time anew."""


class Lack(StrEnum):
    """What is missing, in the order in which it is told."""

    NO_GUARD = "no-guard"
    NOT_PARKED = "not-parked"
    GUARD_UNWELL = "guard-unwell"
    LEDGER_BROKEN = "ledger-broken"
    EYE_UNWELL = "eye-unwell"
    NO_BROKER = "no-broker"
    NO_TUNNEL = "no-tunnel"
    NOT_STEADY = "not-steady"


def lacks(facts: Facts | None, before: Reach) -> Lack | None:
    """The first thing that is missing now; None when all is well. `facts` is None while the guard says nothing."""
    if facts is None:
        return Lack.NO_GUARD
    checks = (
        (facts.parked, Lack.NOT_PARKED),
        (facts.guard_well, Lack.GUARD_UNWELL),
        (facts.ledger_verifies, Lack.LEDGER_BROKEN),
        (facts.eye_well, Lack.EYE_UNWELL),
        (facts.reach.broker or not before.broker, Lack.NO_BROKER),
        (facts.reach.tunnel or not before.tunnel, Lack.NO_TUNNEL),
    )
    return next((lack for holds, lack in checks if not holds), None)


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gate's memory within one boot; times are BOOTTIME."""

    since_s: float
    before: Reach
    steady_since_s: float | None = None
    restarts: int | None = None
    lack: Lack | None = Lack.NO_GUARD


class Judged(StrEnum):
    GOOD = "good"
    BAD = "bad"


def watch(state: Watch, facts: Facts | None, *, now_s: float) -> tuple[Watch, Judged | None]:
    """One look. A judgement is given once all has held for STEADY_S, or when LIMIT_S is over."""
    lack = lacks(facts, state.before)
    restarts = state.restarts if facts is None else facts.restarts
    calm = lack is None and state.steady_since_s is not None and restarts == state.restarts
    steady_since_s = (state.steady_since_s if calm else now_s) if lack is None else None
    if lack is None and steady_since_s is not None and now_s - steady_since_s >= STEADY_S:
        return Watch(state.since_s, state.before, steady_since_s, restarts, None), Judged.GOOD
    told = lack if lack is not None else Lack.NOT_STEADY
    after = Watch(state.since_s, state.before, steady_since_s, restarts, told)
    return after, Judged.BAD if now_s - state.since_s >= LIMIT_S else None
