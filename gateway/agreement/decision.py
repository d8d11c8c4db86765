"""May this happen now? The one answer that every opening of the camera needs, and the list of what is due.

It promises that `decide` returns only if every condition holds over the *whole* interval in which the time may lie, and
that it refuses with the first code that applies, in a fixed order. Comparisons are written so that a NaN refuses.

Source: docs/protocol.md, "Agreement" and "Clock"; requirements R24, R26, R29, R40.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal, NoReturn

from gateway.agreement.attempt import Attempt, Ending, Opening, attempts_of, next_opening
from gateway.agreement.occasion import (
    SPAN_MAX_S,
    Occasion,
    occasion_by_id,
    occasions_between,
    pause_bounds,
)
from gateway.agreement.schema import Agreement
from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError

DUE_HORIZON_S: Final = 12 * 3600
"""`due` lists what starts within this time, and what ended within it."""

_LATEST_UNIX_S: Final = datetime(2101, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class LocalState:
    """What the resident did at the device itself. `paused_until_unix_s` may be infinite (until further notice)."""

    withdrawn: bool
    paused_until_unix_s: float | None


@dataclass(frozen=True, slots=True)
class DueItem:
    """One occasion, for a list on a screen; it permits nothing, `decide` does.

    * `soon`: its first look opens at `opens_unix_s`; `due`: it may open now.
    * `recheck`: the next attempt follows a look that did not see; `opens_unix_s` says from when.
    * `paused`: no time is left to open that no pause covers.
    * `missed`: the next attempt may no longer open.
    * `done`: seen, or the budget is spent (`next_step` tells which).

    `attempt` is None if there is no next one, and while one is running (then `due` or `recheck`).
    `opens_unix_s` is moved behind a pause. All three are None together.
    """

    line_id: str
    occasion: Occasion
    status: Literal["due", "soon", "recheck", "done", "missed", "paused"]
    attempt: int | None
    opens_unix_s: float | None
    closes_unix_s: float | None


def decide(
    agreement: Agreement,
    *,
    line_id: str,
    occasion_id: str,
    attempt: int,
    interval: Interval,
    clock_may_open: bool,
    history: Sequence[Attempt],
    local: LocalState,
) -> Occasion:
    """Return the occasion if this attempt of it may open now; refuse otherwise. Changes nothing.

    `interval` is where the time may lie; `history` holds at least all attempts of this occasion that opened the camera,
    broken ones too. Refusals, in this order:

    1. `withdrawn`: the resident withdrew at the device.
    2. `paused`: the interval touches a pause, the resident's own or the agreement's.
    3. `no-consent`: a named person's consent is missing, or does not hold on every local date of the interval.
    4. `clock-untrusted`: `clock_may_open` is False, or the interval has no end or is no interval.
    5. `not-agreed`: no such line, or the line does not produce that occasion (rule, exceptions, validity).
    6. `outside-window`: the interval does not lie wholly inside the window of the next attempt, or one is running. If
       no attempt is left, or its number is wrong, what counts is the occasion from start to last re-check.
    7. `budget-spent`: `attempt` is not the next number, the resident was seen, or no look or technical repeat is left
       (the rules are in `gateway.agreement.attempt`).

    While the interval has no end, steps 2 and 3 ask about its beginning: a floor before Christmas is no reason to
    write "paused" into the ledger because of a pause at Christmas. Such an interval is refused at step 4 at the latest.

    Raises:
        RefusedError: with one of the codes above.
    """
    if local.withdrawn:
        _refuse(RefusalCode.WITHDRAWN, "withdrawn at the device")
    known = _known(interval)
    if _is_paused(agreement, known, interval, local):
        _refuse(RefusalCode.PAUSED, "a pause touches the interval")
    if not has_consent(agreement, known):
        _refuse(RefusalCode.NO_CONSENT, "consent is missing or does not hold")
    if not clock_may_open or known is None or not math.isfinite(interval.hi_unix_s):
        _refuse(RefusalCode.CLOCK_UNTRUSTED, "the clock may not open")
    line = agreement.line(line_id)
    occasion = None if line is None else occasion_by_id(agreement, line, occasion_id)
    if line is None or occasion is None:
        _refuse(RefusalCode.NOT_AGREED, "no such line or occasion")
    opening = next_opening(line, occasion, attempts_of(occasion, history))
    if opening is Ending.RUNNING:
        _refuse(RefusalCode.OUTSIDE_WINDOW, "an attempt has not closed")
    if isinstance(opening, Opening) and opening.attempt == attempt:
        window = (opening.opens_unix_s, opening.closes_unix_s)
    else:
        window = (float(occasion.start_unix_s), float(occasion.recheck_end_unix_s))
    if not (window[0] <= interval.lo_unix_s and interval.hi_unix_s <= window[1]):
        _refuse(RefusalCode.OUTSIDE_WINDOW, "the interval is not wholly inside the window")
    if not isinstance(opening, Opening):
        _refuse(RefusalCode.BUDGET_SPENT, "no attempt is left")
    if opening.attempt != attempt:
        _refuse(RefusalCode.BUDGET_SPENT, "not the number of the next attempt")
    return occasion


def due(agreement: Agreement, interval: Interval, history: Sequence[Attempt], local: LocalState) -> list[DueItem]:
    """The occasions around now, by start: from those that ended at most 12 h ago to those that start within 12 h.

    Empty while consent is missing or withdrawn, and while the interval has no end: then nothing is known to be due.
    """
    known = _known(interval)
    if known is None or not math.isfinite(interval.hi_unix_s) or local.withdrawn or not has_consent(agreement, known):
        return []
    lo_s, hi_s = known
    occasions = occasions_between(
        agreement,
        datetime.fromtimestamp(max(0.0, lo_s - DUE_HORIZON_S - SPAN_MAX_S), UTC),
        datetime.fromtimestamp(hi_s + DUE_HORIZON_S, UTC),
    )
    pauses = [pause_bounds(agreement.zone, pause) for pause in agreement.pauses]
    return [
        _due_item(agreement, occasion, known, pauses, history=history, local=local)
        for occasion in occasions
        if occasion.recheck_end_unix_s >= lo_s - DUE_HORIZON_S
    ]


def _refuse(code: RefusalCode, detail: str) -> NoReturn:
    raise RefusedError(code, detail)


def _known(interval: Interval) -> tuple[float, float] | None:
    """The interval as a pair, its beginning twice if it has no end, or None if it is no interval at all."""
    lo_s, hi_s = interval.lo_unix_s, interval.hi_unix_s
    if hi_s == math.inf:
        hi_s = lo_s
    return (lo_s, hi_s) if 0 <= lo_s <= hi_s <= _LATEST_UNIX_S else None


def _is_paused(agreement: Agreement, known: tuple[float, float] | None, interval: Interval, local: LocalState) -> bool:
    # "not at or after the end" instead of "before the end": a NaN on either side then pauses.
    if local.paused_until_unix_s is not None and not interval.lo_unix_s >= local.paused_until_unix_s:
        return True
    if known is None:
        return False
    bounds = (pause_bounds(agreement.zone, pause) for pause in agreement.pauses)
    return any(first_s <= known[1] and known[0] < last_s for first_s, last_s in bounds)


def has_consent(agreement: Agreement, known: tuple[float, float] | None) -> bool:
    resident, cohabitant = agreement.consent.resident, agreement.consent.cohabitant
    if resident is None:
        return False
    named = (resident,) if cohabitant is None else (resident, cohabitant)
    if known is None:  # refused for its clock in any case; say `no-consent` only of what no clock could mend
        return all(person.given is not None for person in named)
    first, last = (_local_date(agreement, moment_s) for moment_s in known)
    return all(person.holds(first, last) for person in named)


def _local_date(agreement: Agreement, unix_s: float) -> date:
    return datetime.fromtimestamp(unix_s, agreement.zone).date()


def _due_item(
    agreement: Agreement,
    occasion: Occasion,
    known: tuple[float, float],
    pauses: Sequence[tuple[int, int]],
    *,
    history: Sequence[Attempt],
    local: LocalState,
) -> DueItem:
    def item(
        status: Literal["due", "soon", "recheck", "done", "missed", "paused"],
        opening: Opening | None = None,
        opens_s: float | None = None,
    ) -> DueItem:
        if opening is None:
            return DueItem(occasion.line_id, occasion, status, None, None, None)
        return DueItem(occasion.line_id, occasion, status, opening.attempt, opens_s, opening.closes_unix_s)

    line = agreement.line(occasion.line_id)
    assert line is not None  # the occasion came from this agreement
    attempts = attempts_of(occasion, history)
    opening = next_opening(line, occasion, attempts)
    if opening is Ending.RUNNING:
        return item("recheck" if any(a.outcome in ("not_seen", "unsure") for a in attempts) else "due")
    if not isinstance(opening, Opening):
        return item("done")
    lo_s, hi_s = known
    if _behind_pauses(opening.opens_unix_s, pauses, local) > opening.closes_unix_s:
        return item("paused")
    if hi_s > opening.closes_unix_s:
        return item("missed")
    opens_s = _behind_pauses(max(opening.opens_unix_s, lo_s), pauses, local)
    if opens_s > opening.closes_unix_s:
        return item("paused")
    if opening.recheck:
        return item("recheck", opening, opens_s)
    return item("due" if opens_s <= lo_s else "soon", opening, opens_s)


def _behind_pauses(moment_s: float, pauses: Sequence[tuple[int, int]], local: LocalState) -> float:
    """The first instant from `moment_s` on that lies in no pause."""
    if local.paused_until_unix_s is not None:
        moment_s = max(moment_s, local.paused_until_unix_s)
    for first_s, last_s in sorted(pauses):
        if first_s <= moment_s < last_s:
            moment_s = last_s
    return moment_s
