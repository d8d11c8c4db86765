"""The lamp that tells the resident that the camera is in use, and the switch in the sensor's power, on gpiozero.

Order is the promise: the lamp is lit before the sensor gets power and goes dark after it lost it. Where the sensor's
power can't be taken away, the lamp stays lit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gpiozero

from gateway.core.error import HardwareFaultError
from gateway.edge.bench_world import LAMP_PIN


class GpiozeroLamp:
    """A lamp on one pin, and the sensor's power on another where it is fitted; dark and unpowered when made.

    Raises HardwareFaultError when a pin can't be had or driven.
    """

    def __init__(self, *, factory: Any = None, lamp_pin: int = LAMP_PIN, sensor_power_pin: int | None = None) -> None:
        self._closed = False
        self._power: Any = None
        with _as_hardware_fault("take the pin of the sensor's power"):
            if sensor_power_pin is not None:
                self._power = gpiozero.DigitalOutputDevice(sensor_power_pin, initial_value=False, pin_factory=factory)
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
        """Shine, then give the sensor its power.

        `brightness` is above 0 up to 1 of the duty cycle; ValueError otherwise: a dark "on" would lie.
        """
        if not 0.0 < brightness <= 1.0:
            raise ValueError(f"a lamp's brightness is above 0 up to 1, not {brightness}")
        with _as_hardware_fault("light the lamp"):
            self._led.value = brightness
        if self._power is not None:
            with _as_hardware_fault("give the sensor its power"):
                self._power.on()

    def off(self) -> None:
        """Take the sensor's power, then go dark."""
        if self._power is not None:
            with _as_hardware_fault("take the sensor's power"):
                self._power.off()
        with _as_hardware_fault("put the lamp out"):
            self._led.off()

    def close(self) -> None:
        """Take the sensor's power, go dark and give the pins back. Repeating it is allowed."""
        if self._closed:
            return
        self.off()
        self._closed = True
        with _as_hardware_fault("give the lamp's pins back"):
            self._led.close()
            if self._power is not None:
                self._power.close()


@contextlib.contextmanager
def _as_hardware_fault(doing: str) -> Iterator[None]:
    try:
        yield
    except (gpiozero.GPIOZeroError, OSError) as error:
        raise HardwareFaultError(f"could not {doing}: {error}") from error
