"""May this happen now? Every condition, every refusal code, their order, and the budget of looks.

Mutations that turn a test here red (gateway/agreement/decision.py unless said):
* `interval.hi_unix_s <= window[1]` → `interval.lo_unix_s <= window[1]` → test_the_whole_interval_must_lie_in_the_window
* drop the check of `cohabitant` in `has_consent` → test_a_missing_consent_refuses[cohabitant …]
* `consent.holds(first, last)` → `(first, first)` → test_consent_must_hold_on_every_date_of_the_interval
* drop `not clock_may_open` → test_an_untrusted_clock_refuses
* drop `math.isfinite` in `decide` → test_an_untrusted_clock_refuses (the window would refuse too, by another code)
* drop `day not in line.exceptions` (occasion.py) → test_an_occasion_that_was_not_agreed_is_refused[exception]
* `len(looks) > line.recheck.times` → `>= … + 2` (attempt.py) → test_no_look_beyond_the_agreed_rechecks, the property
* drop `or outcomes.count("broken") > …` (attempt.py) → test_technical_repeats_are_bounded
* add "open" to the outcomes that permit a re-check (attempt.py) → test_while_an_attempt_runs_no_other_opens
* drop `occasion.recheck_end_unix_s` from `closes_s` (attempt.py) → test_a_look_recorded_as_closing_too_late_…
* `not interval.lo_unix_s >= local.…` → `interval.lo_unix_s < local.…` → test_a_pause_at_the_device_refuses_…[nan]
* drop `"seen" in outcomes` (attempt.py) → test_after_seen_nothing_opens
* drop `opening.attempt != attempt` → test_the_attempt_must_be_the_next_one
* `max(closed_s)` → `min(closed_s)` (attempt.py) → test_the_recheck_window_follows_the_last_look
* in `_is_paused` `first_s <= known[1]` → `first_s <= known[0]` → test_an_interval_that_touches_a_pause_is_refused
* swap two steps of `decide` → test_the_first_code_that_applies_is_given
* drop `if local.withdrawn` → test_a_withdrawal_at_the_device_refuses_everything
"""

import copy
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agreement import (
    TECHNICAL_REPEATS,
    Attempt,
    LocalState,
    NextStep,
    decide,
    due,
    next_step,
    occasion_at,
    occasions_between,
    parse_agreement,
)
from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError

SIGNED = {"given": "2026-10-30", "how": "signed", "ref": "c-1"}
RAW = {
    "agreement": "a",
    "version": 1,
    "gateway": "gw",
    "install_epoch": 1,
    "timezone": "Europe/Stockholm",
    "valid": {"from": "2026-11-01", "until": "2027-10-31"},
    "consent": {"resident": SIGNED, "cohabitant": None},
    "lines": [
        {
            "id": "night",
            "rrule": "FREQ=DAILY",
            "start": "23:30",
            "window_min": 30,
            "max_s": 60,
            "recheck": {"after_min": 15, "times": 1},
        }
    ],
    "picture": {"mode": "clear"},
    "lamp": "dim",
    "if_not_seen": [{"do": "call-resident", "within_min": 5}, {"do": "visit", "unit": "hv", "within_min": 45}],
    "pauses": [],
    "resident_ref": "r",
}
FREE = LocalState(withdrawn=False, paused_until_unix_s=None)
OCCASION = "2026-11-23T23:30"
START_S = datetime(2026, 11, 23, 22, 30, tzinfo=UTC).timestamp()
INF, NAN = float("inf"), float("nan")
MIN = 60.0


def agree(line=None, **fields):
    raw = copy.deepcopy(RAW) | fields
    raw["lines"][0] |= line or {}
    return parse_agreement(raw)


def at(minutes, radius_s=1.0):
    """An interval around so many minutes after the start of OCCASION."""
    middle_s = START_S + minutes * MIN
    return Interval(middle_s - radius_s, middle_s + radius_s)


