"""The two ways to a picture that are compared: a check through the whole system, and a bare aiortc session."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from bench.child import Child
from centre.operator import Look, Operator
from gateway.edge.bench_world import BenchWorld
from gateway.edge.isolation_unshare import isolation
from gateway.edge.mount_gpiozero import STEP_S
from gateway.mount.calibration import Calibration
from gateway.protocol.message import Challenged, Message, Open, Verdict
from provisioning import bench_home, demo
from provisioning.bench_home import BenchHome
from provisioning.demo import RunningBench

LINES = 12
"""An agreement has no more lines; each check needs one of its own, because an occasion that was seen is done."""
READ_S = 2.0
"""How long an operator reads the page before Start, with the eye's process up; the challenge was fetched before."""
FRAME_LIMIT_S = 20.0
EYE_LIMIT_S = 15.0
MAX_S = 120

QUICK_MOUNT = {"aim_deg": 45.0, "max_speed_deg_s": 360.0, "max_accel_deg_s2": 5000.0}
"""The shortest travel that a calibration allows: 45° in 0.23 s."""


@dataclass(slots=True)
class Timeline:
    """Seconds after the opening was asked for, as the operator's side sees them."""

    offer_s: float = 0.0
    """The offer is made: everything before is the operator's."""
    answer_s: float = 0.0
    """The device's signed answer is here."""
    connected_s: float = 0.0
    """ICE and DTLS are done."""
    mount_s: float | None = None
    """The mount has arrived, by the file in which the bench keeps its pins; within a step of 20 ms."""
    frame_s: float = 0.0
    """The first decoded frame."""

    @property
    def without_mount_s(self) -> float:
        """What is left without the time in which only the mount was waited for.

        A frame leaves when the mount has arrived *and* the path is up. Had the mount been there, it would have left as
        soon as the path was up; so the mount's share is what it arrived later than that, and nothing when it did not.
        """
        return self.frame_s - max(0.0, (self.mount_s or 0.0) - self.connected_s)


class TimedOperator(Operator):
    """An operator with a stop watch: it notes when offer, answer and connection were there."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        self.offer_at_s = self.answer_at_s = self.connected_at_s = 0.0

    @property
    def pc(self) -> RTCPeerConnection | None:
        return self._pc

    async def _offer(self) -> str:
        self.connected_at_s = 0.0
        offer = await super()._offer()
        pc = self._pc
        assert pc is not None

        def note() -> None:
            if pc.connectionState == "connected":
                self.connected_at_s = time.monotonic()

        pc.on("connectionstatechange", note)
        self.offer_at_s = time.monotonic()
        return offer

    async def send(self, home: dict[str, Any], message: Message) -> bytes:
        reply = await super().send(home, message)
        if isinstance(message, Open):
            self.answer_at_s = time.monotonic()
        return reply


class MountWatch:
    """Sees the bench's mount arrive, in the file where the bench keeps its pins."""

    def __init__(self, world: Path, calibration: Calibration) -> None:
        self._world = BenchWorld(world)
        self._pins = world / "pins.json"
        self._calibration = calibration
        self.arrived_at_s: float | None = None
        """Monotonic; the last step was written, and its 20 ms are over."""

    def look(self) -> None:
        with contextlib.suppress(OSError):
            written_s = self._pins.stat().st_mtime - time.time() + time.monotonic()
            # The profile's last steps are a hair apart; the last one is the aim itself.
            if abs(self._world.pan_deg(self._calibration) - self._calibration.aim_deg) < 1e-6:
                self.arrived_at_s = written_s + STEP_S

    async def run(self) -> None:
        """Look every 10 ms until the mount has arrived; the pulse's end, 0.5 s later, writes the file again."""
        while self.arrived_at_s is None:
            self.look()
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class System:
    """A running home with its centre and an operator who has a line of the agreement for each check."""

    bench: RunningBench
    operator: TimedOperator
    known: dict[str, Any]
    calibration: Calibration
    _used: int = 0

    @property
    def home(self) -> BenchHome:
        return self.bench.home

    async def challenge(self) -> Challenged:
        """As the console does before anybody presses Start: the eye is up, and has been for some time."""
        challenged = await self.operator.challenge(self.known)
        await self._eye(up=True)
        await asyncio.sleep(READ_S)
        return challenged

    async def open(self) -> tuple[Look, Timeline]:
        """Start a check and wait for its first frame. Raises TimeoutError without one."""
        challenged = await self.challenge()
        self._used += 1
        due = next(item for item in challenged.due if item.line == f"night-{self._used}")
        watch = MountWatch(self.home.world, self.calibration)
        watching = asyncio.create_task(watch.run())
        try:
            look = await self.operator.open(self.known, challenged, due)
            async with asyncio.timeout(FRAME_LIMIT_S):
                await look.first_frame.wait()
        finally:
            watching.cancel()
        assert look.first_frame_s is not None
        return look, Timeline(
            self.operator.offer_at_s - look.asked_s,
            self.operator.answer_at_s - look.asked_s,
            self.operator.connected_at_s - look.asked_s,
            None if watch.arrived_at_s is None else watch.arrived_at_s - look.asked_s,
            look.first_frame_s - look.asked_s,
        )

    async def close(self, look: Look) -> None:
        """Give a verdict and wait until the home is parked and the eye gone: the next check has a fresh one."""
        await self.operator.give_verdict(self.known, look, Verdict.SEEN)
        outcome = await self.operator.closed(self.known, look.check)
        if outcome["verdict"] != "seen" or not outcome["parked"]:
            raise RuntimeError(f"a check ended wrongly: {outcome}")
        await self.operator.hang_up()
        await self._eye(up=False)

    async def _eye(self, *, up: bool) -> None:
        for _ in range(int(EYE_LIMIT_S / 0.05)):
            if ("eye" in self.bench.pids()) is up:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"the eye {'does not start' if up else 'does not end'}")


