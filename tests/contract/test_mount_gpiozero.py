"""The mount and the lamp on gpiozero's real device classes and the bench's pins.

Time is moved by hand: the event loop of these tests has its own clock, and waiting in it takes no time.
"""

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time

import gpiozero
import pytest
from hand_loop import by_hand

from gateway.core.error import HardwareFaultError, MountFaultError
from gateway.edge.bench_world import LAMP_PIN, PAN_PIN, BenchWorld
from gateway.edge.lamp_gpiozero import GpiozeroLamp
from gateway.edge.mount_gpiozero import RELEASE_AFTER_S, STEP_S, BenchFactory, GpiozeroMount
from gateway.mount.calibration import Calibration

pytestmark = pytest.mark.slow

CALIBRATION = Calibration()


class Recorder(BenchWorld):
    """A bench that also keeps every pulse in memory: (loop time, µs or None)."""

    def __init__(self, path):
        super().__init__(path)
        self.pulses = []

    def record_pin(self, number, *, function, frequency_hz, state):
        super().record_pin(number, function=function, frequency_hz=frequency_hz, state=state)
        if number == self.pan_pin:
            try:
                now_s = asyncio.get_running_loop().time()
            except RuntimeError:
                now_s = None
            self.pulses.append((now_s, state / frequency_hz * 1e6 if frequency_hz and state else None))

    def angles(self):
        return [CALIBRATION.angle_deg(pulse) for _, pulse in self.pulses if pulse is not None]


@pytest.fixture
def world(tmp_path):
    return Recorder(tmp_path / "world")


@pytest.fixture
def mount(world):
    made = GpiozeroMount.on_bench(world, CALIBRATION)
    yield made
    made.close()


def largest_step_deg():
    """What the profile's top speed turns in one step."""
    return CALIBRATION.max_speed_deg_s * STEP_S * 1.0001


def test_nothing_is_driven_before_the_first_order(world, mount):
    # Mutation: initial_angle=0 in GpiozeroMount.
    assert world.angles() == []
    assert world.pin(PAN_PIN).duty == 0
    assert world.pan_deg(CALIBRATION) == CALIBRATION.parked_deg


def test_aim_arrives_and_the_world_shows_it(world, mount):
    by_hand(mount.aim())
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.aim_deg)
    assert mount.position_deg == CALIBRATION.aim_deg
    assert not mount.parked
    by_hand(mount.park())
    assert mount.parked
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.parked_deg)


def test_no_step_is_larger_than_the_profile_allows(world, mount):
    by_hand(mount.aim())
    angles = world.angles()
    assert len(angles) > 60
    assert max(abs(b - a) for a, b in itertools.pairwise(angles)) <= largest_step_deg()


def test_a_late_loop_makes_the_travel_longer_not_steeper(world, mount):
    # Mutation: profile.angle_at(loop.time() - start) instead of the next step.
    async def travel():
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(mount.aim())
        for _ in range(5):
            await asyncio.sleep(0.1)
            loop.hand.passed_s += 0.3
        await task
        return loop.time()

    assert by_hand(travel()) > 1.364 + 1.0
    angles = world.angles()
    assert max(abs(b - a) for a, b in itertools.pairwise(angles)) <= largest_step_deg()


def test_two_steps_are_never_nearer_than_a_frame(world, mount):
    by_hand(mount.aim())
    times = [at_s for at_s, pulse in world.pulses if pulse is not None and at_s is not None]
    # gpiozero sets frequency and state one after the other; what counts is when a new angle came.
    fresh = sorted(set(times))
    assert min(b - a for a, b in itertools.pairwise(fresh)) >= STEP_S - 1e-9


