"""The motion profile: smooth, within its limits, never backwards."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mount.calibration import Calibration
from gateway.mount.profile import Profile

ANGLES = st.floats(-270, 270)
SPEEDS = st.floats(5, 360)
ACCELS = st.floats(5, 5000)


@settings(max_examples=60, deadline=None)
@given(ANGLES, ANGLES, SPEEDS, ACCELS)
def test_a_travel_never_turns_back_and_stays_between_its_ends(start, end, speed, accel):
    profile = Profile(start, end, speed, accel)
    angles = [profile.angle_at(profile.duration_s * index / 100) for index in range(101)]
    assert angles[0] == start or start == end
    assert angles[-1] == pytest.approx(end, abs=1e-6)
    assert profile.angle_at(profile.duration_s) == end
    sign = math.copysign(1.0, end - start)
    assert all(sign * (b - a) >= -1e-9 for a, b in itertools.pairwise(angles))
    assert all(min(start, end) - 1e-9 <= angle <= max(start, end) + 1e-9 for angle in angles)


@settings(max_examples=60, deadline=None)
@given(ANGLES, ANGLES, SPEEDS, ACCELS)
def test_speed_and_acceleration_stay_within_the_limits(start, end, speed, accel):
    # Mutation: PEAK_SPEED = 1.0, or PEAK_ACCEL = 1.0, in profile.py.
    profile = Profile(start, end, speed, accel)
    if profile.duration_s < 1e-3:
        return
    tick = profile.duration_s / 1000
    angles = [profile.angle_at(index * tick) for index in range(1001)]
    speeds = [(b - a) / tick for a, b in itertools.pairwise(angles)]
    accels = [(b - a) / tick for a, b in itertools.pairwise(speeds)]
    assert max(map(abs, speeds)) <= speed * 1.001
    assert max(map(abs, accels)) <= accel * 1.01 + 1e-3


@settings(max_examples=60, deadline=None)
@given(ANGLES, ANGLES, SPEEDS, ACCELS)
def test_one_limit_is_used_fully(start, end, speed, accel):
    profile = Profile(start, end, speed, accel)
    if abs(end - start) < 1e-6:
        return
    mean = abs(end - start) / profile.duration_s
    peak_speed = 1.875 * mean
    peak_accel = 10 / math.sqrt(3) * mean / profile.duration_s
    assert peak_speed == pytest.approx(speed) or peak_accel == pytest.approx(accel)


def test_the_default_travel_takes_less_than_one_and_a_half_seconds():
    limits = Calibration()
    profile = Profile(limits.parked_deg, limits.aim_deg, limits.max_speed_deg_s, limits.max_accel_deg_s2)
    assert profile.duration_s == pytest.approx(1.364, abs=0.001)


def test_before_and_after_the_travel_the_angle_is_an_end():
    profile = Profile(90, 10, 90, 360)
    assert profile.angle_at(-1) == 90
    assert profile.angle_at(99) == 10


def test_a_travel_to_where_it_stands_takes_no_time_and_has_one_step():
    profile = Profile(90, 90, 90, 360)
    assert profile.duration_s == 0
    assert profile.angle_at(0) == 90
    assert profile.steps(0.02) == (90,)


def test_steps_begin_at_the_first_angle_and_end_at_the_last():
    steps = Profile(90, 10, 90, 360).steps(0.02)
    assert (steps[0], steps[-1]) == (90, 10)
    assert len(steps) == 85


@pytest.mark.parametrize("bad", [(math.nan, 0, 1, 1), (0, math.inf, 1, 1), (0, 1, 0, 1), (0, 1, 1, -1)])
def test_a_profile_of_nonsense_is_refused(bad):
    with pytest.raises(ValueError):
        Profile(*bad)
