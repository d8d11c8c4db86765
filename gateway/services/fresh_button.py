"""The resident's button while the device belongs to nobody: held while power comes it is set-up's physical act.

There is no camera to stop yet and nobody who could mean *stop*, so any other press means nothing. The guard reads the
same button by the same rule from the enrolment on (`guard_interlock`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.check.button import Button, Meaning, feel
from gateway.config.file import MountConfig
from gateway.core.boottime import boottime_s
from gateway.core.error import ConfigError, HardwareFaultError
from gateway.services.mount_parts import button_alone

LOG = logging.getLogger("tillsyn.fresh")

LOOK_S: Final = 0.04


def _nothing() -> None:
    pass


@dataclass(slots=True)
class FreshButton:
    """`act_path` appears at an act; the wizard takes it away. `close` gives the pin back: the guard takes it next."""

    is_pressed: Callable[[], bool]
    act_path: Path
    now_s: Callable[[], float] = boottime_s
    close: Callable[[], None] = _nothing
    _button: Button = field(default_factory=Button)

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            self.close()

    def look(self) -> None:
        self._button, meaning = feel(self._button, self.is_pressed(), self.now_s())
        if meaning in (Meaning.NOT_TONIGHT, Meaning.STOP) and self._button.is_held_since_start:
            LOG.warning("somebody did the physical act of set-up")
            with contextlib.suppress(OSError):
                self.act_path.touch(mode=0o660)


def fitted_button(template: dict[str, Any], now_s: Callable[[], float] = boottime_s) -> FreshButton | None:
    """The button that the guard's configuration will name, with a place for the act; None where one of them is missing.

    A button that can't be had is said, and set-up goes on without it. Raises ConfigError.
    """
    if template.get("act_path") is None:
        return None
    try:
        mount = msgspec.convert(template.get("mount"), MountConfig, strict=True)
    except msgspec.MsgspecError as exc:
        raise ConfigError(f"mount: {exc}") from exc
    try:
        inputs = button_alone(mount, template.get("world"))
    except HardwareFaultError as exc:
        LOG.error("the button: %s", exc)
        return None
    if inputs is None:
        return None
    return FreshButton(inputs.is_pressed, Path(template["act_path"]), now_s, inputs.close)