def test_the_pulse_ends_half_a_second_after_arrival(world, mount):
    async def travel():
        loop = asyncio.get_running_loop()
        await mount.aim()
        arrived_s = loop.time()
        assert world.pin(PAN_PIN).duty > 0
        await asyncio.sleep(RELEASE_AFTER_S - 0.01)
        assert world.pin(PAN_PIN).duty > 0
        await asyncio.sleep(0.02)
        assert world.pin(PAN_PIN).duty == 0
        return loop.time() - arrived_s

    assert by_hand(travel()) == pytest.approx(RELEASE_AFTER_S, abs=0.02)
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.aim_deg)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.4, 0.83, 1.3])
def test_it_parks_from_anywhere_after_a_travel_was_cancelled(world, mount, after_s):
    async def travel():
        task = asyncio.ensure_future(mount.aim())
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stopped_deg = mount.position_deg
        assert world.pan_deg(CALIBRATION) == pytest.approx(stopped_deg)
        assert not mount.parked
        await asyncio.sleep(0.1)
        assert mount.position_deg == stopped_deg
        await mount.park()

    by_hand(travel())
    assert mount.parked
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.parked_deg)
    angles = world.angles()
    assert max(abs(b - a) for a, b in itertools.pairwise(angles)) <= largest_step_deg()


def test_a_cancelled_travel_ends_its_pulse_too(world, mount):
    async def travel():
        task = asyncio.ensure_future(mount.aim())
        await asyncio.sleep(0.5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(RELEASE_AFTER_S + 0.01)
        assert world.pin(PAN_PIN).duty == 0

    by_hand(travel())


def test_a_newer_order_takes_over_and_the_older_says_that_it_never_arrived(world, mount):
    # Mutation: drop the comparison of orders in go().
    async def travel():
        aiming = asyncio.ensure_future(mount.aim())
        await asyncio.sleep(0.8)
        await mount.park()
        with pytest.raises(MountFaultError):
            await aiming

    by_hand(travel())
    assert mount.parked
    angles = world.angles()
    assert max(abs(b - a) for a, b in itertools.pairwise(angles)) <= largest_step_deg()


def test_an_angle_outside_the_calibration_moves_nothing(world, mount):
    with pytest.raises(ValueError):
        by_hand(mount.go(181.0))
    assert world.angles() == []


def test_park_now_works_with_nothing_else_running(world, mount):
    by_hand(mount.aim())
    slept = []
    mount.park_now(sleep=slept.append)
    assert mount.parked
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.parked_deg)
    assert world.pin(PAN_PIN).duty == 0
    assert sum(slept) == pytest.approx(1.4 + RELEASE_AFTER_S, abs=0.05)


def test_a_fresh_process_on_hardware_assumes_the_worst_and_parks_over_the_full_length(world):
    world.place_pan(CALIBRATION.aim_deg, CALIBRATION)
    mount = GpiozeroMount(CALIBRATION, factory=BenchFactory(world))
    assert not mount.parked
    mount.park_now(sleep=lambda _: None)
    angles = world.angles()
    assert angles[0] == pytest.approx(CALIBRATION.aim_deg)
    assert angles[-1] == pytest.approx(CALIBRATION.parked_deg)
    assert max(abs(b - a) for a, b in itertools.pairwise(angles)) <= largest_step_deg()
    mount.close()


PARK = """
import sys
from gateway.edge.bench_world import BenchWorld
from gateway.edge.mount_gpiozero import GpiozeroMount
from gateway.mount.calibration import Calibration
GpiozeroMount.on_bench(BenchWorld(sys.argv[1]), Calibration()).park_now(sleep=lambda s: None)
"""
AIM_AND_HANG = """
import asyncio, sys
from gateway.edge.bench_world import BenchWorld
from gateway.edge.mount_gpiozero import GpiozeroMount
from gateway.mount.calibration import Calibration
asyncio.run(GpiozeroMount.on_bench(BenchWorld(sys.argv[1]), Calibration(max_speed_deg_s=20.0)).aim())
"""


