"""The physical world of a demo or test home, as files in a directory: a servo, a lamp, a sensor, a room.

What stands where on a real board is behind the kernel stands here behind files, so that other processes can see it:

* `pins.json` — what each pin drives, and the last servo pulse. A servo stays where it was when pulses cease, and when
  the process that sent them dies; so does this file.
* `sensor` — a lock file. A camera that is on holds an flock on it, which the kernel releases when the process dies, as
  it closes /dev/video0.
* `sensor.log` — one line for each time a camera was switched on, so that a test can prove that none was.
* `room.json` — optional: what there is to see (`RoomScene`).
* `hands.json` — optional: what was done to the home (`HandsOn`): a button that is pressed, a camera that is taken down,
  a servo that sticks, a pin whose wire is off.
* `sys` — optional: what the firmware says, in the places of Linux' sysfs.

No gpiozero here: the eye imports this module and must never reach a pin. The pins are `mount_gpiozero.BenchFactory`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.core.boottime import boottime_s
from gateway.core.error import CameraFaultError
from gateway.mount.calibration import Calibration

PAN_PIN = 12
"""GPIO of the pan servo: PWM0 channel 0 with `dtoverlay=pwm-2chan,pin=12,func=4,pin2=13,func2=4`."""
LAMP_PIN = 18
"""GPIO of the lamp that is lit while the camera is in use."""
BUTTON_PIN, TAMPER_PIN, END_STOP_PIN, SENSOR_POWER_PIN = 17, 22, 27, 23
"""GPIOs of the resident's button, the switch that notices that the camera was taken down, the end stop that is closed
when parked, and the switch in the sensor's power. The three inputs are pulled up and closed to ground."""
SENSOR_PATIENCE_S = 0.1
"""How long a camera tries for the sensor's lock: `sensor_on` of another process holds it for some microseconds."""


@dataclass(frozen=True, slots=True)
class PinState:
    """What one pin does. `duty` and `state` are 0 to 1, `frequency` in Hz or None without PWM; pulses in µs."""

    function: str = "input"
    duty: float = 0.0
    frequency: float | None = None
    state: float = 0.0
    last_pulse_us: float | None = None


@dataclass(frozen=True, slots=True)
class RoomScene:
    """What there is to see. `light` is 0 (dark) to 1; `frozen` repeats one picture; `no_frames` gives none at all."""

    person: bool = True
    light: float = 1.0
    covered: bool = False
    frozen: bool = False
    no_frames: bool = False
    vanished: bool = False
    """The device is gone: opening it and going on fail."""
    hangs: bool = False
    """The driver does not return: a call into the camera never ends."""


@dataclass(frozen=True, slots=True)
class HandsOn:
    """What was done to the home. `low` and `high` are GPIOs that are held so, against their pull and against the bench.

    A servo that sticks gets its pulses and does not turn; driving a pin of `broken` raises OSError.
    """

    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    servo_sticks: bool = False
    broken: tuple[int, ...] = ()