def past(*outcomes, gap_min=20.0, first_min=1.0):
    """Attempts of OCCASION, one each `gap_min`, each half a minute long."""
    return [
        Attempt(
            "night",
            OCCASION,
            number,
            START_S + (first_min + (number - 1) * gap_min) * MIN,
            None if outcome == "open" else START_S + (first_min + (number - 1) * gap_min + 0.5) * MIN,
            outcome,
        )
        for number, outcome in enumerate(outcomes, 1)
    ]


def ask(agreement=None, **changes):
    asked = {
        "line_id": "night",
        "occasion_id": OCCASION,
        "attempt": 1,
        "interval": at(10),
        "clock_may_open": True,
        "history": [],
        "local": FREE,
    }
    return decide(agreement or agree(), **(asked | changes))


def code(agreement=None, **changes):
    with pytest.raises(RefusedError) as caught:
        ask(agreement, **changes)
    return caught.value.code


def test_what_was_agreed_is_permitted_and_told_in_utc():
    occasion = ask()
    assert (occasion.line_id, occasion.occasion_id, occasion.max_s) == ("night", OCCASION, 60)
    assert (occasion.start_unix_s, occasion.end_unix_s) == (START_S, START_S + 30 * MIN)
    assert occasion.recheck_end_unix_s == START_S + (30 + 1 + 15 + 30) * MIN


# Withdrawn, paused


def test_a_withdrawal_at_the_device_refuses_everything():
    assert code(local=LocalState(withdrawn=True, paused_until_unix_s=None)) is RefusalCode.WITHDRAWN


@pytest.mark.parametrize("until", [START_S + 10 * MIN, START_S + 11 * MIN, INF, NAN])
def test_a_pause_at_the_device_refuses_until_it_is_surely_over(until):
    assert code(local=LocalState(withdrawn=False, paused_until_unix_s=until)) is RefusalCode.PAUSED


def test_a_pause_at_the_device_that_is_surely_over_refuses_nothing():
    ask(local=LocalState(withdrawn=False, paused_until_unix_s=at(10).lo_unix_s))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2026-11-23T23:00", "2026-11-24T01:00"),
        ("2026-11-23T23:40", "2026-11-23T23:41"),
        ("2026-11-23T23:00", "2026-11-23T23:40"),
    ],
    ids=["inside", "begins", "ends"],
)
def test_an_interval_that_touches_a_pause_is_refused(first, last):
    assert code(agree(pauses=[{"from": first, "until": last}])) is RefusalCode.PAUSED


def test_a_pause_before_or_after_refuses_nothing():
    ask(
        agree(
            pauses=[
                {"from": "2026-11-23T23:00", "until": "2026-11-23T23:39"},
                {"from": "2026-11-23T23:41", "until": "2026-11-24T01:00"},
            ]
        )
    )


def test_a_pause_that_ends_in_the_repeated_hour_lasts_until_the_second_time_round():
    fields = {
        "valid": {"from": "2026-10-20", "until": "2026-10-30"},
        "consent": {"resident": SIGNED | {"given": "2026-10-01"}, "cohabitant": None},
    }
    pause = {"pauses": [{"from": "2026-10-24T20:00", "until": "2026-10-25T02:40"}]}
    moment_s = datetime(2026, 10, 25, 0, 50, tzinfo=UTC).timestamp()  # 02:50, the first time round
    asked = {"occasion_id": "2026-10-25T02:30", "interval": Interval(moment_s, moment_s)}
    ask(agree({"start": "02:30"}, **fields), **asked)
    assert code(agree({"start": "02:30"}, **fields, **pause), **asked) is RefusalCode.PAUSED


# Consent


