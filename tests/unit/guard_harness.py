"""A whole home around the real guard, in one process, with time moved by hand; and a judge who watches it.

What is real: `gateway.services.guard` with its gate, machine, ledger, sockets and files.
What is played is the edge: mount, lamp, disk faults, and the three peers at the far ends of their real sockets: link
(with broker and centre behind it), eye, and the resident's hand.

Time: `HandLoop` jumps to the next timer only while `World.advance` lets it. Whenever nothing is left to be done at an
instant, the judge looks at the home. BOOTTIME is the loop's time since the boot; true time is the loop's time since
`World.base_unix_s`, and the device never sees it.

The judge knows what was agreed, signed, stopped and paused because it was asked for through the world, reads the
ledger's file by itself (and only what was synced), and computes windows with zoneinfo. It uses no code of
gateway.agreement or gateway.decision to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import selectors
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from centre.witness import Cosigner
from gateway.config import GuardConfig
from gateway.config.file import MountConfig
from gateway.core.error import ConfigError, HardwareFaultError, MountFaultError, NotParkedError
from gateway.ipc import frame
from gateway.ledger import NoteSigner, verify_checkpoint, verify_directory
from gateway.ledger.disk import Disk
from gateway.protocol.envelope import sign, verify
from gateway.protocol.key import SigningKey, b64url_decode
from gateway.protocol.message import (
    Accepted,
    AgreementPut,
    AgreementWithdraw,
    Challenge,
    Challenged,
    Close,
    Closed,
    Confirmation,
    DeviceReturned,
    Grant,
    Lease,
    LinkSettings,
    Message,
    MissedCheck,
    Open,
    Opened,
    Refused,
    Returning,
    Role,
    Signal,
    TimeAsk,
    TimeStatement,
    TrustPut,
    UpdateReport,
    Verdict,
    VerdictGiven,
    audience,
)
from gateway.protocol.picture import ViewSignal
from gateway.services import guard as service

GATEWAY = "gw-home"
INSTALL_EPOCH = 3
AUDIENCE = audience(GATEWAY, INSTALL_EPOCH)
ZONE = ZoneInfo("Europe/Stockholm")
TRAVEL_S = 1.4
WATCHDOG_S = 5.0
TICK_SLACK_S = 0.26
"""One tick of the guard: a limit is noticed at the first one after it."""
LONG_AGO = "2026-10-30"
"""When the first consent was given: before any time at which these histories play."""
FINGERPRINT = ":".join(f"{byte:02X}" for byte in hashlib.sha256(b"peer").digest())
DECODERS = {
    "link": msgspec.msgpack.Decoder(frame.ToLink),
    "eye": msgspec.msgpack.Decoder(frame.ToEye),
    "hand": msgspec.msgpack.Decoder(frame.ToHand),
    "upkeep": msgspec.msgpack.Decoder(frame.ToUpkeep),
}
REPLIES: dict[str, type[Message]] = {
    kind.KIND: kind
    for kind in (Accepted, Refused, Returning, DeviceReturned, Challenged, Opened, Closed, MissedCheck, TimeAsk)
}


class PromiseBrokenError(AssertionError):
    """The judge saw what must never be."""


# Time


class _Immediate(selectors.DefaultSelector):
    """Never waits; when nothing is ready it lets the loop's own time pass, or stops the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: HandLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        self.loop.idle(math.inf if timeout is None else timeout)
        return []


class HandLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only up to where it was allowed to."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.until_s = 0.0
        self.on_idle: Callable[[], None] = lambda: None
        hand = _Immediate()
        hand.loop = self
        super().__init__(hand)

    def time(self) -> float:
        return self.passed_s

    def idle(self, timeout_s: float) -> None:
        self.on_idle()
        if self.passed_s + timeout_s > self.until_s:
            self.passed_s = max(self.passed_s, self.until_s)
            self.stop()
        else:
            self.passed_s += timeout_s


# Keys: made once a run


@functools.cache
def key(name: str) -> SigningKey:
    return SigningKey.generate()


@functools.cache
def ledger_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@functools.cache
def witness() -> Cosigner:
    return Cosigner("tillsyn/centre", Ed25519PrivateKey.generate())


def answer_of(session: str, fingerprint: str = FINGERPRINT) -> str:
    """An SDP that names `session`, with one fingerprint."""
    return (
        f"v=0\r\no={session} 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
        f"a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\n"
    )


# The edge


class FakeDisk(Disk):
    """The real calls on a tmpfs; remembers what was synced, and fails when told to."""

    def __init__(self) -> None:
        self.synced: dict[Path, int] = {}
        self.changes = 0
        self.faults: list[int] = []
        """Error numbers for the next syncs of a segment, one each; 0 lets one pass."""
        self.full = False
        self.spare = 0
        """Records that still fit on a full disk, since the reserve was given up."""
        self.slow_s = 0.0
        self.pass_time: Callable[[float], None] = lambda _: None

    def write(self, fd: int, content: bytes) -> int:
        if self.full and not self.spare:
            raise OSError(errno.ENOSPC, "full")
        self.spare -= 1 if self.full else 0
        return super().write(fd, content)

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.spare = 2 if path.name == "reserve" else self.spare

    def fdatasync(self, fd: int) -> None:
        fault = self.faults.pop(0) if self.faults else 0
        if fault:
            raise OSError(fault, "scripted")
        if self.slow_s:
            self.pass_time(self.slow_s)
        super().fdatasync(fd)
        self.synced[Path(f"/proc/self/fd/{fd}").readlink()] = os.fstat(fd).st_size
        self.changes += 1


@dataclass
class Body:
    """What stands in the room; it outlives processes."""

    place: str = "up"
    """up, between, aim"""
    lamp: bool = False
    mount_mode: str = "good"
    """good, stuck (never arrives), faulty (says so)"""
    end_stop: bool | None = None
    """What it says where there is one; False is not up."""
    lamp_broken: bool = False


