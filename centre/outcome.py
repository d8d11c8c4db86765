"""What the end of a check means for its occasion's budget, in the agreement's words. Pure; the device reckons the same.

Source: docs/protocol.md, "Budget".
"""

from __future__ import annotations

from typing import Final

from gateway.agreement import Outcome
from gateway.protocol.message import Closed, Verdict

BROKEN_BEFORE_S: Final = 5.0


def outcome_of(closed: Closed) -> Outcome:
    if closed.verdict is not None:
        return {Verdict.SEEN: "seen", Verdict.NOT_SEEN: "not_seen", Verdict.UNSURE: "unsure"}[closed.verdict]  # type: ignore[return-value]
    return outcome_of_ending(closed.why, closed.watched_s)


def outcome_of_ending(why: str | None, watched_s: float) -> Outcome:
    """By why it ended and how long the picture was seen: what a ledger's `closed` record says, where the verdict is the
    reason.
    """
    match why:
        case "seen":
            return "seen"
        case "not-seen":
            return "not_seen"
        case "unsure" | "operator-closed" | "time-up" | "resident-stopped":
            return "unsure"
        case _:
            return "broken" if watched_s < BROKEN_BEFORE_S else "unsure"
