"""The subset of recurrence rules means what RFC 5545 says, and never costs more than its days.

`dateutil` is the independent reading of the RFC here; the code under test does not use it.

Mutations that turn a test here red (all in `_recurs_on` and `_last_date`):
* weeks counted from DTSTART's weekday instead of Monday → test_a_rule_means_what_dateutil_says
* ordinals from the end without the 1 → test_examples
* COUNT off by one, or UNTIL ignored → both
"""

import time
from datetime import date, datetime

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gateway.agreement.recurrence import dates_of


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        ("FREQ=DAILY;INTERVAL=10", ["2026-11-01", "2026-11-11", "2026-11-21"]),
        ("FREQ=DAILY;COUNT=2", ["2026-11-01", "2026-11-02"]),
        ("FREQ=DAILY;UNTIL=20261102", ["2026-11-01", "2026-11-02"]),
        ("FREQ=WEEKLY", ["2026-11-01", "2026-11-08", "2026-11-15", "2026-11-22", "2026-11-29"]),
        # 1 November 2026 is a Sunday, the last day of its week; the next week but one begins on the 9th.
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,SU", ["2026-11-01", "2026-11-09", "2026-11-15", "2026-11-23", "2026-11-29"]),
        ("FREQ=MONTHLY", ["2026-11-01"]),
        ("FREQ=MONTHLY;BYDAY=-1MO", ["2026-11-30"]),
        ("FREQ=MONTHLY;BYDAY=2TU,5SU", ["2026-11-10", "2026-11-29"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1,15,31", ["2026-11-15", "2026-11-30"]),
        ("FREQ=DAILY;INTERVAL=7;BYDAY=TU", []),
    ],
)
def test_examples(rule, days):
    found = dates_of(rule, date(2026, 11, 1), date(2026, 11, 30), date(2020, 1, 1), date(2099, 1, 1))
    assert [day.isoformat() for day in found] == days


def test_a_first_day_that_the_rule_does_not_match_is_no_occasion():
    found = dates_of("FREQ=WEEKLY;BYDAY=MO", date(2026, 11, 1), date(2026, 11, 9), date(2026, 1, 1), date(2027, 1, 1))
    assert found == [date(2026, 11, 2), date(2026, 11, 9)]


@st.composite
def rules(draw):
    frequency = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY"]))
    parts = [f"FREQ={frequency}"]
    if draw(st.booleans()):
        parts.append(f"INTERVAL={draw(st.integers(1, 13))}")
    weekdays = st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"])
    if draw(st.booleans()):
        ordinal = st.sampled_from(["1", "+2", "3", "4", "5", "-1", "-2", "-5"])
        words = weekdays
        if frequency == "MONTHLY" and draw(st.booleans()):
            words = st.builds(str.__add__, ordinal, weekdays)
        parts.append("BYDAY=" + ",".join(draw(st.lists(words, min_size=1, max_size=4, unique=True))))
    if frequency != "WEEKLY" and draw(st.booleans()):
        days = st.integers(-31, 31).filter(bool).map(str)
        parts.append("BYMONTHDAY=" + ",".join(draw(st.lists(days, min_size=1, max_size=4, unique=True))))
    ending = draw(st.sampled_from(["", "COUNT", "UNTIL"]))
    if ending == "COUNT":
        parts.append(f"COUNT={draw(st.integers(1, 40))}")
    if ending == "UNTIL":
        parts.append(f"UNTIL={draw(st.dates(date(2026, 1, 1), date(2030, 1, 1))):%Y%m%d}")
    return ";".join(parts)


@pytest.mark.slow
@given(rules(), st.dates(date(2026, 1, 1), date(2028, 12, 31)), st.integers(0, 900), st.integers(-50, 1000))
@example("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO", date(2026, 11, 4), 100, 0)
@settings(max_examples=250, deadline=None)
def test_a_rule_means_what_dateutil_says(rule, first, length, skip):
    last = date.fromordinal(first.toordinal() + length)
    lo = date.fromordinal(first.toordinal() + skip)
    expected = []
    for moment in rrulestr(rule, dtstart=datetime.combine(first, datetime.min.time())):
        if moment.date() > last:
            break
        expected.append(moment.date())
    assume(len(expected) < 1000)
    assert list(dates_of(rule, first, last, lo, date(2099, 1, 1))) == [day for day in expected if day >= lo]


@pytest.mark.parametrize("rule", ["FREQ=DAILY;INTERVAL=7;BYDAY=TU", "FREQ=MONTHLY;INTERVAL=12;BYMONTHDAY=31;COUNT=5"])
def test_a_rule_that_never_matches_costs_no_more_than_its_days(rule):
    began_s = time.thread_time()
    assert not dates_of(rule, date(2026, 2, 2), date(2036, 2, 1), date(2026, 2, 2), date(2036, 2, 1))
    assert time.thread_time() - began_s < 0.1


@pytest.mark.parametrize(
    "rule", ["FREQ=DAILY;BYDAY=TU,TU", "FREQ=MONTHLY;BYDAY=1MO,1MO", "FREQ=MONTHLY;BYMONTHDAY=5,5"]
)
def test_a_day_that_is_named_twice_is_refused(rule: str):
    # Mutation: leave the comparison of lengths out; forty repetitions then cost forty times as much to count.
    with pytest.raises(ValueError, match="twice"):
        dates_of(rule, date(2026, 11, 1), date(2026, 12, 1), date(2026, 11, 1), date(2026, 12, 1))