@pytest.mark.parametrize(
    "consent",
    [
        {"resident": None, "cohabitant": None},
        {"resident": {"given": None}, "cohabitant": None},
        {"resident": SIGNED, "cohabitant": {"given": None}},
        {"resident": SIGNED | {"given": "2026-11-24"}, "cohabitant": None},
        {"resident": SIGNED | {"until": "2026-11-22"}, "cohabitant": None},
        {"resident": SIGNED | {"withdrawn": "2026-11-23"}, "cohabitant": None},
        {"resident": SIGNED, "cohabitant": SIGNED | {"until": "2026-11-22"}},
        {"resident": SIGNED, "cohabitant": SIGNED | {"withdrawn": "2026-11-01"}},
    ],
    ids=[
        "resident missing",
        "resident not given",
        "cohabitant named only",
        "resident later",
        "resident expired",
        "resident withdrawn today",
        "cohabitant expired",
        "cohabitant withdrawn",
    ],
)
def test_a_missing_consent_refuses(consent):
    agreement = agree(consent=consent)
    assert code(agreement) is RefusalCode.NO_CONSENT
    assert due(agreement, at(10), [], FREE) == []


def test_consent_of_everyone_named_permits():
    ask(
        agree(
            consent={"resident": SIGNED | {"until": "2026-11-23"}, "cohabitant": SIGNED | {"withdrawn": "2026-11-24"}}
        )
    )


def test_consent_must_hold_on_every_date_of_the_interval():
    agreement = agree({"window_min": 60}, consent={"resident": SIGNED | {"until": "2026-11-23"}, "cohabitant": None})
    ask(agreement, interval=at(29.9))
    assert code(agreement, interval=at(30)) is RefusalCode.NO_CONSENT  # one second before midnight to one after


# Clock


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_may_open": False},
        {"interval": Interval(START_S + 60, INF)},
        {"interval": Interval(START_S + 120, START_S + 60)},
        {"interval": Interval(NAN, START_S + 60)},
        {"interval": Interval(START_S + 60, NAN)},
        {"interval": Interval(-INF, INF)},
        {"interval": Interval(START_S, 1e20)},
        {"interval": Interval(1e20, 1e20)},
    ],
)
def test_an_untrusted_clock_refuses(changes):
    assert code(**changes) is RefusalCode.CLOCK_UNTRUSTED


def test_a_floor_before_a_coming_pause_is_told_as_a_clock_fault_and_not_as_a_pause():
    agreement = agree(pauses=[{"from": "2026-12-24T12:00", "until": "2026-12-26T12:00"}])
    assert code(agreement, interval=Interval(START_S, INF), clock_may_open=False) is RefusalCode.CLOCK_UNTRUSTED


# Agreed


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"line_id": "other"}, {}),
        ({"occasion_id": "2026-11-23T23:31"}, {}),
        ({"occasion_id": "2026-10-31T23:30"}, {}),
        ({"occasion_id": "2027-11-01T23:30"}, {}),
        ({"occasion_id": "2026-11-31T23:30"}, {}),
        ({"occasion_id": "2026-11-23T23:30\n"}, {}),
        ({"occasion_id": "\uff12026-11-23T23:30"}, {}),
        ({"occasion_id": ""}, {}),
        ({}, {"rrule": "FREQ=WEEKLY;BYDAY=TU"}),
        ({}, {"rrule": "FREQ=DAILY;UNTIL=20261122"}),
        ({}, {"exceptions": ["2026-11-23"]}),
    ],
    ids=[
        "line",
        "start",
        "before validity",
        "after validity",
        "no date",
        "newline",
        "wide digit",
        "empty",
        "weekday",
        "rule over",
        "exception",
    ],
)
def test_an_occasion_that_was_not_agreed_is_refused(changes, line):
    assert code(agree(line), **changes) is RefusalCode.NOT_AGREED


# Window


@pytest.mark.parametrize(
    ("minutes", "radius_s"), [(0, 1), (30, 1), (-5, 1), (45, 1), (15, 901), (24 * 60, 1), (0, 1e6)]
)
def test_the_whole_interval_must_lie_in_the_window(minutes, radius_s):
    assert code(interval=at(minutes, radius_s)) is RefusalCode.OUTSIDE_WINDOW