class FakeMount:
    """One process's hold on the mount."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._order = 0
        self.dead = False

    @property
    def position_deg(self) -> float:
        return {"up": 90.0, "between": 50.0, "aim": 10.0}[self._body.place]

    @property
    def measures(self) -> bool:
        return self._body.end_stop is not None

    @property
    def parked(self) -> bool:
        return self._body.place == "up" and self._body.end_stop is not False

    async def park(self) -> None:
        await self._go("up")

    async def aim(self) -> None:
        await self._go("aim")

    async def go(self, angle_deg: float) -> None:
        raise NotImplementedError

    async def _go(self, place: str) -> None:
        if self.dead:
            return
        self._order += 1
        order = self._order
        self._body.place = "between"
        if self._body.mount_mode == "stuck":
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(TRAVEL_S)
        if order != self._order or self._body.mount_mode != "good":
            raise MountFaultError("did not arrive")
        self._body.place = place
        if place == "up" and self._body.end_stop is False:
            raise NotParkedError("not up")

    def park_now(self) -> None:
        if self.dead:
            return
        if self._body.mount_mode != "good":
            raise MountFaultError("did not arrive")
        self._body.place = "up"

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


class FakeLamp:
    def __init__(self, body: Body) -> None:
        self._body = body
        self.dead = False

    @property
    def lit(self) -> bool:
        return self._body.lamp

    def on(self, brightness: float = 1.0) -> None:
        if self._body.lamp_broken:
            raise HardwareFaultError("no lamp")
        self._body.lamp = brightness > 0

    def off(self) -> None:
        if not self.dead:
            self._body.lamp = False

    def close(self) -> None:
        pass


# Peers


class Peer:
    """The far end of one of the guard's sockets."""

    def __init__(self, world: World, sock: socket.socket, decoder: str) -> None:
        sock.setblocking(False)
        self.world, self.sock, self._decoder = world, sock, DECODERS[decoder]
        self.open = True
        world.loop.add_reader(sock, self._readable)

    def send(self, word: frame.Frame) -> bool:
        try:
            self.sock.send(msgspec.msgpack.encode(word))
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self.open:
            self.open = False
            self.world.loop.remove_reader(self.sock)
            self.sock.close()

    def heard(self, word: Any, fds: list[int]) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        raise NotImplementedError

    def _readable(self) -> None:
        while self.open:
            try:
                content, fds, _, _ = socket.recv_fds(self.sock, frame.MAX_FRAME_BYTES + 1, 1)
            except BlockingIOError:
                return
            except OSError:
                content, fds = b"", []
            if not content:
                self.close()
                self.ended()
                return
            self.heard(self._decoder.decode(content), list(fds))


class Link(Peer):
    """The link process, the broker and the centre's answers to questions about the time."""

    def __init__(self, world: World, sock: socket.socket) -> None:
        super().__init__(world, sock, "link")
        self.broker_up = False
        self.media: dict[str, socket.socket] = {}
        self.ordered: list[LinkSettings] = []
        self.centre_answers = 0
        if world.guard is not None:
            self.send(frame.OutboxWants(world.guard.chronicle.size))
        self._beat()

    def set_broker(self, up: bool) -> None:
        self.broker_up = up
        self.send(frame.BrokerChanged(up))

    def _beat(self) -> None:
        if self.open:
            if not self.world.link_silent:
                self.world.link_heard_s = self.world.loop.time()
                self.send(frame.Beat())
            self.world.loop.call_later(1.0, self._beat)

    def heard(self, word: Any, fds: list[int]) -> None:
        match word:
            case frame.Publish(branch, payload, correlation):
                self.world.published(branch, payload, correlation)
            case frame.MediaOpened(check):
                self.media[check] = socket.socket(fileno=fds[0])
            case frame.LinkOrdered(settings):
                self.ordered.append(msgspec.json.decode(settings, type=LinkSettings))
            case frame.CentreAnswered():
                self.centre_answers += 1
            case frame.MediaShut():
                pass  # It keeps its end, as a hostile one would: the guard cuts the way without anybody's help.

    def ended(self) -> None:
        for sock in self.media.values():
            sock.close()
        self.media.clear()
        if self.world.link is self:
            self.world.link = None


class Eye(Peer):
    """One eye's process. `mode` says how it fails; a good one does what the real one promises."""

    def __init__(self, world: World, sock: socket.socket, mode: str) -> None:
        super().__init__(world, sock, "eye")
        self.mode = mode
        """good, stuck (from now on), mute (no answer), eager (shows before it may), deaf (to Stop), blind (fault)"""
        self.start: frame.Start | None = None
        self.started_s = 0.0
        self.told_stop = False
        self.sensor = False
        self.released = False
        self.frames = 0
        self.signal: ViewSignal | None = None
        self.permit_s = world.loop.time()
        self.media: socket.socket | None = None
        self._after(0.3, lambda: self.say(frame.Ready()))
        self._after(1.0, self._second)
        if mode == "stuck":
            self.freeze()

    @property
    def ordered(self) -> bool:
        """As far as the guard's orders go, this sensor is to be on."""
        return self.open and self.start is not None and not self.told_stop

    def say(self, word: frame.Frame) -> None:
        if self.open and self.mode != "stuck":
            self.send(word)

    def freeze(self) -> None:
        """Stands still; the watchdog kills it."""
        self.mode = "stuck"
        self._after(WATCHDOG_S, self.die)

    def die(self) -> None:
        if self.open:
            self.close()
            self.ended()

    def ended(self) -> None:
        self.sensor = False
        if self.media is not None:
            self.media.close()
            self.media = None
        if self in self.world.eyes:
            self.world.eyes.remove(self)

    def heard(self, word: Any, fds: list[int]) -> None:
        match word:
            case frame.Beat():
                self.permit_s = self.world.loop.time()
            case frame.Start():
                self.start, self.started_s = word, self.world.loop.time()
                self.media = socket.socket(fileno=fds[0])
                self.media.setblocking(False)
                self.sensor = self.mode != "stuck"
                self.world.judge.on_start(self)
                if self.mode == "eager":
                    self._after(0.2, self._first_frame)
                if self.mode == "blind":
                    self._after(0.4, lambda: self.say(frame.EyeFault("camera-fault")))
                elif self.mode != "mute":
                    self._after(0.5, lambda: self.say(frame.AnswerMade(answer_of("answer"))))
            case frame.LetFramesOut():
                self.released = True
                self.world.judge.on_release(self)
                self._after(0.3, self._first_frame)
            case frame.Stop():
                self.told_stop = True
                if self.mode not in ("stuck", "deaf"):
                    self._after(0.0, self._stop)

    def _stop(self) -> None:
        self.sensor = False
        self.say(frame.Stopped(self.frames))
        self.die()

    def _first_frame(self) -> None:
        if self.sensor:
            self.frames += 1
            self.say(frame.FirstFrameOut(self.world.loop.time()))

    def _second(self) -> None:
        if not self.open:
            return
        if self.world.loop.time() - self.permit_s > 3.0 and self.mode not in ("stuck", "deaf"):
            self.die()
            return
        self.frames += 15 if self.released and self.sensor else 0
        self.say(frame.EyeBeat(self.frames, self.signal))
        self._after(1.0, self._second)

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        self.world.loop.call_later(delay_s, act)


class Hand(Peer):
    """The resident's hand: one word, one answer."""

    def __init__(self, world: World, sock: socket.socket) -> None:
        super().__init__(world, sock, "hand")
        self.facts: frame.LocalFacts | None = None

    def heard(self, word: Any, fds: list[int]) -> None:
        self.facts = word

    def ended(self) -> None:
        pass


