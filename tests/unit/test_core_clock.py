"""The interval clock: what it knows, how sure it is, and what no forged time can do to it (F43, F44, F47, F48).

Mutations of gateway/core/interval_clock.py that turn these red, each tried: `with_floor` compared with the interval
instead of the floor (so that no statement ever raised it); MAX_ROUND_TRIP_S or MAX_RADIUS_S not asked;
ATTESTATION_LIFE_S not asked; the round trip left out of `hi`; DRIFT with the other sign; CONTRADICTED read as ATTESTED;
the floor raised by `with_independent`; a statement below the floor taken; CROSS_CHECK_S doubled.
"""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.boottime import boot_id, boottime_s
from gateway.core.interval_clock import (
    ATTESTATION_LIFE_S,
    DRIFT,
    MAX_RADIUS_S,
    Attestation,
    ClockState,
    IntervalClock,
)

BUILT_S = 1_780_000_000.0
NOW_S = 1_793_000_000.0
BOOT_S = 100.0
TEN_YEARS_S = 10 * 365.25 * 86400
FLOOR = IntervalClock(BUILT_S, BOOT_S)


def statement(unix_s=NOW_S, *, radius_s=0.5, asked_s=BOOT_S, heard_s=BOOT_S + 1.0):
    return Attestation(unix_s, radius_s, asked_s, heard_s)


ATTESTED = FLOOR.with_attestation(statement())
HEARD_S = BOOT_S + 1.0


# States


def test_without_a_statement_only_a_lower_bound_is_known_and_nothing_opens():
    assert FLOOR.state(BOOT_S) is ClockState.FLOOR
    assert FLOOR.interval(BOOT_S).lo_unix_s == BUILT_S
    assert FLOOR.interval(BOOT_S).hi_unix_s == math.inf
    assert not FLOOR.may_open(BOOT_S)


def test_a_statement_makes_it_attested():
    assert ATTESTED.state(HEARD_S) is ClockState.ATTESTED
    assert ATTESTED.may_open(HEARD_S)
    interval = ATTESTED.interval(HEARD_S)
    assert interval.lo_unix_s == pytest.approx(NOW_S - 0.5, abs=0.01)
    # The centre may have read its clock when the question had only just left.
    assert interval.hi_unix_s == pytest.approx(NOW_S + 0.5 + 1.0, abs=0.01)


@pytest.mark.parametrize("off_s", [-120.0, 0.0, 120.0])
def test_an_independent_source_that_agrees_cross_checks(off_s):
    clock = ATTESTED.with_independent(NOW_S + off_s, boottime_s=HEARD_S)
    assert clock.state(HEARD_S) is ClockState.CROSS_CHECKED
    assert clock.may_open(HEARD_S)
    assert clock.interval(HEARD_S) == ATTESTED.interval(HEARD_S)


@pytest.mark.parametrize("off_s", [-122.0, 123.0, 3 * 3600.0, -3 * 3600.0])
def test_an_independent_source_that_disagrees_contradicts_and_nothing_opens(off_s):
    clock = ATTESTED.with_independent(NOW_S + off_s, boottime_s=HEARD_S)
    assert clock.state(HEARD_S) is ClockState.CONTRADICTED
    assert not clock.may_open(HEARD_S)
    assert clock.interval(HEARD_S).hi_unix_s == math.inf


def test_where_a_cross_check_is_demanded_attested_does_not_open():
    strict = IntervalClock(BUILT_S, BOOT_S, demand_cross_check=True).with_attestation(statement())
    assert strict.state(HEARD_S) is ClockState.ATTESTED
    assert not strict.may_open(HEARD_S)
    checked = strict.with_independent(NOW_S, boottime_s=HEARD_S)
    assert checked.may_open(HEARD_S)
    assert not checked.with_independent(None, boottime_s=HEARD_S).may_open(HEARD_S)


def test_an_independent_source_that_is_gone_neither_confirms_nor_contradicts():
    clock = ATTESTED.with_independent(0.0, boottime_s=HEARD_S).with_independent(None, boottime_s=HEARD_S)
    assert clock.state(HEARD_S) is ClockState.ATTESTED


def test_after_a_day_without_a_statement_nothing_opens():
    last_s = HEARD_S + ATTESTATION_LIFE_S
    assert ATTESTED.state(last_s) is ClockState.ATTESTED
    assert ATTESTED.state(last_s + 0.1) is ClockState.FLOOR
    assert not ATTESTED.may_open(last_s + 0.1)
    assert ATTESTED.interval(last_s + 0.1).hi_unix_s == math.inf
    checked = ATTESTED.with_independent(NOW_S, boottime_s=HEARD_S)
    assert checked.state(last_s + 0.1) is ClockState.FLOOR


