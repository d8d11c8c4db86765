"""What a running picture costs: CPU seconds a streamed minute, and memory.

The gateway's eye and link pass a film through; beside them a bare aiortc process decodes the same film and encodes it
with aiortc's own encoder, and GStreamer's webrtcbin passes it through. Only the sending processes are counted; all are
received and decoded by this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import child
from bench.clip import FPS, Clip
from bench.result import Result, Side
from bench.session import System, bare, system

CPU = "2  CPU seconds a streamed minute"
MEMORY = "3  Memory while streaming"
AIM = 0.1
AIM_BESIDE_GSTREAMER = 1.5
GSTREAMER = ("/usr/bin/python3", str(Path(__file__).with_name("gst_sender.py")))
"""Debian's interpreter, because GStreamer's binding is a package of Debian's."""
SETTLE_S = 1.5
"""Connecting is not streaming."""
_HOME = ("guard", "link", "eye")


@dataclass(slots=True)
class Costs:
    """CPU in s/min, frames in 1/s, memory in MiB."""

    cpu: dict[str, list[float]] = field(default_factory=dict)
    fps: dict[str, list[float]] = field(default_factory=dict)
    rss: dict[str, list[float]] = field(default_factory=dict)
    pss: dict[str, list[float]] = field(default_factory=dict)

    def remember(self, pid: int, name: str) -> None:
        self.rss.setdefault(name, []).append(psutil.Process(pid).memory_info().rss / 2**20)
        pss = _pss_mib(pid)
        if pss is not None:
            self.pss.setdefault(name, []).append(pss)


async def measure(directory: Path, clip: Clip, *, rounds: int, seconds: float) -> list[Result]:
    costs = Costs()
    async with AsyncExitStack() as stack:
        # One process each: an encoder that has run leaves its memory behind.
        transcoder, passer = [
            await stack.enter_async_context(child.running("bench.bare_sender", str(clip.ts))) for _ in range(2)
        ]
        imported = await stack.enter_async_context(child.running("bench.bare_import"))
        film = await stack.enter_async_context(system(directory / "film", f"file:{clip.mp4}"))
        room = await stack.enter_async_context(system(directory / "room", "room"))
        gstreamer = await _gstreamer(stack, clip)
        for _ in range(rounds):
            await _check(costs, film, "film", seconds, imported.pid)
            await _bare(costs, transcoder, "transcoded", seconds, decode=True)
            await _check(costs, room, "room", seconds)
            await _bare(costs, passer, "passed", seconds, decode=False)
            if gstreamer is not None:
                await _bare(costs, gstreamer, "gstreamer", seconds, decode=False)
    return [*_cpu_results(costs, clip), *_memory_results(costs)]


async def _gstreamer(stack: AsyncExitStack, clip: Clip) -> child.Child | None:
    """A warm sender; None where this machine has no GStreamer, which is said."""
    try:
        return await stack.enter_async_context(child.running_program(*GSTREAMER, str(clip.mp4)))
    except (OSError, RuntimeError):
        print("bench: no GStreamer with webrtcbin here (`make bench` installs it): not compared", file=sys.stderr)
        return None


async def _check(costs: Costs, home: System, name: str, seconds: float, imported: int | None = None) -> None:
    look, _ = await home.open()
    pids = {service: home.bench.pids()[service] for service in _HOME}
    await _spend(costs, {f"{name} {service}": pid for service, pid in pids.items()}, name, seconds, lambda: look.frames)
    # The sum is what counts: what one of the two saves, the other may pay.
    costs.cpu.setdefault(f"{name} eye + link", []).append(costs.cpu[f"{name} eye"][-1] + costs.cpu[f"{name} link"][-1])
    if imported is not None:
        for service, pid in pids.items():
            costs.remember(pid, service)
        costs.remember(imported, "import")
    await home.close(look)


async def _bare(costs: Costs, sender: child.Child, name: str, seconds: float, *, decode: bool) -> None:
    async with bare(sender, decode=decode) as look:
        await _spend(costs, {name: sender.pid}, name, seconds, lambda: look.frames)
        costs.remember(sender.pid, name)


async def _spend(costs: Costs, pids: dict[str, int], name: str, seconds: float, frames: Callable[[], int]) -> None:
    await asyncio.sleep(SETTLE_S)
    processes = {who: psutil.Process(pid) for who, pid in pids.items()}
    began_s, shown = time.monotonic(), frames()
    before = {who: _cpu_s(process) for who, process in processes.items()}
    await asyncio.sleep(seconds)
    lasted_s = time.monotonic() - began_s
    for who, process in processes.items():
        costs.cpu.setdefault(who, []).append((_cpu_s(process) - before[who]) * 60.0 / lasted_s)
    costs.fps.setdefault(name, []).append((frames() - shown) / lasted_s)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _pss_mib(pid: int) -> float | None:
    """Proportional set size; None where the kernel doesn't show it: our services can't be looked into but by root."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return None


def _cpu_results(costs: Costs, clip: Clip) -> list[Result]:
    def side(name: str, key: str) -> Side:
        return Side.of(name, costs.cpu[key])

    def parts(name: str) -> str:
        eye, link, guard = (Side.of("", costs.cpu[f"{name} {service}"]).median for service in ("eye", "link", "guard"))
        return f"eye {eye:.2f}, link {link:.2f}; guard {guard:.2f} not counted"

    beside_gstreamer = []
    if "gstreamer" in costs.cpu:
        ours = side("film passed through, eye + link", "film eye + link")
        beside = side("GStreamer webrtcbin passes it", "gstreamer")
        beside_gstreamer = [Result(CPU, "s/min", ours, beside, AIM_BESIDE_GSTREAMER)]
    speeds = ", ".join(f"{name} {Side.of('', samples).median:.1f}" for name, samples in costs.fps.items())
    transcoded = side("aiortc decodes and encodes it", "transcoded")
    return [
        Result(
            CPU, "s/min", side("film passed through, eye + link", "film eye + link"), transcoded, AIM, parts("film")
        ),
        Result(
            CPU, "s/min", side("film passed through, eye + link", "film eye + link"), side("aiortc passes it", "passed")
        ),
        *beside_gstreamer,
        Result(
            CPU,
            "s/min",
            side("room drawn and encoded (15 fps), eye + link", "room eye + link"),
            transcoded,
            note=f"{parts('room')}; frames received in a second: {speeds} "
            f"(the film has {FPS}, and {clip.bit_rate_bps / 1e6:.1f} Mbit/s)",
        ),
    ]


def _memory_results(costs: Costs) -> list[Result]:
    results = []
    for kind, of in (("RSS", costs.rss), ("PSS", costs.pss)):
        names: Sequence[tuple[str, str]] = [
            *((name, name) for name in _HOME),
            ("bare aiortc, passing", "passed"),
            ("bare aiortc, transcoding", "transcoded"),
            ("GStreamer webrtcbin", "gstreamer"),
        ]
        results += [
            Result(MEMORY, "MiB", Side.of(f"{name}, {kind}", of[key]), Side.of(f"import aiortc, {kind}", of["import"]))
            for name, key in names
            if of.get(key) and of.get("import")
        ]
    return results
