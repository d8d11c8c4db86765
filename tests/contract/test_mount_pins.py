"""One suite for the mount on gpiozero's MockFactory and on our PWM factory over a tree that looks like sysfs.

The mutations, each tried, are named at their tests. What a kernel would refuse (a duty above the period, a number that
is none, a channel that was not exported) the tree refuses too.
"""

import asyncio
import contextlib
import errno
import itertools
import threading
import time
import types

import gpiozero
import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin
from hand_loop import by_hand

from gateway.core.error import MountFaultError, NotParkedError
from gateway.edge import pin_gpiozero
from gateway.edge.mount_gpiozero import RELEASE_AFTER_S, SETTLE_S, STEP_S, GpiozeroMount
from gateway.edge.pin_gpiozero import BLOCKS, NoPwmError, SysfsPwmFactory, SysfsPwmPin
from gateway.mount.calibration import Calibration

pytestmark = pytest.mark.slow

PAN, TILT, END_STOP = 12, 13, 27
CALIBRATION = Calibration()
SIDEWAYS = Calibration(parked_deg=60.0, aim_deg=75.0, max_speed_deg_s=40.0, clearance_deg=0.0)
REVISIONS = {"1f00098000.pwm": "c04170", "fe20c000.pwm": "c03111", "3f20c000.pwm": "902120"}


class Log:
    """Every pulse of one rig: (pin, µs, or None where it ended)."""

    def __init__(self):
        self.pulses = []

    def of(self, pin):
        return [us for number, us in self.pulses if number == pin]

    def angles(self, pin, calibration):
        return [calibration.angle_deg(us) for us in self.of(pin) if us is not None]

    def now(self, pin):
        pulses = self.of(pin)
        return pulses[-1] if pulses else None


class MockRig:
    """gpiozero's own mock."""

    name = "mock"

    def __init__(self, path):
        self.log = log = Log()

        class Pin(MockPWMPin):
            def _set_state(self, value):
                super()._set_state(value)
                self.clear_states()
                if self._frequency:
                    log.pulses.append((self._number, value / self._frequency * 1e6 if value else None))

            def _set_frequency(self, value):
                super()._set_frequency(value)
                if value is None:
                    log.pulses.append((self._number, None))

        self.factory = MockFactory(pin_class=Pin)
        self.inputs = self.factory


class SysfsRig:
    """Our factory over files. A channel's files are read back after each write, as the kernel would hold them."""

    def __init__(self, path, block="fe20c000.pwm"):
        self.name = block
        self.log = log = Log()
        self.root = make_sysfs(path, block)

        class Pin(SysfsPwmPin):
            def _write(self, name, value):
                assert self._channel.is_dir(), "not exported"
                held = {each: int((self._channel / each).read_text()) for each in ("period", "duty_cycle", "enable")}
                held[name] = value
                if held["duty_cycle"] > held["period"] or (held["enable"] and not held["period"]):
                    raise OSError(errno.EINVAL, "the kernel refuses this")
                super()._write(name, value)
                us = held["duty_cycle"] / 1000 if held["enable"] and held["duty_cycle"] else None
                log.pulses.append((self._number, us))

        self.inputs = MockFactory(revision=REVISIONS[block])
        self.factory = SysfsPwmFactory(self.inputs, frozenset({PAN, TILT}), root=self.root)
        self.factory.pin_class = Pin

    def channel(self, index):
        files = self.root / "pwmchip2" / f"pwm{index}"
        return {name: int((files / name).read_text()) for name in ("period", "duty_cycle", "enable")}


def make_sysfs(path, block, *, channels=(0, 1), number=2):
    """A tree like /sys/class/pwm of a board: the fan's chip, then the one with `block`."""
    root = path / "class/pwm"
    for index, node in ((0, "fan"), (number, block)):
        device = path / "devices/platform/soc" / node
        chip = device / f"pwm/pwmchip{index}"
        chip.mkdir(parents=True)
        (chip / "device").symlink_to(device)
        for name in ("export", "unexport"):
            (chip / name).write_text("")
        root.mkdir(parents=True, exist_ok=True)
        (root / f"pwmchip{index}").symlink_to(chip)
    for channel in channels:
        add_channel(root / f"pwmchip{number}", channel)
    return root


def add_channel(chip, index):
    (chip / f"pwm{index}").mkdir()
    # `enable` comes last, as what is waited for.
    for name in ("period", "duty_cycle", "enable"):
        (chip / f"pwm{index}" / name).write_text("0")


@pytest.fixture(params=["mock", *BLOCKS])
def rig(request, tmp_path):
    if request.param == "mock":
        yield (made := MockRig(tmp_path))
    else:
        yield (made := SysfsRig(tmp_path, request.param))
    made.factory.close()


