"""gpiozero pins on a Raspberry Pi whose servo pins are driven by the board's own PWM block, over sysfs.

A servo wants pulses of 500 to 2500 µs, steady to a few µs, or it hums and turns in jerks. gpiozero's own factories give
whole percents of duty at best (11 places in 180°; gpiozero #1209, measured). Here the pins that the device tree routes
to the PWM block get their duty in nanoseconds; every other pin (lamp, button, sensors) is the other factory's, which on
a board is lgpio.

A pulse outlives the process that set it. Whoever is killed leaves the servo held, and humming, until `tillsyn-park`
takes the channel over.

Needs `dtoverlay=pwm-2chan,pin=12,func=4,pin2=13,func2=4` in config.txt, and write access to the PWM chip's directory.
Source: Linux, Documentation/ABI/testing/sysfs-class-pwm; Raspberry Pi, overlays/README, pwm-2chan.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from gpiozero.exc import GPIOZeroError, PinInvalidFunction, PinInvalidState, PinSetInput
from gpiozero.pins.local import LocalPiFactory, LocalPiPin

from gateway.core.error import MountFaultError

SYSFS_PWM: Final = Path("/sys/class/pwm")
BLOCKS: Final = ("1f00098000.pwm", "fe20c000.pwm", "3f20c000.pwm")
"""The PWM block behind GPIO 12, 13, 18 and 19, by the name of its device node: Pi 5 (RP1), Pi 4, Pi 3 and Zero 2 W."""
CHANNELS: Final = {12: 0, 13: 1, 18: 0, 19: 1}
"""GPIO to channel on a Pi 4, 3 and Zero 2 W; of each two pins with one channel the overlay names one."""
CHANNELS_PI5: Final = {12: 0, 13: 1, 18: 2, 19: 3}
"""Source: RP1 peripherals, table of GPIO functions (PWM0 has four channels there)."""
PATIENCE_S: Final = 1.0
"""How long udev may take to hand a channel that was just exported to our group."""


class NoPwmError(GPIOZeroError, OSError):  # type: ignore[misc]
    """The board has no PWM block that we know, or it may not be used."""


class SysfsPwmPin(LocalPiPin):  # type: ignore[misc]
    """One channel. Silent until a state above 0 is set; a frequency of None ends the pulse."""

    def __init__(self, factory: SysfsPwmFactory, info: Any) -> None:
        super().__init__(factory, info)
        self._function = "input"
        self._period_ns = 0
        self._duty_ns = 0
        self._enabled = False
        self._channel: Path | None = factory.channel(self._number)
        # What a process that was killed left behind ends here.
        self._disable()

    def close(self) -> None:
        """End the pulse and give the channel back."""
        if self._channel is not None:
            self._disable()
            self.factory.unexport(self._number)
            self._channel = None
        self._function = "input"

    def output_with_state(self, state: float) -> None:
        self.function = "output"
        self.state = state

    def input_with_pull(self, pull: str) -> None:
        raise PinInvalidFunction(f"{self!r} is the PWM block's and can't be an input with pull {pull}")

    def _get_function(self) -> str:
        return self._function

    def _set_function(self, value: str) -> None:
        if value not in ("input", "output"):
            raise PinInvalidFunction(f"{self!r} can't be {value}")
        if value == "input":
            self._disable()
        self._function = value

    def _get_state(self) -> float:
        return self._duty_ns / self._period_ns if self._period_ns else 0.0

    def _set_state(self, value: float) -> None:
        if self._function != "output":
            raise PinSetInput(f"cannot set state of pin {self!r}")
        if not 0.0 <= value <= 1.0:
            raise PinInvalidState(f"{self!r}: a duty is 0 to 1, not {value}")
        if not self._period_ns:
            # gpiozero writes 0 before it sets a frequency.
            if value:
                raise PinInvalidState(f"{self!r} has no frequency")
            return
        self._write("duty_cycle", duty_ns := round(value * self._period_ns))
        self._duty_ns = duty_ns
        if duty_ns and not self._enabled:
            self._write("enable", 1)
            self._enabled = True
        elif not duty_ns:
            self._disable()

    def _get_frequency(self) -> float | None:
        return 1e9 / self._period_ns if self._period_ns else None

    def _set_frequency(self, value: float | None) -> None:
        if value is None:
            self._disable()
            self._period_ns = 0
            return
        period_ns = round(1e9 / value)
        if period_ns == self._period_ns:
            return
        # The kernel refuses a period shorter than the duty that stands.
        if self._duty_ns > period_ns:
            self._disable()
        self._write("period", period_ns)
        self._period_ns = period_ns

    def _get_pull(self) -> str:
        return "floating"

    def _disable(self) -> None:
        self._write("enable", 0)
        self._enabled = False
        self._duty_ns = 0

    def _write(self, name: str, value: int) -> None:
        if self._channel is None:
            raise NoPwmError(f"{self!r} is closed")
        (self._channel / name).write_text(str(value))


class SysfsPwmFactory(LocalPiFactory):  # type: ignore[misc]
    """The pins `servo_pins` on the PWM block, all others by `others`. One for each process.

    Raises NoPwmError when the board has no block we know, or it does not reach these pins by channels of their own.
    `root` is another place for /sys/class/pwm.
    """

    def __init__(
        self,
        others: Any,
        servo_pins: frozenset[int],
        *,
        root: Path = SYSFS_PWM,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__()
        # Not gpiozero's class-wide tables: pins of another factory in this process are other pins.
        self.pins: dict[Any, Any] = {}
        self._reservations: Any = defaultdict(list)
        self.pin_class = SysfsPwmPin
        self.others = others
        self.chip, self.block = find_chip(root)
        reached = CHANNELS_PI5 if self.block == BLOCKS[0] else CHANNELS
        self.channels = {number: reached[number] for number in servo_pins if number in reached}
        if len(set(self.channels.values())) < len(servo_pins):
            raise NoPwmError(
                f"GPIO {', '.join(map(str, sorted(servo_pins)))} can't be servo pins here: this board's PWM block "
                f"reaches {', '.join(f'{pin} (channel {channel})' for pin, channel in reached.items())}"
            )
        self._patience_s = patience_s

    def pin(self, name: Any) -> Any:
        """The pin `name`: a servo's is ours, any other is the other factory's."""
        for _, info in self.board_info.find_pin(name):
            if int(info.name.removeprefix("GPIO")) in self.channels:
                return super().pin(name)
        return self.others.pin(name)

    def close(self) -> None:
        super().close()
        self.others.close()

    def channel(self, number: int) -> Path:
        """The exported channel's directory, writable. Raises OSError."""
        index = self.channels[number]
        directory = self.chip / f"pwm{index}"
        if not directory.is_dir():
            (self.chip / "export").write_text(str(index))
        deadline_s = time.monotonic() + self._patience_s
        while True:
            try:
                with (directory / "enable").open("r+"):
                    return directory
            except (PermissionError, FileNotFoundError) as error:
                if time.monotonic() >= deadline_s:
                    raise NoPwmError(f"{directory} can't be used ({error.strerror}): see docs/hardware.md") from error
                time.sleep(0.01)

    def unexport(self, number: int) -> None:
        (self.chip / "unexport").write_text(str(self.channels[number]))

    def _get_revision(self) -> int:
        return int(self.others._get_revision())  # noqa: SLF001  gpiozero's way for a factory to tell its board