@pytest.mark.parametrize(("minutes", "radius_s"), [(0, 0), (30, 0), (15, 900)])
def test_the_window_includes_both_ends(minutes, radius_s):
    ask(interval=at(minutes, radius_s))


def test_a_window_past_midnight_belongs_to_the_last_day_of_validity():
    agreement = agree({"window_min": 60}, valid={"from": "2026-11-01", "until": "2026-11-23"})
    ask(agreement, interval=at(50))


# Re-checks and budget


@pytest.mark.parametrize("outcome", ["not_seen", "unsure"])
def test_the_recheck_window_follows_the_last_look(outcome):
    history = past(outcome)  # closed 1.5 min after the start
    for minutes in (1.6, 16.5, 46.5):  # the last two are the edges, and the interval is wider than an edge
        assert code(attempt=2, history=history, interval=at(minutes)) is RefusalCode.OUTSIDE_WINDOW
    ask(attempt=2, history=history, interval=at(16.5, 0))
    ask(attempt=2, history=history, interval=at(46.5, 0))
    twice = past(outcome, outcome, gap_min=18)  # closed after 1.5 and 19.5 min
    agreement = agree({"recheck": {"after_min": 15, "times": 2}})
    assert code(agreement, attempt=3, history=twice, interval=at(30)) is RefusalCode.OUTSIDE_WINDOW
    ask(agreement, attempt=3, history=twice, interval=at(35))


def test_a_look_recorded_as_closing_too_late_earns_no_time_after_the_last_recheck():
    late = [Attempt("night", OCCASION, 1, START_S + 29 * MIN, START_S + 55 * MIN, "not_seen")]
    ask(attempt=2, history=late, interval=at(75))
    assert code(attempt=2, history=late, interval=at(77)) is RefusalCode.OUTSIDE_WINDOW


def test_while_an_attempt_runs_no_other_opens():
    assert code(attempt=2, history=past("open"), interval=at(20)) is RefusalCode.OUTSIDE_WINDOW
    running = [Attempt("night", OCCASION, 1, START_S, START_S + 60, "open")]
    assert code(attempt=2, history=running, interval=at(20)) is RefusalCode.OUTSIDE_WINDOW
    unclosed = [Attempt("night", OCCASION, 1, START_S, None, "not_seen")]
    assert code(attempt=2, history=unclosed, interval=at(20)) is RefusalCode.OUTSIDE_WINDOW
    odd = [Attempt("night", OCCASION, 1, START_S, NAN, "not_seen")]
    assert code(attempt=2, history=odd, interval=at(20)) is RefusalCode.OUTSIDE_WINDOW


@pytest.mark.parametrize("minutes", [2, 20, 60])
def test_after_seen_nothing_opens(minutes):
    for outcomes in (["seen"], ["broken", "seen"], ["seen", "broken"]):
        history = past(*outcomes, gap_min=0.6)
        assert code(attempt=len(history) + 1, history=history, interval=at(minutes)) is RefusalCode.BUDGET_SPENT


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_no_look_beyond_the_agreed_rechecks(times):
    agreement = agree({"recheck": {"after_min": 15, "times": times}})
    for looks in range(times + 1):
        ask(agreement, attempt=looks + 1, history=past(*["not_seen"] * looks), interval=at(max(1, looks * 20)))
    spent = past(*["not_seen"] * (times + 1))
    late = at((times + 1) * 20)
    assert code(agreement, attempt=times + 2, history=spent, interval=late) is RefusalCode.BUDGET_SPENT


@pytest.mark.parametrize("number", [-1, 0, 1, 3, 100])
def test_the_attempt_must_be_the_next_one(number):
    assert code(attempt=number, history=past("not_seen"), interval=at(20)) is RefusalCode.BUDGET_SPENT


