"""Which agreed occasions ended without a check? The device's own answer, from its agreement, its ledger and its clock.

An occasion is missed when the last moment at which its next attempt could open is certainly past and nobody has seen
the resident: no attempt at all, only broken ones, or a re-check that nobody made. It is not missed where no check was
wanted at that moment: in a pause, after a withdrawal, without consent. Every occasion is named once; the caller says
which it has told before.

Nothing here asks whether the power was on. What ended while it was off is found at the next start, as soon as the
clock's lower bound has passed it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from gateway.agreement.attempt import Attempt, Ending, Opening, attempts_of, next_opening
from gateway.agreement.decision import has_consent
from gateway.agreement.occasion import SPAN_MAX_S, Occasion, occasions_between, pause_bounds
from gateway.agreement.schema import Agreement

LOOK_BACK_S: Final = 14 * 86_400
"""Older ones are the centre's: it has missed them long since, and the ledger may have let their records go."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """From `first_unix_s` until before `last_unix_s` (infinite while it lasts) the resident wanted no check."""

    first_unix_s: float
    last_unix_s: float


@dataclass(frozen=True, slots=True)
class MissedOccasion:
    """`ended_unix_s` is the last moment at which somebody could have looked."""

    line_id: str
    occasion_id: str
    why: Literal["missed-check", "check-broken", "recheck-missed", "not-seen"]
    ended_unix_s: float
    attempts: int


def missed(
    agreement: Agreement,
    *,
    since_unix_s: float,
    now_unix_s: float,
    history: Sequence[Attempt],
    quiet: Sequence[Quiet],
    told: Container[tuple[str, str]],
) -> list[MissedOccasion]:
    """What ended after `since_unix_s`, when this agreement came into force, and before `now_unix_s`; oldest first.

    `now_unix_s` is what the time is at least. `told` holds (line, occasion) of all that has been said before.
    """
    begin_unix_s = max(since_unix_s, now_unix_s - LOOK_BACK_S) - SPAN_MAX_S
    if not begin_unix_s < now_unix_s:  # an agreement of an unknown time asks for nothing yet
        return []
    pauses = [Quiet(*map(float, pause_bounds(agreement.zone, pause))) for pause in agreement.pauses]
    found = []
    for occasion in occasions_between(
        agreement, datetime.fromtimestamp(max(0.0, begin_unix_s), UTC), datetime.fromtimestamp(now_unix_s, UTC)
    ):
        if (occasion.line_id, occasion.occasion_id) in told or occasion.end_unix_s <= since_unix_s:
            continue
        item = _judge(agreement, occasion, attempts_of(occasion, history))
        if item is None or not item.ended_unix_s < now_unix_s or item.ended_unix_s <= now_unix_s - LOOK_BACK_S:
            continue
        is_quiet = any(each.first_unix_s <= item.ended_unix_s < each.last_unix_s for each in (*quiet, *pauses))
        if item.attempts or not (is_quiet or not has_consent(agreement, (item.ended_unix_s, item.ended_unix_s))):
            found.append(item)
    return found


def _judge(agreement: Agreement, occasion: Occasion, attempts: Sequence[Attempt]) -> MissedOccasion | None:
    """The occasion as missed once its next attempt can't open any more; None where there is nothing to miss."""
    line = agreement.line(occasion.line_id)
    assert line is not None  # the occasion came from this agreement
    looks = [attempt for attempt in attempts if attempt.outcome != "broken"]
    match next_opening(line, occasion, attempts):
        case Opening(closes_unix_s=ended_unix_s):
            why: Literal["missed-check", "check-broken", "recheck-missed", "not-seen"] = (
                "recheck-missed" if looks else "check-broken" if attempts else "missed-check"
            )
        case Ending.SPENT:
            ended_unix_s = max(attempt.closed_unix_s or 0.0 for attempt in attempts)
            why = "not-seen" if looks else "check-broken"
        case _:
            return None
    return MissedOccasion(occasion.line_id, occasion.occasion_id, why, ended_unix_s, len(attempts))