# What was asked for


@dataclass
class Person:
    """A key with a grant. `flaw` says what is wrong with the grant, if anything."""

    name: str
    key: SigningKey
    grant: Grant
    envelope: bytes


@dataclass
class SentOpen:
    """One opening that somebody signed, and what was wrong with it."""

    untrusted: bytes
    person: Person
    command: Open
    flaw: str | None
    starts: int = 0
    dead: bool = False
    """Sent again after it had been dealt with: it may not open now."""


@dataclass
class Nonce:
    process: int
    kid: str
    issued_s: float
    used: bool = False


def agreement_of(version: int, lines: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """An agreement with everything in order, and `changes`."""
    return {
        "agreement": "a-1",
        "version": version,
        "gateway": GATEWAY,
        "install_epoch": INSTALL_EPOCH,
        "timezone": "Europe/Stockholm",
        "valid": {"from": "2026-11-01", "until": "2028-10-31"},
        "consent": {"resident": {"given": LONG_AGO, "how": "signed", "ref": "c-1"}, "cohabitant": None},
        "lines": lines,
        "picture": {"mode": "clear"},
        "lamp": "dim",
        "if_not_seen": [{"do": "visit", "unit": "hv-1", "within_min": 45}],
        "pauses": [],
        "resident_ref": "r-1",
        **changes,
    }


def line_of(name: str, start: str, *, window_min: int = 30, max_s: int = 30, after_min: int = 2, times: int = 1) -> Any:
    return {
        "id": name,
        "rrule": "FREQ=DAILY",
        "start": start,
        "window_min": window_min,
        "max_s": max_s,
        "recheck": {"after_min": after_min, "times": times},
    }


class World:
    """The home, the centre and the people; every method is something that somebody does."""

    def __init__(
        self, base: datetime = datetime(2026, 11, 23, 22, 40, tzinfo=UTC), *, demand_cross_check: bool = False
    ) -> None:
        self.demand_cross_check = demand_cross_check
        self.loop = HandLoop()
        self.loop.on_idle = self._idle
        self.loop.set_exception_handler(self._loop_fault)
        self.base_unix_s = base.timestamp()
        self.directory = Path(tempfile.mkdtemp(prefix="tg", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.body = Body()
        self.last_words: list[DeviceReturned] = []
        self.judge = Judge(self)
        self.faults: list[BaseException] = []
        self.guard: service.Guard | None = None
        self.task: asyncio.Task[None] | None = None
        self.start_error: Exception | None = None
        self.disk = FakeDisk()
        self.link: Link | None = None
        self.link_silent = False
        self.inputs: Any = None
        """Button and tamper switch, where a test fits them."""
        self.read_power: Any = None
        self.link_heard_s = 0.0
        self.eyes: list[Eye] = []
        self.eye_mode = "good"
        self.boot_number = 0
        self.process = 0
        self.booted_s = 0.0
        self.independent = False
        self.centre = "honest"
        """honest, silent, lying (by 3 h), wrong-nonce, late (by 6 s)"""
        self.replies: dict[bytes, Message] = {}
        self.reports: list[Closed] = []
        self.missed: list[MissedCheck] = []
        self.update_reports: list[bytes] = []
        self.note = b""
        self.cosigns = "starts"
        """What the witness cosigns by itself: the first checkpoint of each process (starts), or nothing."""
        self._cosigned_process = 0
        self.signals: list[Signal] = []
        self.published_count = 0
        self.serial = 0
        self.opens: dict[str, SentOpen] = {}
        self.nonces: dict[str, Nonce] = {}
        self.agreement_version = 0
        self.trust_version = 1
        self.trust_epoch = 0
        self.counter = 0
        self._people: dict[Any, Person] = {}
        self._listener: socket.socket
        self.config = self._make_files()
        self._listen_as_eye()

    # Files

    def _make_files(self) -> GuardConfig:
        def put(name: str, content: bytes) -> str:
            path = self.directory / name
            path.write_bytes(content)
            return str(path)

        pem = ledger_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.directory / "state").mkdir()
        return GuardConfig(
            gateway=GATEWAY,
            install_epoch=INSTALL_EPOCH,
            groups=["hv-1"],
            state_dir=str(self.directory / "state"),
            guard_socket=str(self.directory / "guard.sock"),
            control_socket=str(self.directory / "control.sock"),
            eye_socket=str(self.directory / "eye.sock"),
            device_key=put("device.pem", key("device").to_pem()),
            ledger_key=put("ledger.pem", pem),
            roots=put("roots.json", json.dumps([key("root").verifying.jwk()]).encode()),
            trust=put("trust.jws", self.trust_statement(1, 0)),
            mount=MountConfig("bench", 12, 18),
            lamp_brightness=0.2,
            demand_isolation=False,
            witness=str(witness().public),
            demand_cross_check=self.demand_cross_check,
        )

    @property
    def state_dir(self) -> Path:
        return Path(self.config.state_dir)

    @property
    def ledger_dir(self) -> Path:
        return self.state_dir / "ledger"

    def _listen_as_eye(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.config.eye_socket)
        self._listener.listen(4)
        self._listener.setblocking(False)

        def accept() -> None:
            sock, _ = self._listener.accept()
            self.eyes.append(Eye(self, sock, self.eye_mode))

        self.loop.add_reader(self._listener, accept)

    # Time

    @property
    def true_unix_s(self) -> float:
        return self.base_unix_s + self.loop.time()

    @property
    def now_s(self) -> float:
        """BOOTTIME."""
        return 20.0 + self.loop.time() - self.booted_s

    def local_minute(self, offset_min: int = 0) -> str:
        return datetime.fromtimestamp(self.true_unix_s + 60 * offset_min, ZONE).strftime("%H:%M")

    def advance(self, duration_s: float) -> None:
        """Let time pass, with everything that happens in it."""
        self.loop.until_s = self.loop.time() + duration_s
        self.loop.run_forever()
        if self.faults:
            raise self.faults[0]
        if self.task is not None and self.task.done():
            self._process_ended()

    def sleep_long(self, duration_s: float) -> None:
        """Hours of nothing: a quiet home for 25 s, and then all the rest at once."""
        self.advance(min(duration_s, 25.0))
        self.loop.passed_s += max(0.0, duration_s - 25.0)
        self.advance(1.5)

    def _idle(self) -> None:
        self.judge.look()

    def _loop_fault(self, _loop: Any, context: dict[str, Any]) -> None:
        self.faults.append(context.get("exception") or RuntimeError(context["message"]))

    # Processes and power

    def start(self) -> bool:
        """Start the guard's process. False when it refuses to start."""
        assert self.guard is None
        self.process += 1
        self.body.lamp = False
        boot = hashlib.sha256(f"{self.boot_number}".encode()).hexdigest()[:32]
        mount, lamp = FakeMount(self.body), FakeLamp(self.body)
        self.disk = FakeDisk()
        self.disk.pass_time = self._stall
        self.start_error = None
        try:
            mount.park_now()
            # The lamp is a fake with the same form.
            self.guard = service.assemble(
                self.config,
                mount,
                lamp,  # type: ignore[arg-type]
                boot=boot,
                now=lambda: self.now_s,
                inputs=self.inputs,
                read_power=self.read_power,
            )
        except (ConfigError, HardwareFaultError) as error:
            self.start_error = error
            return False
        if self.guard.chronicle.ledger is not None:
            self.guard.chronicle.ledger._disk = self.disk
        self.set_independent(self.independent)
        self.judge.on_process()
        self.task = self.loop.create_task(self.guard.run())
        self.advance(0.0)
        return True

    def boot(self) -> bool:
        """Power on: a new boot id, and BOOTTIME starts low."""
        self.boot_number += 1
        self.booted_s = self.loop.time()
        return self.start()

    def join_link(self, broker_up: bool = True) -> None:
        """A link's process connects, as the restarted one does."""
        if self.guard is None or self.link is not None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.config.guard_socket)
        self.link_heard_s = self.loop.time()
        self.link_silent = False
        self.link = Link(self, sock)
        self.link.set_broker(broker_up)
        self.advance(0.3)

    def lose_link(self) -> None:
        if self.link is not None:
            link, self.link = self.link, None
            link.close()
            link.ended()

    def kill(self) -> None:
        """SIGKILL, or the power: the guard does nothing any more, and the kernel closes what it held."""
        if self.guard is None or self.task is None:
            return
        guard, task = self.guard, self.task
        self.judge.expect_no_process()
        # What a dead process can no longer reach: its far ends, its hardware, its files.
        self.lose_link()
        for eye in list(self.eyes):
            eye.die()
        for part in (guard.mount, guard.lamp):
            part.dead = True  # type: ignore[union-attr]
        guard.chronicle.close()
        self._end(task)

    def power_cut(self) -> None:
        """As `kill`; besides, what was not synced is gone, the lamp is dark, and the servo stays where it was."""
        self.kill()
        for path, size in self.disk.synced.items():
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        self.body.lamp = False

    def stop(self) -> None:
        """SIGTERM."""
        if self.guard is None or self.task is None:
            return
        self.judge.expect_no_process()
        self._end(self.task)
        self.lose_link()

    def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self.loop.until_s = self.loop.time()
        for _ in range(5):
            if task.done():
                break
            self.loop.run_forever()
        assert task.done()
        self._process_ended()

    def _process_ended(self) -> None:
        """The process is gone, by our order or by its own."""
        assert self.guard is not None
        assert self.task is not None
        error = None if self.task.cancelled() else self.task.exception()
        if error is not None and not _is_intended_end(error):
            raise error
        self.guard = self.task = None
        self.judge.expect_no_process()
        self.loop.until_s = self.loop.time()
        self.loop.run_forever()
        self.lose_link()

    def _stall(self, duration_s: float) -> None:
        """The process waits for its disk: time passes for all, but for it nothing happens."""
        self.loop.passed_s += duration_s
        self.loop.until_s = max(self.loop.until_s, self.loop.passed_s)

    def restart(self) -> bool:
        """systemd starts the process anew, within the same boot of the kernel."""
        self.stop()
        return self.up()

    def up(self) -> bool:
        """Bring up what is down: the process and its link."""
        if self.guard is None and not self.start():
            return False
        self.join_link()
        return self.guard is not None

    def copy_card(self) -> tuple[Path, Any]:
        """An image of the card as it is now, with what the judge knows to be on it."""
        self.serial += 1
        copy = self.directory / f"card-{self.serial}"
        shutil.copytree(self.state_dir, copy)
        return copy, self.judge.kept()

    def restore_card(self, card: tuple[Path, Any]) -> None:
        """Somebody puts an old image back; the device starts from it."""
        self.power_cut()
        shutil.rmtree(self.state_dir)
        shutil.copytree(card[0], self.state_dir)
        self.judge.restore(card[1])

    def close(self) -> None:
        """End everything; the ledger that is left must verify."""
        try:
            self.stop()
            if self.ledger_dir.exists() and not self.judge.tampered:
                verify_directory(self.ledger_dir)
        finally:
            for eye in list(self.eyes):
                eye.die()
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self.loop.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    # The clock's sources

    def set_independent(self, there: bool) -> None:
        """An NTS source or a battery RTC, which tells the truth."""
        self.independent = there
        if self.guard is not None:
            gate = self.guard.gate
            gate.clock = gate.clock.with_independent(self.true_unix_s if there else None, boottime_s=self.now_s)

    def ask_again(self) -> None:
        """The broker says that it is there, upon which the guard asks for the time."""
        if self.link is not None:
            self.link.set_broker(True)
        self.advance(0.8)

    def _answer_time(self, nonce: str) -> None:
        mode = self.centre
        if mode == "silent":
            return
        lie_s = 3 * 3600.0 if mode == "lying" else 0.0
        if mode == "wrong-nonce":
            nonce = "A" * 22
        if lie_s and not self.independent:
            self.judge.deceived = True
        statement = TimeStatement(GATEWAY, nonce, self.true_unix_s + lie_s, 0.5)
        envelope = sign(statement, key("issuer"))
        delay_s = 6.0 if mode == "late" else 0.1

        def deliver() -> None:
            if self.link is not None:
                self.link.send(frame.TimeArrived(envelope))

        self.loop.call_later(delay_s, deliver)

    # What the guard says

    def published(self, branch: str, payload: bytes, correlation: bytes) -> None:
        self.published_count += 1
        if branch == "ledger" and payload.startswith(b"tillsyn/"):
            self.note = payload
            if self.cosigns == "starts" and self._cosigned_process != self.process:
                self._cosigned_process = self.process
                self.loop.call_later(0.1, self._cosign_quietly, payload)
        if branch == "signal":
            self.signals.append(verify(payload, {key("device").verifying.kid: key("device").verifying}, Signal))
        if branch not in ("reply", "ask"):
            return
        kind = json.loads(b64url_decode(payload.split(b".")[0].decode()))["typ"][8:-4]
        if kind == UpdateReport.KIND:
            self.update_reports.append(payload)
            return
        message = verify(payload, {key("device").verifying.kid: key("device").verifying}, REPLIES[kind])
        if isinstance(message, TimeAsk):
            self._answer_time(message.nonce)
        elif isinstance(message, Closed):
            self.reports.append(message)
        elif isinstance(message, MissedCheck):
            self.missed.append(message)
        else:
            self.replies[correlation] = message
            if isinstance(message, DeviceReturned):
                self.last_words.append(message)

    def cosign(self, note: bytes | None = None, *, by: Cosigner | None = None, unix_s: float | None = None) -> bytes:
        """The witness answers a checkpoint, by default the newest that there is; the note as it went out."""
        signed = (self.ledger_dir / "checkpoint").read_bytes() if note is None else note
        checkpoint = verify_checkpoint(signed, ledger_signer().verifier)
        at_unix_s = int(self.true_unix_s if unix_s is None else unix_s)
        cosigned = signed + (by or witness()).cosign(checkpoint, unix_s=at_unix_s)
        self.say_cosigned(cosigned)
        return cosigned

    def _cosign_quietly(self, note: bytes) -> None:
        if self.link is not None:
            checkpoint = verify_checkpoint(note, ledger_signer().verifier)
            cosignature = witness().cosign(checkpoint, unix_s=int(self.true_unix_s))
            self.link.send(frame.CosignedArrived(note + cosignature))

    def say_cosigned(self, untrusted: bytes) -> None:
        if self.link is not None:
            self.link.send(frame.CosignedArrived(untrusted))
            self.advance(0.1)

    # Signed words

    def person(self, name: str = "op-1", role: Role = Role.OPERATOR, flaw: str | None = None) -> Person:
        """Somebody with a grant for this hour; `flaw` names what is wrong with it."""
        # A grant of the future is only one when it is made: kept, it would come true.
        since = self.true_unix_s if flaw == "future" else self.true_unix_s // 3600
        slot = (name, role, flaw, since, self.trust_epoch)
        if slot not in self._people:
            now = self.true_unix_s
            nbf, exp = now - 300.0, now + 2 * 3600.0
            if flaw == "expired":
                nbf, exp = now - 7200.0, now - 3.0
            elif flaw == "future":
                nbf, exp = now + 30.0, now + 7200.0
            elif flaw == "long":
                exp = nbf + 13 * 3600.0
            grant = Grant(
                sub=name,
                name_ref=name,
                roles=[Role.PLANNER if flaw == "role" else role],
                cnf=Confirmation(key("thief" if flaw == "other-key" else name).verifying.jwk()),
                epoch=self.trust_epoch - (1 if flaw == "epoch" and self.trust_epoch else 0),
                nbf=nbf,
                exp=exp,
                homes=["gw-other" if flaw == "home" else GATEWAY],
            )
            issuer = key("thief" if flaw == "issuer" else "issuer")
            self._people[slot] = Person(name, key(name), grant, sign(grant, issuer))
        return self._people[slot]

    def trust_statement(self, version: int, epoch: int) -> bytes:
        jwk = key("root").verifying.jwk()
        return sign(TrustPut(version, epoch, [jwk], [key("issuer").verifying.jwk()]), key("root"))

    def jti(self) -> str:
        self.serial += 1
        return f"j-{self.serial}"

    def say(self, message: Message, person: Person) -> bytes:
        return person.envelope + b"~" + sign(message, person.key)

    def deliver(self, untrusted: bytes, *, wait_s: float = 0.05) -> Message | None:
        """One message on the command topic; the reply to it, if there is one by then."""
        if self.link is None:
            return None
        self.serial += 1
        correlation = f"c{self.serial}".encode()
        self.link.send(frame.CommandArrived(untrusted, correlation))
        self.advance(wait_s)
        return self.replies.get(correlation)

    def put(self, agreement: dict[str, Any], person: Person | None = None) -> Message | None:
        """The planner's agreement arrives."""
        self.judge.agreements[_digest(agreement)] = agreement
        command = AgreementPut(AUDIENCE, self.jti(), agreement)
        reply = self.deliver(self.say(command, person or self.person("pl-1", Role.PLANNER)))
        if isinstance(reply, Accepted):
            self.judge.on_agreement(agreement)
        return reply

    def next_version(self) -> int:
        self.agreement_version += 1
        return self.agreement_version

    def raise_trust(self) -> Message | None:
        """The root raises the epoch: every grant of before is dead."""
        self.trust_version += 1
        version, epoch = self.trust_version, self.trust_epoch + 1
        self.judge.epochs[version] = epoch
        reply = self.deliver(self.trust_statement(version, epoch))
        if isinstance(reply, Accepted):
            self.trust_epoch = epoch
            self.judge.on_trust(epoch)
        return reply

    def challenge(self, person: Person | None = None) -> Message | None:
        person = person or self.person()
        reply = self.deliver(self.say(Challenge(AUDIENCE, self.jti()), person))
        if isinstance(reply, Challenged):
            self.nonces[reply.nonce] = Nonce(self.process, person.key.verifying.kid, self.loop.time())
        return reply

    def due_now(self, reply: Message | None) -> Any:
        """The first entry of a challenge's list that may be opened now."""
        if not isinstance(reply, Challenged):
            return None
        now = self.true_unix_s
        return next(
            (
                d
                for d in reply.due
                if d.status in ("due", "recheck") and d.attempt and d.opens_unix_s - 1 <= now <= d.closes_unix_s - 1
            ),
            None,
        )

    def open(self, command: Open, person: Person | None = None, *, flaw: str | None = None) -> tuple[bytes, Any]:
        """Sign and send an opening; (bytes, the reply at once: a refusal or nothing)."""
        person = person or self.person()
        untrusted = self.say(command, person)
        self.opens[command.offer] = SentOpen(untrusted, person, command, flaw)
        reply = self.deliver(untrusted)
        return untrusted, reply

    def open_command(self, challenged: Challenged, due: Any, **changes: Any) -> Open:
        session = f"s-{self.jti()}"
        values = {
            "aud": AUDIENCE,
            "jti": self.jti(),
            "nonce": challenged.nonce,
            "agreement": challenged.agreement,
            "version": challenged.version,
            "line": due.line,
            "occasion": due.occasion,
            "attempt": due.attempt,
            "offer": answer_of(session),
            **changes,
        }
        return Open(**values)

    @property
    def eye(self) -> Eye | None:
        """The eye that was started, if one is there."""
        return next((eye for eye in self.eyes if eye.start is not None), None)

    @property
    def check(self) -> str | None:
        eye = self.eye
        return None if eye is None or eye.start is None else eye.start.check

    def lease(self, *, check: str | None = None, counter: int | None = None, person: Person | None = None) -> None:
        """The operator still looks. A good one is remembered by the judge."""
        eye = self.eye
        target = check or self.check or "c-none"
        number = counter if counter is not None else self.counter + 1
        who = person or self.judge.opener(target) or self.person()
        untrusted = self.say(Lease(AUDIENCE, target, max(1, number)), who)
        if self.link is not None and not self.link_silent:
            self.judge.on_lease(target, number, who)
            self.counter = max(self.counter, number)
            self.deliver(untrusted)
        elif eye is not None:
            self.advance(0.05)

    def verdict(self, verdict: Verdict, *, counter: int | None = None, person: Person | None = None) -> Message | None:
        target = self.check or "c-none"
        number = counter if counter is not None else self.counter + 1
        self.counter = max(self.counter, number)
        who = person or self.judge.opener(target) or self.person()
        return self.deliver(self.say(VerdictGiven(AUDIENCE, self.jti(), target, max(1, number), verdict), who))

    def close_check(self, check: str | None = None, person: Person | None = None) -> Message | None:
        return self.deliver(
            self.say(Close(AUDIENCE, self.jti(), check or self.check or "c-none"), person or self.person())
        )

    def withdraw_signed(self, person: Person | None = None) -> Message | None:
        who = person or self.person("st-1", Role.STEWARD)
        reply = self.deliver(self.say(AgreementWithdraw(AUDIENCE, self.jti()), who))
        if isinstance(reply, Accepted):
            self.judge.on_withdrawal()
        return reply

    # The resident

    def hand(self, word: frame.Frame) -> frame.LocalFacts | None:
        """What the device answers, or None when it doesn't."""
        if self.guard is None:
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.config.control_socket)
        hand = Hand(self, sock)
        hand.send(word)
        self.advance(0.05)
        hand.close()
        return hand.facts

    def stop_for_good(self) -> bool:
        facts = self.hand(frame.StopForGood())
        if facts is not None:
            assert facts.withdrawn
            self.judge.on_withdrawal()
        return facts is not None

    def pause(self, duration_s: float) -> bool:
        facts = self.hand(frame.NotTonight(duration_s))
        if facts is not None:
            assert facts.paused
            self.judge.on_pause(duration_s, known=facts.clock in ("attested", "cross-checked"))
        return facts is not None

    def end_pause(self) -> None:
        if self.hand(frame.EndPause()) is not None:
            self.judge.pause_ended()

    # Everything right

    def mend(self) -> None:
        """Everybody does what is theirs to make a check possible: repairs, a link, the time, a fresh consent."""
        self.eye_mode, self.centre, self.link_silent = "good", "honest", False
        self.body.mount_mode, self.body.lamp_broken = "good", False
        if self.guard is not None and (self.eyes or self.body.place != "up" or self.guard.gate.obstacle):
            self.advance(14.0)
        self.disk.full, self.disk.slow_s, self.disk.faults = False, 0.0, []
        self.up()
        if self.guard is None:
            return
        self.ask_again()
        if self.judge.paused:
            self.end_pause()
        agreement = self.judge.agreement
        if self.judge.withdrawn or agreement is None or not self.judge.consented(agreement) or agreement["pauses"]:
            self.put(self.fresh_agreement())

    def fresh_agreement(self) -> dict[str, Any]:
        """One whose first line is due now, with a consent that was given today."""
        version = self.next_version()
        today = datetime.fromtimestamp(self.true_unix_s, ZONE).date().isoformat()
        person = {"given": today, "how": "signed", "ref": f"c-fresh-{version}"}
        return agreement_of(
            version,
            [line_of(f"now-{version}", self.local_minute(-1))],
            consent={"resident": person, "cohabitant": None},
        )

    def try_open(self, *, fresh: bool = True) -> bool:
        """A challenge and a good opening of what is due, which is agreed anew when nothing is and `fresh` says so."""
        reply = self.challenge()
        due = self.due_now(reply)
        if due is None and fresh:
            self.put(self.fresh_agreement())
            reply = self.challenge()
            due = self.due_now(reply)
        if due is None or not isinstance(reply, Challenged):
            return False
        self.counter = 0
        _, answer = self.open(self.open_command(reply, due))
        return answer is None or isinstance(answer, Opened)

    def watch(self) -> bool:
        """Do everything right up to the picture; True when somebody sees it."""
        self.mend()
        if self.guard is None or not self.try_open():
            return False
        self.advance(3.0)
        eye = self.eye
        return eye is not None and eye.sensor and eye.frames > 0

    @property
    def guard_version(self) -> int:
        """The version of the agreement in force, by the ledger."""
        return 0 if self.judge.agreement is None else int(self.judge.agreement["version"])

    @property
    def sensor_on(self) -> bool:
        return any(eye.sensor for eye in self.eyes)

    def refusals(self) -> list[dict[str, Any]]:
        return [body for body in self.judge.records if body["kind"] == "refused"]