@pytest.fixture(params=["mock", "fe20c000.pwm"])
def one_of_each(request, tmp_path):
    made = MockRig(tmp_path) if request.param == "mock" else SysfsRig(tmp_path)
    yield made
    made.factory.close()


@contextlib.contextmanager
def mount_on(rig, **more):
    mount = GpiozeroMount(CALIBRATION, factory=rig.factory, pan_pin=PAN, start_deg=CALIBRATION.parked_deg, **more)
    try:
        yield mount
    finally:
        mount.close()


def steps_of(angles):
    return [abs(b - a) for a, b in itertools.pairwise(angles)]


def largest_step_deg(calibration=CALIBRATION):
    return calibration.max_speed_deg_s * STEP_S * 1.0001


def test_there_are_900_pulse_widths_between_the_end_stops(rig):
    # Mutation: round(value * 100) / 100 in SysfsPwmPin._set_state: the whole percents of lgpio leave 11.
    servo = gpiozero.AngularServo(
        PAN,
        initial_angle=None,
        min_angle=0,
        max_angle=180,
        min_pulse_width=0.0005,
        max_pulse_width=0.0025,
        frame_width=STEP_S,
        pin_factory=rig.factory,
    )
    for index in range(901):
        servo.angle = index * 0.2
    widths = {us for us in rig.log.of(PAN) if us is not None}
    assert len(widths) >= 901
    assert min(widths) == pytest.approx(500)
    assert max(widths) == pytest.approx(2500)
    servo.close()


def test_no_step_is_larger_than_the_profile_allows_and_the_pulse_ends_after_arrival(rig):
    # Mutations: profile.steps(2 * STEP_S) in _Axis.steps; drop the release timer in _travel.
    with mount_on(rig) as mount:

        async def there_and_back():
            await mount.aim()
            assert rig.log.now(PAN) is not None
            await asyncio.sleep(RELEASE_AFTER_S + 0.01)
            assert rig.log.now(PAN) is None
            await mount.park()
            await asyncio.sleep(RELEASE_AFTER_S + 0.01)

        by_hand(there_and_back())
        angles = rig.log.angles(PAN, CALIBRATION)
        assert len({round(angle, 6) for angle in angles}) > 120
        assert max(steps_of(angles)) <= largest_step_deg()
        assert angles[-1] == pytest.approx(CALIBRATION.parked_deg, abs=1e-4)
        assert rig.log.now(PAN) is None
        assert mount.parked


def test_two_servos_travel_together_each_by_its_own_profile(rig):
    with mount_on(rig, tilt=(SIDEWAYS, TILT)) as mount:

        async def there_and_back():
            await mount.aim()
            assert rig.log.angles(TILT, SIDEWAYS)[-1] == pytest.approx(75.0, abs=1e-4)
            assert not mount.parked
            await mount.park()
            await asyncio.sleep(RELEASE_AFTER_S + 0.01)

        by_hand(there_and_back())
        assert mount.parked
        assert max(steps_of(rig.log.angles(PAN, CALIBRATION))) <= largest_step_deg()
        assert max(steps_of(rig.log.angles(TILT, SIDEWAYS))) <= largest_step_deg(SIDEWAYS)
        assert rig.log.angles(TILT, SIDEWAYS)[-1] == pytest.approx(60.0, abs=1e-4)
        assert rig.log.now(PAN) is None
        assert rig.log.now(TILT) is None


class TornError(Exception):
    pass


@types.coroutine
def torn(coroutine, at, error):
    """Run `coroutine`, and throw `error` into it at its await number `at`; nothing where it has fewer."""
    count = 0
    step = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            waited = step()
        except StopIteration as done:
            return done.value
        if count == at:
            waited.cancel()
            step = lambda: coroutine.throw(error)  # noqa: E731
        else:
            try:
                yield waited
                step = lambda: coroutine.send(None)  # noqa: E731
            except BaseException as outer:  # noqa: BLE001  whatever it is, it goes in
                step = lambda outer=outer: coroutine.throw(outer)  # noqa: E731
        count += 1


async def count_awaits(order):
    """How many awaits an order has."""
    count = 0

    @types.coroutine
    def counted(coroutine):
        nonlocal count
        while True:
            try:
                waited = coroutine.send(None)
            except StopIteration:
                return
            count += 1
            yield waited

    await counted(order)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("error", [TornError(), asyncio.CancelledError()], ids=["raised", "cancelled"])