def test_attempts_of_other_occasions_and_lines_are_not_counted():
    others = [
        Attempt("night", "2026-11-22T23:30", 1, START_S - 86400, START_S - 86390, "seen"),
        Attempt("other", OCCASION, 1, START_S, START_S + 9, "seen"),
    ]
    ask(history=others)


def test_a_broken_attempt_is_repeated_at_once_in_its_window_only():
    history = past("broken")
    ask(attempt=2, history=history, interval=at(1.6))
    assert code(attempt=2, history=history, interval=at(31)) is RefusalCode.OUTSIDE_WINDOW


def test_a_broken_recheck_is_repeated_at_once_in_the_recheck_s_window_only():
    history = past("not_seen", "broken")  # closed after 1.5 and 21.5 min
    assert code(attempt=3, history=history, interval=at(10)) is RefusalCode.OUTSIDE_WINDOW
    ask(attempt=3, history=history, interval=at(22))
    assert code(attempt=3, history=history, interval=at(47)) is RefusalCode.OUTSIDE_WINDOW


def test_technical_repeats_are_bounded():
    for broken in range(TECHNICAL_REPEATS + 1):
        ask(attempt=broken + 1, history=past(*["broken"] * broken, gap_min=1))
    spent = past(*["broken"] * (TECHNICAL_REPEATS + 1), gap_min=1)
    assert code(attempt=len(spent) + 1, history=spent) is RefusalCode.BUDGET_SPENT


# Order

FAULTS = {
    RefusalCode.WITHDRAWN: {"local": LocalState(withdrawn=True, paused_until_unix_s=INF)},
    RefusalCode.PAUSED: {"local": LocalState(withdrawn=False, paused_until_unix_s=INF)},
    RefusalCode.NO_CONSENT: {"agreement": agree(consent={"resident": None, "cohabitant": None})},
    RefusalCode.CLOCK_UNTRUSTED: {"clock_may_open": False},
    RefusalCode.NOT_AGREED: {"line_id": "other"},
    RefusalCode.OUTSIDE_WINDOW: {"interval": at(500)},
    RefusalCode.BUDGET_SPENT: {"attempt": 7},
}


@pytest.mark.parametrize(("first", "second"), list(combinations(FAULTS, 2)))
def test_the_first_code_that_applies_is_given(first, second):
    assert code(**(FAULTS[second] | FAULTS[first])) is first
    assert code(**FAULTS[second]) is second


# The property: what is permitted satisfies every condition, worked out again without the code under test.


def first_instant(zone, naive):
    guess = naive.replace(tzinfo=UTC)
    offsets = {(guess + timedelta(hours=h)).astimezone(zone).utcoffset() for h in (-26, 26)}
    exact = [guess - offset for offset in offsets if (guess - offset).astimezone(zone).replace(tzinfo=None) == naive]
    if exact:
        return min(exact)
    instant = guess - max(offsets)
    while instant.astimezone(zone).replace(tzinfo=None) < naive:
        instant += timedelta(minutes=1)
    return instant


SPOILS = ("pause", "resident", "cohabitant", "clock", "not agreed", "history", "moment", "radius", "number", "local")