# The judge


@dataclass
class Judged:
    """One check, from its start on."""

    sent: SentOpen
    opened: dict[str, Any]
    started_s: float
    max_s: float
    leased_s: float
    counter: int = 0


@dataclass
class Judge:
    """Says at every instant whether what is so may be so. See the module's head for what it rests on."""

    world: World
    agreements: dict[str, dict[str, Any]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=lambda: {1: 0})
    withdrawn: bool = False
    dead_consents: set[str] = field(default_factory=set)
    """References of consents that the resident took back."""
    paused_until_s: float | None = None
    """True Unix time; infinite while the device did not know the time when it was asked."""
    deceived: bool = False
    """The centre lied and nothing could contradict it: what the device holds for true time is no longer judged."""
    tampered: bool = False
    """Somebody changed the device's files: nothing may open."""
    records: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, Judged] = field(default_factory=dict)
    starts: int = 0
    pictures: int = 0
    looks_taken: int = 0
    _offsets: dict[tuple[Path, int], int] = field(default_factory=dict)
    _next_seq: int = 0
    _seen_changes: int = -1
    _dead: bool = True
    _live: bool = False
    """What is read now has just happened."""
    _heard_epoch: int = 0

    # What happens

    def on_process(self) -> None:
        """A process has started: all that is in the file now is what it found or wrote at its start."""
        self.records.clear()
        self._offsets.clear()
        self._next_seq = 0
        self._dead = False
        self._live = False
        self._read(everything=True)
        self._live = True
        self._seen_changes = self.world.disk.changes

    def expect_no_process(self) -> None:
        self._dead = True

    def kept(self) -> Any:
        return self.withdrawn, set(self.dead_consents), self.paused_until_s, self._heard_epoch

    def restore(self, kept: Any) -> None:
        """What was kept on the device is as old as its card now; what is kept elsewhere is not."""
        self.withdrawn, dead, self.paused_until_s, self._heard_epoch = kept
        self.dead_consents = set(dead)

    def on_agreement(self, agreement: dict[str, Any]) -> None:
        resident = agreement["consent"]["resident"]
        if resident is None or resident["ref"] in self.dead_consents:
            return
        if resident["given"] not in (None, LONG_AGO):
            self.withdrawn = False

    def on_withdrawal(self) -> None:
        self.withdrawn = True
        self.dead_consents |= {
            resident["ref"]
            for agreement in self.agreements.values()
            if (resident := agreement["consent"]["resident"]) is not None
        }

    def on_pause(self, duration_s: float, *, known: bool) -> None:
        until = self.world.true_unix_s + duration_s if known else math.inf
        self.paused_until_s = max(until, self.paused_until_s or 0.0)

    def pause_ended(self) -> None:
        self.paused_until_s = None

    def on_trust(self, epoch: int) -> None:
        self._heard_epoch = epoch

    @property
    def paused(self) -> bool:
        return self.paused_until_s is not None and self.world.true_unix_s < self.paused_until_s

    @property
    def agreement(self) -> dict[str, Any] | None:
        """The one in force, by the last record of one."""
        digest = next((body["digest_of"] for body in reversed(self.records) if body["kind"] == "agreement"), None)
        return None if digest is None else self.agreements[digest]

    @property
    def epoch(self) -> int:
        versions = [body["version"] for body in self.records if body["kind"] == "trust"]
        return max(self.epochs[versions[-1]] if versions else 0, self._heard_epoch)

    def opener(self, check: str) -> Person | None:
        judged = self.checks.get(check)
        return None if judged is None else judged.sent.person

    def on_lease(self, check: str, counter: int, person: Person) -> None:
        judged = self.checks.get(check)
        if judged is None or person.key is not judged.sent.person.key or person.grant.epoch < self.epoch:
            return
        if counter > judged.counter:
            judged.counter, judged.leased_s = counter, self.world.loop.time()

    def on_start(self, eye: Eye) -> None:
        """The sensor goes on. Everything that lets it is asked for here, once."""
        assert eye.start is not None
        self._read()
        start, world = eye.start, self.world
        self.starts += 1
        self.demand(not self._dead, "a start by a process that is gone")
        sent = world.opens.get(start.offer)
        assert sent is not None
        opened = self._opened(start.check)
        self.demand(opened is not None, "no durable opened record")
        assert opened is not None
        agreement = self.agreement
        self.demand(agreement is not None and not self.tampered, "no agreement in force")
        assert agreement is not None
        self._judge_asked(sent, opened, agreement)
        self._judge_grant(sent, opened)
        self._judge_agreed(opened, agreement)
        line = next(each for each in agreement["lines"] if each["id"] == opened["line"])
        now_s = world.loop.time()
        self.checks[start.check] = Judged(sent, opened, now_s, line["max_s"], now_s)
        self.demand(world.link is not None and world.link.broker_up, "no broker")
        self.demand(world.body.lamp, "a dark lamp")
        sent.starts += 1

    def _judge_asked(self, sent: SentOpen, opened: dict[str, Any], agreement: dict[str, Any]) -> None:
        command, world = sent.command, self.world
        self.demand(sent.flaw is None, f"an opening that is wrong: {sent.flaw}")
        self.demand(sent.starts == 0 and not sent.dead, "a replayed opening")
        nonce = world.nonces.get(command.nonce)
        self.demand(nonce is not None and not nonce.used, "a nonce that was not given out, or twice used")
        assert nonce is not None
        nonce.used = True
        self.demand(nonce.process == world.process, "a nonce of an earlier start")
        self.demand(nonce.kid == sent.person.key.verifying.kid, "a nonce of another key")
        self.demand(world.loop.time() - nonce.issued_s <= 30.0 + 0.01, "a nonce older than 30 s")
        asked = (command.agreement, command.version, command.line, command.occasion, command.attempt)
        held = (agreement["agreement"], agreement["version"], opened["line"], opened["occasion"], opened["attempt"])
        self.demand(asked == held, f"asked for {asked}, opened {held}")
        self.demand(opened["who"] == sent.person.name, "recorded under another name")

    def _judge_grant(self, sent: SentOpen, opened: dict[str, Any]) -> None:
        grant, now = sent.person.grant, self.world.true_unix_s
        lo, hi = opened["time_lo"], opened.get("time_hi")
        self.demand(hi is not None, "opened while no time was known")
        if not self.deceived:
            self.demand(lo - 0.01 <= now <= hi + 0.01, f"true time {now} is not in [{lo}, {hi}]")
            self.demand(grant.nbf <= now < grant.exp, "a grant whose shift is not now")
        self.demand(grant.nbf <= lo + 0.01 and hi < grant.exp + 0.01, "a grant whose shift does not hold the interval")
        self.demand(grant.epoch >= self.epoch, "a grant of a revoked epoch")
        self.demand(GATEWAY in grant.homes, "a grant of other homes")

    def _judge_agreed(self, opened: dict[str, Any], agreement: dict[str, Any]) -> None:
        self.demand(self.consented(agreement), "no consent of all who are named")
        self.demand(not self.withdrawn, "withdrawn")
        lo, hi = opened["time_lo"], opened["time_hi"]
        if not self.deceived:
            self.demand(not self.paused, "paused")
        for pause in agreement["pauses"]:
            first, last = (instant_of(pause[name], agreement["timezone"]) for name in ("from", "until"))
            self.demand(hi < first or lo >= last, "an agreed pause")
        line = next((each for each in agreement["lines"] if each["id"] == opened["line"]), None)
        self.demand(line is not None and opened["occasion"][11:] == line["start"], "no such line or occasion")
        assert line is not None
        start = instant_of(opened["occasion"], agreement["timezone"])
        earlier = self._attempts(opened)
        looks = [closed for outcome, closed in earlier if outcome != "broken"]
        times, window_s = line["recheck"]["times"], 60 * line["window_min"]
        after_s = 60 * line["recheck"]["after_min"]
        self.demand(opened["attempt"] == len(earlier) + 1, "not the next attempt")
        self.demand("seen" not in [outcome for outcome, _ in earlier], "already seen")
        self.demand(len(looks) <= times, "more looks than agreed")
        self.demand(len(earlier) + 1 <= 1 + times + 2, "more openings than agreed")
        first, last = start, start + window_s
        if looks:
            first = max(looks) + after_s
            last = min(first + window_s, start + window_s + times * (line["max_s"] + after_s + window_s))
        self.demand(first - 0.01 <= lo and hi <= last + 0.01, f"[{lo}, {hi}] is not in [{first}, {last}]")

    @staticmethod
    def consented(agreement: dict[str, Any]) -> bool:
        named = [person for person in agreement["consent"].values() if person is not None]
        return agreement["consent"]["resident"] is not None and all(person["given"] for person in named)

    def on_release(self, eye: Eye) -> None:
        self.demand(self.world.body.place == "aim", "frames let out before the mount has arrived")
        self.pictures += 1

    # What is so

    def look(self) -> None:
        """Called whenever nothing is left to do at an instant."""
        if self.world.disk.changes != self._seen_changes and not self._dead:
            self._read()
        for eye in self.world.eyes:
            if eye.start is not None:
                self._look_at(eye, eye.start.check)

    def _look_at(self, eye: Eye, check: str) -> None:
        world = self.world
        closed = any(body["kind"] == "closed" and body.get("check") == check for body in self.records)
        # A deaf eye outlasts the record by rule (CLOSING_LIMIT_S); its picture goes nowhere, which is asked below.
        if eye.sensor and eye.mode != "deaf":
            self.demand(not closed, "the record is closed and the sensor on")
            self.demand(world.body.lamp, "the sensor is on and the lamp dark")
        if eye.told_stop or not eye.ordered:
            self.demand(eye.media is None or _is_shut(eye.media), "the picture's way is open after the end")
            return
        judged, now_s = self.checks[check], world.loop.time()
        self.demand(not self._dead, "nobody guards an open sensor")
        self.demand(not closed, "closed, and not told to stop")
        self.demand(now_s - judged.started_s <= judged.max_s + TICK_SLACK_S, "open for longer than agreed")
        self.demand(now_s - judged.leased_s <= 9.0 + TICK_SLACK_S, "open without a lease")
        self.demand(judged.sent.person.grant.epoch >= self.epoch, "open for a revoked grant")
        self.demand(not self.withdrawn, "open after it was withdrawn")
        if not self.deceived:
            self.demand(not self.paused, "open in a pause")
        self.demand(world.link is not None and world.link.broker_up, "open without a broker")
        self.demand(now_s - world.link_heard_s <= 3.0 + 2 * TICK_SLACK_S, "open with a silent link")
        if eye.released:
            self.demand(world.body.place == "aim", "a picture while the mount is elsewhere")

    def look_at_quiet(self) -> None:
        """After 25 s without any event from outside."""
        guard = self.world.guard
        self.demand(not self.world.sensor_on, "the sensor is on after a quiet while")
        off_duty = guard is None or guard.gate.obstacle is not None
        self.demand(off_duty or self.world.body.place == "up", "the mount is not parked after a quiet while")

    # The ledger's file

    def _read(self, *, everything: bool = False) -> None:
        disk = self.world.disk
        self._seen_changes = disk.changes
        if self.tampered:
            return
        for path in sorted((self.world.ledger_dir / "segments").glob("*.log")):
            size = path.stat().st_size if everything else disk.synced.get(path, 0)
            # A segment that retention has rewritten is another file: read anew, for what is not known yet.
            file_key = (path, path.stat().st_ino)
            offset = self._offsets.get(file_key, 0)
            if size <= offset:
                continue
            with path.open("rb") as file:
                file.seek(offset)
                content = file.read(size - offset)
            self._offsets[file_key] = size
            for each in content.splitlines():
                line = json.loads(each[9:])
                if line["seq"] >= self._next_seq:
                    self._next_seq = line["seq"] + 1
                    if "body" in line:
                        self._enter(line["body"])

    def _enter(self, body: dict[str, Any]) -> None:
        if body["kind"] in ("agreement", "trust"):
            if body.get("why") == "restated":
                known = [b.get("digest_of") for b in self.records]
                self.demand(not self._live or body["digest_of"] in known, "restated what never was")
                self.records.append(body)
                return
            highest = max((b["version"] for b in self.records if b["kind"] == body["kind"]), default=0)
            self.demand(body["version"] > highest, f"an older {body['kind']} came into force")
        knows = body["kind"] == "clock" and body["why"] in ("attested", "cross-checked")
        if knows and self._live and self.paused_until_s == math.inf:
            self.paused_until_s = self.world.true_unix_s + 12 * 3600.0
        self.records.append(body)
        if body["kind"] == "closed":
            same = [b for b in self.records if b.get("check") == body["check"] and b["kind"] in ("opened", "closed")]
            kinds = [b["kind"] for b in same]
            self.demand(kinds == ["opened", "closed"] or not self._live, "a check that closed twice, or never opened")

    def _opened(self, check: str) -> dict[str, Any] | None:
        bodies = [b for b in self.records if b.get("check") == check]
        if any(b["kind"] == "closed" for b in bodies):
            return None
        return next((b for b in bodies if b["kind"] == "opened"), None)

    def _attempts(self, opened: dict[str, Any]) -> list[tuple[str, float]]:
        """(outcome, closed at) of this occasion's earlier attempts, by the records."""
        found = []
        for body in self.records:
            same = (body.get("line"), body.get("occasion")) == (opened["line"], opened["occasion"])
            if body["kind"] == "closed" and same:
                verdicts = [b["why"] for b in self.records if b["kind"] == "verdict" and b["check"] == body["check"]]
                if verdicts:
                    outcome = "seen" if verdicts[0] == "seen" else "look"
                elif body["why"] in ("operator-closed", "time-up", "resident-stopped"):
                    outcome = "look"
                else:
                    outcome = "look" if body.get("watched_s", 0.0) >= 5.0 else "broken"
                found.append((outcome, body["time_lo"]))
        return found

    def demand(self, holds: bool, promise: str) -> None:
        if not holds:
            self.world.faults.append(PromiseBrokenError(promise))
            raise self.world.faults[-1]


