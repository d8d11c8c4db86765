"""How often may they look? The budget of one occasion, from the attempts that the ledger holds.

An *attempt* is one opening of the camera. It is a *look* unless it broke off technically (`broken`: closed by a fault
before 5 s of live picture). The rules:

* The first look opens in the occasion's window. After a look that ended `not_seen` or `unsure`, the re-check opens
  `after_min` minutes after that look closed at the earliest and `window_min` minutes later at the latest, and never
  after the occasion's `recheck_end_unix_s`. There are at most `recheck.times` re-checks; after `seen` there is none.
* A broken attempt is repeated at once, in the window it broke off in, and moves no window. At most
  `TECHNICAL_REPEATS` of an occasion's broken attempts are repeated, so an occasion never opens the camera more than
  1 + recheck.times + TECHNICAL_REPEATS times. (2 repeats: one for a network that drops once, one for the try that
  follows a restart; a third fault is home care's business, not the camera's.)
* Attempts are numbered from 1, broken ones included.

Source: docs/protocol.md, "Agreement"; requirement R29.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal

from gateway.agreement.occasion import Occasion
from gateway.agreement.schema import Agreement, HandoverStep, Line

TECHNICAL_REPEATS: Final = 2

Outcome = Literal["seen", "not_seen", "unsure", "broken", "open"]
"""`open`: still running. A look that closed without a verdict is the caller's to enter, as `unsure`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One opening of the camera, as the ledger tells it. `closed_unix_s` is None while it runs."""

    line_id: str
    occasion_id: str
    attempt: int
    opened_unix_s: float
    closed_unix_s: float | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Opening:
    """The next attempt there may be, and the instants between which it may open, both included."""

    attempt: int
    opens_unix_s: float
    closes_unix_s: float
    recheck: bool


class Ending(Enum):
    """Why there is no next attempt (now)."""

    RUNNING = auto()
    SEEN = auto()
    SPENT = auto()


@dataclass(frozen=True, slots=True)
class NextStep:
    """What follows after an attempt.

    `none`: the resident was seen, an attempt is running, or there was no attempt yet. `recheck`: look again in
    [opens_unix_s, closes_unix_s] (after a broken attempt: at once). `handover`: home care takes over by `steps`, in
    order.
    """

    action: Literal["none", "recheck", "handover"]
    opens_unix_s: float | None = None
    closes_unix_s: float | None = None
    steps: tuple[HandoverStep, ...] = ()


def attempts_of(occasion: Occasion, history: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """The attempts of this occasion alone."""
    return tuple(
        attempt
        for attempt in history
        if attempt.line_id == occasion.line_id and attempt.occasion_id == occasion.occasion_id
    )


def next_opening(line: Line, occasion: Occasion, attempts: Sequence[Attempt]) -> Opening | Ending:
    """The next attempt of an occasion after `attempts` (of this occasion only, in any order), or why there is none."""
    outcomes = [attempt.outcome for attempt in attempts]
    if "seen" in outcomes:
        return Ending.SEEN
    looks = [attempt for attempt in attempts if attempt.outcome != "broken"]
    closed_s = [math.nan if look.closed_unix_s is None else look.closed_unix_s for look in looks]
    # Named one by one, so that an outcome which nobody thought of permits nothing.
    if not {look.outcome for look in looks} <= {"not_seen", "unsure"} or not all(map(math.isfinite, closed_s)):
        return Ending.RUNNING
    if len(looks) > line.recheck.times or outcomes.count("broken") > TECHNICAL_REPEATS:
        return Ending.SPENT
    number = len(attempts) + 1
    if not looks:
        return Opening(number, occasion.start_unix_s, occasion.end_unix_s, recheck=False)
    opens_s = max(closed_s) + line.recheck.after_min * 60
    closes_s = min(opens_s + line.window_min * 60, occasion.recheck_end_unix_s)
    return Opening(number, opens_s, closes_s, recheck=True)


def next_step(agreement: Agreement, occasion: Occasion, history: Sequence[Attempt]) -> NextStep:
    """What follows in this occasion after its attempts in `history`; knows no time, so says nothing of missed windows.

    Raises:
        ValueError: an occasion of a line that the agreement does not have, which is our own mistake.
    """
    line = agreement.line(occasion.line_id)
    if line is None:
        raise ValueError("the occasion is not of this agreement")
    attempts = attempts_of(occasion, history)
    match next_opening(line, occasion, attempts):
        case Opening() as opening if attempts:
            opens_s = opening.opens_unix_s
            # After a broken first look the window's start lies behind; what matters is from when on it may be repeated.
            broken_s = [a.closed_unix_s for a in attempts if a.outcome == "broken" and a.closed_unix_s is not None]
            return NextStep("recheck", max([opens_s, *broken_s]), opening.closes_unix_s)
        case Ending.SPENT:
            return NextStep("handover", steps=agreement.if_not_seen)
        case _:
            return NextStep("none")