@st.composite
def questions(draw):
    """A question on a DST night that ought to be permitted, but for at most two respects that may be spoilt."""
    spoilt = draw(st.sets(st.sampled_from(SPOILS), max_size=2))

    def pick(respect, good, bad):
        return draw(st.sampled_from([*good, *bad] if respect in spoilt else good))

    day = draw(st.sampled_from([date(2026, 10, 24), date(2026, 10, 25), date(2027, 3, 28), date(2027, 1, 6)]))
    zone_name = draw(st.sampled_from(["Europe/Stockholm", "Atlantic/Azores", "America/New_York"]))
    start = draw(st.sampled_from(["23:30", "00:30", "01:30", "02:30", "03:00"]))
    near = [(day + timedelta(days=days)).isoformat() for days in (0, 1, 2)]
    later = (day + timedelta(days=3)).isoformat()
    raw = copy.deepcopy(RAW)
    raw["timezone"] = zone_name
    raw["valid"] = {"from": "2026-10-24", "until": pick("not agreed", ["2027-10-01"], ["2026-10-24", "2027-01-05"])}
    for person in ("resident", "cohabitant"):
        given = SIGNED | {"given": "2026-10-23"}
        given["until"] = pick(person, [None, later], near)
        given["withdrawn"] = pick(person, [None, later], near)
        raw["consent"][person] = pick(person, [given], [{"given": None}, None])
    window_min, after_min, times = draw(st.tuples(*map(st.sampled_from, ([1, 30, 240], [1, 15, 60], [0, 1, 2, 3]))))
    raw["lines"][0] |= {
        "start": start,
        "window_min": window_min,
        "recheck": {"after_min": after_min, "times": times},
        "exceptions": pick("not agreed", [[]], [[day.isoformat()]]),
    }
    if "pause" in spoilt:
        hour = draw(st.integers(0, 21))
        raw["pauses"] = [{"from": f"{day}T{hour:02}:15", "until": f"{day}T{hour + 2:02}:10"}]
    moment_s = first_instant(ZoneInfo(zone_name), datetime.fromisoformat(f"{day}T{start}")).timestamp()
    bad = ["not_seen", "broken", "seen", "open"]
    count = draw(st.integers(0, 4 if "history" in spoilt else times))
    outcomes = [pick("history", ["not_seen", "unsure"], bad) for _ in range(count)]
    outcomes.insert(draw(st.integers(0, count)), "broken") if draw(st.booleans()) else None
    history = []
    for number, outcome in enumerate(outcomes, 1):
        closed_s = moment_s + 20
        history.append(
            Attempt("night", f"{day}T{start}", number, moment_s, None if outcome == "open" else closed_s, outcome)
        )
        # A broken attempt is followed at once, a look after the wait.
        moment_s = closed_s if outcome == "broken" else closed_s + after_min * MIN
    into_s = pick("moment", [0.5, 20, 0.9 * window_min * MIN], [-1, -MIN, window_min * MIN, 1.5 * window_min * MIN])
    radius_s = pick("radius", [0, 0.5], [30, 3600, INF])
    lo_s = moment_s + into_s - min(radius_s, 3600)
    return parse_agreement(raw), {
        "line_id": "night",
        "occasion_id": f"{day}T{start}",
        "attempt": pick("number", [len(history) + 1], [len(history), len(history) + 2, 1, 2]),
        "interval": Interval(lo_s, moment_s + into_s + radius_s),
        "clock_may_open": pick("clock", [True], [False]),
        "history": history,
        "local": LocalState(pick("local", [False], [True]), pick("local", [None, lo_s], [lo_s + 0.1, INF])),
    }


@pytest.mark.slow
def test_whatever_is_permitted_satisfies_every_condition():
    permitted = []

    @given(questions())
    @settings(max_examples=600, deadline=None)
    def ask_anything(question):
        agreement, asked = question
        try:
            occasion = decide(agreement, **asked)
        except RefusedError:
            return
        permitted.append(len(asked["history"]))
        assert_every_condition(agreement, asked, occasion)

    ask_anything()
    # Not an empty promise: many questions were permitted, re-checks among them.
    assert len(permitted) > 60
    assert max(permitted) > 1


