"""The mount on gpiozero's AngularServo, one servo or two, and the bench's pins.

Theory of operation. A hobby servo goes to a commanded angle as fast as it can, which is loud and shakes the camera, so
it is led there: at 50 Hz, its own frame rate, it gets the next angle of a minimum-jerk profile. A step is never larger
than the profile's, however late the event loop is: a late step makes the travel longer, not steeper. Half a second
after arrival the pulse ends, because a held servo hums and a home was promised silence; the gear holds the camera.

An optional end stop says whether the camera is up. It is closed to ground there, so that a torn wire says "not up". It
is asked at arrival and again after the pulse ended, because a servo that lets go can turn by 20° (docs/hardware.md). It
must also open on the way to the aimed place: one that never opens measures nothing, or the servo is stuck.

A servo has no sensor of its own. A fresh process on hardware does not know where it stands, and the first pulse moves
it there at full speed. It is then assumed to be *aimed*, so that a park after a power cut in the middle of a check is a
smooth travel of full length. If it stood elsewhere it first jumps to the aimed angle; a caller that knows better (a
clean `closed` record) gives `start_deg`. On the bench the world knows.

Any gpiozero pin factory with PWM will do. lgpio's rounds the duty to whole percent, 11 places in 180° (gpiozero #1209,
measured): on a board the servo's pins are `pin_gpiozero`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gpiozero
from gpiozero.pins.mock import MockFactory, MockPWMPin

from gateway.core.error import MountFaultError, NotParkedError
from gateway.edge.bench_world import END_STOP_PIN, PAN_PIN, TAMPER_PIN, BenchWorld
from gateway.mount.calibration import Calibration
from gateway.mount.profile import Profile

STEP_S = 0.02
"""One frame of an analogue servo; a faster command would not be seen."""
RELEASE_AFTER_S = 0.5
"""From arrival to the end of the pulse: the servo lags the command by about 0.1 s and then settles."""
SETTLE_S = 0.3
"""From the end of the pulse to the second measurement: what turns when the servo lets go has turned by then."""

END_STOP_REACH_DEG = 5.0
"""How near to parked the bench's end stop closes."""


class BenchPin(MockPWMPin):  # type: ignore[misc]
    """A pin of the bench; every change is in the world's `pins.json` before the call returns."""

    def _set_function(self, value: str) -> None:
        super()._set_function(value)
        self._tell()

    def _set_frequency(self, value: float | None) -> None:
        super()._set_frequency(value)
        self._tell()

    def _set_state(self, value: float) -> None:
        super()._set_state(value)
        self._tell()

    def _get_state(self) -> float:
        if self._function == "input":
            return float(self.factory.level(self._number, pulled_up=self._pull == "up"))
        return float(super()._get_state())

    def _tell(self) -> None:
        # gpiozero's mock keeps every state it ever had; a demo that runs for weeks must not.
        self.clear_states()
        self.factory.world.record_pin(
            self._number, function=self._function, frequency_hz=self._frequency, state=float(self._state)
        )


class BenchFactory(MockFactory):  # type: ignore[misc]
    """gpiozero pins whose states are files of a BenchWorld. One for each process.

    With a `calibration` the end stop's pin is closed where the bench's servo stands within 5° of parked.
    """

    def __init__(self, world: BenchWorld, calibration: Calibration | None = None) -> None:
        self.world = world
        self.calibration = calibration
        super().__init__(pin_class=BenchPin)

    def level(self, number: int, *, pulled_up: bool) -> bool:
        """Whether an input is high: what somebody does to it, then what the bench does, then its pull."""
        hands = self.world.hands()
        if number in hands.low or number in hands.high:
            return number in hands.high
        if number == TAMPER_PIN:
            return False
        if number == END_STOP_PIN and self.calibration is not None:
            return abs(self.world.pan_deg(self.calibration) - self.calibration.parked_deg) > END_STOP_REACH_DEG
        return pulled_up


