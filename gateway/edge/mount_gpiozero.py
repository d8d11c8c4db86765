"""The mount on gpiozero's AngularServo, and the bench's pins.

Theory of operation. A hobby servo goes to a commanded angle as fast as it can, which is loud and shakes the camera, so
it is led there: at 50 Hz, its own frame rate, it gets the next angle of a minimum-jerk profile. A step is never larger
than the profile's, however late the event loop is: a late step makes the travel longer, not steeper. Half a second
after arrival the pulse ends, because a held servo hums and a home was promised silence; the gear holds the camera.

A servo has no sensor. A fresh process on hardware does not know where it stands, and the first pulse moves it there at
full speed. It is then assumed to be *aimed*, so that a park after a power cut in the middle of a check is a smooth
travel of full length. If it stood elsewhere it first jumps to the aimed angle; a caller that knows better (a clean
`closed` record) gives `start_deg`. On the bench the world knows.

Any gpiozero pin factory with PWM will do. lgpio's rounds the duty to whole percent, 11 places in 180° (gpiozero #1209,
measured): use a hardware-PWM factory on a board.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import gpiozero
from gpiozero.pins.mock import MockFactory, MockPWMPin

from gateway.core.error import MountFaultError
from gateway.edge.bench_world import PAN_PIN, BenchWorld
from gateway.mount.calibration import Calibration
from gateway.mount.profile import Profile

STEP_S = 0.02
"""One frame of an analogue servo; a faster command would not be seen."""
RELEASE_AFTER_S = 0.5
"""From arrival to the end of the pulse: the servo lags the command by about 0.1 s and then settles."""


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

    def _tell(self) -> None:
        # gpiozero's mock keeps every state it ever had; a demo that runs for weeks must not.
        self.clear_states()
        self.factory.world.record_pin(
            self._number, function=self._function, frequency_hz=self._frequency, state=float(self._state)
        )


class BenchFactory(MockFactory):  # type: ignore[misc]
    """gpiozero pins whose states are files of a BenchWorld. One for each process."""

    def __init__(self, world: BenchWorld) -> None:
        self.world = world
        super().__init__(pin_class=BenchPin)


class GpiozeroMount:
    """A MountPort on one PWM pin.

    `factory` None takes gpiozero's own choice. Nothing is driven before the first order. Raises MountFaultError when
    the pin can't be had.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        factory: Any = None,
        pan_pin: int = PAN_PIN,
        start_deg: float | None = None,
    ) -> None:
        self.calibration = calibration
        self._position_deg = calibration.aim_deg if start_deg is None else start_deg
        self._arrived = start_deg is not None
        self._orders = 0
        self._release_timer: asyncio.TimerHandle | None = None
        self._closed = False
        with _as_mount_fault("take the servo's pin"):
            self._servo = gpiozero.AngularServo(
                pan_pin,
                initial_angle=None,
                min_angle=calibration.min_deg,
                max_angle=calibration.max_deg,
                min_pulse_width=calibration.min_pulse_us / 1e6,
                max_pulse_width=calibration.max_pulse_us / 1e6,
                frame_width=STEP_S,
                pin_factory=factory,
            )

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
        """Where the servo was last commanded to be, in degrees; see the module for a fresh process."""
        return self._position_deg

    @property
    def parked(self) -> bool:
        """Whether a travel to the parked angle has ended and none began since. Commanded, not measured."""
        return self._arrived and abs(self._position_deg - self.calibration.parked_deg) < 0.05

    async def go(self, angle_deg: float) -> None:
        """See MountPort.go. Speeds are the calibration's; the first step only holds where the servo stands."""
        steps = self._begin(angle_deg)
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

    async def park(self) -> None:
        """Travel to the parked angle; see `go`."""
        await self.go(self.calibration.parked_deg)

    async def aim(self) -> None:
        """Travel to the aimed angle; see `go`."""
        await self.go(self.calibration.aim_deg)

    def park_now(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Park without an event loop: blocks for the travel and 0.5 s, at most about 2.5 s with the defaults.

        For the park process and for a last resort; takes over from a `go` that is under way.
        """
        steps = self._begin(self.calibration.parked_deg)
        try:
            for step_deg in steps:
                self._drive(step_deg)
                sleep(STEP_S)
            self._arrived = True
            sleep(RELEASE_AFTER_S)
        finally:
            self.release()

    def release(self) -> None:
        """End the pulse now. The servo stays where it is; a load may pull it some degrees."""
        self._stop_timer()
        if self._closed:
            return
        with _as_mount_fault("end the servo's pulse"):
            self._servo.detach()

    def close(self) -> None:
        """End the pulse and give the pin back; an order that is under way ends with MountFaultError."""
        if self._closed:
            return
        try:
            self.release()
        finally:
            self._closed = True
            self._orders += 1
            with _as_mount_fault("give the servo's pin back"):
                self._servo.close()

    def _begin(self, angle_deg: float) -> tuple[float, ...]:
        if not self.calibration.reaches(angle_deg):
            raise ValueError(f"the mount is not made for {angle_deg}°")
        if self._closed:
            raise MountFaultError("the mount is closed")
        self._stop_timer()
        self._orders += 1
        self._arrived = False
        limits = self.calibration
        profile = Profile(self._position_deg, angle_deg, limits.max_speed_deg_s, limits.max_accel_deg_s2)
        return profile.steps(STEP_S)

    def _drive(self, angle_deg: float) -> None:
        with _as_mount_fault("drive the servo"):
            self._servo.angle = angle_deg
        self._position_deg = angle_deg

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
