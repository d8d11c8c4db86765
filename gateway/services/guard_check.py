"""The check at the guard: the machine's effects, done one by one, and the mount's travel.

What a check does is in gateway.check; here it happens. An effect that fails stops the later ones of the same step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, assert_never

from gateway.agreement import Attempt, next_step
from gateway.check import machine
from gateway.check.machine import Facts, Why
from gateway.core.error import HardwareFaultError, LedgerUnwritableError, MountFaultError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import OpenCheck
from gateway.ipc import frame, setup
from gateway.ipc.channel import ChannelLostError
from gateway.ledger import RecordKind
from gateway.protocol import sdp
from gateway.protocol.envelope import sign
from gateway.protocol.message import Closed, Opened, Refused
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_eye import EyeSide
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies
from gateway.services.guard_state import outcome_of

LOG = logging.getLogger("tillsyn.guard")

HEARTBEAT_EVERY_S: Final = 8.0
"""A crash between two of these leaves the length of an opening uncertain by no more than 10 s (R36): this, a tick, and
the time that a record takes to become durable."""
DURABLE_LIMIT_S: Final = 3.0
"""An `opened` record that took longer to become durable does not open (F18)."""


@dataclass(slots=True)
class CheckRun:
    core: Core
    link: LinkSide
    records: Records
    replies: Replies
    eye: EyeSide
    _mount_task: asyncio.Task[None] | None = None
    _heartbeat_s: float = 0.0
    _broken: bool = False

    def dispatch(self, event: machine.Event) -> None:
        before = self.core.state
        self.core.state, effects = machine.step(self.core.state, event, now_s=self.core.now())
        if type(before) is not type(self.core.state):
            LOG.info("%s → %s on %s", type(before).__name__, type(self.core.state).__name__, type(event).__name__)
        for effect in effects:
            if not self._apply(effect):
                break
        if isinstance(self.core.state, machine.Disabled) and not self._broken:
            self._disable(self.core.state.why)

    def _apply(self, effect: machine.Effect) -> bool:
        """Do one effect; False means that the later ones of the same step must not happen."""
        match effect:
            case machine.RecordOpened(facts):
                return self._record_opened(facts)
            case machine.RecordLive(facts):
                self.records.append_quietly(RecordKind.LIVE, facts)
            case machine.RecordClosed():
                self._closed(effect)
            case machine.LampOn():
                try:
                    self.core.lamp.on(self._brightness())
                except HardwareFaultError as exc:
                    # No lamp, no picture: the resident could not tell that somebody looks.
                    LOG.error("lamp: %s", exc)
                    self.core.later(machine.Fault(Why.CAMERA_FAULT))
                    return False
            case machine.LampOff():
                with contextlib.suppress(HardwareFaultError):
                    self.core.lamp.off()
            case machine.SensorOn():
                assert self.core.pending is not None
                self.core.spawn(self.eye.start(self.core.pending.order), "start eye")
            case machine.SensorOff():
                self.eye.sensor_off()
            case machine.MountAim():
                self.travel(self.core.mount.aim, machine.MountArrived())
            case machine.MountUp():
                self.travel(self.core.mount.park, machine.MountParked())
            case machine.LetFramesOut():
                self.eye.tell(frame.LetFramesOut())
            case machine.SendAnswer(answer):
                self._send_answer(answer)
            case _:
                assert_never(effect)
        return True

    def _brightness(self) -> float:
        """As agreed: `on` is all that the lamp has, `dim` what the installer found enough to be seen from the bed."""
        assert self.core.pending is not None
        order = self.core.pending.order
        shines = isinstance(order, OpenCheck) and order.lamp == "on"
        return 1.0 if shines else self.core.config.lamp_brightness

    def _record_opened(self, facts: Facts) -> bool:
        assert self.core.pending is not None
        started_s = self.core.now()
        try:
            self.records.append_facts(RecordKind.OPENED, facts, role=self.core.pending.order.role)
            if self.core.now() - started_s > DURABLE_LIMIT_S:
                raise LedgerUnwritableError("not durable in time")
        except LedgerUnwritableError as exc:
            LOG.error("opened: %s", exc)
            self.replies.reply(
                Refused(self.core.config.gateway, self.core.pending.order.re, RefusalCode.LEDGER_UNWRITABLE.value),
                self.core.pending.correlation,
            )
            self.core.later(machine.Fault(Why.LEDGER_UNWRITABLE))
            return False
        self._heartbeat_s = self.core.now()
        if self.core.pending.carrier is not None:
            return True  # a preview is nobody's attempt
        self.core.gate.note_attempt(
            Attempt(facts.line, facts.occasion, facts.attempt, self.core.pending.opened_unix_s, None, "open")
        )
        return True

    def _send_answer(self, answer: str) -> None:
        assert self.core.pending is not None
        try:
            sdp.only_fingerprint(answer)
        except RefusedError:
            self.core.later(machine.Fault(Why.CAMERA_FAULT))
            return
        if self.core.pending.carrier is not None:
            with contextlib.suppress(ChannelLostError):
                self.core.pending.carrier.send(setup.PreviewAnswer(self.core.pending.order.facts.check, answer))
            return
        reply = Opened(
            gateway=self.core.config.gateway,
            re=self.core.pending.order.re,
            check=self.core.pending.order.facts.check,
            answer=answer,
            max_s=int(self.core.pending.order.facts.max_s),
            lease_every_s=machine.LEASE_EVERY_S,
            lease_life_s=machine.LEASE_LIFE_S,
        )
        self.replies.reply(reply, self.core.pending.correlation)

    def _closed(self, effect: machine.RecordClosed) -> None:
        facts, why = effect.facts, effect.why
        pending, self.core.pending = self.core.pending, None
        self.core.gate.current = None
        if pending is not None and pending.carrier is not None:
            self._record_closed(effect, "none")
            self.core.on_closed(pending, effect)
            return
        now_s = self.core.now()
        interval = self.core.gate.clock.interval(now_s)
        closed_unix_s = interval.lo_unix_s
        opened_unix_s = pending.opened_unix_s if pending is not None else closed_unix_s
        self.core.gate.note_attempt(
            Attempt(
                facts.line,
                facts.occasion,
                facts.attempt,
                opened_unix_s,
                closed_unix_s,
                outcome_of(why.value, effect.watched_s),
            )
        )
        step, step_unix_s = self._next(facts)
        self._record_closed(effect, step)
        report = Closed(
            gateway=self.core.config.gateway,
            check=facts.check,
            why=why.value,
            who=facts.who,
            line=facts.line,
            occasion=facts.occasion,
            attempt=facts.attempt,
            watched_s=round(effect.watched_s, 3),
            frames=effect.frames,
            parked=effect.parked,
            ledger_size=self.core.chronicle.size,
            next=step,
            next_unix_s=step_unix_s,
            verdict=pending.verdict if pending is not None else None,
            view=effect.view,
        )
        self.link.publish(Branch.REPLY, sign(report, self.core.device_key), evidential=True)
        self.core.hello_due_s = 0.0
        self.core.on_closed(pending, effect)

    def _record_closed(self, effect: machine.RecordClosed, step: str) -> None:
        try:
            self.records.append_closed(effect)
            if step == "handover":
                self.records.append_facts(RecordKind.HANDOVER, effect.facts, why="not-seen")
            self.records.checkpoint()
        except LedgerUnwritableError as exc:
            LOG.error("closed: %s", exc)
            self.core.later(machine.Fault(Why.LEDGER_UNWRITABLE))
        LOG.info("closed %s after %.1f s: %s", effect.facts.check, effect.watched_s, effect.why)

    def _next(self, facts: Facts) -> tuple[str, float | None]:
        agreement = self.core.gate.agreement
        if agreement is None:
            return "none", None
        item = next(
            (
                d
                for d in self.core.gate.due(now_s=self.core.now())
                if (d.line_id, d.occasion.occasion_id) == (facts.line, facts.occasion)
            ),
            None,
        )
        if item is None:
            return "none", None
        step = next_step(agreement, item.occasion, self.core.gate.history)
        return step.action, step.opens_unix_s

    def _disable(self, why: Why) -> None:
        """Nothing opens any more in this process. It ends, so that a fresh one checks everything anew."""
        self._broken = True
        self.core.gate.obstacle = {
            Why.LEDGER_UNWRITABLE: RefusalCode.LEDGER_UNWRITABLE,
            Why.MOUNT_FAULT: RefusalCode.MOUNT_FAULT,
        }.get(why, RefusalCode.CAMERA_FAULT)
        LOG.error("disabled: %s", why)
        self.core.spawn(self._end_soon(), "end")

    async def _end_soon(self) -> None:
        await asyncio.sleep(2.0)  # for the report to leave, and for a mount that still travels
        raise HardwareFaultError(f"disabled: {self.core.gate.obstacle}")

    def travel(self, order: Callable[[], Coroutine[Any, Any, None]], arrived: machine.Event) -> None:
        if self._mount_task is not None:
            self._mount_task.cancel()
        assert self.core.group is not None
        self._mount_task = self.core.group.create_task(self._travel(order, arrived), name="mount")

    async def _travel(self, order: Callable[[], Coroutine[Any, Any, None]], arrived: machine.Event) -> None:
        try:
            await order()
        except MountFaultError as exc:
            LOG.error("mount: %s", exc)
            self.dispatch(machine.Fault(Why.MOUNT_FAULT))
            return
        self.dispatch(arrived)

    def make_safe(self) -> None:
        """The service's own last word; the unit's ExecStopPost says it again."""
        core = self.core
        # By the machine, so that a check that was already ending keeps its reason, and one that ran its length.
        ending, _ = machine.step(core.state, machine.Fault(Why.SERVICE_STOPPED), now_s=core.now())
        self.eye.drop()
        try:
            core.mount.park_now()
        except HardwareFaultError:
            LOG.exception("the mount did not park")
        with contextlib.suppress(HardwareFaultError):
            core.lamp.off()
            core.lamp.close()
            core.mount.close()
        if isinstance(ending, machine.Closing):
            with contextlib.suppress(LedgerUnwritableError):
                core.chronicle.append_closed(
                    ending.facts,
                    core.now(),
                    core.gate.clock,
                    why=ending.why,
                    watched_s=ending.watched_s,
                    frames=ending.frames,
                    view=ending.view,
                )
                core.chronicle.checkpoint()
        core.chronicle.close()

    def heartbeat(self, now_s: float) -> None:
        if (
            isinstance(self.core.state, machine.Opening | machine.Watching)
            and now_s - self._heartbeat_s >= HEARTBEAT_EVERY_S
        ):
            self._heartbeat_s = now_s
            self.records.append_quietly(RecordKind.HEARTBEAT, self.core.state.facts)
