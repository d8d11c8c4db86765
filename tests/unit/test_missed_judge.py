"""What an occasion has come to, from what the home has signed; and which occasions there are.

Mutations that turn it red, each tried: take any refusal for a reason; settle by an attempt instead of by "seen"; leave
out the grace; let a pause that ends inside the window settle it; forget the first occasion of a new agreement.
"""

from __future__ import annotations

import copy
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from protocol_support import AGREEMENT

from centre.missed import (
    GRACE_S,
    AgreementTime,
    Missed,
    Pending,
    Settled,
    Told,
    closed_unix_s,
    in_force,
    judge,
    occasions_of,
)
from centre.outcome import outcome_of
from gateway.agreement import Agreement, Attempt, encode_agreement, occasions_between, parse_agreement
from gateway.check import Why
from gateway.core.refusal import RefusalCode
from gateway.protocol.message import Closed, Verdict
from gateway.services.guard_state import outcome_of as at_the_device

LINE, OCCASION = "night-1", "2026-11-23T23:30"


def agreement(**fields: Any) -> Agreement:
    return parse_agreement(copy.deepcopy(AGREEMENT) | fields)


START_S = int(datetime(2026, 11, 23, 22, 30, tzinfo=UTC).timestamp())
NIGHT = occasions_between(agreement(), datetime.fromtimestamp(START_S, UTC), datetime.fromtimestamp(START_S + 1, UTC))[
    0
]
END_S, MAX_S = NIGHT.end_unix_s, NIGHT.max_s
AFTER_S = AGREEMENT["lines"][0]["recheck"]["after_min"] * 60
LONG_AFTER_S = END_S + 6 * 3600.0


def look(number: int, closed_s: float, outcome: Any) -> Attempt:
    return Attempt(LINE, OCCASION, number, closed_s - 30, closed_s, outcome)


def judged(now_s: float, of: Agreement | None = None, **told: Any) -> Pending | Settled | Missed:
    return judge(of or agreement(), NIGHT, Told(**told), now_unix_s=now_s)


def test_an_occasion_that_nobody_attempted_is_missed_right_after_its_window():
    assert judged(START_S - 1) == Pending(END_S + GRACE_S)
    assert judged(END_S + GRACE_S - 1) == Pending(END_S + GRACE_S)
    assert judged(END_S + GRACE_S) == Missed("missed-check")


def test_only_a_resident_who_was_seen_settles_it_by_a_check():
    assert judged(LONG_AFTER_S, attempts=(look(1, START_S + 60, "seen"),)) == Settled("seen")
    assert judged(START_S + 61, attempts=(look(1, START_S + 60, "seen"),)) == Settled("seen")
    for outcome, why in (("not_seen", "recheck-missed"), ("unsure", "recheck-missed"), ("broken", "check-broken")):
        assert judged(LONG_AFTER_S, attempts=(look(1, START_S + 60, outcome),)) == Missed(why)


def test_a_recheck_is_waited_for_and_then_missed():
    told = {"attempts": (look(1, START_S + 60, "not_seen"),)}
    closes_s = START_S + 60 + AFTER_S + AGREEMENT["lines"][0]["window_min"] * 60
    assert judged(closes_s + GRACE_S - 1, **told) == Pending(closes_s + GRACE_S)
    assert judged(closes_s + GRACE_S, **told) == Missed("recheck-missed")
    spent = (look(1, START_S + 60, "not_seen"), look(2, START_S + 60 + AFTER_S, "unsure"))
    assert judged(START_S + 61 + AFTER_S, attempts=spent) == Missed("not-seen"), "no look is left: at once"


def test_a_check_that_opened_in_the_last_second_is_waited_for_but_not_for_ever():
    assert judged(END_S + GRACE_S, opened_unix_s=float(END_S)) == Pending(END_S + MAX_S + GRACE_S)
    assert judged(END_S + MAX_S + GRACE_S, opened_unix_s=float(END_S)) == Missed("unclosed")


@pytest.mark.parametrize("code", [code.value for code in RefusalCode])
def test_only_a_refusal_by_which_no_check_was_wanted_settles_it(code):
    wanted_none = {"paused", "withdrawn", "no-consent", "returned"}
    expected = Settled(code) if code in wanted_none else Missed(code)
    assert judged(LONG_AFTER_S, refusals=(code,)) == expected
    assert judged(END_S, refusals=(code,)) == Pending(END_S + GRACE_S)


