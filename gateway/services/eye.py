"""The eye: camera, H.264, DTLS-SRTP. Has no network, no ledger, and no life longer than one check.

Unit: tillsyn-eye, started by the guard's connection to its socket. One connection, at most one opening, then the
process ends. Without a word from the guard for 3 s it stops by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, assert_never

from gateway.config import EyeConfig
from gateway.core.boottime import boottime_s
from gateway.core.error import CameraFaultError, TransientError
from gateway.core.log_digest import LogDigest
from gateway.edge.bench_world import BenchWorld
from gateway.edge.camera_open import make_camera
from gateway.edge.camera_port import CameraPort, CameraSettings
from gateway.edge.log_systemd import start_logging
from gateway.edge.media_aiortc import Lost, Peer
from gateway.edge.service_systemd import (
    demand_isolation,
    demand_no_swap,
    feed_watchdog,
    harden,
    listening_socket,
    run_until_signal,
)
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.protocol.picture import ViewWord, encode
from gateway.rate import Control, Limits
from gateway.services.showing import Showing
from gateway.services.viewing import Viewing
from gateway.view import SignatureError

LOG = logging.getLogger("tillsyn.eye")

PERMIT_LIFE_S: Final = 3.0
UNUSED_LIFE_S: Final = 60.0
"""Longer than any nonce lives: an eye that nobody uses ends even if the guard forgets it."""
MAX_MESSAGES_PER_S: Final = 20
LEAST_LARGE_PX: Final = 960
"""A picture that is narrower has no smaller size: half of it would show nobody."""
FIXED_LIMITS: Final = Limits(start_bps=4_000_000, most_bps=8_000_000, fixed=True)
"""A film that is sent as it is. Where the line is slower, its pictures are skipped up to the next key picture."""


class _EndError(Exception):
    """The eye's work is over, in order."""


