"""Running a whole bench home in a test: real broker, centre, guard, eye, link, and an operator in Python."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from centre.operator import OPEN_STATUSES, Look, Operator
from gateway.edge.bench_world import BenchWorld
from gateway.ledger import LedgerRefusedError, Record, read_records
from gateway.mount.calibration import Calibration
from provisioning import bench_home
from provisioning.demo import RunningBench, put_agreement, running

SAFE_WITHIN_S = 12.0
"""What is promised after any single loss: sensor off, mount up, and the record."""


def run(work: Coroutine[Any, Any, None], limit_s: float = 100.0) -> None:
    """Run one test's coroutine, bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await work

    asyncio.run(bounded())


@dataclass(slots=True)
class Bench:
    """A running home and what a test wants to know of it."""

    running: RunningBench
    world: BenchWorld

    @property
    def home(self) -> bench_home.BenchHome:
        return self.running.home

    def records(self) -> list[Record]:
        # Read while the guard writes: a line that isn't whole yet is left out by the reader.
        with contextlib.suppress(LedgerRefusedError):
            return [stored.body for stored in read_records(self.home.ledger) if stored.body is not None]
        return []

    def closed(self) -> list[Record]:
        return [record for record in self.records() if record.kind == "closed"]

    def mount_up(self) -> bool:
        calibration = Calibration()
        return abs(self.world.pan_deg(calibration) - calibration.parked_deg) < 1.0

    def mount_aimed(self) -> bool:
        calibration = Calibration()
        return abs(self.world.pan_deg(calibration) - calibration.aim_deg) < 1.0

    def lamp_lit(self) -> bool:
        return self.world.pin(18).state > 0.0

    def safe(self) -> bool:
        return not self.world.sensor_on() and self.mount_up()

    def pid(self, name: str) -> int:
        return self.running.pids()[name]

    async def until_ended(self, name: str, pid: int) -> float:
        """Seconds until the process that was `pid` runs no more; another of that name may run already."""
        return await self.until(lambda: self.running.pids().get(name) != pid, 10.0)

    async def until_restarted(self, name: str, pid: int) -> float:
        """Seconds until another process than `pid` runs under that name."""
        return await self.until(lambda: self.running.pids().get(name, pid) != pid, 15.0)

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait until its supervisor has started it anew."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        await self.until_restarted(name, pid)

    async def until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Seconds until the condition held. Fails with what is known when it doesn't within the limit."""
        start_s = time.monotonic()
        while not condition():
            if time.monotonic() - start_s > limit_s:
                log = (self.home.directory / "home.log").read_text(errors="replace")[-3000:]
                raise AssertionError(
                    f"not within {limit_s} s: sensor_on={self.world.sensor_on()} mount_up={self.mount_up()} "
                    f"closed={[(r.why, r.check) for r in self.closed()]}\n{log}"
                )
            await asyncio.sleep(0.05)
        return time.monotonic() - start_s


@asynccontextmanager
async def bench(
    directory: Path,
    *,
    camera: str = "room",
    offset_min: int = 0,
    max_s: int = 60,
    lines: int = 1,
    before: Callable[[bench_home.BenchHome], None] = lambda _: None,
    **making: Any,
) -> AsyncIterator[Bench]:
    """A home whose agreed lines, one by default, began `offset_min` minutes ago (negative: later), all processes up."""
    home = bench_home.make(directory / "bench", camera=camera, **making)
    before(home)
    agreement = bench_home.agreement_now(home, offset_min=offset_min, max_s=max_s)
    (first,) = agreement["lines"]
    agreement["lines"] += [first | {"id": f"{first['id']}-{number}"} for number in range(2, lines + 1)]
    async with running(home, agreement) as started:
        yield Bench(started, BenchWorld(home.world))


def quick_mount(home: bench_home.BenchHome) -> None:
    """For `before`: a mount that takes 0.4 s where the one of a home takes 1.4 s."""
    for name in ("guard.toml", "park.toml"):
        path = home.directory / "home" / name
        path.write_text(path.read_text() + "max_speed_deg_s = 360.0\nmax_accel_deg_s2 = 5000.0\n")


@dataclass(slots=True)
class StandingBench:
    """One home for several tests, and the loop that it lives in."""

    bench: Bench
    _runner: asyncio.Runner
    _version: int = 1

    def run(self, work: Coroutine[Any, Any, None], limit_s: float = 100.0) -> None:
        """As `run`, in this home's loop."""

        async def bounded() -> None:
            async with asyncio.timeout(limit_s):
                await work

        self._runner.run(bounded())

    async def agree(self, *, mode: str = "clear") -> None:
        """A next agreement, with a line that nobody has looked by yet."""
        self._version += 1
        agreement = bench_home.agreement_now(self.bench.home, version=self._version)
        agreement["lines"][0]["id"] = f"l-{self._version}"
        agreement["picture"] = {"mode": mode}
        await put_agreement(self.bench.running, agreement)


@contextmanager
def standing_bench(directory: Path, **making: Any) -> Iterator[StandingBench]:
    """As `bench`, for a fixture that several tests share."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        home = runner.run(stack.enter_async_context(bench(directory, **making)))
        try:
            yield StandingBench(home, runner)
        finally:
            runner.run(stack.aclose())


@asynccontextmanager
async def watching(bench: Bench) -> AsyncIterator[tuple[Operator, dict[str, Any], Look]]:
    """An operator who sees the picture: sensor on, lamp lit, mount aimed."""
    async with Operator(bench.running.url, bench.home.login_token) as operator:
        known = await operator.wait_for_home(bench.home.gateway, 20.0)
        challenged = await operator.challenge(known)
        due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
        look = await operator.open(known, challenged, due)
        await bench.until(look.first_frame.is_set, 15.0)
        assert bench.world.sensor_on()
        assert bench.mount_aimed()
        assert bench.lamp_lit()
        yield operator, known, look