def assert_every_condition(agreement, asked, occasion):
    zone, line, history = ZoneInfo(agreement.timezone), agreement.lines[0], asked["history"]
    lo_s, hi_s = asked["interval"].lo_unix_s, asked["interval"].hi_unix_s
    assert asked["clock_may_open"]
    assert hi_s < INF
    assert not asked["local"].withdrawn
    assert (asked["local"].paused_until_unix_s or 0) <= lo_s
    day = date.fromisoformat(asked["occasion_id"][:10])
    assert agreement.valid.first <= day <= agreement.valid.last
    assert day not in line.exceptions
    for pause in agreement.pauses:
        first, last = (first_instant(zone, datetime.fromisoformat(text)) for text in (pause.first, pause.last))
        assert not (first.timestamp() <= hi_s and lo_s < last.timestamp())
    for moment_s in (lo_s, hi_s):
        wall = datetime.fromtimestamp(moment_s, zone)
        persons = [agreement.consent.resident, agreement.consent.cohabitant or agreement.consent.resident]
        for person in persons:
            assert person.given
            assert person.given <= wall.date() <= (person.until or date.max)
            assert wall.date() < (person.withdrawn or date.max)
    start_s = first_instant(zone, datetime.fromisoformat(asked["occasion_id"])).timestamp()
    window_s, after_s, times = line.window_min * MIN, line.recheck.after_min * MIN, line.recheck.times
    looks = [attempt for attempt in history if attempt.outcome != "broken"]
    if looks:
        assert lo_s >= looks[-1].closed_unix_s + after_s
        assert hi_s <= looks[-1].closed_unix_s + after_s + window_s
    else:
        assert start_s <= lo_s <= hi_s <= start_s + window_s
    assert hi_s <= start_s + window_s + times * (line.max_s + after_s + window_s)
    assert asked["attempt"] == len(history) + 1 <= 1 + times + 2
    assert len(looks) <= times
    assert {attempt.outcome for attempt in history} <= {"not_seen", "unsure", "broken"}
    assert (occasion.start_unix_s, occasion.end_unix_s) == (start_s, start_s + window_s)
    assert next_step(agreement, occasion, history).action == ("recheck" if history else "none")
    assert {item.status for item in due(agreement, asked["interval"], history, asked["local"])} & {"due", "recheck"}


# Occasions


def test_occasion_at_is_the_one_under_way_for_the_whole_interval():
    agreement = agree()
    assert occasion_at(agreement, "night", at(10)) == ask()
    assert occasion_at(agreement, "night", at(60)) == ask()  # a re-check may still come
    assert occasion_at(agreement, "night", at(0)) is None
    assert occasion_at(agreement, "night", at(77)) is None
    assert occasion_at(agreement, "other", at(10)) is None
    assert occasion_at(agreement, "night", Interval(START_S, INF)) is None
    assert occasion_at(agreement, "night", Interval(NAN, START_S)) is None


def test_occasions_between_is_half_open_sorted_and_wants_zones():
    raw = copy.deepcopy(RAW)
    raw["lines"].append(raw["lines"][0] | {"id": "a-later", "start": "23:31"})
    raw["lines"].append(raw["lines"][0] | {"id": "a-same"})
    agreement = parse_agreement(raw)
    lo, hi = datetime.fromtimestamp(START_S, UTC), datetime.fromtimestamp(START_S + 86400, UTC)
    assert [o.line_id for o in occasions_between(agreement, lo, hi)] == ["a-same", "night", "a-later"]
    assert occasions_between(agreement, hi, lo) == []
    assert (
        len(occasions_between(agreement, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))) == 3 * 365
    )
    with pytest.raises(ValueError, match="zone"):
        occasions_between(agreement, lo.replace(tzinfo=None), hi)


# What follows


def step(*outcomes, **options):
    agreement = agree()
    return next_step(agreement, ask(agreement), past(*outcomes, **options))


def test_after_seen_or_before_the_first_look_or_during_one_nothing_follows():
    for outcomes in ([], ["seen"], ["not_seen", "seen"], ["open"], ["not_seen", "open"]):
        assert step(*outcomes) == NextStep("none")


@pytest.mark.parametrize("outcome", ["not_seen", "unsure"])
def test_after_not_seen_a_recheck_follows_and_after_the_last_a_handover(outcome):
    assert step(outcome) == NextStep("recheck", START_S + 16.5 * MIN, START_S + 46.5 * MIN)
    last = step(outcome, outcome)
    assert (last.action, [s.do for s in last.steps]) == ("handover", ["call-resident", "visit"])


