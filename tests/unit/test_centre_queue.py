"""Nothing leaves the queue without an outcome; what is most urgent stands first; a fault is noticed and is over.

Mutations that turn it red: drop `announced` in `centre.queue.queue` (a home that leaves an occasion out of its list
makes it vanish); treat `missed` as an outcome in `centre.queue._check`; let `FAULTS` of a home end when it is silent.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_centre_app import CLOCK, DUE, NOW_UNIX_S, FakeBroker, make_state

from centre import fault
from centre.api.handovers import read_queue
from centre.queue import RANKS, queue
from centre.state import CentreState
from gateway.protocol.message import Closed, Hello, Verdict

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


def items(*dues: dict[str, Any], **more: Any) -> list[Any]:
    given: dict[str, Any] = {
        "announced": [], "seen": set(), "handovers": [], "handed_over": set(), "claims": {}, "faults": [],
    }  # fmt: skip
    return queue([("gw-a", 1, list(dues))], now_unix_s=NOW_UNIX_S, **given | more)


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


def test_what_was_announced_stays_until_there_is_an_outcome() -> None:
    announced = [
        {
            "gateway": "gw-a",
            "install_epoch": 1,
            "line": DUE.line,
            "occasion": DUE.occasion,
            "attempt": 1,
            "word": "due",
            "closes_unix_s": NOW_UNIX_S - 10,
        }
    ]
    assert [item.word for item in items(announced=announced)] == ["overdue"]
    assert items(announced=announced, seen={OCCASION}) == []
    assert items(announced=announced, handed_over={OCCASION}) == []
    assert items(due("paused"), announced=announced) == []
    assert [item.word for item in items(due(), announced=announced)] == ["due"], "the home's newest word counts"


_STATUSES = st.sampled_from(["due", "soon", "recheck", "missed"])


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
