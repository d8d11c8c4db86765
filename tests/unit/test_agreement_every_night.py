"""Every night of 2026-2037 in four zones: each line opens once and for its re-check, and not beside it.

Mutations that turn these red: one look more than `recheck.times` allows; `after_min` left out; the second of two folds.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.agreement import Attempt, LocalState, decide, occasions_between, parse_agreement
from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError

pytestmark = pytest.mark.slow

ZONES = ("Europe/Stockholm", "Europe/Helsinki", "Atlantic/Azores", "America/New_York")
HALVES = ((2026, 2031), (2032, 2037))
LINES = {"evening": "23:30", "gap": "02:30"}
PRESENT = LocalState(withdrawn=False, paused_until_unix_s=None)


def _agreement(zone: str, first: int, last: int):
    return parse_agreement(
        {
            "agreement": "a-1",
            "version": 1,
            "gateway": "gw-1",
            "install_epoch": 1,
            "timezone": zone,
            "valid": {"from": f"{first}-01-01", "until": f"{last}-12-31"},
            "consent": {"resident": {"given": f"{first}-01-01", "how": "signed", "ref": "c-1"}, "cohabitant": None},
            "lines": [
                {
                    "id": name,
                    "rrule": "FREQ=DAILY",
                    "start": start,
                    "window_min": 30,
                    "max_s": 60,
                    "recheck": {"after_min": 15, "times": 1},
                }
                for name, start in LINES.items()
            ],
            "picture": {"mode": "clear"},
            "lamp": "dim",
            "if_not_seen": [{"do": "visit", "unit": "hv-1", "within_min": 45}],
            "pauses": [],
            "resident_ref": "r-1",
        }
    )


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("first", "last"), HALVES)
def test_each_line_opens_once_and_for_its_recheck_and_for_no_longer(zone: str, first: int, last: int):
    agreement = _agreement(zone, first, last)
    lo, hi = datetime(first, 1, 1, tzinfo=UTC), datetime(last + 1, 1, 3, tzinfo=UTC)
    occasions = occasions_between(agreement, lo.replace(year=first - 1), hi)
    nights = (date(last, 12, 31) - date(first, 1, 1)).days + 1
    assert len(occasions) == nights * len(LINES)
    assert len({(each.line_id, each.occasion_id) for each in occasions}) == len(occasions)

    for occasion in occasions:

        def asked(attempt: int, at_s: float, history: list[Attempt], occasion=occasion) -> RefusalCode | int:
            try:
                return decide(
                    agreement,
                    line_id=occasion.line_id,
                    occasion_id=occasion.occasion_id,
                    attempt=attempt,
                    interval=Interval(at_s, at_s),
                    clock_may_open=True,
                    history=history,
                    local=PRESENT,
                ).max_s
            except RefusedError as refused:
                return refused.code

        def look(attempt: int, closed_s: float, outcome: str, occasion=occasion) -> Attempt:
            return Attempt(occasion.line_id, occasion.occasion_id, attempt, closed_s - 60, closed_s, outcome)

        start_s, end_s = occasion.start_unix_s, occasion.end_unix_s
        wanted = datetime.fromisoformat(occasion.occasion_id)
        first_of_two = wanted.replace(tzinfo=ZoneInfo(zone), fold=0)
        shown = datetime.fromtimestamp(first_of_two.timestamp(), ZoneInfo(zone)).replace(tzinfo=None)
        if shown == wanted:
            assert start_s == first_of_two.timestamp()
        else:  # in the gap: the first second that a clock there shows again
            before, after = (datetime.fromtimestamp(at_s, ZoneInfo(zone)) for at_s in (start_s - 1, start_s))
            assert before.replace(tzinfo=None) < wanted < after.replace(tzinfo=None)
        assert end_s - start_s == 30 * 60
        assert asked(1, start_s - 1, []) is RefusalCode.OUTSIDE_WINDOW
        assert asked(1, start_s, []) == 60
        assert asked(1, end_s, []) == 60
        assert asked(1, end_s + 1, []) is RefusalCode.OUTSIDE_WINDOW
        # The other occurrence of the same wall time, on the night that has two.
        assert asked(1, start_s + 3600, []) is RefusalCode.OUTSIDE_WINDOW
        seen = [look(1, start_s + 60, "seen")]
        assert asked(2, start_s + 61, seen) is RefusalCode.BUDGET_SPENT
        missed = [look(1, start_s + 60, "not_seen")]
        assert asked(2, start_s + 60 + 15 * 60 - 1, missed) is RefusalCode.OUTSIDE_WINDOW
        assert asked(2, start_s + 60 + 15 * 60, missed) == 60
        twice = [*missed, look(2, start_s + 60 + 16 * 60, "not_seen")]
        assert asked(3, start_s + 60 + 32 * 60, twice) is RefusalCode.BUDGET_SPENT
