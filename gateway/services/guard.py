"""The guard: the one who decides. Holds trust, agreement, ledger, mount and lamp; has neither network nor camera.

Unit: tillsyn-guard. It builds its parts and runs them in one TaskGroup; what a check does is in gateway.check, what may
happen is in gateway.decision. Order at start: park the mount, open the ledger, close what a cut left open, then listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, assert_never

from gateway.agreement import Attempt, next_step
from gateway.check import machine
from gateway.check.machine import Facts, Why
from gateway.config import GuardConfig
from gateway.core.boottime import boot_id, boottime_s
from gateway.core.error import HardwareFaultError, IntegrityError, LedgerUnwritableError, MountFaultError
from gateway.core.interval_clock import ClockState, IntervalClock
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import (
    CloseCheck,
    Gate,
    GiveVerdict,
    Identity,
    IssueChallenge,
    OpenCheck,
    Order,
    RenewLease,
    TakeAgreement,
    TakeTrust,
    Withdraw,
)
from gateway.decision.nonce import LIFE_S as NONCE_LIFE_S
from gateway.edge.clock_sysfs import read_unix_s
from gateway.edge.lamp_gpiozero import GpiozeroLamp
from gateway.edge.mount_gpiozero import GpiozeroMount
from gateway.edge.mount_port import MountPort
from gateway.edge.service_systemd import (
    bound_socket,
    demand_isolation,
    feed_watchdog,
    harden,
    listening_socket,
    run_until_signal,
)
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect, pair
from gateway.ledger import Ledger, RecordKind, read_records
from gateway.protocol import sdp, strict_json
from gateway.protocol.envelope import sign
from gateway.protocol.key import SigningKey
from gateway.protocol.message import (
    Accepted,
    Challenged,
    ClockFact,
    Closed,
    DueFact,
    Hello,
    Message,
    Opened,
    Refused,
    TimeAsk,
    Verdict,
)
from gateway.protocol.topic import Branch
from gateway.services.guard_state import (
    Chronicle,
    Remembered,
    close_recovered,
    forget_agreements,
    ledger_path,
    load_device_key,
    load_ledger_key,
    load_trust,
    outcome_of,
    provisioned_trust,
    read_ledger,
    remember,
    software_version,
    store_agreement,
    store_trust,
)
from gateway.services.mount_parts import mount_parts

LOG = logging.getLogger("tillsyn.guard")

TICK_S: Final = 0.25
BEAT_S: Final = 1.0
HELLO_EVERY_S: Final = 300.0
TIME_EVERY_S: Final = 3600.0
TIME_RETRY_S: Final = 10.0
TIME_AGAIN_S: Final = 60.0
"""After a statement that did not help: too slow, or contradicted."""
COMPARE_EVERY_S: Final = 60.0
HEARTBEAT_EVERY_S: Final = 8.0
"""A crash between two of these leaves the length of an opening uncertain by no more than 10 s (R36): this, a tick, and
the time that a record takes to become durable."""
EYE_IDLE_S: Final = NONCE_LIFE_S + 5.0
"""An eye that a challenge started and nobody used ends after this."""
REFUSALS_EVERY_S: Final = 10.0
"""Refusals of one code are recorded one by one only this often; those in between are counted into one record."""
MAX_REPLIES_PER_S: Final = 50
MAX_UNSENT: Final = 200
FEED_RECORDS: Final = 64
MAX_HANDS: Final = 4
HAND_LIMIT_S: Final = 5.0
DURABLE_LIMIT_S: Final = 3.0
"""An `opened` record that took longer to become durable does not open (F18)."""

_VERDICT_WHY: Final = {Verdict.SEEN: Why.SEEN, Verdict.NOT_SEEN: Why.NOT_SEEN, Verdict.UNSURE: Why.UNSURE}


@dataclass(slots=True)
class _Pending:
    """What the accepted opening still needs while it runs."""

    order: OpenCheck
    correlation: bytes
    opened_unix_s: float
    verdict: Verdict | None = None


@dataclass(slots=True)
class _Eye:
    channel: Channel[frame.ToGuardFromEye]
    idle_until_s: float
    used: bool = False


@dataclass(slots=True)
class _Refusals:
    """Refusals of one code since the last record of it."""

    recorded_s: float
    count: int = 0


@dataclass(slots=True)
class Guard:
    """The running service. Made by `build`, run by `run`."""

    config: GuardConfig
    gate: Gate
    chronicle: Chronicle
    device_key: SigningKey
    mount: MountPort
    lamp: GpiozeroLamp
    now: Callable[[], float] = boottime_s

    state: machine.State = field(default_factory=machine.Parked)
    _link: Channel[frame.ToGuardFromLink] | None = None
    _eye: _Eye | None = None
    _eye_start: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pending: _Pending | None = None
    _media: socket.socket | None = None
    _mount_task: asyncio.Task[None] | None = None
    _group: asyncio.TaskGroup | None = None
    _broker_up: bool = False
    _heartbeat_s: float = 0.0
    _refusals: dict[RefusalCode, _Refusals] = field(default_factory=dict)
    _replies_left: int = MAX_REPLIES_PER_S
    _time_due_s: float = 0.0
    _hello_due_s: float = 0.0
    _compare_due_s: float = 0.0
    _wanted: int | None = None
    """The record that the link's outbox wants next; None until it has said so."""
    _hands: int = 0
    _unsent: deque[frame.Publish] = field(default_factory=lambda: deque(maxlen=MAX_UNSENT))
    _broken: bool = False

    async def run(self) -> None:
        """Serve until cancelled. Leaves the sensor off, the mount up and the lamp dark, whatever happens."""
        listener = listening_socket(Path(self.config.guard_socket))
        control = bound_socket(Path(self.config.control_socket), 0o660)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._accept_links(listener), name="links")
                group.create_task(self._accept_hands(control), name="hands")
                group.create_task(self._tick(), name="tick")
                group.create_task(feed_watchdog(), name="watchdog")
        finally:
            listener.close()
            control.close()
            self._make_safe()

    # Links

    async def _accept_links(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            # One link at a time. A second one replaces the first: it is the restarted one, or something is wrong.
            if self._link is not None:
                self._link.close()
                self._broker_up = False  # what the old one said
                self._dispatch(machine.Fault(Why.LINK_LOST))
            channel: Channel[frame.ToGuardFromLink] = Channel(sock, frame.ToGuardFromLink)
            self._link = channel
            self._wanted = None
            self._spawn(self._serve_link(channel), "link")
            with contextlib.suppress(ChannelLostError):
                while self._unsent:
                    channel.send(self._unsent[0])
                    self._unsent.popleft()

    async def _serve_link(self, channel: Channel[frame.ToGuardFromLink]) -> None:
        try:
            while True:
                got, fds = await channel.receive()
                _close_fds(fds)
                self._on_link(got)
        except ChannelLostError as exc:
            LOG.warning("link lost: %s", exc)
        finally:
            channel.close()
        # Not when cancelled: then the group takes no new task, and `_make_safe` has the last word.
        if self._link is channel:
            self._link = None
            self._broker_up = False
            self._dispatch(machine.Fault(Why.LINK_LOST))

    def _on_link(self, got: frame.ToGuardFromLink) -> None:
        self._dispatch(machine.LinkHeard())
        match got:
            case frame.Beat():
                pass
            case frame.BrokerChanged(up):
                self._broker_up = up
                self._time_due_s = self._hello_due_s = 0.0
                if not up:
                    self._dispatch(machine.Fault(Why.BROKER_LOST))
            case frame.CommandArrived(untrusted, correlation):
                self._on_command(untrusted, correlation)
            case frame.TimeArrived(untrusted):
                self._on_time(untrusted)
            case frame.OutboxWants(seq):
                self._wanted = seq
                self._feed_outbox()
            case _:
                assert_never(got)

    # Commands

    def _on_command(self, untrusted: bytes, correlation: bytes) -> None:
        try:
            order = self.gate.receive(untrusted, now_s=self.now())
        except RefusedError as refused:
            self._refuse(refused, correlation)
            return
        try:
            self._obey(order, correlation)
        except RefusedError as refused:
            refused.re = getattr(order, "re", None)
            self._refuse(refused, correlation)

    def _obey(self, order: Order, correlation: bytes) -> None:
        match order:
            case IssueChallenge():
                self._challenge(order, correlation)
            case OpenCheck():
                self._open(order, correlation)
            case RenewLease(_, counter):
                self._dispatch(machine.LeaseRenewed(counter))
            case GiveVerdict():
                self._verdict(order, correlation)
            case CloseCheck(re, check):
                if self.gate.current is not None and self.gate.current.check == check:
                    self._dispatch(machine.Ended(Why.OPERATOR_CLOSED))
                self._reply(Accepted(self.config.gateway, re), correlation)
            case TakeAgreement():
                self._take_agreement(order, correlation)
            case TakeTrust():
                self._take_trust(order, correlation)
            case Withdraw(re, who, role):
                self._withdraw(who=who, role=role, why="signed")
                self._reply(Accepted(self.config.gateway, re), correlation)
            case _:
                assert_never(order)

    def _challenge(self, order: IssueChallenge, correlation: bytes) -> None:
        agreement = self.gate.agreement
        if agreement is None:
            raise RefusedError(RefusalCode.NOT_AGREED, "no agreement yet")
        if order.prepare_eye and self.gate.obstacle is None:
            self._spawn(self._prepare_eye(), "prepare eye")
        reply = Challenged(
            gateway=self.config.gateway,
            re=order.re,
            nonce=order.nonce,
            life_s=NONCE_LIFE_S,
            clock=self._clock_fact(),
            agreement=agreement.agreement,
            version=agreement.version,
            due=self._due_facts(),
        )
        self._reply(reply, correlation)

    def _open(self, order: OpenCheck, correlation: bytes) -> None:
        if not isinstance(self.state, machine.Parked):
            raise RefusedError(RefusalCode.BUSY)
        if self._link is None or not self._broker_up:
            raise RefusedError(RefusalCode.BUSY, "no link")
        if not self.mount.parked:
            raise RefusedError(RefusalCode.NOT_PARKED)
        interval = self.gate.clock.interval(self.now())
        self._pending = _Pending(order, correlation, interval.lo_unix_s)
        self.gate.current = order.facts
        self._dispatch(machine.Accepted(order.facts))

    def _verdict(self, order: GiveVerdict, correlation: bytes) -> None:
        assert self._pending is not None  # the gate knows a current check
        if not isinstance(self.state, machine.Opening | machine.Watching) or order.counter <= self.state.last_counter:
            # The machine would not act on it, so it must not be recorded as given either.
            raise RefusedError(RefusalCode.STALE_VERSION, "counter not above the last one")
        self._append(
            RecordKind.VERDICT, who=order.who, role=order.role, check=order.check, why=_VERDICT_WHY[order.verdict].value
        )
        self._pending.verdict = order.verdict
        self._reply(Accepted(self.config.gateway, order.re), correlation)
        self._dispatch(machine.Ended(_VERDICT_WHY[order.verdict], order.counter))

    def _take_agreement(self, order: TakeAgreement, correlation: bytes) -> None:
        if self.gate.current is not None:
            raise RefusedError(RefusalCode.BUSY, "a check is running")
        if self.gate.obstacle is not None:
            # What the ledger can't hold, or can't be believed about, must not change.
            raise RefusedError(self.gate.obstacle)
        try:
            digest = store_agreement(self.config, order.stored)
        except OSError as exc:
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
        self._append(
            RecordKind.AGREEMENT,
            who=order.who,
            role=order.role,
            version=order.agreement.version,
            digest_of=digest,
        )
        if self.gate.lifts_withdrawal(order.agreement):
            self._append(
                RecordKind.CONSENT, who=order.who, role=order.role, version=order.agreement.version, why="fresh"
            )
        self.gate.take_agreement(order.agreement)
        forget_agreements(self.config, keep=digest)
        self._reply(Accepted(self.config.gateway, order.re, order.agreement.version), correlation)
        self._hello_due_s = 0.0

    def _take_trust(self, order: TakeTrust, correlation: bytes) -> None:
        if self.gate.obstacle is not None:
            raise RefusedError(self.gate.obstacle)
        try:
            digest = store_trust(self.config, order.stored)
        except OSError as exc:
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
        self._append(RecordKind.TRUST, version=order.trust.version, digest_of=digest)
        self.gate.take_trust(order.trust)
        if self._pending is not None and self._pending.order.epoch < order.trust.epoch:
            self._dispatch(machine.Fault(Why.REVOKED))
        self._reply(Accepted(self.config.gateway, order.re, order.trust.version), correlation)

    def _withdraw(self, *, why: str, who: str | None = None, role: str | None = None) -> None:
        """First the camera, then the state, then the record: nothing that fails may leave it on."""
        self._dispatch(machine.Fault(Why.RESIDENT_STOPPED))
        digest = self.gate.take_withdrawal(now_s=self.now())
        self._hello_due_s = 0.0
        self._append(RecordKind.WITHDRAWN, who=who, role=role, why=why, digest_of=digest)
        with contextlib.suppress(LedgerUnwritableError):
            # The record is durable, and the resident is to hear so; the next checkpoint covers it.
            self._checkpoint()

    # The resident's hand

    async def _accept_hands(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            if self._hands >= MAX_HANDS:
                sock.close()
                continue
            self._spawn(self._serve_hand(Channel(sock, frame.ToGuardFromHand)), "hand")

    async def _serve_hand(self, channel: Channel[frame.ToGuardFromHand]) -> None:
        self._hands += 1
        try:
            async with asyncio.timeout(HAND_LIMIT_S):
                got, fds = await channel.receive()
                _close_fds(fds)
                self._on_hand(got)
                channel.send(self._local_facts())
        except (ChannelLostError, TimeoutError) as exc:
            LOG.info("hand: %s", exc)
        except RefusedError as refused:
            # What was asked holds in this process; it could not be written down, so the guard ends and starts anew.
            LOG.error("hand: %s", refused)
        finally:
            self._hands -= 1
            channel.close()

    def _on_hand(self, got: frame.ToGuardFromHand) -> None:
        match got:
            case frame.AskState():
                pass
            case frame.StopForGood():
                self._withdraw(why="local")
            case frame.NotTonight(duration_s):
                self._dispatch(machine.Fault(Why.RESIDENT_STOPPED))
                until_unix_s = self.gate.take_pause(duration_s, now_s=self.now())
                self._hello_due_s = 0.0
                self._append(RecordKind.PAUSED, why="local", until_unix_s=until_unix_s)
            case frame.EndPause():
                self.gate.end_pause()
                self._hello_due_s = 0.0
                self._append(RecordKind.PAUSED, why="ended")
            case _:
                assert_never(got)

    def _local_facts(self) -> frame.LocalFacts:
        until_unix_s = self.gate.local.paused_until_unix_s
        interval = self.gate.clock.interval(self.now())
        agreement = self.gate.agreement
        return frame.LocalFacts(
            withdrawn=self.gate.local.withdrawn,
            paused=until_unix_s is not None and interval.lo_unix_s < until_unix_s,
            paused_until_unix_s=None if until_unix_s is None or until_unix_s == float("inf") else until_unix_s,
            checking=not isinstance(self.state, machine.Parked | machine.Disabled),
            parked=self.mount.parked,
            clock=self.gate.clock.state(self.now()).value,
            agreement=None if agreement is None else agreement.agreement,
            version=None if agreement is None else agreement.version,
            obstacle=None if self.gate.obstacle is None else self.gate.obstacle.value,
        )

    def _refuse(self, refused: RefusedError, correlation: bytes) -> None:
        """Count, record compactly, answer with the code alone. Under a flood most get no answer at all."""
        LOG.info("refused: %s", refused)
        now_s = self.now()
        known = self._refusals.get(refused.code)
        if known is not None and now_s - known.recorded_s < REFUSALS_EVERY_S:
            known.count += 1
        else:
            self._refusals[refused.code] = _Refusals(now_s)
            with contextlib.suppress(RefusedError):
                self._append(RecordKind.REFUSED, who=refused.who, why=refused.code.value, count=1)
        if self._replies_left > 0:
            self._replies_left -= 1
            self._reply(Refused(self.config.gateway, refused.re or "unread", refused.code.value), correlation)

    def _flush_refusals(self, now_s: float) -> None:
        for code, known in list(self._refusals.items()):
            if now_s - known.recorded_s < REFUSALS_EVERY_S:
                continue
            del self._refusals[code]
            if known.count:
                with contextlib.suppress(RefusedError, LedgerUnwritableError):
                    self._append(RecordKind.REFUSED, why=code.value, count=known.count)
                    self._checkpoint()

    def _on_time(self, untrusted: bytes) -> None:
        before = self.gate.clock.state(self.now())
        paused_until_unix_s = self.gate.local.paused_until_unix_s
        try:
            self.gate.hear_time(untrusted, now_s=self.now())
        except RefusedError as refused:
            self._refuse(refused, b"")
            return
        self._note_clock(before)
        if self.gate.local.paused_until_unix_s != paused_until_unix_s:
            # A pause without an end has got one; written down, it doesn't begin anew at each start.
            with contextlib.suppress(RefusedError):
                self._append(RecordKind.PAUSED, why="local", until_unix_s=self.gate.local.paused_until_unix_s)
        trusted = self.gate.clock.state(self.now()) in (ClockState.ATTESTED, ClockState.CROSS_CHECKED)
        self._time_due_s = self.now() + (TIME_EVERY_S if trusted else TIME_AGAIN_S)
        self._hello_due_s = 0.0

    # The eye

    async def _prepare_eye(self) -> None:
        """Have an eye's process at hand; connecting to its socket starts it."""
        async with self._eye_start:
            if self._eye is not None:
                self._eye.idle_until_s = self.now() + EYE_IDLE_S
                return
            try:
                sock = await connect(self.config.eye_socket)
            except ChannelLostError as exc:
                LOG.error("the eye can't be started: %s", exc)
                return
            eye = _Eye(Channel(sock, frame.ToGuardFromEye), self.now() + EYE_IDLE_S)
            self._eye = eye
            self._spawn(self._serve_eye(eye), "eye")

    async def _serve_eye(self, eye: _Eye) -> None:
        try:
            while True:
                got, fds = await eye.channel.receive()
                _close_fds(fds)
                self._on_eye(got)
        except ChannelLostError:
            pass
        finally:
            eye.channel.close()
        if self._eye is eye:
            self._eye = None
            self._dispatch(machine.EyeGone())

    def _on_eye(self, got: frame.ToGuardFromEye) -> None:
        match got:
            case frame.Ready():
                self._dispatch(machine.EyeHeard())
            case frame.AnswerMade(answer):
                self._dispatch(machine.AnswerMade(answer))
            case frame.FirstFrameOut():
                self._dispatch(machine.FirstFrame())
            case frame.EyeBeat(frames, view):
                self._dispatch(machine.EyeHeard(frames, view))
                self._signal(frames, view)
            case frame.Stopped(frames):
                self._dispatch(machine.EyeHeard(frames))
            case frame.FromOperator(untrusted):
                self._on_command(untrusted, b"")
            case frame.EyeFault(code):
                # While closing it is the guard's own cut that the eye notices.
                LOG.log(logging.INFO if isinstance(self.state, machine.Closing) else logging.ERROR, "eye: %s", code)
                why = Why.CAMERA_FAULT if code == "camera-fault" else Why.NO_PICTURE
                self._dispatch(machine.Fault(why))
            case _:
                assert_never(got)

    def _signal(self, frames: int, view: str | None) -> None:
        """Once a second in a check, unsigned, for the operator's list; its acknowledgement shows a live broker."""
        if self.gate.current is not None:
            words = {"check": self.gate.current.check, "frames": frames, "view": view}
            self._publish(Branch.SIGNAL, strict_json.dumps(words))

    async def _start_eye(self, order: OpenCheck) -> None:
        await self._prepare_eye()
        eye, link = self._eye, self._link
        if eye is None:
            self._dispatch(machine.EyeGone())
            return
        if link is None or self.gate.current is not order.facts or not isinstance(self.state, machine.Opening):
            return  # closed in the meantime
        eye.used = True
        mine, theirs = pair()
        try:
            eye.channel.send(frame.Start(order.facts.check, order.offer, order.softened), (mine.fileno(),))
            link.send(frame.MediaOpened(order.facts.check), (theirs.fileno(),))
        except ChannelLostError:
            mine.close()
            self._dispatch(machine.Fault(Why.LINK_LOST if link.lost else Why.EYE_LOST))
            return
        finally:
            theirs.close()
        # Kept, so that the picture can be cut without anybody's help: shutdown ends every duplicate of a socket.
        self._media = mine

    # The machine

    def _dispatch(self, event: machine.Event) -> None:
        before = self.state
        self.state, effects = machine.step(self.state, event, now_s=self.now())
        if type(before) is not type(self.state):
            LOG.info("%s → %s on %s", type(before).__name__, type(self.state).__name__, type(event).__name__)
        for effect in effects:
            if not self._apply(effect):
                break
        if isinstance(self.state, machine.Disabled) and not self._broken:
            self._disable(self.state.why)

    def _apply(self, effect: machine.Effect) -> bool:
        """Do one effect; False means that the later ones of the same step must not happen."""
        match effect:
            case machine.RecordOpened(facts):
                return self._record_opened(facts)
            case machine.RecordLive(facts):
                self._append_quietly(RecordKind.LIVE, facts)
            case machine.RecordClosed():
                self._closed(effect)
            case machine.LampOn():
                try:
                    self.lamp.on(self.config.lamp_brightness)
                except HardwareFaultError as exc:
                    # No lamp, no picture: the resident could not tell that somebody looks.
                    LOG.error("lamp: %s", exc)
                    self._later(machine.Fault(Why.CAMERA_FAULT))
                    return False
            case machine.LampOff():
                with contextlib.suppress(HardwareFaultError):
                    self.lamp.off()
            case machine.SensorOn():
                assert self._pending is not None
                self._spawn(self._start_eye(self._pending.order), "start eye")
            case machine.SensorOff():
                self._sensor_off()
            case machine.MountAim():
                self._move(self.mount.aim, machine.MountArrived())
            case machine.MountUp():
                self._move(self.mount.park, machine.MountParked())
            case machine.LetFramesOut():
                self._tell_eye(frame.LetFramesOut())
            case machine.SendAnswer(answer):
                self._send_answer(answer)
            case _:
                assert_never(effect)
        return True

    def _record_opened(self, facts: Facts) -> bool:
        assert self._pending is not None
        started_s = self.now()
        try:
            self._append_facts(RecordKind.OPENED, facts, role=self._pending.order.role)
            if self.now() - started_s > DURABLE_LIMIT_S:
                raise LedgerUnwritableError("not durable in time")
        except LedgerUnwritableError as exc:
            LOG.error("opened: %s", exc)
            self._reply(
                Refused(self.config.gateway, self._pending.order.re, RefusalCode.LEDGER_UNWRITABLE.value),
                self._pending.correlation,
            )
            self._later(machine.Fault(Why.LEDGER_UNWRITABLE))
            return False
        self._heartbeat_s = self.now()
        self.gate.note_attempt(
            Attempt(facts.line, facts.occasion, facts.attempt, self._pending.opened_unix_s, None, "open")
        )
        return True

    def _send_answer(self, answer: str) -> None:
        assert self._pending is not None
        try:
            sdp.only_fingerprint(answer)
        except RefusedError:
            self._later(machine.Fault(Why.CAMERA_FAULT))
            return
        reply = Opened(
            gateway=self.config.gateway,
            re=self._pending.order.re,
            check=self._pending.order.facts.check,
            answer=answer,
            max_s=int(self._pending.order.facts.max_s),
            lease_every_s=machine.LEASE_EVERY_S,
            lease_life_s=machine.LEASE_LIFE_S,
        )
        self._reply(reply, self._pending.correlation)

    def _sensor_off(self) -> None:
        if self._media is not None:
            with contextlib.suppress(OSError):
                self._media.shutdown(socket.SHUT_RDWR)
            self._media.close()
            self._media = None
        if self._link is not None and self.gate.current is not None:
            with contextlib.suppress(ChannelLostError):
                self._link.send(frame.MediaShut(self.gate.current.check))
        if self._eye is None:
            # Nothing holds the sensor; the machine waits for that word.
            self._later(machine.EyeGone())
        else:
            self._tell_eye(frame.Stop("closing"))

    def _closed(self, effect: machine.RecordClosed) -> None:
        facts, why = effect.facts, effect.why
        pending, self._pending = self._pending, None
        self.gate.current = None
        now_s = self.now()
        interval = self.gate.clock.interval(now_s)
        closed_unix_s = interval.lo_unix_s
        opened_unix_s = pending.opened_unix_s if pending is not None else closed_unix_s
        self.gate.note_attempt(
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
        try:
            self._append_facts(
                RecordKind.CLOSED,
                facts,
                why=why.value,
                watched_s=round(effect.watched_s, 3),
                frames=effect.frames,
                view=effect.view,
            )
            if step == "handover":
                self._append_facts(RecordKind.HANDOVER, facts, why="not-seen")
            self._checkpoint()
        except LedgerUnwritableError as exc:
            LOG.error("closed: %s", exc)
            self._later(machine.Fault(Why.LEDGER_UNWRITABLE))
        LOG.info("closed %s after %.1f s: %s", facts.check, effect.watched_s, why)
        report = Closed(
            gateway=self.config.gateway,
            check=facts.check,
            why=why.value,
            who=facts.who,
            line=facts.line,
            occasion=facts.occasion,
            attempt=facts.attempt,
            watched_s=round(effect.watched_s, 3),
            frames=effect.frames,
            parked=effect.parked,
            ledger_size=self.chronicle.size,
            next=step,
            next_unix_s=step_unix_s,
            verdict=pending.verdict if pending is not None else None,
        )
        self._publish(Branch.REPLY, sign(report, self.device_key), evidential=True)
        self._hello_due_s = 0.0

    def _next(self, facts: Facts) -> tuple[str, float | None]:
        agreement = self.gate.agreement
        if agreement is None:
            return "none", None
        item = next(
            (
                d
                for d in self.gate.due(now_s=self.now())
                if (d.line_id, d.occasion.occasion_id) == (facts.line, facts.occasion)
            ),
            None,
        )
        if item is None:
            return "none", None
        step = next_step(agreement, item.occasion, self.gate.history)
        return step.action, step.opens_unix_s

    def _disable(self, why: Why) -> None:
        """Nothing opens any more in this process. It ends, so that a fresh one checks everything anew."""
        self._broken = True
        self.gate.obstacle = {
            Why.LEDGER_UNWRITABLE: RefusalCode.LEDGER_UNWRITABLE,
            Why.MOUNT_FAULT: RefusalCode.MOUNT_FAULT,
        }.get(why, RefusalCode.CAMERA_FAULT)
        LOG.error("disabled: %s", why)
        self._spawn(self._end_soon(), "end")

    async def _end_soon(self) -> None:
        await asyncio.sleep(2.0)  # for the report to leave, and for a mount that still travels
        raise HardwareFaultError(f"disabled: {self.gate.obstacle}")

    # Mount

    def _move(self, order: Callable[[], Coroutine[Any, Any, None]], arrived: machine.Event) -> None:
        if self._mount_task is not None:
            self._mount_task.cancel()
        assert self._group is not None
        self._mount_task = self._group.create_task(self._travel(order, arrived), name="mount")

    async def _travel(self, order: Callable[[], Coroutine[Any, Any, None]], arrived: machine.Event) -> None:
        try:
            await order()
        except MountFaultError as exc:
            LOG.error("mount: %s", exc)
            self._dispatch(machine.Fault(Why.MOUNT_FAULT))
            return
        self._dispatch(arrived)

    # Time

    async def _tick(self) -> None:
        beat_s = 0.0
        second_s = 0.0
        while True:
            now_s = self.now()
            if now_s - second_s >= 1.0:
                second_s, self._replies_left = now_s, MAX_REPLIES_PER_S
                self._flush_refusals(now_s)
            if now_s - beat_s >= BEAT_S:
                beat_s = now_s
                self._beat()
            self._dispatch(machine.Tick())
            self._heartbeat(now_s)
            self._end_idle_eye(now_s)
            self._feed_outbox()
            self._compare_time(now_s)
            self._ask_time(now_s)
            self._say_hello(now_s)
            await asyncio.sleep(TICK_S)

    def _beat(self) -> None:
        for channel in (self._link, self._eye.channel if self._eye is not None else None):
            if channel is not None:
                with contextlib.suppress(ChannelLostError):
                    channel.send(frame.Beat())

    def _heartbeat(self, now_s: float) -> None:
        if (
            isinstance(self.state, machine.Opening | machine.Watching)
            and now_s - self._heartbeat_s >= HEARTBEAT_EVERY_S
        ):
            self._heartbeat_s = now_s
            self._append_quietly(RecordKind.HEARTBEAT, self.state.facts)

    def _end_idle_eye(self, now_s: float) -> None:
        if self._eye is not None and not self._eye.used and now_s >= self._eye.idle_until_s:
            self._eye.idle_until_s = now_s + EYE_IDLE_S
            self._tell_eye(frame.Stop("unused"))

    def _compare_time(self, now_s: float) -> None:
        """Ask the board's own clock, where there is one, whether the centre may be right."""
        if self.config.rtc is None or now_s < self._compare_due_s:
            return
        self._compare_due_s = now_s + COMPARE_EVERY_S
        before = self.gate.clock.state(now_s)
        floor_unix_s = self.gate.clock.interval(now_s).lo_unix_s
        unix_s = read_unix_s(Path(self.config.rtc), floor_unix_s=floor_unix_s)
        self.gate.clock = self.gate.clock.with_independent(unix_s, boottime_s=now_s)
        self._note_clock(before)

    def _note_clock(self, before: ClockState) -> None:
        after = self.gate.clock.state(self.now())
        if after is not before:
            with contextlib.suppress(RefusedError):
                self._append(RecordKind.CLOCK, why=after.value)
            self._hello_due_s = 0.0

    def _ask_time(self, now_s: float) -> None:
        if self._link is None or not self._broker_up or now_s < self._time_due_s:
            return
        self._time_due_s = now_s + TIME_RETRY_S
        nonce = self.gate.ask_time(now_s=now_s)
        self._publish(Branch.ASK, sign(TimeAsk(self.config.gateway, nonce), self.device_key))

    def _say_hello(self, now_s: float) -> None:
        if self._link is None or not self._broker_up or now_s < self._hello_due_s:
            return
        self._hello_due_s = now_s + HELLO_EVERY_S
        agreement = self.gate.agreement
        hello = Hello(
            gateway=self.config.gateway,
            install_epoch=self.config.install_epoch,
            boot=self.chronicle.boot,
            sw=self.chronicle.sw,
            clock=self._clock_fact(),
            agreement=None if agreement is None else agreement.agreement,
            version=None if agreement is None else agreement.version,
            due=self._due_facts(),
            obstacle=None if self.gate.obstacle is None else self.gate.obstacle.value,
        )
        self._publish(Branch.HEALTH, sign(hello, self.device_key))

    # Words

    def _clock_fact(self) -> ClockFact:
        now_s = self.now()
        interval = self.gate.clock.interval(now_s)
        hi_unix_s = None if interval.hi_unix_s == float("inf") else interval.hi_unix_s
        return ClockFact(self.gate.clock.state(now_s).value, interval.lo_unix_s, hi_unix_s)

    def _due_facts(self) -> list[DueFact]:
        facts = []
        for item in self.gate.due(now_s=self.now())[:24]:
            occasion = item.occasion
            facts.append(
                DueFact(
                    line=item.line_id,
                    occasion=occasion.occasion_id,
                    status=item.status,
                    attempt=item.attempt or 0,
                    opens_unix_s=item.opens_unix_s if item.opens_unix_s is not None else occasion.start_unix_s,
                    closes_unix_s=item.closes_unix_s if item.closes_unix_s is not None else occasion.end_unix_s,
                    max_s=occasion.max_s,
                )
            )
        return facts

    def _append(self, kind: RecordKind, **fields: Any) -> None:
        """Append outside a check; raises RefusedError(ledger-unwritable), and the guard is then disabled."""
        try:
            line = self.chronicle.append(kind, self.now(), self.gate.clock, **fields)
        except LedgerUnwritableError as exc:
            LOG.error("ledger: %s", exc)
            self._later(machine.Fault(Why.LEDGER_UNWRITABLE))
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE) from exc
        if line:
            self._publish_record(line)

    def _append_facts(self, kind: RecordKind, facts: Facts, **fields: Any) -> None:
        """Append a record of a check; raises LedgerUnwritableError."""
        line = self.chronicle.append(
            kind,
            self.now(),
            self.gate.clock,
            check=facts.check,
            who=facts.who,
            line=facts.line,
            occasion=facts.occasion,
            attempt=facts.attempt,
            **fields,
        )
        self._publish_record(line)

    def _append_quietly(self, kind: RecordKind, facts: Facts, **fields: Any) -> None:
        try:
            self._append_facts(kind, facts, **fields)
        except LedgerUnwritableError as exc:
            LOG.error("%s: %s", kind.value, exc)
            self._later(machine.Fault(Why.LEDGER_UNWRITABLE))

    def _checkpoint(self) -> None:
        if note := self.chronicle.checkpoint():
            self._publish(Branch.LEDGER, note, evidential=True, slot="checkpoint")

    def _reply(self, message: Message, correlation: bytes) -> None:
        if correlation:
            self._publish(Branch.REPLY, sign(message, self.device_key), correlation=correlation)

    def _publish_record(self, line: bytes) -> None:
        """Give the newest record to the link, if it has all those before it; else it comes in its turn."""
        seq = self.chronicle.size - 1
        if self._link is None or self._wanted is None or self._wanted != seq:
            return
        with contextlib.suppress(ChannelLostError):
            self._link.send(frame.Publish(Branch.LEDGER.value, line, evidential=True, seq=seq))
            self._wanted = seq + 1

    def _feed_outbox(self) -> None:
        """Give the link what its outbox lacks, a portion at a time, from the ledger's files."""
        wanted = self._wanted
        if self._link is None or wanted is None or wanted >= self.chronicle.size:
            return
        for stored in islice(read_records(ledger_path(self.config)), wanted, wanted + FEED_RECORDS):
            if self._link.lost or self._link.waiting > FEED_RECORDS:
                return
            with contextlib.suppress(ChannelLostError):
                self._link.send(frame.Publish(Branch.LEDGER.value, stored.line, evidential=True, seq=stored.seq))
                self._wanted = stored.seq + 1
        if self._wanted == self.chronicle.size and (note := self.chronicle.last_checkpoint()):
            self._publish(Branch.LEDGER, note, evidential=True, slot="checkpoint")

    def _publish(
        self,
        branch: Branch,
        payload: bytes,
        *,
        correlation: bytes = b"",
        evidential: bool = False,
        slot: str | None = None,
    ) -> None:
        order = frame.Publish(branch.value, payload, correlation, evidential, slot=slot)
        if self._link is not None:
            try:
                self._link.send(order)
            except ChannelLostError:
                LOG.info("the link went while it was told something")
            else:
                return
        if evidential:
            # Waits for the next link, in order. Beyond the bound the ledger still has it.
            self._unsent.append(order)

    def _tell_eye(self, word: frame.Frame) -> None:
        if self._eye is not None:
            with contextlib.suppress(ChannelLostError):
                self._eye.channel.send(word)

    def _later(self, event: machine.Event) -> None:
        """Dispatch after the running step has been applied: the machine is not re-entered in the middle."""
        asyncio.get_running_loop().call_soon(self._dispatch, event)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._group is not None
        self._group.create_task(work, name=name)

    def _make_safe(self) -> None:
        """The service's own last word; the unit's ExecStopPost says it again."""
        # By the machine, so that a check that was already ending keeps its reason, and one that ran its length.
        ending, _ = machine.step(self.state, machine.Fault(Why.SERVICE_STOPPED), now_s=self.now())
        if self._media is not None:
            with contextlib.suppress(OSError):
                self._media.shutdown(socket.SHUT_RDWR)
            self._media.close()
        if self._eye is not None:
            self._eye.channel.close()
        try:
            self.mount.park_now()
        except HardwareFaultError:
            LOG.exception("the mount did not park")
        with contextlib.suppress(HardwareFaultError):
            self.lamp.off()
            self.lamp.close()
            self.mount.close()
        if isinstance(ending, machine.Closing):
            facts = ending.facts
            with contextlib.suppress(LedgerUnwritableError):
                self.chronicle.append(
                    RecordKind.CLOSED,
                    self.now(),
                    self.gate.clock,
                    check=facts.check,
                    who=facts.who,
                    line=facts.line,
                    occasion=facts.occasion,
                    attempt=facts.attempt,
                    why=ending.why.value,
                    watched_s=round(ending.watched_s, 3),
                    frames=ending.frames,
                    view=ending.view,
                )
                self.chronicle.checkpoint()
        self.chronicle.close()


def build(config: GuardConfig) -> Guard:
    """The guard of this board. Raises ConfigError; MountFaultError when nothing can park."""
    calibration, factory, start_deg = mount_parts(config.mount, config.world)
    mount = GpiozeroMount(calibration, factory=factory, pan_pin=config.mount.pan_pin, start_deg=start_deg)
    mount.park_now()
    lamp = GpiozeroLamp(factory=factory, lamp_pin=config.mount.lamp_pin)
    return assemble(config, mount, lamp, boot=boot_id(), now=boottime_s)


def assemble(
    config: GuardConfig, mount: MountPort, lamp: GpiozeroLamp, *, boot: str, now: Callable[[], float]
) -> Guard:
    """Open the ledger, close what a cut left open; `mount` is parked, `now` is BOOTTIME within `boot`.

    A ledger or an agreement that is not what was written doesn't stop the service: it runs on with the camera disabled,
    so that it can say so. Raises ConfigError; LedgerUnwritableError when the disk fails.
    """
    now_s = now()
    Path(config.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    chronicle = Chronicle(None, boot, software_version())
    obstacle: RefusalCode | None = None
    past = Remembered.nothing()
    trust = provisioned_trust(config)
    try:
        ledger = Ledger.open(ledger_path(config), load_ledger_key(Path(config.ledger_key), config.gateway))
        chronicle.ledger = ledger
        past = remember(config, read_ledger(config))
    except IntegrityError as exc:
        LOG.error("integrity alarm: %s", exc)
        obstacle = RefusalCode.INTEGRITY_ALARM
    try:
        # Also beside a ledger that can't be believed: whoever may stop things must still be heard.
        trust = load_trust(config, past.trust_version)
    except IntegrityError as exc:
        LOG.error("integrity alarm: %s", exc)
        obstacle = RefusalCode.INTEGRITY_ALARM
    clock = IntervalClock(past.floor_unix_s, now_s, demand_cross_check=config.demand_cross_check)
    chronicle.append(RecordKind.BOOT, now_s, clock, why="torn-tail" if chronicle.recovered_tail else "start")
    if obstacle is not None:
        chronicle.append(RecordKind.TAMPER, now_s, clock, why=obstacle.value)
    if past.unclosed is not None:
        recovered = close_recovered(
            chronicle, past.unclosed, past.last_seen or past.unclosed, now_s, clock, verdict=past.unclosed_verdict
        )
        past.history[:] = [*(a for a in past.history if a.outcome != "open"), recovered]
    chronicle.checkpoint()
    gate = Gate(
        Identity(config.gateway, config.install_epoch, frozenset(config.groups)),
        trust,
        clock,
        os.urandom,
        agreement=past.agreement,
        history=past.history,
        local=past.local,
        obstacle=obstacle,
        version_floor=past.agreement_version,
        withdrawn_unix_s=past.withdrawn_unix_s,
        withdrawn_consents=past.withdrawn_consents,
    )
    return Guard(config, gate, chronicle, load_device_key(Path(config.device_key)), mount, lamp, now)


def main(config: GuardConfig) -> None:
    """Run until SIGTERM. Raises ConfigError before anything is touched when this process can see a network."""
    harden()
    if config.demand_isolation:
        demand_isolation()
    run_until_signal(build(config).run())


def _close_fds(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
