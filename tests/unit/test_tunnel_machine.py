"""The tunnel's machine: new settings are tried, and left again when they reach nobody.

Mutations that turn these red, each tried: `>` → `>=` at the high-water mark; a trial's key number used twice; `Keep`
after `Apply`; no `Elapsed` branch; `high_water` set back when a trial is left.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.message import TunnelSettings
from gateway.tunnel import TRIAL_S, Apply, Elapsed, Keep, Ordered, Reached, Settled, State, step

KEY = "A" * 42 + "A="


def settings(version: int, address: str = "10.90.128.1") -> TunnelSettings:
    return TunnelSettings(version, address, ["10.90.0.1", "10.90.0.2"], KEY, "centre.example", 51820, 1200)


FIRST = Settled(settings(1), 0)
AT_REST = State(FIRST, 1)


def test_newer_settings_are_kept_first_and_then_tried() -> None:
    after, effects = step(AT_REST, Ordered(settings(2), renew_key=False))
    assert after == State(FIRST, 2, Settled(settings(2), 0))
    assert effects == (Keep(after), Apply(Settled(settings(2), 0)))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_settings_that_are_not_newer_than_any_that_were_taken_change_nothing(version: int) -> None:
    left = State(FIRST, 3)  # version 3 was tried and left
    assert step(left, Ordered(settings(version), renew_key=True)) == (left, ())


def test_what_is_reached_is_in_force_and_the_older_forgotten() -> None:
    trial = State(FIRST, 2, Settled(settings(2), 1))
    after, effects = step(trial, Reached())
    assert after == State(Settled(settings(2), 1), 2)
    assert effects == (Keep(after),)


def test_what_reaches_nobody_for_ten_minutes_is_left_for_what_worked() -> None:
    trial = State(FIRST, 2, Settled(settings(2), 1))
    assert step(trial, Elapsed(TRIAL_S - 0.1)) == (trial, ())
    after, effects = step(trial, Elapsed(TRIAL_S))
    assert after == State(FIRST, 2)
    assert effects == (Keep(after), Apply(FIRST))


def test_silence_without_a_trial_changes_nothing() -> None:
    assert step(AT_REST, Elapsed(1e9)) == (AT_REST, ())
    assert step(AT_REST, Reached()) == (AT_REST, ())


def test_a_second_order_in_the_middle_of_a_trial_falls_back_to_what_worked_and_never_reuses_a_key() -> None:
    state = AT_REST
    for version in (2, 3, 4):
        state, _ = step(state, Ordered(settings(version), renew_key=True))
    assert state.in_force == FIRST
    assert state.current == Settled(settings(4), 3)
    state, effects = step(state, Elapsed(TRIAL_S))
    assert effects[-1] == Apply(FIRST)


EVENTS = st.one_of(
    st.builds(lambda version, renew: Ordered(settings(version), renew), st.integers(1, 6), st.booleans()),
    st.just(Reached()),
    st.sampled_from([Elapsed(1.0), Elapsed(TRIAL_S)]),
)


@pytest.mark.slow
@given(st.lists(EVENTS, max_size=20))
def test_whatever_happens_there_is_always_a_way_back_to_something_that_was_reached(events: list[object]) -> None:
    state, reached = AT_REST, [FIRST]
    for event in events:
        before = state
        state, effects = step(state, event)  # type: ignore[arg-type]
        if isinstance(event, Reached) and before.trial is not None:
            reached.append(before.trial)
        assert state.in_force in reached
        assert state.high_water >= before.high_water
        assert state.high_water >= state.current.settings.version
        kinds = [type(effect) for effect in effects]
        assert kinds in ([], [Keep], [Keep, Apply])
        assert not effects or effects[0] == Keep(state)


def test_every_state_meets_every_event() -> None:
    states = (AT_REST, State(FIRST, 3), State(FIRST, 3, Settled(settings(3), 1)))
    events = (Ordered(settings(2), False), Ordered(settings(9), True), Reached(), Elapsed(1.0), Elapsed(TRIAL_S))
    for state, event in itertools.product(states, events):
        after, effects = step(state, event)
        assert (after == state) is (effects == ())
