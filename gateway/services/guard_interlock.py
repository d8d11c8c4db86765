"""What the home itself says: the resident's button, a camera taken down, a mount that is not up, a board that starves.

Looked at 25 times a second rather than waited for: no thread of a pin library in the guard, and a look that fails is an
answer too. Each ends a running check, and what it leaves behind (`Core.hindrance`, `Gate.moved`) refuses the next
opening and is told to the centre.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.check import machine
from gateway.check.button import Button, Meaning, feel
from gateway.check.machine import Why
from gateway.core.error import LedgerUnwritableError, MountFaultError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision.gate import NOT_TONIGHT_S
from gateway.edge.input_gpiozero import GpiozeroInputs
from gateway.edge.power_sysfs import Power
from gateway.ipc import frame
from gateway.ledger import RecordKind
from gateway.services.guard_core import Core
from gateway.services.guard_hand import Hands
from gateway.services.guard_record import Records

LOG = logging.getLogger("tillsyn.guard")

LOOK_S: Final = 0.04
MOVED_AFTER_S: Final = 1.0
"""A switch that is open for less was knocked, not taken down."""
POWER_EVERY_S: Final = 1.0
STARVED_AFTER_S: Final = 2.0
"""A servo that starts may pull the voltage down for a moment; this long is a power supply that does not do."""
FED_AFTER_S: Final = 60.0
SUNK_AFTER_S: Final = 2.0
PARK_AGAIN_EVERY_S: Final = 600.0


@dataclass(slots=True)
class Interlock:
    core: Core
    records: Records
    hands: Hands
    inputs: GpiozeroInputs | None
    read_power: Callable[[], Power] | None
    _button: Button = field(default_factory=Button)
    _away_since_s: float | None = None
    _power_due_s: float = 0.0
    _low_since_s: float | None = None
    _fed_since_s: float | None = None
    _starved: bool = False
    _throttled: bool = False
    _sunk_since_s: float | None = None
    _sunk: bool = False
    _park_again_s: float = 0.0
    _parking: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to look at."""
        return self.inputs is not None or self.read_power is not None or self.core.mount.measures

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                self.look()
            except (RefusedError, LedgerUnwritableError) as exc:
                # What was meant holds in this process; it could not be written down, so the guard ends by itself.
                LOG.error("interlock: %s", exc)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        now_s = self.core.now()
        try:
            self._look_at_button(now_s)
        finally:
            # One that can't be recorded must not hide the others.
            self._look_at_place(now_s)
            self._look_at_power(now_s)
            self._look_at_mount(now_s)
            self._hinder()

    def _look_at_button(self, now_s: float) -> None:
        is_pressed = self.inputs is not None and self.inputs.is_pressed()
        self._button, meaning = feel(self._button, is_pressed, now_s)
        match meaning:
            case None:
                pass
            case Meaning.PRESSED:
                self.core.dispatch(machine.Fault(Why.RESIDENT_STOPPED))
            case Meaning.NOT_TONIGHT | Meaning.STOP if self._button.is_held_since_start:
                LOG.info("the button: held since power came")
                self.hands.act_at_button()
            case Meaning.NOT_TONIGHT:
                LOG.info("the button: not tonight")
                self.hands.obey(frame.NotTonight(NOT_TONIGHT_S))
            case Meaning.STOP:
                LOG.info("the button: stop")
                self.hands.obey(frame.StopForGood())
            case Meaning.STUCK:
                LOG.error("the button is stuck")
                self.hands.obey(frame.NotTonight(NOT_TONIGHT_S))
                self.records.append(RecordKind.TAMPER, why="button-stuck")
            case Meaning.FREED:
                LOG.warning("the button is free again")

    def _look_at_place(self, now_s: float) -> None:
        if self.inputs is None or self.inputs.is_in_place() or self.core.gate.moved:
            self._away_since_s = None
            return
        if self._away_since_s is None:
            self._away_since_s = now_s
        if now_s - self._away_since_s < MOVED_AFTER_S:
            return
        # First the camera, then the state, then the record.
        LOG.error("the camera was taken down")
        self.core.dispatch(machine.Fault(Why.RESIDENT_STOPPED))
        self.core.gate.moved = True
        self.core.hello_due_s = 0.0
        self.records.append(RecordKind.TAMPER, why="moved")
        self.records.checkpoint()

    def _look_at_power(self, now_s: float) -> None:
        if self.read_power is None or now_s < self._power_due_s:
            return
        self._power_due_s = now_s + POWER_EVERY_S
        power = self.read_power()
        if power.throttled is not None and power.throttled != self._throttled:
            self._throttled = power.throttled
            LOG.log(logging.WARNING if power.throttled else logging.INFO, "throttled: %s", power.throttled)
        if power.under_voltage:
            self._fed_since_s = None
            self._low_since_s = now_s if self._low_since_s is None else self._low_since_s
            if not self._starved and now_s - self._low_since_s >= STARVED_AFTER_S:
                LOG.error("under-voltage: the power supply does not do")
                self._starved = True
                self.core.dispatch(machine.Fault(Why.LOW_POWER))
                self.records.append(RecordKind.POWER, why="low-power")
            return
        self._low_since_s = None
        self._fed_since_s = now_s if self._fed_since_s is None else self._fed_since_s
        if self._starved and now_s - self._fed_since_s >= FED_AFTER_S:
            self._starved = False
            self.records.append(RecordKind.POWER, why="power-good")

    def _look_at_mount(self, now_s: float) -> None:
        """Only where it is measured, and only between checks: the check's own travels report for themselves."""
        mount = self.core.mount
        if not mount.measures or self._parking or not isinstance(self.core.state, machine.Parked):
            self._sunk_since_s = None
            return
        if mount.parked:
            self._sunk_since_s, self._sunk = None, False
            return
        self._sunk_since_s = now_s if self._sunk_since_s is None else self._sunk_since_s
        if now_s - self._sunk_since_s < SUNK_AFTER_S:
            return
        if not self._sunk:
            LOG.error("the camera is not up")
        self._sunk = True
        if now_s >= self._park_again_s:
            self._park_again_s = now_s + PARK_AGAIN_EVERY_S
            self._parking = True
            self.core.spawn(self._park_again(), "park again")

    async def _park_again(self) -> None:
        try:
            await self.core.mount.park()
        except MountFaultError as exc:
            LOG.error("mount: %s", exc)
        finally:
            self._parking = False

    def _hinder(self) -> None:
        before = self.core.hindrance
        if self._sunk:
            self.core.hindrance = RefusalCode.NOT_PARKED
        elif self._starved:
            self.core.hindrance = RefusalCode.LOW_POWER
        elif self._button.is_down:
            self.core.hindrance = RefusalCode.PAUSED
        else:
            self.core.hindrance = None
        if self.core.hindrance is not before:
            self.core.hello_due_s = 0.0