class BenchWorld:
    """A world in the directory `path`, which is made if it is not there. Safe between threads and processes."""

    def __init__(self, path: Path | str, *, pan_pin: int = PAN_PIN) -> None:
        self.path = Path(path)
        self.pan_pin = pan_pin
        self.path.mkdir(parents=True, exist_ok=True)
        self._scene_path = self.path / "room.json"
        self._scene = RoomScene()
        self._scene_mark: tuple[int, int, int] | None = None
        self._hands_path = self.path / "hands.json"
        self._hands = HandsOn()
        self._hands_mark: tuple[int, int, int] | None = None
        self._pins_path = self.path / "pins.json"
        self._pins: tuple[bytes, dict[int, PinState]] = (b"", {})

    def pins(self) -> dict[int, PinState]:
        """Every pin that was ever driven, by GPIO number."""
        try:
            said = self._pins_path.read_bytes()
        except FileNotFoundError:
            return {}
        # Asked 25 times a second, and the same for hours. Known by its words: two that are written in one tick of the
        # file system's clock may look alike from outside.
        known = self._pins
        if said != known[0]:
            rows: dict[str, dict[str, Any]] = json.loads(said)
            known = self._pins = said, {int(number): PinState(**row) for number, row in rows.items()}
        return dict(known[1])

    def pin(self, number: int) -> PinState:
        """What one pin does; an input where nothing drove it yet."""
        return self.pins().get(number, PinState())

    def record_pin(self, number: int, *, function: str, frequency_hz: float | None, state: float) -> None:
        """Write what a pin now does; returns when others can see it. Raises OSError."""
        hands = self.hands()
        if number in hands.broken:
            raise OSError(errno.EIO, f"GPIO {number} can't be driven")
        with self._locked("pins.lock"):
            pins = self.pins()
            known = pins.get(number, PinState())
            pulse_us = known.last_pulse_us
            if frequency_hz and state > 0.0 and not (hands.servo_sticks and number == self.pan_pin):
                pulse_us = state / frequency_hz * 1e6
            # The servo's place outlives its pulses; nothing else does.
            pins[number] = PinState(function, state, frequency_hz, state, pulse_us)
            self._write_json("pins.json", {str(key): asdict(pin) for key, pin in pins.items()})

    def pan_pulse_us(self) -> float | None:
        """The last pulse the pan servo got, in µs, whether or not it still gets pulses; None if never one."""
        return self.pin(self.pan_pin).last_pulse_us

    def pan_deg(self, calibration: Calibration) -> float:
        """Where the servo stands, in degrees. A world in which it never moved begins parked."""
        pulse_us = self.pan_pulse_us()
        return calibration.parked_deg if pulse_us is None else calibration.angle_deg(pulse_us)

    def place_pan(self, angle_deg: float, calibration: Calibration) -> None:
        """Turn the servo by hand, without a pulse: how a home may be found after a power cut."""
        with self._locked("pins.lock"):
            pins = self.pins()
            known = pins.get(self.pan_pin, PinState())
            pins[self.pan_pin] = replace(known, last_pulse_us=calibration.pulse_us(angle_deg))
            self._write_json("pins.json", {str(key): asdict(pin) for key, pin in pins.items()})

    def hands(self) -> HandsOn:
        """What was done to the home by now; cheap enough to be asked 50 times a second."""
        mark = self._mark(self._hands_path)
        if mark is None:
            self._hands = HandsOn()
        elif mark != self._hands_mark:
            with contextlib.suppress(ValueError, TypeError, OSError):
                rows: dict[str, Any] = json.loads((self.path / "hands.json").read_text())
                held = {key: tuple(row) if isinstance(row, list) else row for key, row in rows.items()}
                self._hands = HandsOn(**held)  # type: ignore[arg-type]  # a wrong one is an editor's half file
        self._hands_mark = mark
        return self._hands

    def lay_hands(self, hands: HandsOn) -> None:
        """Do this to the home; the processes notice when they look next."""
        self._write_json("hands.json", asdict(hands))

    def press(self, pin: int = BUTTON_PIN) -> None:
        """Press the resident's button, and keep it pressed."""
        self.lay_hands(replace(self.hands(), low=(*self.hands().low, pin)))

    def let_go(self, pin: int = BUTTON_PIN) -> None:
        """Let the button go."""
        self.lay_hands(replace(self.hands(), low=tuple(each for each in self.hands().low if each != pin)))

    def take_down(self) -> None:
        """Take the camera from its place."""
        self.lay_hands(replace(self.hands(), high=(*self.hands().high, TAMPER_PIN)))

    @property
    def sysfs(self) -> Path:
        """The place of /sys in this home."""
        return self.path / "sys"

    def say_firmware(self, *, under_voltage: bool = False, throttled: bool = False) -> None:
        """Let the firmware say how the board is fed and cooled, as a Pi's does in sysfs."""
        volt = self.sysfs / "class/hwmon/hwmon1"
        flags = self.sysfs / "devices/platform/soc/soc:firmware"
        for directory in (volt, flags):
            directory.mkdir(parents=True, exist_ok=True)
        (volt / "name").write_text("rpi_volt\n")
        (volt / "in0_lcrit_alarm").write_text(f"{int(under_voltage)}\n")
        (flags / "get_throttled").write_text(f"{(1 if under_voltage else 0) | (4 if throttled else 0):x}\n")

    @contextlib.contextmanager
    def hold_sensor(self) -> Iterator[None]:
        """Have the sensor on while inside. Raises CameraFaultError if another camera has it. Blocks up to 0.1 s."""
        file = os.open(self.path / "sensor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline_s = boottime_s() + SENSOR_PATIENCE_S
            while not _try_lock(file):
                if boottime_s() > deadline_s:
                    raise CameraFaultError("the sensor is in use by another camera")
                time.sleep(0.002)
            with (self.path / "sensor.log").open("a") as log:
                log.write(f"{boottime_s():.6f} {os.getpid()}\n")
            yield
        finally:
            os.close(file)

    def sensor_on(self) -> bool:
        """Whether any camera, of any process, is on now."""
        try:
            file = os.open(self.path / "sensor", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _try_lock(file)
        finally:
            os.close(file)

    def sensor_opens(self) -> int:
        """How often a camera was switched on since this world began."""
        try:
            return (self.path / "sensor.log").read_text().count("\n")
        except FileNotFoundError:
            return 0

    def scene(self) -> RoomScene:
        """What there is to see now; cheap enough for every frame. A file that is half written changes nothing."""
        mark = self._mark(self._scene_path)
        if mark is None:
            self._scene, self._scene_mark = RoomScene(), None
        elif mark != self._scene_mark:
            # Anything but a well-formed scene is somebody's editor in the middle of saving.
            with contextlib.suppress(ValueError, TypeError, OSError):
                scene = RoomScene(**json.loads((self.path / "room.json").read_text()))
                self._scene = replace(scene, light=min(1.0, max(0.0, float(scene.light))))
                self._scene_mark = mark
        return self._scene

    def set_scene(self, scene: RoomScene) -> None:
        """Change what there is to see; cameras notice at their next frame."""
        self._write_json("room.json", asdict(scene))

    def _mark(self, path: Path) -> tuple[int, int, int] | None:
        """What changes when a file is written anew; None while there is none."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        file = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        # Readers see the old file or the new one, never half of one.
        fresh = self.path / f"{name}.{os.getpid()}.new"
        fresh.write_text(json.dumps(value))
        fresh.replace(self.path / name)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
