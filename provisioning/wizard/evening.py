"""The running set-up: the machine's progress made durable, its effects done, and what goes on beside the pages.

The pages (`pages.py`) ask and show; everything that lasts goes through `apply`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, assert_never

from gateway.core.boottime import boottime_s
from gateway.core.error import GatewayError, TransientError
from gateway.core.refusal import RefusedError
from gateway.edge.ice_aioice import ByAddress, carry
from gateway.ipc import setup
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.message import ProtocolLine
from provisioning.enrolment.est_client import EstClient, UnreachableError
from provisioning.enrolment.word import EnrolmentRefusedError
from provisioning.factory.stub import ContactFile, SetupFile
from provisioning.factory.word import CODE_LENGTH, read_word
from provisioning.wizard import contact as door
from provisioning.wizard import line, machine
from provisioning.wizard.enrol import Enroller
from provisioning.wizard.guard_client import GuardAwayError, GuardClient, GuardDeniesError
from provisioning.wizard.keep import Keep
from provisioning.wizard.machine import Progress, Step
from provisioning.wizard.network_dbus import NetworkError
from provisioning.wizard.network_port import Joining, NetworkPort, Surroundings

LOG = logging.getLogger("tillsyn.setup")

LOOK_EVERY_S: Final = 1.0
WRONG_DELAY_S: Final = 1.0
"""A wrong code takes this long to be told: five tries are few, and a hasty finger is slowed down."""
PROTOCOL_FILE: Final = "protocol.jws"
UP_S: Final = 10.0


@dataclass(slots=True)
class Evening:
    """One device's set-up. Run `run` beside the pages; `over` is set when the process is to end."""

    stub: SetupFile
    label: ContactFile
    keep: Keep
    guard: GuardClient
    network: NetworkPort
    enroller: Enroller
    state_dir: Path
    access_point: bool
    linger_s: float
    progress: Progress = field(init=False)
    contact: door.Contact = field(init=False)
    window: door.Window = field(default_factory=lambda: door.Window(boottime_s()))
    surroundings: Surroundings | None = None
    joining: str | None = None
    """What is being joined now."""
    last_joining: Joining | None = None
    testing: bool = False
    standing: setup.Standing | None = None
    centre_compared: bool | None = None
    trouble: str | None = None
    """Why the last thing that was asked for did not happen, as a word of `words.py`."""
    preview_addresses: tuple[str, ...] = ()
    preview: str | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    shut: asyncio.Event = field(default_factory=asyncio.Event)
    """The door is to be closed until somebody does the physical act."""
    asks: bool = False
    """Set-up is over, somebody did the physical act, and a steward's consent is waited for."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """It is known whether there is anything to do after `done`."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _knock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _group: asyncio.TaskGroup | None = None
    _media: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.progress = self.keep.progress()
        self.contact = self.keep.contact()
        self.guard.on_media = self._carry
        self.guard.on_ended = self._preview_ended

    @property
    def client(self) -> EstClient:
        return self.enroller.client

    @property
    def is_waiting(self) -> bool:
        """Something goes on by itself, and the page is to look again."""
        waits = [Step.COMPARE, Step.COMMIT, Step.CHECK]
        if self.progress.alarm is not None:
            waits.append(Step.ALARM)
        looks = self.surroundings is None and self.progress.step is Step.NETWORK
        return self.asks or looks or self.joining is not None or self.testing or self.progress.step in waits

    async def run(self) -> None:
        """What goes on beside the pages, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self.guard.run(), name="guard")
            if self.progress.step is Step.DONE:
                await self._after_done()
            else:
                group.create_task(self._look_around(), name="network")
            if not self.asks:
                for effect in machine.resume(self.progress):
                    await self._do(effect)
            self.settled.set()
            while True:
                await self._watch()
                await asyncio.sleep(LOOK_EVERY_S)

    async def _after_done(self) -> None:
        """At a start: was set-up entered anew since, or is that asked for now, or is there nothing to do?"""
        while True:
            with contextlib.suppress(GuardAwayError):
                self.standing = await self.guard.standing()
                break
            await asyncio.sleep(LOOK_EVERY_S)
        if not await self._enter_if_open(self.standing):
            self.asks = self.asks and not self.standing.is_open

    async def _enter_if_open(self, standing: setup.Standing) -> bool:
        if not standing.is_open or standing.entered <= self.progress.entered:
            return False
        await asyncio.to_thread((self.state_dir / PROTOCOL_FILE).unlink, missing_ok=True)
        await asyncio.to_thread(self.keep.mark_done, is_done=False)
        await self.apply(machine.Entered(standing.entered))
        self.asks, self.surroundings, self.last_joining = False, None, None
        self._spawn(self._look_around(), "network")
        return True

    async def allow(self, envelope: str) -> None:
        """Carry a steward's consent to the guard, which judges it."""
        try:
            await self.guard.ask(setup.Allow(envelope.strip().encode("ascii", "replace")), setup.Done)
            await self._enter_if_open(await self.guard.standing())
        except GuardDeniesError as exc:
            LOG.warning("the consent was refused: %s", exc.code)
            self.trouble = "consent-refused"
        except GuardAwayError:
            self.trouble = "guard"

    async def apply(self, event: machine.Event) -> None:
        """One step: durable, then its effects. Raises OSError when it could not be made durable."""
        async with self._turn:
            after, effects = machine.step(self.progress, event)
            if after is self.progress:
                return
            await asyncio.to_thread(self.keep.put, after)
            LOG.info("%s → %s on %s", self.progress.step, after.step, type(event).__name__)
            self.progress = after
            for effect in effects:
                await self._do(effect)

    # The door

    async def knock(self, typed: str) -> str | None:
        """A code was typed; a session's token if it lets in, and else None, whatever the reason."""
        async with self._knock:
            before = self.contact
            if before.is_locked:
                return None
            await self._put_contact(door.counted(before))
            code = read_word(typed, CODE_LENGTH)
            is_right = code is not None and await asyncio.to_thread(self.label.is_code, code)
            if not is_right or before.is_spent:
                if self.contact.is_locked:
                    LOG.warning("five wrong codes: closed until somebody does the physical act")
                    self._later(self.shut.set, 2.0)
                await asyncio.sleep(WRONG_DELAY_S)
                return None
            token = secrets.token_urlsafe(32)
            await self._put_contact(door.let_in(self.contact, token))
        self.window.touch(boottime_s())
        await self.apply(machine.LetIn())
        return token

    async def acted(self) -> None:
        """Somebody did the physical act: the door is as new, and no earlier session counts."""
        await self._put_contact(door.after_act())
        self.window = door.Window(boottime_s())
        self.shut.clear()

    async def _put_contact(self, contact: door.Contact) -> None:
        await asyncio.to_thread(self.keep.put, contact)
        self.contact = contact

    # Network

    async def _look_around(self) -> None:
        """Look once before anything else: an access point could not, with the one radio there is."""
        if self.progress.step not in (Step.CONTACT, Step.NETWORK):
            return
        try:
            await self.network.lower_access_point()
            self.surroundings = await self.network.look()
        except NetworkError as exc:
            LOG.warning("network: %s", exc)
            self.surroundings = Surroundings((), has_cable=False)
        await self._raise_own()

    async def _raise_own(self) -> None:
        if not self.access_point or (self.surroundings is not None and self.surroundings.has_cable):
            return
        try:
            await self.network.raise_access_point(self.label.ssid, self.label.ap_key)
        except NetworkError as exc:
            LOG.error("the access point: %s", exc)

    async def look_again(self) -> None:
        with contextlib.suppress(NetworkError):
            self.surroundings = await self.network.look()

    def join(self, kind: str, ssid: str | None, password: str | None) -> None:
        """Begin a try; its outcome is in `last_joining`, or in the progress."""
        if self.joining is None and self.progress.step is Step.NETWORK:
            self.joining, self.last_joining = ssid or kind, None
            self._spawn(self._join(kind, ssid, password), "join")

    async def _join(self, kind: str, ssid: str | None, password: str | None) -> None:
        try:
            if ssid is None:
                outcome = await self.network.join_cable()
            else:
                outcome = await self.network.join_wifi(ssid, password)
        except NetworkError as exc:
            LOG.error("network: %s", exc)
            outcome = Joining.FAILED
        self.last_joining = outcome
        if outcome is Joining.JOINED:
            await self.apply(machine.Joined(kind))
        else:
            await self._raise_own()
        self.joining = None

    def test_line(self) -> None:
        if not self.testing and self.progress.step is Step.LINE:
            self.testing = True
            self._spawn(self._test_line(), "line")

    async def _test_line(self) -> None:
        try:
            lines = await line.measure(self.client)
            await self.apply(machine.LineMeasured(tuple(lines), line.is_good(lines)))
        finally:
            self.testing = False

    # Enrolment

    async def enrol(self, code: str) -> None:
        """Ask for the certificate; why not is in `trouble`."""
        self.trouble = None
        typed = read_word(code, CODE_LENGTH)
        if typed is None:
            self.trouble = "code-wrong"
            return
        try:
            pending = await self.enroller.begin(typed)
        except UnreachableError as exc:
            self.trouble = "certificate" if exc.step == "certificate" else "connect"
        except EnrolmentRefusedError as exc:
            self.trouble = exc.code if exc.code.startswith("code-") else "other"
        except (GuardAwayError, GuardDeniesError):
            self.trouble = "guard"
        except RefusedError as exc:
            LOG.error("enrolment: %s", exc)
            self.trouble = "other"
        else:
            self.centre_compared = None
            await self.apply(machine.Enrolled(pending))

    # Preview

    async def open_preview(self, offer: str) -> tuple[str, float]:
        """(the eye's answer, how long at most). Raises GuardDeniesError, GuardAwayError."""
        opened, answer = await self.guard.preview(offer)
        self.preview = opened.check
        return answer, opened.max_s

    def _carry(self, sock: socket.socket) -> None:
        if self._media is not None:
            self._media.cancel()
        assert self._group is not None
        self._media = self._group.create_task(
            carry(sock, ByAddress(self.preview_addresses, relayed_only=False)), name="preview"
        )

    def _preview_ended(self, _check: str, why: str) -> None:
        self.preview = None
        if self._media is not None:
            self._media.cancel()
            self._media = None
        if why in ("camera-fault", "mount-fault"):
            self.trouble = why

    async def until_up(self) -> bool:
        """Wait for the camera to be off and up again, for `UP_S` at most."""
        ends_s = boottime_s() + UP_S
        while boottime_s() < ends_s:
            with contextlib.suppress(GuardAwayError):
                self.standing = await self.guard.standing()
                if self.standing.parked and self.preview is None:
                    return True
            await asyncio.sleep(0.1)
        return False

    # Acceptance

    async def begin_alarm(self) -> None:
        try:
            await self.guard.ask(setup.BeginAlarm(), setup.Done)
            occasion = (await self.guard.standing()).alarm
        except (GuardAwayError, GuardDeniesError):
            self.trouble = "guard"
            return
        if occasion is not None:
            await self.apply(machine.AlarmBegun(occasion))

    async def sign(self) -> None:
        """Have the protocol signed by the device, and keep it; the resident's paper names its digest."""
        lines: list[ProtocolLine] = machine.protocol_lines(self.progress)
        try:
            signed = await self.guard.ask(setup.SignProtocol(lines), setup.ProtocolSigned)
        except (GuardAwayError, GuardDeniesError):
            self.trouble = "guard"
            return
        await asyncio.to_thread(replace_durably, Disk(), self.state_dir / PROTOCOL_FILE, signed.jws)

    def signed(self) -> bytes | None:
        with contextlib.suppress(OSError):
            return (self.state_dir / PROTOCOL_FILE).read_bytes()
        return None

    async def send_protocol(self) -> None:
        """To the centre; set-up is over when the centre says that it has it."""
        jws = self.signed()
        if jws is None:
            return
        try:
            client = self.client.with_identity(self.enroller.identity(None))
            taken = await asyncio.to_thread(client.give_protocol, jws)
        except GatewayError as exc:
            LOG.warning("protocol: %s", exc)
            self.trouble = "connect"
            return
        if taken.sha256 == hashlib.sha256(jws).hexdigest():
            await self.apply(machine.ProtocolTaken(taken.sha256))

    # What is looked at again and again

    async def _watch(self) -> None:
        step = self.progress.step
        if step in (Step.AIM, Step.CHECK, Step.ALARM, Step.PROTOCOL) or self.progress.entered or self.asks:
            with contextlib.suppress(GuardAwayError):
                self.standing = await self.guard.standing()
        if self.standing is not None:
            if self.asks:
                await self._enter_if_open(self.standing)
            elif self.progress.entered and step is not Step.DONE and not self.standing.is_open:
                LOG.warning("set-up was not finished in time, and is closed")
                await self.apply(machine.Lapsed())
                await asyncio.to_thread(self.keep.mark_done, is_done=True)
                self.over.set()
                return
        if self.progress.owed:
            await self._write_down()
        match step:
            case Step.COMPARE:
                await self._ask_centre()
            case Step.CHECK if self.standing is not None and self.standing.seen_check is not None:
                seen = self.standing
                assert seen.seen_check is not None
                await self.apply(machine.CheckSeen(seen.seen_check, seen.seen_frames, seen.seen_s))
            case Step.ALARM if self.progress.alarm is not None:
                await self._ask_centre()
            case _:
                pass

    async def _ask_centre(self) -> None:
        try:
            identity = self.enroller.identity(self.progress.pending)
            standing = await asyncio.to_thread(self.client.with_identity(identity).standing)
        except GatewayError as exc:
            LOG.info("centre: %s", exc)
            return
        self.centre_compared = standing.compared
        alarm = standing.alarm
        if alarm is not None and alarm.acknowledged:
            await self.apply(machine.AlarmAnswered(alarm.occasion))

    async def compare(self, *, is_same: bool) -> None:
        """What the installer says. *The same* counts once the centre has said it too."""
        self.trouble = None
        if not is_same or self.centre_compared is False:
            await self.apply(machine.Compared(is_same=False))
        elif self.centre_compared:
            await self.apply(machine.Compared(is_same=True))
        else:
            self.trouble = "centre-silent"

    # Effects

    async def _do(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Commit():
                self._spawn(self._commit(), "commit")
            case machine.Forget():
                await self.enroller.forget()
            case machine.WriteDown():
                self._spawn(self._write_down(), "ledger")
            case machine.Finish():
                self._spawn(self._finish(), "finish")
            case _:
                assert_never(effect)

    async def _commit(self) -> None:
        pending = self.progress.pending
        assert pending is not None
        while True:
            try:
                await self.enroller.commit(pending)
            except (TransientError, TimeoutError, GuardDeniesError) as exc:
                LOG.warning("not enrolled yet: %s", exc)
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                await self.apply(machine.Committed())
                return

    async def _write_down(self) -> None:
        async with self._turn:
            for note in self.progress.owed:
                try:
                    await self.guard.ask(setup.Note(note.what, note.digest), setup.Done)  # type: ignore[arg-type]
                except (GuardAwayError, GuardDeniesError) as exc:
                    LOG.info("not written down yet: %s", exc)
                    return
                after = machine.written_down(self.progress, note)
                await asyncio.to_thread(self.keep.put, after)
                self.progress = after

    async def _finish(self) -> None:
        """The guard first: from here on nothing can be previewed, noted or signed."""
        while True:
            try:
                await self.guard.ask(setup.Finish(), setup.Done)
            except GuardDeniesError:
                break  # it was told before
            except GuardAwayError:
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                break
        with contextlib.suppress(NetworkError):
            await self.network.lower_access_point()
        await asyncio.to_thread(self.keep.mark_done, is_done=True)
        self._later(self.over.set, self.linger_s)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._group is not None
        self._group.create_task(work, name=name)

    def _later(self, act: Callable[[], None], after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, act)