@pytest.mark.parametrize("order", ["aim", "park"])
def test_it_parks_from_every_state_an_exception_at_any_await_can_leave(one_of_each, order, error):
    # Mutation: keep `_arrived` in _begin: after a torn aim it would still count as parked.
    rig = one_of_each
    with mount_on(rig, tilt=(SIDEWAYS, TILT), end_stop_pin=END_STOP) as mount:
        closed = rig.inputs.pin(END_STOP)

        def feel():
            angles = rig.log.angles(PAN, CALIBRATION)
            up = not angles or abs(angles[-1] - CALIBRATION.parked_deg) < 5
            (closed.drive_low if up else closed.drive_high)()

        original = mount._drive

        def drive(angles_deg):
            original(angles_deg)
            feel()

        mount._drive = drive
        feel()

        async def every():
            await mount.aim()
            await mount.park()
            if order == "park":
                await mount.aim()
            total = await count_awaits(getattr(mount, order)())
            assert total > 60
            # Every tenth of a travel's like steps, and each of the unlike ones at its ends.
            for at in sorted({*range(0, total, 10), 0, 1, *range(total - 4, total)}):
                await (mount.park() if order == "aim" else mount.aim())
                with pytest.raises(type(error)):
                    await torn(getattr(mount, order)(), at, error)
                whole = abs(mount.position_deg - CALIBRATION.parked_deg) < 0.05 and order == "park"
                assert whole or not mount.parked
                await mount.park()
                assert mount.parked
                assert rig.log.now(PAN) is None
                assert rig.log.now(TILT) is None

        by_hand(every())
        assert max(steps_of(rig.log.angles(PAN, CALIBRATION))) <= largest_step_deg()


def test_a_torn_travel_still_ends_its_pulse(one_of_each):
    rig = one_of_each
    with mount_on(rig) as mount:

        async def tear():
            with pytest.raises(TornError):
                await torn(mount.aim(), 30, TornError())
            assert rig.log.now(PAN) is not None
            await asyncio.sleep(RELEASE_AFTER_S + 0.01)
            assert rig.log.now(PAN) is None

        by_hand(tear())


# The end stop


@pytest.mark.parametrize("way", ["park", "park_now"])
def test_an_end_stop_that_stays_open_is_not_parked_and_the_pulse_ends(one_of_each, way):
    # Mutation: drop `_demand_up(order, "at its arrival")` and the other one.
    rig = one_of_each
    with mount_on(rig, end_stop_pin=END_STOP) as mount:
        rig.inputs.pin(END_STOP).drive_high()
        assert not mount.parked

        async def park():
            await mount.park()

        with pytest.raises(NotParkedError):
            by_hand(park()) if way == "park" else mount.park_now(sleep=lambda _: None)
        mount.release()
        assert rig.log.now(PAN) is None
        assert not mount.parked


@pytest.mark.parametrize("way", ["park", "park_now"])
def test_a_camera_that_sinks_when_the_servo_lets_go_is_not_parked(one_of_each, way):
    # Mutation: drop `_demand_up(order, "after its release")`.
    rig = one_of_each
    with mount_on(rig, end_stop_pin=END_STOP) as mount:
        pin = rig.inputs.pin(END_STOP)
        pin.drive_low()

        async def park():
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(mount.park())
            await asyncio.sleep(STEP_S + RELEASE_AFTER_S)
            assert loop.time() < RELEASE_AFTER_S + SETTLE_S
            pin.drive_high()
            await task

        def sleep(duration_s):
            if duration_s == SETTLE_S:
                pin.drive_high()

        with pytest.raises(NotParkedError):
            by_hand(park()) if way == "park" else mount.park_now(sleep=sleep)
        assert rig.log.now(PAN) is None


def test_an_end_stop_that_never_opens_is_a_mount_fault_when_it_aims(one_of_each):
    """A servo that is stuck, or an end stop that is: either way nobody knows where the camera looks."""
    # Mutation: drop the question at the end of aim().
    with mount_on(one_of_each, end_stop_pin=END_STOP) as mount:
        one_of_each.inputs.pin(END_STOP).drive_low()
        assert mount.parked
        with pytest.raises(MountFaultError):
            by_hand(mount.aim())


def test_an_end_stop_that_can_not_be_read_says_no(one_of_each):
    # Mutation: return True on the fault in reads_up.
    with mount_on(one_of_each, end_stop_pin=END_STOP) as mount:
        pin = one_of_each.inputs.pin(END_STOP)
        pin.drive_low()
        assert mount.parked

        def fail():
            raise OSError(errno.EIO, "gone")

        pin._get_state = fail
        assert not mount.parked
        del pin._get_state


# The factory


def test_the_block_is_found_by_its_node_whatever_number_its_chip_has(tmp_path):
    # Mutation: take the first chip in find_chip.
    chip, block = pin_gpiozero.find_chip(make_sysfs(tmp_path, "1f00098000.pwm", number=7))
    assert (chip.name, block) == ("pwmchip7", "1f00098000.pwm")