def test_the_place_survives_a_killed_process_and_another_process_parks_from_there(world):
    aiming = subprocess.Popen([sys.executable, "-c", AIM_AND_HANG, str(world.path)])
    try:
        deadline_s = time.monotonic() + 20
        while world.pan_deg(CALIBRATION) > 80 and time.monotonic() < deadline_s:
            time.sleep(0.02)
    finally:
        aiming.kill()
        aiming.wait()
    stopped_deg = world.pan_deg(CALIBRATION)
    assert 10 < stopped_deg <= 80
    subprocess.run([sys.executable, "-c", PARK, str(world.path)], check=True)
    assert world.pan_deg(CALIBRATION) == pytest.approx(CALIBRATION.parked_deg)
    assert world.pin(PAN_PIN).duty == 0


def test_a_pin_that_is_taken_is_a_mount_fault(world):
    factory = BenchFactory(world)
    first = GpiozeroMount.on_bench(world, CALIBRATION, factory=factory)
    with pytest.raises(MountFaultError):
        GpiozeroMount.on_bench(world, CALIBRATION, factory=factory)
    first.close()


def test_a_board_without_pulses_is_a_mount_fault(world):
    from gpiozero.pins.mock import MockFactory

    with pytest.raises(MountFaultError):
        GpiozeroMount(CALIBRATION, factory=MockFactory())


def test_a_world_that_can_not_be_written_is_a_mount_fault(world, mount):
    async def travel():
        task = asyncio.ensure_future(mount.aim())
        await asyncio.sleep(0.2)

        def fail(number, **_):
            raise OSError("no space left")

        world.record_pin = fail
        with pytest.raises(MountFaultError):
            await task
        del world.record_pin

    by_hand(travel())


def test_an_order_after_close_is_a_mount_fault_and_closing_twice_is_allowed(world):
    mount = GpiozeroMount.on_bench(world, CALIBRATION)
    mount.close()
    mount.close()
    mount.release()
    with pytest.raises(MountFaultError):
        by_hand(mount.park())


def test_closing_ends_a_travel_that_is_under_way(world):
    mount = GpiozeroMount.on_bench(world, CALIBRATION)

    async def travel():
        task = asyncio.ensure_future(mount.aim())
        await asyncio.sleep(0.5)
        mount.close()
        with pytest.raises(MountFaultError):
            await task
        await asyncio.sleep(1.0)

    by_hand(travel())
    assert world.pin(PAN_PIN).function == "input"


def test_the_lamp_shines_in_the_world_and_goes_dark_when_closed(world):
    lamp = GpiozeroLamp(factory=BenchFactory(world))
    assert not lamp.lit
    lamp.on(0.5)
    assert lamp.lit
    assert world.pin(LAMP_PIN).duty == 0.5
    lamp.off()
    assert world.pin(LAMP_PIN).duty == 0
    lamp.on()
    lamp.close()
    lamp.close()
    assert not lamp.lit
    assert world.pin(LAMP_PIN).duty == 0


@pytest.mark.parametrize("brightness", [0.0, -0.1, 1.1, float("nan")])
def test_a_lamp_that_would_be_on_without_light_is_refused(world, brightness):
    lamp = GpiozeroLamp(factory=BenchFactory(world))
    with pytest.raises(ValueError):
        lamp.on(brightness)
    lamp.close()


def test_a_closed_lamp_is_a_hardware_fault(world):
    lamp = GpiozeroLamp(factory=BenchFactory(world))
    lamp.close()
    with pytest.raises(HardwareFaultError):
        lamp.on()


def test_mount_and_lamp_share_a_factory_and_do_not_disturb_one_another(world):
    factory = BenchFactory(world)
    mount = GpiozeroMount.on_bench(world, CALIBRATION, factory=factory)
    lamp = GpiozeroLamp(factory=factory)
    lamp.on(0.25)
    mount.park_now(sleep=lambda _: None)
    assert world.pin(LAMP_PIN).duty == 0.25
    lamp.close()
    mount.close()


def test_the_bench_keeps_no_history_of_its_pins(world, mount):
    by_hand(mount.aim())
    servo = mount._axes[0].servo
    assert isinstance(servo, gpiozero.AngularServo)
    assert len(servo.pwm_device.pin.states) <= 2
