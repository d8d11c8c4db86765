"""Nothing leaves the queue without an outcome; what is most urgent stands first; a fault is noticed and is over.

Mutations that turn it red: drop `announced` in `centre.queue.queue` (a home that leaves an occasion out of its list
makes it vanish); treat `missed` as an outcome in `centre.queue._check`; let `FAULTS` of a home end when it is silent;
leave out `consent-ends` or `delivery-failed` in `centre.fault.look`, or `_TAKES_NO_CHECK` there; leave the time out of
`centre.running.is_running`; ask for `attempt >= 1` in `centre.fault._open_now`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import AGREEMENT
from test_centre_app import CLOCK, DUE, NOW_UNIX_S, FakeBroker, make_state

from centre import fault
from centre.api.handovers import read_queue
from centre.queue import RANKS, queue
from centre.state import CentreState
from centre.store import HandoverStart, SentAgreement
from gateway.protocol import strict_json
from gateway.protocol.message import Challenged, ClockFact, Closed, DueFact, Hello, Verdict

OCCASION = ("gw-a", 1, DUE.line, DUE.occasion)


def due(status: str = "due", attempt: int = 1, opens: float = -60, closes: float = 1200) -> dict[str, Any]:
    return {
        "line": DUE.line,
        "occasion": DUE.occasion,
        "status": status,
        "attempt": attempt,
        "opens_unix_s": NOW_UNIX_S + opens,
        "closes_unix_s": NOW_UNIX_S + closes,
        "max_s": 60,
    }


def items(*dues: dict[str, Any], heard: float = 0.0, **more: Any) -> list[Any]:
    given: dict[str, Any] = {
        "announced": [], "seen": set(), "handovers": [], "handed_over": set(), "claims": {}, "faults": [],
    }  # fmt: skip
    return queue([("gw-a", 1, list(dues), NOW_UNIX_S + heard)], now_unix_s=NOW_UNIX_S, **given | more)


def test_each_word_of_a_home_becomes_one_of_the_queue() -> None:
    cases = {
        "due": due(),
        "soon": due("soon", opens=600),
        "recheck": due("recheck"),
        "running": due(attempt=0),
        "overdue": due(closes=-1),
    }
    for word, one in cases.items():
        assert [item.word for item in items(one)] == [word]
    assert [item.word for item in items(due("missed", closes=-5))] == ["overdue"]
    assert items(due("done")) == items(due("paused")) == []
    assert items(due("soon", opens=3 * 3600)) == [], "later than within the hour"


@pytest.mark.parametrize(
    ("heard", "closes", "word"),
    [(-120, 1200, "running"), (-121, 1200, "due"), (-120, -1, "running"), (-121, -1, "overdue")],
)
def test_a_check_is_in_progress_for_as_long_as_was_agreed_and_no_longer(heard: float, closes: float, word: str) -> None:
    assert [item.word for item in items(due(attempt=0, closes=closes), heard=heard)] == [word]


def test_what_was_announced_stays_until_there_is_an_outcome() -> None:
    announced = [("gw-a", 1, DUE.line, DUE.occasion, 1, NOW_UNIX_S - 10)]
    assert [item.word for item in items(announced=announced)] == ["overdue"]
    assert items(announced=announced, seen={OCCASION}) == []
    assert items(announced=announced, handed_over={OCCASION}) == []
    assert items(due("paused"), announced=announced) == []
    assert [item.word for item in items(due(), announced=announced)] == ["due"], "the home's newest word counts"


_STATUSES = st.sampled_from(["due", "soon", "recheck", "missed"])


@pytest.mark.slow
@given(
    st.lists(st.tuples(_STATUSES, st.integers(0, 3), st.floats(-7200, 3000), st.floats(1, 9000)), max_size=6),
    st.sets(st.integers(0, 5)),
    st.sets(st.integers(0, 5)),
)
def test_every_open_occasion_is_there_once_and_in_order(
    given: list[tuple[str, int, float, float]], seen: set[int], handed: set[int]
) -> None:
    dues = [
        due(status, attempt, opens, opens + window) | {"line": f"n-{number}"}
        for number, (status, attempt, opens, window) in enumerate(given)
    ]
    names = [("gw-a", 1, one["line"], one["occasion"]) for one in dues]
    found = items(
        *dues,
        seen={name for number, name in enumerate(names) if number in seen},
        handed_over={name for number, name in enumerate(names) if number in handed},
    )
    expected = {one["line"] for number, one in enumerate(dues) if number not in seen | handed}
    assert sorted(item.line for item in found) == sorted(expected)
    ranks = [RANKS.index(item.rank) for item in found]
    assert ranks == sorted(ranks)


def _hello(state: CentreState, **more: Any) -> None:
    values: dict[str, Any] = {"agreement": "a-1", "version": 4, "due": [DUE]} | more
    assert state.store.take_hello(Hello("gw-a", 1, "b-1", "0.1", CLOCK, **values), now_unix_s=NOW_UNIX_S)


@pytest.mark.slow
def test_a_home_that_falls_silent_keeps_its_check_in_the_queue_and_is_a_fault(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _hello(state)
    for later_s, words in ((0, {"due"}), (601, {"due", "home-silent"}), (1300, {"overdue", "home-silent"})):
        now_s = NOW_UNIX_S + later_s
        fault.look(state, now_unix_s=now_s)
        found, _handovers = read_queue(state, now_s)
        assert {item.word for item in found if item.gateway == "gw-a"} == words
    _hello(replace(state, clock=lambda: now_s), due=[])
    found, _handovers = read_queue(state, now_s)
    assert "overdue" in {item.word for item in found}, "left out of the list, and still nobody has looked"
    closed = Closed("gw-a", "c-1", "seen", "op-1", DUE.line, DUE.occasion, 1, 9.0, 9, True, 3, verdict=Verdict.SEEN)
    state.store.put_outcome(closed, closed_jws="x", now_unix_s=now_s, install_epoch=1, outcome="seen")
    found, _handovers = read_queue(state, now_s)
    assert "overdue" not in {item.word for item in found}
    state.store.close()


@pytest.mark.slow
def test_an_answer_that_was_overtaken_does_not_put_a_home_back_into_a_check(tmp_path: Path) -> None:
    # Mutations: the comparison in `take_challenged` left out; without its upper bound.
    state, _homes = make_state(tmp_path, FakeBroker())
    in_check = [msgspec.structs.replace(DUE, attempt=0)]

    def words_after(answer_at_s: float, due: list[DueFact]) -> set[str]:
        clock = ClockFact("attested", NOW_UNIX_S + answer_at_s, NOW_UNIX_S + answer_at_s + 2)
        answer = Challenged("gw-a", "j-1", "A" * 22, 30.0, clock, "a-1", 4, due)
        state.store.take_challenged(answer, now_unix_s=NOW_UNIX_S)
        return {item.word for item in read_queue(state, NOW_UNIX_S)[0] if item.gateway == "gw-a"}

    _hello(state)
    assert words_after(-2, in_check) == {"due"}, "older than what the home said since"
    assert words_after(-1, in_check) == {"running"}
    assert words_after(0, [DUE]) == {"due"}
    assert words_after(-600, in_check) == {"running"}, "a clock that was set back is not an answer that was late"
    state.store.close()


@pytest.mark.slow
def test_silence_is_told_within_five_minutes_of_when_it_could_be_known(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _hello(state)
    state.store.set_online("gw-a", online=False, now_unix_s=NOW_UNIX_S)
    told_s = None
    for step in range(60):
        now_s = NOW_UNIX_S + step * fault.LOOK_EVERY_S
        new, _begun = fault.look(state, now_unix_s=now_s)
        if ("gw-a", "home-silent") in new:
            told_s = now_s - NOW_UNIX_S
            break
    assert told_s is not None
    assert told_s <= 300
    assert fault.look(state, now_unix_s=now_s + 9000, awake_unix_s=now_s + 8990)[0] == [], "nobody listened before"
    state.store.set_online("gw-a", online=True)
    fault.look(state, now_unix_s=NOW_UNIX_S + 120)
    assert [row["code"] for row in state.store.faults() if row["gateway"] == "gw-a"] == []
    state.store.close()


def test_a_home_that_is_lost_in_a_check_gives_it_back_and_then_hands_it_over(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _hello(state, due=[msgspec.structs.replace(DUE, attempt=0)])
    state.store.set_online("gw-a", online=False, now_unix_s=NOW_UNIX_S)
    words, begun = {}, {}
    for later_s in range(0, 600, 30):
        now_s = NOW_UNIX_S + later_s
        begun[later_s] = fault.look(state, now_unix_s=now_s)[1]
        words[later_s] = {item.word for item in read_queue(state, now_s)[0] if item.gateway == "gw-a"}
    over_s = next(later_s for later_s, found in words.items() if "running" not in found)
    assert DUE.max_s <= over_s <= DUE.max_s + 90
    assert words[over_s] == {"due", "home-silent"}
    told_s = next(later_s for later_s, found in begun.items() if found)
    assert told_s <= fault.OFFLINE_S + fault.LASTS_S + 2 * fault.LOOK_EVERY_S, "the window is open: there is time left"
    assert words[told_s] == {"open", "home-silent"}
    state.store.close()


@pytest.mark.slow
def test_an_urgent_fault_in_an_open_window_becomes_one_hand_over_and_a_short_one_does_not(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _hello(state, obstacle="camera-fault")
    for later_s in (0, 60, 240):
        assert fault.look(state, now_unix_s=NOW_UNIX_S + later_s)[1] == []
    ((handover, gateway),) = fault.look(state, now_unix_s=NOW_UNIX_S + 301)[1]
    assert gateway == "gw-a"
    assert fault.look(state, now_unix_s=NOW_UNIX_S + 331)[1] == []
    row = state.store.handover(handover)
    assert row is not None
    assert (row["reason"], row["occasion"]) == ("camera-fault", DUE.occasion)
    state.store.close()


def _agreed(state: CentreState, *, until: str) -> None:
    """gw-a has accepted an agreement in which the resident's consent holds until then."""
    text = copy.deepcopy(AGREEMENT) | {"gateway": "gw-a", "install_epoch": 1, "version": 4}
    text["consent"]["resident"]["until"] = until
    sent = SentAgreement(1, "a-1", 4, strict_json.dumps(text).decode())
    state.store.put_command(
        b"c", command_sha256="0", gateway="gw-a", kind="agreement.put", who="pl", jti="j", now_unix_s=NOW_UNIX_S,
        agreement=sent,
    )  # fmt: skip
    assert state.store.answer_command(b"c", gateway="gw-a", jti="j", answer="accepted", now_unix_s=NOW_UNIX_S)