@dataclass(slots=True)
class Eye:
    """One eye for one check."""

    config: EyeConfig
    channel: Channel[frame.ToEye]
    camera: CameraPort
    digest: LogDigest = field(default_factory=lambda: LogDigest("eye"))
    _peer: Peer | None = None
    _group: asyncio.TaskGroup | None = None
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _permit_s: float = 0.0
    _messages_left: int = MAX_MESSAGES_PER_S
    _started: bool = False
    _showing: bool = False
    _ended: bool = False
    _picture: Showing | None = None
    _viewing: Viewing | None = None

    async def run(self) -> None:
        """Serve until the check ends. Leaves the sensor closed, whatever happens."""
        self._permit_s = boottime_s()
        # Certificate, codecs, transports: made before anybody waits for the picture.
        self._peer = Peer(
            request_key_frame=self.camera.request_key_frame,
            on_first=lambda: self._say(frame.FirstFrameOut(boottime_s())),
            on_message=self._from_operator,
            on_lost=self._lost,
            limits=Limits(most_bps=self.config.bit_rate_bps, large=self.config.width_px >= LEAST_LARGE_PX),
            on_control=self._follow,
        )
        self._picture = Showing(self.camera, self._peer)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._obey(), name="obey")
                group.create_task(self._watch_time(), name="time")
                group.create_task(feed_watchdog(), name="watchdog")
                self.channel.send(frame.Ready())
        except* (_EndError, ChannelLostError):
            pass
        except* CameraFaultError as faults:
            LOG.error("camera: %s", faults.exceptions[0])
            self._say(frame.EyeFault("camera-fault"))
        except* TransientError as faults:
            LOG.warning("path: %s", faults.exceptions[0])
            self._say(frame.EyeFault("path-lost"))
        finally:
            self._ended = True
            # First the sensor: the operator's side may take its time.
            await self.camera.close()
            if self._peer is not None:
                await self._peer.close()
            self._say(frame.Stopped(0 if self._picture is None else self._picture.frames))

    async def _obey(self) -> None:
        while True:
            got, fds = await self.channel.receive()
            match got:
                case frame.Beat():
                    self._permit_s = boottime_s()
                case frame.Start() if len(fds) == 1 and not self._started:
                    self._started = True
                    self._start(got, socket.socket(fileno=fds[0]))
                case frame.Start():
                    raise ChannelLostError("a second start, or one without its socket")
                case frame.LetFramesOut():
                    self._released.set()
                case frame.Stop(why):
                    LOG.info("stopping: %s", why)
                    raise _EndError
                case _:
                    assert_never(got)

    def _start(self, start: frame.Start, sock: socket.socket) -> None:
        assert self._group is not None
        assert self._peer is not None
        try:
            self._viewing = Viewing(start.signature)
        except SignatureError as exc:
            LOG.warning("no aim to compare with: %s", exc)
            self._viewing = Viewing(None)
        self._peer.attach(sock)
        self._group.create_task(self._answer(self._peer, start.offer), name="answer")
        self._group.create_task(self._pump(self._peer, softened=start.softened), name="pump")
        self._group.create_task(self._release(self._peer), name="release")

    async def _answer(self, peer: Peer, offer: str) -> None:
        self.channel.send(frame.AnswerMade(await peer.answer(offer)))

    async def _pump(self, peer: Peer, *, softened: bool) -> None:
        """Sensor to track. Units before the mount's arrival and before the path is up are dropped, unseen."""
        assert self._picture is not None
        self._picture.follow(peer.sender.control)
        await self.camera.open(softened=softened)
        if not self.camera.adapts:
            peer.sender.set_limits(FIXED_LIMITS)
        while True:
            unit = await self.camera.read()
            # The track begins with a key frame; until `_release` has asked for one, units end here.
            if self._showing:
                self._picture.take(unit)
                self._view(peer)

    def _view(self, peer: Peer) -> None:
        """What is to be said of the picture goes to the operator and to the guard at once: a verdict may follow."""
        assert self._viewing is not None
        signal = self._viewing.take(self.camera.luma())
        if signal is None:
            return
        peer.say(encode(ViewWord(signal)))
        self._beat()
        if self._viewing.learnt is not None:
            self._say(frame.AimLearnt(self._viewing.learnt))
            self._viewing.learnt = None

    async def _release(self, peer: Peer) -> None:
        await self._released.wait()
        await peer.connected.wait()
        # At once, not when the next unit comes: at 15 fps that would be a frame later.
        self._showing = True
        self.camera.request_key_frame()

    async def _watch_time(self) -> None:
        born_s = refilled_s = boottime_s()
        while True:
            await asyncio.sleep(0.5)
            now_s = boottime_s()
            if now_s - refilled_s >= 1.0:
                refilled_s, self._messages_left = now_s, MAX_MESSAGES_PER_S
            if now_s - self._permit_s > PERMIT_LIFE_S:
                LOG.error("the guard is silent")
                raise _EndError
            if not self._started and now_s - born_s > UNUSED_LIFE_S:
                raise _EndError
            for each in self.digest.drain()[0]:
                self.channel.send(frame.Logged(each.level, each.event, each.count))
            self._beat()

    def _beat(self) -> None:
        frames = 0 if self._picture is None else self._picture.frames
        self.channel.send(frame.EyeBeat(frames, None if self._viewing is None else self._viewing.signal))

    def _from_operator(self, untrusted: bytes) -> None:
        if self._messages_left <= 0:
            return
        self._messages_left -= 1
        if self._picture is None or not self._picture.hear(untrusted):
            self._say(frame.FromOperator(untrusted))

    def _follow(self, control: Control) -> None:
        if self._picture is not None:
            self._picture.follow(control)

    def _lost(self, why: Lost) -> None:
        if self._ended:
            return  # by our own end
        self._say(frame.EyeFault(why.value))

    def _say(self, word: frame.Frame) -> None:
        with contextlib.suppress(ChannelLostError):
            self.channel.send(word)


async def serve(config: EyeConfig) -> None:
    """Take the guard's one connection and serve it."""
    digest = LogDigest("eye")
    start_logging("eye", digest)
    listener = listening_socket(Path(config.eye_socket))
    try:
        async with asyncio.timeout(UNUSED_LIFE_S):
            sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    except TimeoutError:
        return
    finally:
        listener.close()
    world = None if config.world is None else BenchWorld(config.world)
    settings = CameraSettings(
        width_px=config.width_px,
        height_px=config.height_px,
        fps=config.fps,
        bit_rate_bps=config.bit_rate_bps,
        unit_timeout_s=config.picture_limit_s,
    )
    await Eye(config, Channel(sock, frame.ToEye), make_camera(config.camera, settings, world), digest).run()


def main(config: EyeConfig) -> None:
    """Run for one check. Raises ConfigError before anything is touched when this process can see a network."""
    harden()
    if not config.may_swap:
        demand_no_swap()
    if config.demand_isolation:
        demand_isolation()
    run_until_signal(serve(config))
