"""`tillsyn mount` as an installer types it, on the bench's pins.

Mutations, each tried: return at once from `_demand_set_up` (both refusals red); park outside the `finally` in `_aim`
(the stopped one red).
"""

import signal
import socket
import subprocess
import sys
import time

import pytest

from gateway.edge.bench_world import BenchWorld, HandsOn
from gateway.mount.calibration import Calibration
from provisioning import bench_home

pytestmark = pytest.mark.service

CALIBRATION = Calibration()


@pytest.fixture
def home(tmp_path):
    return bench_home.make(tmp_path / "bench")


@pytest.fixture
def world(home):
    return BenchWorld(home.world)


def command(home, action, *more, file="guard.toml"):
    config = home.directory / "home" / file
    return [sys.executable, "-m", "gateway.cli", "mount", action, "--config", str(config), *more]


def run(home, action, *more, file="guard.toml"):
    return subprocess.run(
        command(home, action, *more, file=file),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start_aim(home, world, *more):
    process = subprocess.Popen(
        command(home, "aim", *more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = process.stdout.readline()
    assert "10°" in said, process.stderr.read()
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.aim_deg)
    assert world.pin(12).duty == 0
    return process


def is_parked(world):
    return world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.parked_deg) and world.pin(12).duty == 0


def test_aim_points_at_the_bed_until_enter_and_never_opens_the_camera(home, world):
    process = start_aim(home, world, "--language", "sv")
    out, err = process.communicate("\n", timeout=30)
    assert process.returncode == 0, err
    assert "uppfälld" in out
    assert is_parked(world)
    assert world.sensor_opens() == 0


def test_an_aim_that_is_stopped_parks(home, world):
    process = start_aim(home, world)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert is_parked(world)


def test_an_aim_parks_by_itself(home, world):
    process = start_aim(home, world, "--seconds", "0.5")
    assert process.wait(timeout=30) == 0
    assert is_parked(world)
    process.communicate()


def test_aim_is_refused_while_a_guard_answers(home, world):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as guard:
        guard.bind(str(home.control_socket))
        guard.listen(1)
        done = run(home, "aim")
    assert done.returncode == 1
    assert "guard" in done.stderr
    assert world.pins() == {}


def test_aim_is_refused_where_an_agreement_is_in_force(home, world):
    (home.directory / "home/state/agreement-00.json").write_text("{}")
    done = run(home, "aim")
    assert done.returncode == 1
    assert "set-up is over" in done.stderr
    assert world.pins() == {}


def test_aim_needs_the_guards_file_and_an_angle_within_the_limits(home, world):
    assert run(home, "aim", file="park.toml").returncode == 78
    assert run(home, "aim", "--angle", "200").returncode == 78
    assert world.pins().get(12) is None or world.pin(12).last_pulse_us is None


@pytest.mark.parametrize("file", ["guard.toml", "park.toml"])
def test_park_works_with_nothing_else_running(home, world, file):
    world.place_pan(CALIBRATION.aim_deg, CALIBRATION)
    began_s = time.monotonic()
    done = run(home, "park", file=file)
    assert done.returncode == 0, done.stderr
    assert "turned up" in done.stdout
    assert is_parked(world)
    assert time.monotonic() - began_s < 20


def test_a_stuck_servo_with_an_end_stop_is_told_at_park_and_shown(home, world):
    world.place_pan(CALIBRATION.aim_deg, CALIBRATION)
    world.lay_hands(HandsOn(servo_sticks=True))
    assert "NOT up" in run(home, "show", file="park.toml").stdout
    done = run(home, "park", file="park.toml")
    assert done.returncode == 1
    assert "not up" in done.stderr
    world.lay_hands(HandsOn())
    assert run(home, "park", file="park.toml").returncode == 0
    assert "end stop: up" in run(home, "show", file="park.toml").stdout


def test_show_drives_nothing(home, world):
    said = run(home, "show").stdout
    assert "GPIO 12" in said
    assert "no guard runs" in said
    assert all(pin.function == "input" and pin.last_pulse_us is None for pin in world.pins().values())