def test_a_statement_of_another_boot_does_not_count():
    # BOOTTIME began anew: it lies before the hearing.
    assert ATTESTED.state(HEARD_S - 0.1) is ClockState.FLOOR


def test_a_later_statement_takes_the_place_of_an_older_one():
    day_s = HEARD_S + ATTESTATION_LIFE_S
    again = ATTESTED.with_attestation(statement(NOW_S + 86400.0, asked_s=day_s, heard_s=day_s + 0.1))
    assert again.state(day_s + 3600.0) is ClockState.ATTESTED
    interval = again.interval(day_s + 0.1)
    assert interval.hi_unix_s - interval.lo_unix_s < 1.2


def test_the_interval_widens_by_the_oscillators_drift():
    early, late = ATTESTED.interval(HEARD_S), ATTESTED.interval(HEARD_S + 36_000.0)
    widened_s = (late.hi_unix_s - late.lo_unix_s) - (early.hi_unix_s - early.lo_unix_s)
    assert widened_s == pytest.approx(2 * DRIFT * 36_000.0, abs=0.01)


# Statements that are not taken


@pytest.mark.parametrize(
    "bad",
    [
        statement(heard_s=BOOT_S + 5.01),
        statement(heard_s=BOOT_S + 20.0),
        statement(heard_s=BOOT_S - 0.1),
        statement(radius_s=MAX_RADIUS_S + 0.1),
        statement(radius_s=-0.1),
        statement(radius_s=math.nan),
        statement(heard_s=math.nan),
        statement(BUILT_S - 10.0),
        statement(0.0),
        statement(-1e12),
    ],
    ids=["slow", "late", "unasked", "coarse", "negative", "NaN", "heard NaN", "below floor", "1970", "before time"],
)
def test_a_statement_that_is_no_good_changes_nothing(bad):
    assert FLOOR.with_attestation(bad) is FLOOR
    assert ATTESTED.with_attestation(bad) is ATTESTED


def test_a_statement_of_five_seconds_is_just_taken():
    clock = FLOOR.with_attestation(statement(heard_s=BOOT_S + 5.0, radius_s=MAX_RADIUS_S))
    assert clock.may_open(BOOT_S + 5.0)


# The floor


def test_the_floor_grows_with_boottime_but_slower_than_time():
    assert FLOOR.interval(BOOT_S + 1e6).lo_unix_s == pytest.approx(BUILT_S + 1e6 * (1 - DRIFT))
    # Never below it, even where BOOTTIME is before it.
    assert FLOOR.interval(0.0).lo_unix_s == BUILT_S


def test_a_statement_raises_the_floor_and_it_stays_when_the_statement_is_old():
    after_s = HEARD_S + ATTESTATION_LIFE_S + 1.0
    assert ATTESTED.state(after_s) is ClockState.FLOOR
    assert ATTESTED.interval(after_s).lo_unix_s > NOW_S + ATTESTATION_LIFE_S - 20.0


def test_the_lower_bound_never_goes_back_as_time_passes():
    bounds = [ATTESTED.interval(HEARD_S + hours * 3600.0).lo_unix_s for hours in range(50)]
    assert bounds == sorted(bounds)


def test_authenticated_time_raises_the_floor_and_an_older_one_does_not():
    raised = FLOOR.with_floor(NOW_S, boottime_s=BOOT_S)
    assert raised.interval(BOOT_S).lo_unix_s == NOW_S
    assert raised.with_floor(NOW_S - 1.0, boottime_s=BOOT_S) is raised
    assert raised.with_attestation(statement(NOW_S - 3600.0)) is raised


def test_what_is_set_outlives_every_lesson():
    clock = IntervalClock(BUILT_S, BOOT_S, demand_cross_check=True)
    clock = clock.with_independent(NOW_S, boottime_s=HEARD_S).with_attestation(statement())
    clock = clock.with_floor(NOW_S + 5.0, boottime_s=HEARD_S)
    assert clock.demand_cross_check
    assert clock.independent_offset_s == NOW_S - HEARD_S
    assert clock.state(HEARD_S) is ClockState.CROSS_CHECKED