class _Axis:
    """One servo and where it was last sent."""

    def __init__(self, calibration: Calibration, pin: int, start_deg: float | None, factory: Any) -> None:
        self.calibration = calibration
        self.position_deg = calibration.aim_deg if start_deg is None else start_deg
        self.servo = gpiozero.AngularServo(
            pin,
            initial_angle=None,
            min_angle=calibration.min_deg,
            max_angle=calibration.max_deg,
            min_pulse_width=calibration.min_pulse_us / 1e6,
            max_pulse_width=calibration.max_pulse_us / 1e6,
            frame_width=STEP_S,
            pin_factory=factory,
        )

    def steps(self, angle_deg: float) -> tuple[float, ...]:
        limits = self.calibration
        profile = Profile(self.position_deg, angle_deg, limits.max_speed_deg_s, limits.max_accel_deg_s2)
        return profile.steps(STEP_S)

    def drive(self, angle_deg: float) -> None:
        self.servo.angle = angle_deg
        self.position_deg = angle_deg


class GpiozeroMount:
    """A MountPort on one or two PWM pins.

    `factory` None takes gpiozero's own choice. `start_deg` is where the first servo stands, if that is known; `tilt` is
    the second servo and its pin. Nothing is driven before the first order. Raises MountFaultError when a pin can't be
    had.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        factory: Any = None,
        pan_pin: int = PAN_PIN,
        start_deg: float | None = None,
        tilt: tuple[Calibration, int] | None = None,
        end_stop_pin: int | None = None,
    ) -> None:
        self.calibration = calibration
        self._arrived = start_deg is not None
        self._orders = 0
        self._release_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._axes: list[_Axis] = []
        self._end_stop: Any = None
        with _as_mount_fault("take the mount's pins"), contextlib.ExitStack() as undo:
            undo.callback(self._give_back)
            self._axes.append(_Axis(calibration, pan_pin, start_deg, factory))
            if tilt is not None:
                self._axes.append(_Axis(*tilt, None if start_deg is None else tilt[0].parked_deg, factory))
            if end_stop_pin is not None:
                self._end_stop = gpiozero.DigitalInputDevice(end_stop_pin, pull_up=True, pin_factory=factory)
            undo.pop_all()

    @classmethod
    def on_bench(
        cls, world: BenchWorld, calibration: Calibration, *, factory: BenchFactory | None = None
    ) -> GpiozeroMount:
        """The mount of a bench world, which knows where the servo stands."""
        return cls(
            calibration,
            factory=factory or BenchFactory(world),
            pan_pin=world.pan_pin,
            start_deg=world.pan_deg(calibration),
        )

    @property
    def position_deg(self) -> float:
        """Where the first servo was last commanded to be, in degrees; see the module for a fresh process."""
        return self._axes[0].position_deg

    @property
    def measures(self) -> bool:
        """Whether there is an end stop."""
        return self._end_stop is not None

    @property
    def parked(self) -> bool:
        """See MountPort.parked. An end stop that can't be read says no."""
        at_rest = all(abs(axis.position_deg - axis.calibration.parked_deg) < 0.05 for axis in self._axes)
        return self._arrived and at_rest and self.reads_up()

    async def go(self, angle_deg: float) -> None:
        """See MountPort.go. Speeds are the calibration's; the first step only holds where the servo stands."""
        await self._travel((angle_deg,))

    async def park(self) -> None:
        """See MountPort.park."""
        await self._travel(self._parked_deg())
        if self._end_stop is not None:
            order = self._orders
            # A frame before the travel's own release, so that this is measured while the servo still pulls.
            await asyncio.sleep(RELEASE_AFTER_S - STEP_S)
            self._demand_up(order, "at its arrival")
            self.release()
            await asyncio.sleep(SETTLE_S)
            self._demand_up(order, "after its release")

    async def aim(self) -> None:
        """See MountPort.aim."""
        await self._travel(tuple(axis.calibration.aim_deg for axis in self._axes))
        if self._end_stop is not None and self.reads_up():
            raise MountFaultError("the end stop says that the camera is still up: the servo or the end stop is stuck")

    def demand_aim(self, aim_deg: float) -> None:
        """See MountPort.demand_aim."""
        replace(self._axes[0].calibration, aim_deg=aim_deg)

    def set_aim(self, aim_deg: float) -> None:
        """See MountPort.set_aim. The second servo keeps its aim."""
        self.calibration = self._axes[0].calibration = replace(self._axes[0].calibration, aim_deg=aim_deg)

    def park_now(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Park without an event loop: blocks for the travel and 0.5 s (0.8 s with an end stop), at most about 2.5 s
        with the defaults.

        For the park process and for a last resort; takes over from a `go` that is under way.
        """
        steps = self._begin(self._parked_deg())
        try:
            for step_deg in steps:
                self._drive(step_deg)
                sleep(STEP_S)
            self._arrived = True
            sleep(RELEASE_AFTER_S)
            if self._end_stop is not None:
                order = self._orders
                self._demand_up(order, "at its arrival")
                self.release()
                sleep(SETTLE_S)
                self._demand_up(order, "after its release")
        finally:
            self.release()

    def release(self) -> None:
        """End the pulse now. The servo stays where it is; a load may pull it some degrees."""
        self._stop_timer()
        if self._closed:
            return
        with _as_mount_fault("end the servo's pulse"):
            for axis in self._axes:
                axis.servo.detach()

    def close(self) -> None:
        """End the pulse and give the pins back; an order that is under way ends with MountFaultError."""
        if self._closed:
            return
        try:
            self.release()
        finally:
            self._closed = True
            self._orders += 1
            with _as_mount_fault("give the mount's pins back"):
                self._give_back()

    def _parked_deg(self) -> tuple[float, ...]:
        return tuple(axis.calibration.parked_deg for axis in self._axes)

    async def _travel(self, angles_deg: tuple[float, ...]) -> None:
        steps = self._begin(angles_deg)
        order = self._orders
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        try:
            for step_deg in steps:
                self._drive(step_deg)
                # Lateness is not caught up: two steps in one frame would be a step the profile does not allow.
                due_s = max(due_s + STEP_S, loop.time())
                await asyncio.sleep(due_s - loop.time())
                if self._orders != order:
                    raise MountFaultError("a newer order took the mount over before it arrived")
            self._arrived = True
        finally:
            if self._orders == order and not self._closed:
                self._release_timer = loop.call_later(RELEASE_AFTER_S, self._release_quietly)

    def _begin(self, angles_deg: tuple[float, ...]) -> list[tuple[float, ...]]:
        """The steps of all axes side by side; one that has arrived is held until the last one has."""
        moved = self._axes[: len(angles_deg)]
        for axis, angle_deg in zip(moved, angles_deg, strict=True):
            if not axis.calibration.reaches(angle_deg):
                raise ValueError(f"the mount is not made for {angle_deg}°")
        if self._closed:
            raise MountFaultError("the mount is closed")
        self._stop_timer()
        self._orders += 1
        self._arrived = False
        ways = [axis.steps(angle_deg) for axis, angle_deg in zip(moved, angles_deg, strict=True)]
        length = max(len(way) for way in ways)
        return list(zip(*((*way, *(way[-1:] * (length - len(way)))) for way in ways), strict=True))

    def _drive(self, angles_deg: tuple[float, ...]) -> None:
        with _as_mount_fault("drive the servo"):
            for axis, angle_deg in zip(self._axes, angles_deg, strict=False):
                axis.drive(angle_deg)

    def reads_up(self) -> bool:
        """What the end stop says; True where there is none."""
        if self._end_stop is None:
            return True
        try:
            with _as_mount_fault("read the end stop"):
                return bool(self._end_stop.is_active)
        except MountFaultError:
            return False

    def _demand_up(self, order: int, when: str) -> None:
        if self._orders != order:
            raise MountFaultError("a newer order took the mount over")
        if not self.reads_up():
            raise NotParkedError(f"the end stop says that the camera is not up {when}")

    def _give_back(self) -> None:
        for axis in self._axes:
            axis.servo.close()
        if self._end_stop is not None:
            self._end_stop.close()

    def _stop_timer(self) -> None:
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None

    def _release_quietly(self) -> None:
        # Nobody waits for this one. A pulse that does not end is a hum, not a danger; the next order will report.
        with contextlib.suppress(MountFaultError):
            self.release()


@contextlib.contextmanager
def _as_mount_fault(doing: str) -> Iterator[None]:
    try:
        yield
    except (gpiozero.GPIOZeroError, OSError) as error:
        raise MountFaultError(f"could not {doing}: {error}") from error
