"""The mount's worst step, how soon an eye answers, and what it holds in memory.

The mount is the real one on the hardware-PWM pins, over a stand-in for the board's sysfs from which each pulse is read
back as the kernel would have it. The eye is a process of its own with the drawn room at 1280 x 720, started as the
supervisor does it; the bench plays the guard, and the link's word of where the home can be reached. Cold: from its
start to its answer to an offer. Started by the challenge: the same eye when it has been up for a while, as it has when
an operator presses Start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from aiortc import RTCPeerConnection, RTCRtpReceiver
from gpiozero.pins.mock import MockFactory

from bench import child
from bench.result import Result, Side
from gateway.edge.mount_gpiozero import STEP_S, GpiozeroMount
from gateway.edge.pin_gpiozero import SysfsPwmFactory
from gateway.edge.service_systemd import die_with_parent
from gateway.ipc import frame, media
from gateway.ipc.channel import Channel, pair
from gateway.mount.calibration import Calibration
from gateway.protocol import sdp
from provisioning import bench_home

TOPIC = "7  Neck and eye"
PIN: Final = 12
PI4: Final = "fe20c000.pwm"
CANDIDATE: Final = "1 1 udp 2130706431 127.0.0.1 9 typ host"
LIMIT_S: Final = 20.0
IDLE_S: Final = 1.0
PICTURE_S: Final = 2.0
"""Of encoding before memory is read."""


def measure_profile(directory: Path) -> list[Result]:
    """The largest turn between two pulses on the way up, against what the calibration's speed allows in a step."""
    channel = _sysfs(directory)
    calibration = Calibration()
    pulses_us: list[float] = []

    def note(_: float) -> None:
        pulses_us.append(int((channel / "duty_cycle").read_text()) / 1000)

    factory = SysfsPwmFactory(MockFactory(), frozenset({PIN}), root=directory / "pwm")
    with contextlib.closing(GpiozeroMount(calibration, factory=factory, pan_pin=PIN)) as mount:
        mount.park_now(sleep=note)
    factory.close()
    angles_deg = [calibration.angle_deg(pulse_us) for pulse_us in pulses_us]
    steps_deg = [abs(after - before) for before, after in itertools.pairwise(angles_deg)]
    return [
        Result(
            TOPIC,
            "°",
            Side.of("the mount's worst step, aimed to parked", [max(steps_deg)]),
            Side.of("what its speed allows in a step", [calibration.max_speed_deg_s * STEP_S]),
            aim=1.0,
            note=f"{len(set(pulses_us))} distinct pulses for {abs(angles_deg[-1] - angles_deg[0]):.0f}°, as written to "
            "the PWM's files",
        )
    ]


def _sysfs(directory: Path) -> Path:
    """The PWM block of a Pi 4 with its first channel exported; the channel's directory."""
    device = directory / "soc" / PI4
    chip = device / "pwmchip0"
    channel = chip / "pwm0"
    channel.mkdir(parents=True)
    (chip / "device").symlink_to(device)
    for file in (chip / "unexport", channel / "period", channel / "duty_cycle", channel / "enable"):
        file.write_text("0")
    (directory / "pwm").mkdir()
    (directory / "pwm" / "pwmchip0").symlink_to(chip)
    return channel


