"""The lamp that tells the resident that the camera is in use, on gpiozero's PWMLED."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gpiozero

from gateway.core.error import HardwareFaultError
from gateway.edge.bench_world import LAMP_PIN


class GpiozeroLamp:
    """A lamp on one pin; dark when made. Raises HardwareFaultError when the pin can't be had or driven."""

    def __init__(self, *, factory: Any = None, lamp_pin: int = LAMP_PIN) -> None:
        self._closed = False
        with _as_hardware_fault("take the lamp's pin"):
            self._led = gpiozero.PWMLED(lamp_pin, initial_value=0.0, pin_factory=factory)

    @property
    def lit(self) -> bool:
        """Whether the lamp was told to shine. Commanded, not measured."""
        if self._closed:
            return False
        with _as_hardware_fault("ask the lamp"):
            return bool(self._led.value > 0.0)

    def on(self, brightness: float = 1.0) -> None:
        """Shine. `brightness` is above 0 up to 1 of the duty cycle; ValueError otherwise: a dark "on" would lie."""
        if not 0.0 < brightness <= 1.0:
            raise ValueError(f"a lamp's brightness is above 0 up to 1, not {brightness}")
        with _as_hardware_fault("light the lamp"):
            self._led.value = brightness

    def off(self) -> None:
        """Go dark."""
        with _as_hardware_fault("put the lamp out"):
            self._led.off()

    def close(self) -> None:
        """Go dark and give the pin back. Repeating it is allowed."""
        if self._closed:
            return
        self._closed = True
        with _as_hardware_fault("give the lamp's pin back"):
            self._led.close()


@contextlib.contextmanager
def _as_hardware_fault(doing: str) -> Iterator[None]:
    try:
        yield
    except (gpiozero.GPIOZeroError, OSError) as error:
        raise HardwareFaultError(f"could not {doing}: {error}") from error