def test_after_a_broken_attempt_another_follows_at_once_and_after_the_last_repeat_a_handover():
    assert step("broken") == NextStep("recheck", START_S + 1.5 * MIN, START_S + 30 * MIN)
    assert step("not_seen", "broken") == NextStep("recheck", START_S + 21.5 * MIN, START_S + 46.5 * MIN)
    assert step("broken", "broken", "broken", gap_min=1).action == "handover"


def test_an_occasion_of_another_agreement_is_our_own_mistake():
    with pytest.raises(ValueError, match="not of this agreement"):
        next_step(agree({"id": "renamed"}), ask(), [])


# What is due


def status(interval, *outcomes, local=FREE, pauses=(), **options):
    agreement = agree(pauses=list(pauses))
    items = due(agreement, interval, past(*outcomes, **options), local)
    return next(item for item in items if item.occasion.occasion_id == OCCASION)


@pytest.mark.parametrize(
    ("minutes", "outcomes", "expected", "number"),
    [
        (-600, [], "soon", 1),
        (0, [], "soon", 1),
        (10, [], "due", 1),
        (30, [], "missed", None),
        (300, [], "missed", None),
        (10, ["open"], "due", None),
        (10, ["broken"], "due", 2),
        (31, ["broken"], "missed", None),
        (10, ["seen"], "done", None),
        (10, ["not_seen"], "recheck", 2),
        (20, ["not_seen"], "recheck", 2),
        (50, ["not_seen"], "missed", None),
        (30, ["not_seen", "open"], "recheck", None),
        (30, ["not_seen", "unsure"], "done", None),
        (30, ["not_seen", "seen"], "done", None),
    ],
)
def test_the_list_tells_where_an_occasion_stands(minutes, outcomes, expected, number):
    item = status(at(minutes), *outcomes)
    assert (item.line_id, item.status, item.attempt) == ("night", expected, number)
    assert (item.opens_unix_s is None) == (item.closes_unix_s is None) == (number is None)


def test_the_list_tells_when_a_recheck_opens():
    item = status(at(10), "not_seen")
    assert (item.opens_unix_s, item.closes_unix_s) == (START_S + 16.5 * MIN, START_S + 46.5 * MIN)


def test_the_list_tells_pauses_and_moves_what_they_cover_in_part():
    whole = [{"from": "2026-11-23T20:00", "until": "2026-11-24T06:00"}]
    part = [{"from": "2026-11-23T20:00", "until": "2026-11-23T23:45"}]
    for minutes in (-60, 10, 200):
        assert status(at(minutes), pauses=whole).status == "paused"
    moved = status(at(10), pauses=part)
    assert (moved.status, moved.opens_unix_s) == ("soon", START_S + 15 * MIN)
    assert status(at(10), local=LocalState(withdrawn=False, paused_until_unix_s=INF)).status == "paused"
    rest = [{"from": "2026-11-23T23:35", "until": "2026-11-24T06:00"}]
    assert status(at(10), pauses=rest).status == "paused"


def test_nothing_is_listed_as_due_when_withdrawn_or_without_a_clock():
    assert due(agree(), at(10), [], LocalState(withdrawn=True, paused_until_unix_s=None)) == []
    assert due(agree(), Interval(START_S, INF), [], FREE) == []


def test_the_list_holds_twelve_hours_either_way():
    def ids(hours):
        return [item.occasion.occasion_id[:10] for item in due(agree(), at(hours * 60), [], FREE)]

    assert ids(-13) == ["2026-11-22"]
    assert ids(-11) == ["2026-11-22", "2026-11-23"]
    assert ids(11) == ["2026-11-23"]
    assert ids(13) == ["2026-11-23", "2026-11-24"]
    assert ids(14) == ["2026-11-24"]