@pytest.mark.slow
@pytest.mark.parametrize(("days", "expected"), [(31, []), (29, ["consent-ends"]), (-3, ["consent-ends"])])
def test_a_consent_that_ends_within_a_month_is_a_planners_task(tmp_path: Path, days: int, expected: list[str]) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _hello(state)
    _agreed(state, until=datetime.fromtimestamp(NOW_UNIX_S + days * 86_400, UTC).date().isoformat())
    fault.look(state, now_unix_s=NOW_UNIX_S)
    assert [row["code"] for row in state.store.faults() if row["gateway"] == "gw-a"] == expected
    state.store.close()


@pytest.mark.slow
def test_a_message_to_home_care_that_does_not_go_out_is_a_fault_and_takes_no_check(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _hello(state)
    start = HandoverStart("h-1", "gw-a", 1, "night-0", "2026-11-18T21:30", "x", "hv-1", [], 5, NOW_UNIX_S)
    assert state.store.put_handover(start)
    state.store.fan_out({"hv-1": ("email",)}, fallback=None, now_unix_s=NOW_UNIX_S)
    for _ in range(3):
        fault.look(state, now_unix_s=NOW_UNIX_S)
        assert "delivery-failed" not in {row["code"] for row in state.store.faults()}
        assert len(state.store.take_deliveries(now_unix_s=NOW_UNIX_S, lease_s=0, limit=9)) == 1
    for later_s in (0, 400):
        assert fault.look(state, now_unix_s=NOW_UNIX_S + later_s)[1] == [], "the home's next check can be made"
        assert "delivery-failed" in {row["code"] for row in state.store.faults() if row["gateway"] == "gw-a"}
    (delivery,) = state.store.deliveries("h-1")
    state.store.end_delivery(delivery["number"], now_unix_s=NOW_UNIX_S + 401)
    fault.look(state, now_unix_s=NOW_UNIX_S + 402)
    assert "delivery-failed" not in {row["code"] for row in state.store.faults()}
    state.store.close()


@pytest.mark.slow
def test_a_home_says_how_its_last_check_ended_and_how_many_were_missed(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    for number, why in ((1, "not-seen"), (2, "seen")):
        closed = Closed("gw-a", f"c-{number}", why, "op-1", DUE.line, DUE.occasion, number, 9.0, 9, True, number)
        state.store.put_outcome(closed, closed_jws="x", now_unix_s=NOW_UNIX_S + number, install_epoch=1)
    for number, reason in enumerate(("missed-check", "not-seen", "home-silent")):
        start = HandoverStart(
            f"h-{number}", "gw-a", 1, "n", f"2026-11-1{number}T21:30", reason, None, [], 5, NOW_UNIX_S
        )
        assert state.store.put_handover(start)
    for only in (None, "gw-a"):
        assert state.store.last_checks(only) == {"gw-a": {"why": "seen", "heard_unix_s": NOW_UNIX_S + 2}}
        assert state.store.handovers_begun(NOW_UNIX_S - 1, only=only) == {"gw-a": 2}
        assert state.store.handovers_begun(NOW_UNIX_S + 1, only=only) == {}
    assert state.store.last_checks("gw-b") == {}
    state.store.close()
