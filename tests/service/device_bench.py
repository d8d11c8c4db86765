"""A factory-fresh device, its centre, broker and NetworkManager's bus, run for real; and the people at the centre."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from centre.operator import OPEN_STATUSES, Operator, OperatorError
from gateway.edge.bench_world import BenchWorld
from gateway.ledger import LedgerRefusedError, Record, read_records
from gateway.mount.calibration import Calibration
from gateway.protocol.message import Verdict
from provisioning import bench_device, bench_home
from provisioning.bench_device import BenchDevice
from provisioning.demo import RunningBench, _end, put_agreement, start_broker, start_centre, start_home

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))
from nm_on_bus import Air, play, private_bus


@dataclass
class RunningDevice:
    """The device's processes, the centre's, and what a test wants to know of them."""

    device: BenchDevice
    running: RunningBench
    air: Air
    agreed: int = 0

    @property
    def world(self) -> BenchWorld:
        return BenchWorld(self.device.home.world)

    def records(self) -> list[Record]:
        with contextlib.suppress(LedgerRefusedError):
            return [stored.body for stored in read_records(self.device.ledger) if stored.body is not None]
        return []

    def set_up_words(self) -> list[str]:
        """What the ledger says of the set-up, in order."""
        return [record.why or "" for record in self.records() if record.kind == "setup"]

    def log(self) -> str:
        return (self.device.home.directory / "home.log").read_text(errors="replace")[-8000:]

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            for line in (self.device.directory / "run" / "pids").read_text().splitlines():
                name, pid = line.split()
                found[name] = int(pid)
        return found

    def port_is_open(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.device.wizard_port), 0.5):
            return True
        return False

    def mount_deg(self) -> float:
        return self.world.pan_deg(Calibration())

    async def until(self, condition: Any, limit_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not condition():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not within {limit_s} s: {what}\n{self.log()}") from None

    async def restart_home(self) -> None:
        """As after a power cut: every process of the device is killed, and starts anew."""
        pids = self.pids()
        process = self.running.processes["home"]
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # first, or it would start the others again
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()
        await self.until(lambda: not any(psutil.pid_exists(pid) for pid in pids.values()), 10.0, "all are dead")
        self.running.processes["home"] = await start_home(self.device.home)

    # The people at the centre

    async def installers_code(self) -> str:
        """The planner makes the code, with the line that the factory printed."""
        import json

        async with Operator(self.running.url, self.device.home.planner_token) as planner:
            body = json.loads(self.device.stub.register_line())
            made = await planner._http.post("/api/v1/enrolments", json=body)
            assert made.status_code == 200, made.text
            return str(made.json()["code"])

    async def enrolment(self) -> dict[str, Any]:
        async with Operator(self.running.url, self.device.home.planner_token) as planner:
            (found,) = await planner._get("/api/v1/enrolments")
            return dict(found)

    async def say_same(self, *, is_same: bool = True) -> None:
        gateway = self.device.stub.setup.gateway
        async with Operator(self.running.url, self.device.home.planner_token) as planner:
            said = await planner._http.post(f"/api/v1/enrolments/{gateway}/compared", json={"is_same": is_same})
            assert said.status_code == 200, said.text

    async def agree(self) -> None:
        """An agreement with a check that is due now: each time a newer version, with a line of its own."""
        self.agreed += 1
        agreement = bench_home.agreement_now(self.device.home, version=self.agreed)
        agreement["lines"][0]["id"] = f"night-{self.agreed}"
        await put_agreement(self.running, agreement)

    async def make_check(self, watch_s: float = 1.5) -> None:
        """The operator looks, sees the resident, and says so; on a busy machine perhaps at the second try."""
        try:
            await self._make_check(watch_s)
        except (OperatorError, TimeoutError):
            await self._make_check(watch_s)

    async def _make_check(self, watch_s: float) -> None:
        gateway = self.device.stub.setup.gateway
        async with Operator(self.running.url, self.device.home.login_token) as operator:
            known = await operator.wait_for_home(gateway, 20.0)
            challenged = await operator.challenge(known)
            due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
            look = await operator.open(known, challenged, due)
            async with asyncio.timeout(15.0):
                await look.first_frame.wait()
            await asyncio.sleep(watch_s)
            await operator.give_verdict(known, look, Verdict.SEEN)
            await operator.closed(known, look.check)

    async def answer_alarm(self) -> None:
        """The night staff see the alarm in their list, and take it."""
        async with Operator(self.running.url, self.device.home.login_token) as staff, asyncio.timeout(20.0):
            while True:
                rows = [row for row in await staff._get("/api/v1/handovers") if row["reason"] == "test-alarm"]
                if rows:
                    break
                await asyncio.sleep(0.2)
            taken = await staff._http.post(f"/api/v1/handovers/{rows[0]['id']}/acknowledge", json={})
            assert taken.status_code == 200, taken.text


@asynccontextmanager
async def device_bench(
    directory: Path, *, air: Air | None = None, try_s: float = 8.0, before: Sequence[str] = ()
) -> AsyncIterator[RunningDevice]:
    """Everything up; the device is factory-fresh and its wizard listens. `before` are words before its command."""
    air = air or Air()
    directory.mkdir(parents=True, exist_ok=True)
    with private_bus(directory) as bus:
        fake = await play(bus.address, air)
        device = bench_device.make(directory / "bench", bus=bus.address, try_s=try_s)
        running = RunningBench(device.home)
        try:
            running.processes["broker"] = await start_broker(device.home)
            running.processes["centre"], running.url = await start_centre(device.home)
            running.processes["home"] = await start_home(device.home, before=before)
            started = RunningDevice(device, running, air)
            await started.until(started.port_is_open, 30.0, "the wizard listens")
            yield started
        finally:
            for process in reversed(running.processes.values()):
                await _end(process)
            fake.disconnect()