async def measure_eye(directory: Path, *, rounds: int) -> list[Result]:
    home = bench_home.make(directory / "eye", isolate=False)
    config = home.directory / "home" / "eye.toml"
    cold_s, ready_s, warm_s, memory_mib, imported_mib = [], [], [], [], []
    async with child.running("bench.bare_import") as imported:
        for _ in range(rounds):
            began_s = time.monotonic()
            async with _eye(config) as eye:
                await eye.until(frame.Ready)
                ready_s.append(time.monotonic() - began_s)
                await eye.answer(began_s, cold_s)
                await asyncio.sleep(PICTURE_S)
                memory_mib.append(_rss_mib(eye.pid))
                imported_mib.append(_rss_mib(imported.pid))
            async with _eye(config) as eye:
                await eye.until(frame.Ready)
                await asyncio.sleep(IDLE_S)
                await eye.answer(time.monotonic(), warm_s)
    return [
        Result(
            TOPIC,
            "ms",
            Side.of("an eye's answer, started by the challenge", [1000.0 * each for each in warm_s]),
            Side.of("the same, started cold", [1000.0 * each for each in cold_s]),
            aim=0.5,
            note=f"of the cold one, until it is ready: {1000.0 * Side.of('', ready_s).median:.0f} ms (median)",
        ),
        Result(
            TOPIC,
            "MiB",
            Side.of("RSS of an eye that encodes 1280 x 720", memory_mib),
            Side.of("import aiortc, RSS", imported_mib),
        ),
    ]


@dataclass(slots=True)
class _Eye:
    """A running eye, as the guard has it."""

    pid: int
    channel: Channel[frame.ToGuardFromEye]
    sockets: list[socket.socket] = field(default_factory=list)

    async def until(self, kind: type[frame.Frame]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not isinstance((await self.channel.receive())[0], kind):
                pass

    async def answer(self, began_s: float, into: list[float]) -> None:
        """Open with a made offer, and note the time from `began_s` to the answer. The offer is not the eye's time."""
        pc = RTCPeerConnection()
        try:
            offering_s = time.monotonic()
            offer = await _offer(pc)
            offering_s = time.monotonic() - offering_s
            mine, theirs = pair()
            self.sockets += [mine, theirs]
            self.channel.send(frame.Beat())
            self.channel.send(frame.Start("c-bench", offer, False, None), (mine.fileno(),))
            link = media.MediaSocket(theirs)
            async with asyncio.timeout(LIMIT_S):
                assert isinstance(media.from_eye(await link.receive()), media.Gather)
            link.send(media.control(media.Gathered([CANDIDATE])))
            await self.until(frame.AnswerMade)
            into.append(time.monotonic() - began_s - offering_s)
        finally:
            await pc.close()


@asynccontextmanager
async def _eye(config: Path) -> AsyncIterator[_Eye]:
    """Start one by a connection to its socket, as the supervisor does."""
    place = config.parent / "run" / "eye.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, contextlib.ExitStack() as cleanup:
        cleanup.callback(place.unlink, missing_ok=True)
        listener.bind(str(place))
        listener.listen(1)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cleanup.callback(sock.close)
        sock.connect(str(place))

        def prepare() -> None:
            die_with_parent()
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)

        own = [sys.executable, "-m", "gateway.cli", "eye", "--config", str(config)]
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh", *own),
            stdin=asyncio.subprocess.DEVNULL,
            preexec_fn=prepare,
            pass_fds=(3,),
        )
        eye = _Eye(process.pid, Channel(sock, frame.ToGuardFromEye))
        beating = asyncio.create_task(_beat(eye.channel))
        try:
            yield eye
            eye.channel.send(frame.Stop("bench"))
            async with asyncio.timeout(LIMIT_S):
                await process.wait()
        finally:
            beating.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            eye.channel.close()
            for each in eye.sockets:
                each.close()


async def _beat(channel: Channel[Any]) -> None:
    while True:
        await asyncio.sleep(0.5)
        channel.send(frame.Beat())


async def _offer(pc: RTCPeerConnection) -> str:
    """As an operator's."""
    transceiver = pc.addTransceiver("video", direction="recvonly")
    capabilities = RTCRtpReceiver.getCapabilities("video")
    assert capabilities is not None
    transceiver.setCodecPreferences([codec for codec in capabilities.codecs if codec.mimeType == "video/H264"])
    pc.createDataChannel("check", ordered=True)
    await pc.setLocalDescription(await pc.createOffer())
    return sdp.keep_sha256(pc.localDescription.sdp)


def _rss_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 2**20
