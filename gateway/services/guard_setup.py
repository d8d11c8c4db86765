"""The guard's side of the installer's wizard: what set-up may have, and when it is over.

Set-up is open on a device whose ledger has not said `done` yet, and after that only where two hands opened it: a
steward's signed consent, and the physical act at the device (`Door`). The ledger is the only memory of it.
The wizard's preview is an opening like any other: recorded before the sensor, lamp lit, through the same machine and
the same eye, with a lease. What differs is who asks (this socket instead of a granted key: see ADR 0082), that it is
bounded by five minutes, that the picture goes to the wizard's media socket, and that it is nobody's attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Final, assert_never

from gateway.check import machine
from gateway.check.machine import Facts, Why
from gateway.core.error import ConfigError, LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import AllowSetup, EraseDevice
from gateway.ipc import frame, setup
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger import RecordKind, StoredRecord
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol import sdp
from gateway.protocol.envelope import sign
from gateway.protocol.key import b64url_encode
from gateway.protocol.message import InstallationProtocol
from gateway.services.guard_check import CheckRun
from gateway.services.guard_core import Core, OpenPreview, Pending, close_fds
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_return import ReturnSide
from gateway.services.mount_parts import AIM_FILE

LOG = logging.getLogger("tillsyn.guard")

PREVIEW_S: Final = 300.0
"""Longest preview: long enough to aim, too short to be forgotten."""
WHO: Final = "installer"
PREVIEW_LINE: Final = "setup.preview"
ACT_S: Final = 900.0
"""How long the physical act waits for the consent: as long as the wizard's window."""
ENTERED_S: Final = 12 * 3600.0
"""Set-up that was entered anew and is never finished closes after this long."""
ALARM_LINE: Final = "set-up"
"""Source of `centre.est.TEST_ALARM_LINE`."""
BEGUN: Final = "begun"
ALLOWED: Final = "allowed"
ENTERED: Final = "entered"
DONE: Final = "done"


@dataclass(frozen=True, slots=True)
class Door:
    """What the ledger says of set-up."""

    has_begun: bool = False
    is_open: bool = False
    until_unix_s: float = inf
    """When one that was entered anew closes by itself."""
    entered: int = 0
    """How many times it was entered anew."""
    is_allowed: bool = False
    """A steward's consent waits for the physical act."""
    allowed_by: str | None = None
    allowed_until_unix_s: float = 0.0
    """Of the newest consent, used or not."""

    def after(
        self,
        why: str | None,
        *,
        who: str | None = None,
        version: int | None = None,
        until_unix_s: float | None = None,
        **_: object,
    ) -> Door:
        """The door with one more record of the kind `setup`."""
        begun = replace(self, has_begun=True)
        match why:
            case "begun":
                return replace(begun, is_open=True, until_unix_s=inf)
            case "allowed":
                return replace(begun, is_allowed=True, allowed_by=who, allowed_until_unix_s=until_unix_s or 0.0)
            case "entered":
                return replace(
                    begun, is_open=True, until_unix_s=until_unix_s or 0.0, entered=version or 0, is_allowed=False
                )
            case "done":
                return replace(begun, is_open=False, is_allowed=False)
            case _:
                return begun


def door_of(records: list[StoredRecord]) -> Door:
    door = Door()
    for stored in records:
        if stored.body is not None and stored.body.kind is RecordKind.SETUP:
            body = stored.body
            door = door.after(body.why, who=body.who, version=body.version, until_unix_s=body.until_unix_s)
    return door


