"""`tillsyn mount` as an installer types it, on the bench's pins.

Mutations, each tried: return at once from `_demand_set_up` (both refusals red); park outside the `finally` in `_aim`
(the stopped one red); the file's own mount in place of `_mount` (what the installer aimed, and a damaged one, red).
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from running_bench import quick_mount

from gateway.edge.bench_world import BenchWorld, HandsOn
from gateway.mount.calibration import Calibration
from provisioning import bench_home

pytestmark = pytest.mark.service

CALIBRATION = Calibration()


def make_home(directory):
    home = bench_home.make(directory)
    quick_mount(home)
    return home


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "bench")


@pytest.fixture
def world(home):
    return BenchWorld(home.world)


def start(home, action, *more, file="guard.toml", stdin=subprocess.DEVNULL):
    config = home.directory / "home" / file
    command = [sys.executable, "-m", "gateway.cli", "mount", action, "--config", str(config), *more]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Exit status, standard output, standard error."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def run(home, action, *more, file="guard.toml"):
    return ended(start(home, action, *more, file=file))


def is_parked(world):
    return world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.parked_deg) and world.pin(12).duty == 0


def test_aim_points_at_the_bed_and_parks_at_enter_at_a_stop_and_by_itself(tmp_path):
    """Three at once, each in a home of its own: what takes long is the start."""
    names = {"enter": ("--language", "sv"), "stopped": (), "by-itself": ("--seconds", "1.5")}
    homes = {name: make_home(tmp_path / name) for name in names}
    worlds = {name: BenchWorld(home.world) for name, home in homes.items()}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, more in names.items():
            running[name] = start(homes[name], "aim", *more, stdin=subprocess.PIPE)
            stack.callback(running[name].kill)
        # That one first: it does not wait for us.
        for name in ("by-itself", "enter", "stopped"):
            said = running[name].stdout.readline()
            assert "10°" in said, running[name].stderr.read()
            assert worlds[name].pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.aim_deg)
            assert worlds[name].pin(12).duty == 0
        running["stopped"].send_signal(signal.SIGTERM)
        out, err = running["enter"].communicate("\n", timeout=30)
        assert running["enter"].returncode == 0, err
        assert "uppfälld" in out
        assert running["by-itself"].wait(timeout=30) == 0
        for process in running.values():
            process.communicate(timeout=30)
    for name, world in worlds.items():
        assert is_parked(world), name
        assert world.sensor_opens() == 0


def test_aim_is_refused_while_a_guard_answers_and_where_an_agreement_is_in_force(tmp_path):
    guarded, agreed = (make_home(tmp_path / name) for name in ("guarded", "agreed"))
    (agreed.directory / "home/state/agreement-00.json").write_text("{}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as guard:
        guard.bind(str(guarded.control_socket))
        guard.listen(1)
        first, second = start(guarded, "aim"), start(agreed, "aim")
        (code, _, err), (code_agreed, _, err_agreed) = ended(first), ended(second)
    assert (code, code_agreed) == (1, 1)
    assert "a guard runs" in err
    assert "set-up is over" in err_agreed
    assert BenchWorld(guarded.world).pins() == BenchWorld(agreed.world).pins() == {}


def test_aim_needs_the_guards_file_and_an_angle_within_the_limits(home, world):
    both = start(home, "aim", file="park.toml"), start(home, "aim", "--angle", "200")
    assert [ended(process)[0] for process in both] == [78, 78]
    assert world.pins().get(12) is None or world.pin(12).last_pulse_us is None


def test_aim_goes_where_the_installer_aimed_and_show_says_so(home, world):
    """What the wizard saved stands above the file's value, as it does for the guard."""
    (home.directory / "home/state/aim-deg.json").write_text('{"aim_deg": 25.5}')
    shown, aimed = start(home, "show"), start(home, "aim", stdin=subprocess.PIPE)
    try:
        assert "25.5°" in aimed.stdout.readline()
        assert world.pan_deg(CALIBRATION) == pytest.approx(25.5)
        assert aimed.communicate("\n", timeout=30)
        assert aimed.returncode == 0
    finally:
        aimed.kill()
    assert is_parked(world)
    assert "90°, 25.5°" in ended(shown)[1]


def test_an_aim_that_nobody_could_have_saved_is_refused(tmp_path):
    """Damaged, or within the parked camera's picture: nothing turns."""
    processes = []
    for name, saved in (("damaged", "{"), ("near", '{"aim_deg": 80.0}')):
        home = make_home(tmp_path / name)
        (home.directory / "home/state/aim-deg.json").write_text(saved)
        processes.append((home, start(home, "aim")))
    for home, process in processes:
        code, _, err = ended(process)
        assert code == 78, err
        assert "aim" in err
        assert BenchWorld(home.world).pins() == {}


def test_park_works_with_nothing_else_running(tmp_path):
    parking = []
    began_s = time.monotonic()
    for file in ("guard.toml", "park.toml"):
        home = make_home(tmp_path / file)
        world = BenchWorld(home.world)
        world.place_pan(CALIBRATION.aim_deg, CALIBRATION)
        # Park asks for no aim, so that a damaged one keeps no camera from being turned up.
        (home.directory / "home/state/aim-deg.json").write_text("{")
        parking.append((world, start(home, "park", file=file)))
    for world, process in parking:
        code, out, err = ended(process)
        assert code == 0, err
        assert "turned up" in out
        assert is_parked(world)
    assert time.monotonic() - began_s < 20


def test_a_stuck_servo_with_an_end_stop_is_told_at_park_and_shown(home, world):
    world.place_pan(CALIBRATION.aim_deg, CALIBRATION)
    world.lay_hands(HandsOn(servo_sticks=True))
    shown = start(home, "show", file="park.toml")
    assert "NOT up" in ended(shown)[1]
    code, _, err = run(home, "park", file="park.toml")
    assert code == 1
    assert "not up" in err
    world.lay_hands(HandsOn())
    assert run(home, "park", file="park.toml")[0] == 0
    assert "end stop: up" in run(home, "show", file="park.toml")[1]


def test_show_drives_nothing(home, world):
    said = run(home, "show")[1]
    assert "GPIO 12" in said
    assert "no guard runs" in said
    assert all(pin.function == "input" and pin.last_pulse_us is None for pin in world.pins().values())