@asynccontextmanager
async def system(directory: Path, camera: str, mount: dict[str, float] | None = None) -> AsyncIterator[System]:
    """A home with `camera`, and `mount` in place of the mount's defaults; all ends with the context."""
    home = bench_home.make(directory, camera=camera, isolate=isolation() is not None)
    for name in ("guard.toml", "park.toml") if mount else ():
        path = home.home_config.parent / name
        config = msgspec.toml.decode(path.read_bytes())
        config["mount"] |= mount
        path.write_bytes(msgspec.toml.encode(config))
    agreement = bench_home.agreement_now(home, max_s=MAX_S)
    line = agreement["lines"][0]
    agreement["lines"] = [{**line, "id": f"night-{number + 1}"} for number in range(LINES)]
    async with demo.running(home, agreement) as bench, TimedOperator(bench.url, home.login_token) as operator:
        known = await operator.wait_for_home(home.gateway, demo.START_LIMIT_S)
        yield System(bench, operator, known, Calibration(**(mount or {})))


@dataclass(slots=True)
class BareLook:
    """A running bare session at its receiving end; the receiver is the same as the operator's."""

    pc: RTCPeerConnection
    timeline: Timeline = field(default_factory=Timeline)
    frames: int = 0
    first_frame: asyncio.Event = field(default_factory=asyncio.Event)
    counting: asyncio.Task[None] | None = None

    async def count(self, track: MediaStreamTrack, asked_s: float) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                await track.recv()
                if not self.frames:
                    self.timeline.frame_s = time.monotonic() - asked_s
                    self.first_frame.set()
                self.frames += 1


@asynccontextmanager
async def bare(sender: Child, *, decode: bool) -> AsyncIterator[BareLook]:
    """A session with `bench.bare_sender`, from the offer to its first frame. The offer is made as the operator's is."""
    asked_s = time.monotonic()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    look = BareLook(pc)
    try:
        transceiver = pc.addTransceiver("video", direction="recvonly")
        capabilities = RTCRtpReceiver.getCapabilities("video")
        assert capabilities is not None
        transceiver.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType == "video/H264"])
        pc.createDataChannel("check", ordered=True)
        await pc.setLocalDescription(await pc.createOffer())
        look.timeline.offer_s = time.monotonic() - asked_s

        def begin(track: MediaStreamTrack) -> None:
            look.counting = asyncio.ensure_future(look.count(track, asked_s))

        def note() -> None:
            if pc.connectionState == "connected":
                look.timeline.connected_s = time.monotonic() - asked_s

        pc.on("track", begin)
        pc.on("connectionstatechange", note)
        got = await sender.ask({"offer": pc.localDescription.sdp, "decode": decode})
        look.timeline.answer_s = time.monotonic() - asked_s
        await pc.setRemoteDescription(RTCSessionDescription(got["answer"], "answer"))
        async with asyncio.timeout(FRAME_LIMIT_S):
            await look.first_frame.wait()
        yield look
    finally:
        if look.counting is not None:
            look.counting.cancel()
        await pc.close()
        await sender.ask({})