@pytest.mark.parametrize("spoof_s", [TEN_YEARS_S, -TEN_YEARS_S, 1e15])
@pytest.mark.parametrize("start", [FLOOR, ATTESTED], ids=["floor", "attested"])
def test_a_spoofed_ntp_never_moves_the_floor_and_after_it_all_is_as_before(start, spoof_s):
    spoofed = start.with_independent(NOW_S + spoof_s, boottime_s=HEARD_S)
    assert not spoofed.may_open(HEARD_S)
    assert spoofed.floor_unix_s == start.floor_unix_s
    again = statement(NOW_S + 60.0, asked_s=HEARD_S + 60.0, heard_s=HEARD_S + 60.5)
    # A statement while the spoof lasts neither opens nor poisons.
    during = spoofed.with_attestation(again)
    assert during.state(HEARD_S + 61.0) is ClockState.CONTRADICTED
    assert during.floor_unix_s == start.floor_unix_s
    # The spoof is gone: the floor is where it was, and honest time is taken.
    healed = during.with_independent(None, boottime_s=HEARD_S + 61.0).with_attestation(again)
    assert healed.may_open(HEARD_S + 61.0)
    assert healed.interval(HEARD_S + 60.5).lo_unix_s == pytest.approx(NOW_S + 59.75, abs=0.3)


@pytest.mark.parametrize("lie_s", [3 * 3600.0, -3 * 3600.0])
def test_a_centre_that_lies_by_three_hours_is_contradicted_and_cannot_poison_the_floor(lie_s):
    honest = FLOOR.with_independent(NOW_S, boottime_s=BOOT_S)
    lied = honest.with_attestation(statement(NOW_S + lie_s))
    assert lied.state(HEARD_S) is ClockState.CONTRADICTED
    assert not lied.may_open(HEARD_S)
    assert lied.floor_unix_s == BUILT_S
    truth = lied.with_attestation(statement(NOW_S + 10.0, asked_s=HEARD_S + 10.0, heard_s=HEARD_S + 10.1))
    assert truth.state(HEARD_S + 11.0) is ClockState.CROSS_CHECKED


@pytest.mark.slow
@given(st.lists(st.floats(0, 4e9), max_size=8), st.floats(0, 1e7))
def test_no_independent_source_ever_moves_the_floor_or_opens(claims, later_s):
    clock = FLOOR
    for claim in claims:
        clock = clock.with_independent(claim, boottime_s=BOOT_S)
    assert clock.interval(BOOT_S + later_s) == FLOOR.interval(BOOT_S + later_s)
    assert not clock.may_open(BOOT_S + later_s)


# Honest statements

SLACK_S = 1e-3
"""What floats of 1.8e9 lose in a few sums."""


@st.composite
def honest_history(draw, *, independent=True):
    """A board whose oscillator drifts within its limit, and a centre whose clock is within its radius."""
    drift = draw(st.floats(-DRIFT, DRIFT))
    true_at_boot_s = NOW_S
    clock = IntervalClock(true_at_boot_s - draw(st.floats(0, 1e7)), 0.0)

    def true_s(boottime_s):
        return true_at_boot_s + boottime_s * (1.0 + drift)

    boottime_s = draw(st.floats(0, 1e4))
    for _ in range(draw(st.integers(1, 6))):
        round_trip_s = draw(st.floats(0, 6))
        read_s = boottime_s + draw(st.floats(0, 1)) * round_trip_s
        radius_s = draw(st.floats(0, 70))
        said_s = true_s(read_s) + draw(st.floats(-1, 1)) * radius_s
        clock = clock.with_attestation(Attestation(said_s, radius_s, boottime_s, boottime_s + round_trip_s))
        if independent and draw(st.booleans()):
            heard_s = boottime_s + round_trip_s
            clock = clock.with_independent(true_s(heard_s) + draw(st.floats(-300, 300)), boottime_s=heard_s)
        boottime_s += round_trip_s + draw(st.floats(0, 50_000))
    return clock, true_s, boottime_s


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(honest_history(), st.floats(0, 200_000))
def test_true_time_is_always_inside_the_interval_when_the_statements_are_honest(history, later_s):
    clock, true_s, boottime_s = history
    interval = clock.interval(boottime_s + later_s)
    assert interval.lo_unix_s - SLACK_S <= true_s(boottime_s + later_s) <= interval.hi_unix_s + SLACK_S


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(honest_history(independent=False), st.lists(st.floats(0, 100_000), min_size=2, max_size=6))
def test_the_lower_bound_never_falls_below_the_floor_nor_goes_back(history, laters_s):
    clock, _, boottime_s = history
    bounds = []
    for later_s in sorted(laters_s):
        bounds.append(clock.interval(boottime_s + later_s).lo_unix_s)
        floor = replace(clock, attestation=None, independent_offset_s=None)
        assert bounds[-1] >= floor.interval(boottime_s + later_s).lo_unix_s
    assert all(earlier <= later + SLACK_S for earlier, later in itertools.pairwise(bounds))


# BOOTTIME


def test_boottime_goes_forward_and_the_boot_has_one_name():
    assert 0.0 < boottime_s() <= boottime_s()
    assert boot_id() == boot_id()
    assert len(boot_id()) == 32
    assert int(boot_id(), 16) >= 0