@pytest.mark.parametrize("chips", [[], ["fan"]])
def test_a_board_without_the_block_is_refused_in_words_that_help(tmp_path, chips):
    if chips:
        make_sysfs(tmp_path, "another")
    with pytest.raises(NoPwmError, match="pwm-2chan"):
        SysfsPwmFactory(MockFactory(), frozenset({PAN}), root=tmp_path / "class/pwm")


@pytest.mark.parametrize(("block", "pins", "fits"), [
    ("fe20c000.pwm", {12, 13}, True),
    ("fe20c000.pwm", {18, 19}, True),
    ("fe20c000.pwm", {12, 18}, False),
    ("1f00098000.pwm", {12, 18}, True),
    ("3f20c000.pwm", {17}, False),
])  # fmt: skip
def test_servo_pins_must_have_channels_of_their_own(tmp_path, block, pins, fits):
    # Mutation: compare with an empty set instead of the channels' number.
    root = make_sysfs(tmp_path, block, channels=(0, 1, 2, 3))
    with contextlib.nullcontext() if fits else pytest.raises(NoPwmError):
        SysfsPwmFactory(MockFactory(), frozenset(pins), root=root).close()


def test_a_lamp_on_a_pin_that_the_block_could_reach_stays_the_other_factorys(tmp_path):
    root = make_sysfs(tmp_path, "fe20c000.pwm")
    others = MockFactory(pin_class=MockPWMPin)
    factory = SysfsPwmFactory(others, frozenset({PAN, TILT}), root=root)
    lamp = gpiozero.PWMLED(18, pin_factory=factory)
    lamp.value = 0.5
    assert others.pin(18).state == 0.5
    lamp.close()
    factory.close()


def test_nanoseconds_are_written_and_a_pulse_that_a_killed_process_left_ends_when_the_pin_is_taken(tmp_path):
    # Mutation: drop `_disable` in SysfsPwmPin.__init__.
    root = make_sysfs(tmp_path, "fe20c000.pwm")
    left = root / "pwmchip2/pwm0"
    for name, value in (("period", 20_000_000), ("duty_cycle", 1_500_000), ("enable", 1)):
        (left / name).write_text(str(value))
    factory = SysfsPwmFactory(MockFactory(), frozenset({PAN}), root=root)
    factory.pin(PAN)
    assert (left / "enable").read_text() == "0"
    mount = GpiozeroMount(CALIBRATION, factory=factory, pan_pin=PAN)
    mount.park_now(sleep=lambda _: None)
    assert (left / "period").read_text() == "20000000"
    assert (left / "duty_cycle").read_text() == "1500000"  # 90° of 180° between 500 and 2500 µs
    assert (left / "enable").read_text() == "0"
    mount.close()
    assert (root / "pwmchip2/unexport").read_text() == "0"
    factory.close()


def test_a_channel_that_udev_hands_over_late_is_waited_for(tmp_path):
    root = make_sysfs(tmp_path, "fe20c000.pwm", channels=())
    chip = root / "pwmchip2"

    def kernel():
        deadline_s = time.monotonic() + 10
        while (chip / "export").read_text() != "0" and time.monotonic() < deadline_s:
            time.sleep(0.005)
        time.sleep(0.05)
        add_channel(chip, 0)

    thread = threading.Thread(target=kernel)
    thread.start()
    factory = SysfsPwmFactory(MockFactory(), frozenset({PAN}), root=root)
    assert factory.pin(PAN).function == "input"
    thread.join()
    factory.close()


def test_a_channel_that_never_comes_is_a_mount_fault(tmp_path):
    root = make_sysfs(tmp_path, "fe20c000.pwm", channels=())
    factory = SysfsPwmFactory(MockFactory(), frozenset({PAN}), root=root, patience_s=0.05)
    with pytest.raises(MountFaultError, match=r"hardware\.md"):
        GpiozeroMount(CALIBRATION, factory=factory, pan_pin=PAN)


def test_a_write_that_the_kernel_refuses_is_a_mount_fault(tmp_path):
    root = make_sysfs(tmp_path, "fe20c000.pwm")
    factory = SysfsPwmFactory(MockFactory(), frozenset({PAN}), root=root)
    mount = GpiozeroMount(CALIBRATION, factory=factory, pan_pin=PAN)
    files = root / "pwmchip2/pwm0"
    (files / "period").unlink()
    (files / "period").mkdir()
    with pytest.raises(MountFaultError):
        mount.park_now(sleep=lambda _: None)
    mount.close()


def test_a_servo_pin_is_no_input(tmp_path):
    root = make_sysfs(tmp_path, "fe20c000.pwm")
    factory = SysfsPwmFactory(MockFactory(), frozenset({PAN}), root=root)
    with pytest.raises(gpiozero.PinFixedPull):
        gpiozero.Button(PAN, pin_factory=factory)
    factory.close()