def find_chip(root: Path = SYSFS_PWM) -> tuple[Path, str]:
    """(the directory of the PWM chip that reaches the header, its block's name). Raises NoPwmError.

    By device node and not by number: the kernel numbers the chips in the order in which they come up, and a Pi 5's fan
    is one of them.
    """
    seen = []
    try:
        chips = sorted(root.glob("pwmchip*"))
    except OSError:
        chips = []
    for chip in chips:
        # sysfs has a link `device`, whose last part is the node's name.
        block = (chip / "device").resolve().name
        if block in BLOCKS:
            return chip, block
        seen.append(block)
    found = f"; there are {', '.join(seen)}" if seen else ""
    raise NoPwmError(
        f"no PWM block for a servo under {root}{found}. Is dtoverlay=pwm-2chan,pin=12,func=4,pin2=13,func2=4 in "
        "config.txt? See docs/hardware.md"
    )


def board_factory(driver: str, servo_pins: frozenset[int]) -> Any:
    """The pins of a real board: `hardware` is this module, `lgpio` the stated fallback, coarse and not silent.

    Raises MountFaultError where the board has not what is asked for; nothing falls back by itself.
    """
    try:
        from gpiozero.pins.lgpio import LGPIOFactory
    except ImportError as error:
        raise MountFaultError(f"lgpio is not installed ({error}): apt install python3-lgpio") from error
    try:
        others = LGPIOFactory()
        return others if driver == "lgpio" else SysfsPwmFactory(others, servo_pins)
    except (GPIOZeroError, OSError) as error:
        raise MountFaultError(f"the board's pins can't be had: {error}") from error