@functools.cache
def instant_of(local: str, zone: str) -> float:
    """Unix time of a local minute: the first minute at which a wall clock there shows it, or has passed it."""
    wanted = datetime.fromisoformat(local)
    moment = wanted.replace(tzinfo=UTC) - timedelta(hours=15)
    while moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wanted:
        moment += timedelta(minutes=1)
    return moment.timestamp()


def _digest(agreement: dict[str, Any]) -> str:
    from gateway.agreement import encode_agreement, parse_agreement
    from gateway.core.refusal import RefusedError

    try:
        return hashlib.sha256(encode_agreement(parse_agreement(agreement))).hexdigest()
    except RefusedError:
        return "malformed"


def _is_shut(media: socket.socket) -> bool:
    try:
        return media.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _is_intended_end(error: BaseException) -> bool:
    """The guard ends itself when it may not go on; anything else is our own mistake."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_intended_end(each) for each in error.exceptions)
    return isinstance(error, HardwareFaultError)


@contextlib.contextmanager
def home(base: datetime = datetime(2026, 11, 23, 22, 40, tzinfo=UTC), *, cosigns: str = "starts") -> Iterator[World]:
    """A booted home with a link, an attested clock, and an agreement that is due now; `cosigns` as `World.cosigns`."""
    world = World(base)
    world.cosigns = cosigns
    try:
        world.boot()
        world.mend()
        yield world
    finally:
        world.close()


def ledger_signer() -> NoteSigner:
    return NoteSigner(f"tillsyn/{GATEWAY}", ledger_key())