@dataclass(slots=True)
class SetupSide:
    """The wizard's channel, while there is one."""

    core: Core
    link: LinkSide
    records: Records
    check: CheckRun
    door: Door
    on_entered: Callable[[], None]
    returning: ReturnSide
    random_bytes: Callable[[int], bytes] = os.urandom
    _channel: Channel[setup.ToGuardFromSetup] | None = None
    _seen: tuple[str, int, float] | None = None
    _alarm: str | None = None
    _acted_s: float | None = None
    """When somebody did the physical act."""

    def __post_init__(self) -> None:
        self.core.on_closed = self._on_closed

    @property
    def is_open(self) -> bool:
        return self.door.is_open and self._lo_unix_s() < self.door.until_unix_s

    def _lo_unix_s(self) -> float:
        return self.core.gate.clock.interval(self.core.now()).lo_unix_s

    async def accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            # One wizard at a time; a preview of the one before ends with it.
            if self._channel is not None:
                self._channel.close()
                self._lose()
            channel: Channel[setup.ToGuardFromSetup] = Channel(sock, setup.ToGuardFromSetup)
            self._channel = channel
            self.core.spawn(self._serve(channel), "setup")

    async def _serve(self, channel: Channel[setup.ToGuardFromSetup]) -> None:
        try:
            while True:
                got, fds = await channel.receive()
                close_fds(fds)
                self._hear(got, channel)
        except ChannelLostError as exc:
            LOG.info("setup: %s", exc)
        finally:
            channel.close()
        if self._channel is channel:
            self._channel = None
            self._lose()

    def beat(self) -> None:
        """Once a second, as for the other peers."""
        self._tell(frame.Beat())

    def _lose(self) -> None:
        if self._previews():
            self.core.dispatch(machine.Fault(Why.LINK_LOST))

    # Entering anew

    def allow(self, order: AllowSetup) -> None:
        """A steward consents; recorded before it counts. Raises RefusedError."""
        if self.core.gate.obstacle is not None:
            raise RefusedError(self.core.gate.obstacle)
        self._write(ALLOWED, who=order.who, role=order.role, until_unix_s=order.until_unix_s)
        self.core.gate.setup_until_unix_s = order.until_unix_s
        self._enter_if_both()

    def act(self) -> bool:
        """Somebody did the physical act: the wizard may listen again. Whether it was waited for.

        The wizard alone can do nothing yet: its words are refused until a steward has consented too.
        """
        was_awaited = self.is_open or self._is_allowed() or self.core.gate.returned is not None
        LOG.warning("somebody did the physical act of set-up")
        self._acted_s = self.core.now()
        if self.core.config.act_path is not None:
            with contextlib.suppress(OSError):
                Path(self.core.config.act_path).touch(mode=0o660)
        self._enter_if_both()
        return was_awaited

    def forget_act(self) -> None:
        self._acted_s = None

    def _is_allowed(self) -> bool:
        return self.door.is_allowed and self._lo_unix_s() < self.door.allowed_until_unix_s

    def has_acted(self) -> bool:
        return self._acted_s is not None and self.core.now() - self._acted_s <= ACT_S

    def _enter_if_both(self) -> None:
        if self.is_open or not self._is_allowed() or not self.has_acted() or self.core.gate.returned is not None:
            return
        if self.core.gate.obstacle is not None:
            raise RefusedError(self.core.gate.obstacle)
        self._acted_s = None
        self._seen = self._alarm = None
        self._write(
            ENTERED, who=self.door.allowed_by, version=self.door.entered + 1, until_unix_s=self._lo_unix_s() + ENTERED_S
        )
        self._checkpoint()
        self.core.hello_due_s = 0.0
        self.on_entered()

    def _write(self, why: str, **fields: Any) -> None:
        self.records.append(RecordKind.SETUP, why=why, **fields)
        self.door = self.door.after(why, **fields)

    def _previews(self) -> bool:
        return self.core.pending is not None and self.core.pending.carrier is not None

    def _hear(self, got: setup.ToGuardFromSetup, channel: Channel[setup.ToGuardFromSetup]) -> None:
        if isinstance(got, frame.Beat):
            if self._previews():
                self.core.dispatch(machine.LinkHeard())
            return
        try:
            answer = self._obey(got, channel)
        except RefusedError as refused:
            LOG.warning("setup: refused %s: %s", type(got).__name__, refused)
            if not isinstance(got, setup.AskStanding):
                self._note_refusal(refused)
            answer = setup.Denied(refused.code.value)
        channel.send(answer)

    def _note_refusal(self, refused: RefusedError) -> None:
        with contextlib.suppress(RefusedError):
            self.records.append(RecordKind.REFUSED, who=WHO, why=refused.code.value, count=1)

    def _obey(self, got: setup.ToGuardFromSetup, channel: Channel[setup.ToGuardFromSetup]) -> setup.Answer:
        if isinstance(got, setup.AskStanding):
            return self._standing()
        if isinstance(got, setup.Allow):
            self._hear_consent(got.envelope)
            return setup.Done()
        if not self.is_open:
            raise RefusedError(RefusalCode.NOT_AGREED, "set-up is over")
        match got:
            case setup.AskNonce():
                if self.core.gate.obstacle is None and self.core.hindrance is None:
                    # As a challenge does: loading its libraries takes a small board longer than an opening may.
                    self.core.spawn(self.check.eye.prepare(), "prepare eye")
                return setup.NonceIssued(self.core.gate.nonces.issue(WHO, now_s=self.core.now()))
            case setup.Preview():
                return self._preview(got, channel)
            case setup.RenewPreview() | setup.EndPreview() | setup.Nudge() | setup.SaveAim():
                self._obey_in_preview(got)
            case setup.Note(what, digest):
                self.records.append(RecordKind.SETUP, who=WHO, why=what, digest_of=digest)
            case setup.BeginAlarm():
                self._begin_alarm()
            case setup.SignProtocol(lines):
                return self._sign(lines)
            case setup.Finish():
                self._finish()
            case setup.MakeKeys() | setup.ForgetKeys() | setup.Install():
                raise RefusedError(RefusalCode.WRONG_DEVICE, "enrolled already")
            case frame.Beat():
                raise AssertionError("is not answered")
            case _:
                assert_never(got)
        return setup.Done()

    def _hear_consent(self, untrusted: bytes) -> None:
        order = self.core.gate.receive(untrusted, now_s=self.core.now())
        match order:
            case AllowSetup():
                self.allow(order)
            case EraseDevice():
                self.returning.erase(order, b"")
            case _:
                raise RefusedError(RefusalCode.WRONG_ROLE, "a command that is no consent to set-up")

    def _obey_in_preview(self, got: setup.RenewPreview | setup.EndPreview | setup.Nudge | setup.SaveAim) -> None:
        if isinstance(got, setup.EndPreview):
            if self._previews():
                self.core.dispatch(machine.Ended(Why.OPERATOR_CLOSED))
            return
        if not self._previews():
            raise RefusedError(RefusalCode.NOT_AGREED, "no preview runs")
        match got:
            case setup.RenewPreview(counter):
                self.core.dispatch(machine.LeaseRenewed(counter))
            case setup.Nudge(by_deg):
                self._nudge(by_deg)
            case setup.SaveAim():
                self._save_aim()

    def _standing(self) -> setup.Standing:
        core = self.core
        agreement = core.gate.agreement
        check, frames, seen_s = self._seen if self._seen is not None else (None, 0, 0.0)
        return setup.Standing(
            is_fresh=False,
            is_open=self.is_open,
            entered=self.door.entered,
            is_allowed=self._is_allowed(),
            is_acted=self.has_acted(),
            return_code=self.returning.code,
            gateway=core.config.gateway,
            install_epoch=core.config.install_epoch,
            clock=core.gate.clock.state(core.now()).value,
            broker=self.link.up,
            agreement=None if agreement is None else agreement.agreement,
            eye_ready=self.check.eye.is_ready,
            parked=core.mount.parked,
            position_deg=round(core.mount.position_deg, 1),
            is_measured=core.mount.measures,
            obstacle=None if core.gate.obstacle is None else core.gate.obstacle.value,
            seen_check=check,
            seen_frames=frames,
            seen_s=seen_s,
            alarm=self._alarm,
            ledger_size=core.chronicle.size,
        )

    # Preview

    def _preview(self, got: setup.Preview, channel: Channel[setup.ToGuardFromSetup]) -> setup.Answer:
        core = self.core
        if core.gate.obstacle is not None:
            raise RefusedError(core.gate.obstacle)
        core.gate.nonces.use(got.nonce, WHO, now_s=core.now())
        if core.gate.local.withdrawn:
            raise RefusedError(RefusalCode.WITHDRAWN)
        if core.gate.local.paused_until_unix_s is not None:
            interval = core.gate.clock.interval(core.now())
            if interval.lo_unix_s < core.gate.local.paused_until_unix_s:
                raise RefusedError(RefusalCode.PAUSED)
        if core.gate.current is not None or not isinstance(core.state, machine.Parked):
            raise RefusedError(RefusalCode.BUSY)
        if not core.mount.parked:
            raise RefusedError(RefusalCode.NOT_PARKED)
        sdp.only_fingerprint(got.offer)
        number = b64url_encode(self.random_bytes(12))
        facts = Facts(f"p-{number}", WHO, WHO, PREVIEW_LINE, f"p-{number}", 1, PREVIEW_S)
        softened = core.gate.agreement is not None and core.gate.agreement.picture.mode == "softened"
        order = OpenPreview(re=f"p-{number}", facts=facts, role=WHO, offer=got.offer, softened=softened)
        core.pending = Pending(order, b"", core.gate.clock.interval(core.now()).lo_unix_s, carrier=channel)
        core.gate.current = facts
        core.dispatch(machine.Accepted(facts))
        return setup.PreviewOpened(facts.check, PREVIEW_S)

    def _nudge(self, by_deg: float) -> None:
        """Only while somebody looks at what it does, and never so far that parked would not be away any more."""
        core = self.core
        if not isinstance(core.state, machine.Watching):
            raise RefusedError(RefusalCode.BUSY, "the picture is not there yet")
        angle_deg = core.mount.position_deg + by_deg
        self._demand_aim(angle_deg)
        self.check.travel(lambda: core.mount.go(angle_deg), machine.MountArrived())

    def _demand_aim(self, angle_deg: float) -> None:
        try:
            self.core.mount.demand_aim(angle_deg)
        except ConfigError as exc:
            raise RefusedError(RefusalCode.MOUNT_FAULT, str(exc)) from exc

    def _save_aim(self) -> None:
        core = self.core
        if not isinstance(core.state, machine.Watching):
            raise RefusedError(RefusalCode.BUSY, "the picture is not there yet")
        aim_deg = round(core.mount.position_deg, 2)
        self._demand_aim(aim_deg)
        try:
            content = json.dumps({"aim_deg": aim_deg}).encode()
            replace_durably(Disk(), Path(core.config.state_dir) / AIM_FILE, content)
        except OSError as exc:
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
        core.mount.set_aim(aim_deg)
        self.records.append(RecordKind.SETUP, who=WHO, why="aimed")
        core.dispatch(machine.Ended(Why.OPERATOR_CLOSED))

    # Acceptance and end

    def _on_closed(self, pending: Pending | None, closed: machine.RecordClosed) -> None:
        if pending is not None and pending.carrier is not None:
            self._tell(setup.PreviewEnded(closed.facts.check, closed.why.value))
        elif self.is_open and closed.why is Why.SEEN and closed.frames > 0:
            self._seen = (closed.facts.check, closed.frames, round(closed.watched_s, 1))

    def _begin_alarm(self) -> None:
        """A hand-over that says `test-alarm`: it takes every step of a real one, up to a person who answers."""
        occasion = f"test-{self.random_bytes(6).hex()}"
        self.records.append(RecordKind.HANDOVER, who=WHO, line=ALARM_LINE, occasion=occasion, why="test-alarm")
        self._checkpoint()
        self._alarm = occasion

    def _sign(self, lines: list[Any]) -> setup.Answer:
        core = self.core
        interval = core.gate.clock.interval(core.now())
        protocol = InstallationProtocol(
            gateway=core.config.gateway,
            install_epoch=core.config.install_epoch,
            lines=lines,
            ledger_size=core.chronicle.size,
            time_lo=round(interval.lo_unix_s, 3),
            time_hi=None if interval.hi_unix_s == float("inf") else round(interval.hi_unix_s, 3),
        )
        return setup.ProtocolSigned(sign(protocol, core.device_key))

    def _finish(self) -> None:
        if self._previews():
            self.core.dispatch(machine.Ended(Why.OPERATOR_CLOSED))
        self._write(DONE, who=WHO)
        self._checkpoint()
        self.core.hello_due_s = 0.0

    def _checkpoint(self) -> None:
        with contextlib.suppress(LedgerUnwritableError):
            # The record is durable; the next checkpoint covers it.
            self.records.checkpoint()

    def _tell(self, word: frame.Frame) -> None:
        if self._channel is not None:
            with contextlib.suppress(ChannelLostError):
                self._channel.send(word)
