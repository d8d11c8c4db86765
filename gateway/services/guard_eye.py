"""The guard's side of the eye: started for a check, told what to do, and cut off without its help."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from gateway.check import machine
from gateway.check.machine import Why
from gateway.core.log_digest import Service
from gateway.decision import OpenCheck
from gateway.decision.nonce import LIFE_S as NONCE_LIFE_S
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect, pair
from gateway.protocol.envelope import sign
from gateway.protocol.message import Signal
from gateway.protocol.picture import ViewSignal
from gateway.protocol.topic import Branch
from gateway.services.aim_book import AimBook
from gateway.services.guard_core import Core, OpenPreview, close_fds
from gateway.services.guard_link import LinkSide

LOG = logging.getLogger("tillsyn.guard")

EYE_IDLE_S: Final = NONCE_LIFE_S + 5.0
"""An eye that a challenge started and nobody used ends after this."""
SIGNAL_EVERY_S: Final = 0.9
"""The eye's beats come twice a second; every other one is passed on."""


@dataclass(slots=True)
class _Eye:
    channel: Channel[frame.ToGuardFromEye]
    idle_until_s: float
    used: bool = False
    is_ready: bool = False
    """Its libraries are loaded."""


@dataclass(slots=True)
class EyeSide:
    """The eye's channel and the media socket, while there are such."""

    core: Core
    link: LinkSide
    on_command: Callable[[bytes, bytes], None] = field(init=False)
    on_logged: Callable[[Service, frame.Logged], None] = field(init=False)
    _eye: _Eye | None = None
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _media: socket.socket | None = None
    _signalled_s: float = 0.0
    ready_s: float | None = None
    """When an eye last said that it is well: libraries loaded, keys made, camera closed."""
    aim: AimBook = field(init=False)

    def __post_init__(self) -> None:
        self.aim = AimBook(self.core.config)

    def drop(self) -> None:
        """The service's own last word: no picture, and no channel to whoever makes one."""
        self._cut_media()
        if self._eye is not None:
            self._eye.channel.close()

    def _cut_media(self) -> None:
        if self._media is not None:
            with contextlib.suppress(OSError):
                self._media.shutdown(socket.SHUT_RDWR)
            self._media.close()
            self._media = None

    @property
    def is_ready(self) -> bool:
        """Whether an eye stands by that would show a picture without having to load anything first."""
        return self._eye is not None and self._eye.is_ready

    async def prepare(self) -> None:
        """Have an eye's process at hand; connecting to its socket starts it."""
        async with self._starting:
            if self._eye is not None:
                self._eye.idle_until_s = self.core.now() + EYE_IDLE_S
                return
            try:
                sock = await connect(self.core.config.eye_socket)
            except ChannelLostError as exc:
                LOG.error("the eye can't be started: %s", exc)
                return
            eye = _Eye(Channel(sock, frame.ToGuardFromEye), self.core.now() + EYE_IDLE_S)
            self._eye = eye
            self.core.spawn(self._serve(eye), "eye")

    async def _serve(self, eye: _Eye) -> None:
        try:
            while True:
                got, fds = await eye.channel.receive()
                close_fds(fds)
                eye.is_ready = eye.is_ready or isinstance(got, frame.Ready)
                self._on_eye(got)
        except ChannelLostError:
            pass
        finally:
            eye.channel.close()
        if self._eye is eye:
            self._eye = None
            self.core.dispatch(machine.EyeGone())

    def _on_eye(self, got: frame.ToGuardFromEye) -> None:
        match got:
            case frame.Ready():
                self.ready_s = self.core.now()
                self.core.dispatch(machine.EyeHeard())
            case frame.AnswerMade(answer):
                self.core.dispatch(machine.AnswerMade(answer))
            case frame.FirstFrameOut():
                self.core.dispatch(machine.FirstFrame())
            case frame.EyeBeat(frames, signal):
                self.core.dispatch(machine.EyeHeard(frames, None if signal is None else signal.view.value))
                self._signal(frames, signal)
            case frame.AimLearnt(signature):
                if not self._previews():  # what the installer sees while he still turns the camera is no aim yet
                    self.aim.learn(signature)
            case frame.Stopped(frames):
                self.core.dispatch(machine.EyeHeard(frames))
            case frame.FromOperator(untrusted):
                self.on_command(untrusted, b"")
            case frame.Logged():
                self.on_logged("eye", got)
            case frame.EyeFault(code):
                # While closing it is the guard's own cut that the eye notices.
                LOG.log(
                    logging.INFO if isinstance(self.core.state, machine.Closing) else logging.ERROR, "eye: %s", code
                )
                why = {"camera-fault": Why.CAMERA_FAULT, "seal-broken": Why.SEAL_BROKEN}.get(code, Why.NO_PICTURE)
                self.core.dispatch(machine.Fault(why))
            case _:
                assert_never(got)

    def _signal(self, frames: int, view: ViewSignal | None) -> None:
        """Once a second in a check, for the centre's list; its acknowledgement shows a live broker."""
        current, now_s = self.core.gate.current, self.core.now()
        if current is None or self._previews() or now_s - self._signalled_s < SIGNAL_EVERY_S:
            return
        self._signalled_s = now_s
        signal = Signal(self.core.config.gateway, current.check, frames, view)
        self.link.publish(Branch.SIGNAL, sign(signal, self.core.device_key))

    def _previews(self) -> bool:
        return self.core.pending is not None and self.core.pending.carrier is not None

    async def start(self, order: OpenCheck | OpenPreview) -> None:
        await self.prepare()
        pending = self.core.pending
        link: Channel[Any] | None = self.link.channel
        if pending is not None and pending.carrier is not None:
            link = pending.carrier
        eye = self._eye
        if eye is None:
            self.core.dispatch(machine.EyeGone())
            return
        if (
            link is None
            or self.core.gate.current is not order.facts
            or not isinstance(self.core.state, machine.Opening)
        ):
            return  # closed in the meantime
        eye.used = True
        mine, theirs = pair()
        try:
            start = frame.Start(order.facts.check, order.offer, order.softened, self.aim.signature)
            eye.channel.send(start, (mine.fileno(),))
            link.send(frame.MediaOpened(order.facts.check), (theirs.fileno(),))
        except ChannelLostError:
            mine.close()
            self.core.dispatch(machine.Fault(Why.LINK_LOST if link.lost else Why.EYE_LOST))
            return
        finally:
            theirs.close()
        # Kept, so that the picture can be cut without anybody's help: shutdown ends every duplicate of a socket.
        self._media = mine

    def sensor_off(self) -> None:
        self._cut_media()
        if self.core.gate.current is not None:
            self.link.tell(frame.MediaShut(self.core.gate.current.check))
        if self._eye is None:
            # Nothing holds the sensor; the machine waits for that word.
            self.core.later(machine.EyeGone())
        else:
            self.tell(frame.Stop("closing"))

    def tell(self, word: frame.Frame) -> None:
        if self._eye is not None:
            with contextlib.suppress(ChannelLostError):
                self._eye.channel.send(word)

    def end_idle(self, now_s: float) -> None:
        if self._eye is not None and not self._eye.used and now_s >= self._eye.idle_until_s:
            self._eye.idle_until_s = now_s + EYE_IDLE_S
            self.tell(frame.Stop("unused"))
