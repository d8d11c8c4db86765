"""The resident's button and the switch that notices that the camera was taken down, on gpiozero."""

from __future__ import annotations

import contextlib
from typing import Any

import gpiozero

from gateway.core.error import HardwareFaultError


class GpiozeroInputs:
    """Two contacts to ground, each optional. Raises HardwareFaultError when a pin can't be had.

    A contact that can't be read says what is safe: the button is pressed, the camera is not in its place.
    """

    def __init__(self, *, factory: Any = None, button_pin: int | None = None, tamper_pin: int | None = None) -> None:
        try:
            self._button = _contact(button_pin, factory)
            self._tamper = _contact(tamper_pin, factory)
        except (gpiozero.GPIOZeroError, OSError) as error:
            raise HardwareFaultError(f"could not take the pins of button and tamper switch: {error}") from error

    def is_pressed(self) -> bool:
        """Whether the button is down; never, where there is none."""
        return _closed(self._button, otherwise=True) if self._button is not None else False

    def is_in_place(self) -> bool:
        """Whether the camera hangs where it was put; always, where nothing says it."""
        return _closed(self._tamper, otherwise=False) if self._tamper is not None else True

    def close(self) -> None:
        """Give the pins back."""
        for contact in (self._button, self._tamper):
            if contact is not None:
                with contextlib.suppress(gpiozero.GPIOZeroError, OSError):
                    contact.close()


def _contact(pin: int | None, factory: Any) -> Any:
    return None if pin is None else gpiozero.DigitalInputDevice(pin, pull_up=True, pin_factory=factory)


def _closed(contact: Any, *, otherwise: bool) -> bool:
    try:
        return bool(contact.is_active)
    except (gpiozero.GPIOZeroError, OSError):
        return otherwise