def test_a_pause_settles_it_only_when_it_covers_the_end_of_the_window():
    def paused(first: str, last: str) -> Agreement:
        return agreement(pauses=[{"from": f"2026-11-{first}", "until": f"2026-11-{last}"}])

    assert judged(LONG_AFTER_S, paused("23T12:00", "24T12:00")) == Settled("paused")
    assert judged(LONG_AFTER_S, paused("23T23:40", "24T12:00")) == Settled("paused")
    assert judged(LONG_AFTER_S, paused("23T12:00", "23T23:50")) == Missed("missed-check")
    assert judged(LONG_AFTER_S, paused("24T12:00", "25T12:00")) == Missed("missed-check")
    assert judged(LONG_AFTER_S, said="paused") == Settled("paused"), "not tonight, said at the device"
    not_seen = (look(1, START_S + 60, "not_seen"),)
    assert judged(LONG_AFTER_S, attempts=not_seen, said="paused") == Missed("recheck-missed")
    for word in ("soon", "due", "done", "missed", "recheck"):
        assert judged(LONG_AFTER_S, said=word) == Missed("missed-check"), "a home's list is no check"


def row(accepted_s: float, of: Agreement) -> dict[str, Any]:
    return {"accepted_unix_s": accepted_s, "agreement_json": encode_agreement(of).decode()}


def test_an_occasion_stands_under_the_agreement_in_force_and_under_one_only():
    old, new = agreement(), agreement(version=5, lines=[AGREEMENT["lines"][0] | {"start": "01:00"}])
    changed_s = START_S + 86_400 - 3600
    agreements = in_force([row(START_S - 9000, old), row(changed_s, new)], [])
    found = occasions_of(agreements, START_S - 86_400, START_S + 2 * 86_400)
    assert [occasion.occasion_id for _, occasion in found] == [OCCASION, "2026-11-25T01:00"]
    assert [of.version for of, _ in found] == [4, 5]
    # The same line in a newer version, accepted while the window was open: judged once, by the newer one.
    again = in_force([row(START_S - 9000, old), row(START_S + 60, agreement(version=5))], [])
    found = occasions_of(again, START_S - 60, START_S + 60)
    assert [(of.version, occasion.occasion_id) for of, occasion in found] == [(5, OCCASION)]


def test_an_agreement_counts_from_the_first_window_that_is_still_open_until_it_is_withdrawn():
    rows = [row(START_S + 60, agreement())]
    assert [o.occasion_id for _, o in occasions_of(in_force(rows, []), START_S - 9e4, START_S + 9)] == [OCCASION]
    late = [row(END_S, agreement())]
    assert occasions_of(in_force(late, []), START_S - 9e4, START_S + 9) == []
    withdrawn = in_force([row(START_S - 9e4, agreement())], [START_S - 60.0])
    assert occasions_of(withdrawn, START_S, START_S + 9e4) == []
    assert in_force([row(1.0, agreement())], []) == [AgreementTime(agreement(), 1.0, math.inf)]


def closed(why: str, watched_s: float = 20.0, **fields: Any) -> Closed:
    good = {"gateway": "gw-a", "check": "c", "why": why, "who": "o", "line": LINE, "occasion": OCCASION}
    return Closed(**good, attempt=1, watched_s=watched_s, frames=1, parked=True, ledger_size=1, **fields)


def test_a_closing_counts_here_as_it_counts_at_the_device():
    for why in Why:
        for watched_s in (0.0, 4.9, 5.0, 60.0):
            assert outcome_of(closed(why.value, watched_s)) == at_the_device(why.value, watched_s), (why, watched_s)
    assert outcome_of(closed("link-lost", 0.0, verdict=Verdict.SEEN)) == "seen"


def test_a_report_that_comes_late_does_not_move_the_recheck():
    report = closed("not-seen", next="recheck", next_unix_s=START_S + 60.0 + AFTER_S)
    assert closed_unix_s(report, agreement(), heard_unix_s=START_S + 5000.0) == START_S + 60.0
    assert closed_unix_s(report, agreement(), heard_unix_s=START_S + 50.0) == START_S + 50.0
    assert closed_unix_s(report, None, heard_unix_s=START_S + 5000.0) == START_S + 5000.0
