"""The calibration is refused rather than corrected."""

import math

import pytest

from gateway.core.error import ConfigError
from gateway.mount.calibration import Calibration


def test_the_defaults_are_parked_up_and_aimed_ten_degrees_above_the_horizon():
    calibration = Calibration()
    assert (calibration.parked_deg, calibration.aim_deg) == (90, 10)
    assert calibration.pulse_us(90) == 1500


@pytest.mark.parametrize("angle", [0.0, 10.0, 33.3, 90.0, 180.0])
@pytest.mark.parametrize("calibration", [Calibration(), Calibration(min_deg=180, max_deg=0)])
def test_pulse_and_angle_are_inverse_also_when_mounted_the_other_way_round(calibration, angle):
    assert calibration.angle_deg(calibration.pulse_us(angle)) == pytest.approx(angle)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parked_deg": 200.0},
        {"aim_deg": -1.0},
        {"aim_deg": math.nan},
        {"parked_deg": math.inf},
        {"parked_deg": True},
        {"parked_deg": "90"},
        {"parked_deg": None},
        # Parked so near to the view that the bed stays in the picture. Mutation: LEAST_CLEARANCE_DEG = 0.
        {"parked_deg": 54.0},
        {"min_pulse_us": 100.0},
        {"max_pulse_us": 3000.0},
        {"min_pulse_us": 2500.0, "max_pulse_us": 500.0},
        {"min_deg": 90.0, "max_deg": 90.0},
        {"max_speed_deg_s": 0.0},
        {"max_speed_deg_s": 1000.0},
        {"max_accel_deg_s2": -1.0},
    ],
)
def test_a_calibration_that_can_not_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        Calibration(**wrong)


@pytest.mark.parametrize("angle", [math.nan, -0.1, 180.1])
def test_an_angle_out_of_range_is_not_reached(angle):
    assert not Calibration().reaches(angle)
