"""Any one process dies or stops in the middle of a check: sensor off, mount up, and the record, within 12 s.

SIGKILL is a crash, SIGSTOP is a hang: sockets stay open and nobody answers. Mutations that turn these red: no watchdog
in services.home; no permit timer in Eye; BEAT_LIFE_S = 60 in the machine; SILENT_S = 60 in Link; no `park` after the
guard; no recovery record at the guard's start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from running_bench import SAFE_WITHIN_S, bench, run, watching

from gateway.ledger import verify_directory

pytestmark = pytest.mark.faults

EXPECTED = {
    ("eye", signal.SIGKILL): {"eye-lost"},
    ("eye", signal.SIGSTOP): {"eye-lost"},
    ("guard", signal.SIGKILL): {"recovered"},
    ("guard", signal.SIGSTOP): {"recovered"},
    # The kernel closes the link's sockets together: guard and eye race to say it.
    ("link", signal.SIGKILL): {"link-lost", "no-picture"},
    ("link", signal.SIGSTOP): {"link-lost", "lease-lapsed"},
    ("broker", signal.SIGKILL): {"broker-lost"},
    ("broker", signal.SIGSTOP): {"broker-lost"},
}


@pytest.mark.parametrize(("victim", "blow"), list(EXPECTED), ids=lambda value: getattr(value, "name", value))
def test_a_lost_process_ends_with_sensor_off_mount_up_and_the_record(tmp_path: Path, victim: str, blow: signal.Signals):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home) as (_, _, look):
            await asyncio.sleep(0.5)
            pid = home.pid(victim)
            os.kill(pid, blow)
            start_s = time.monotonic()
            try:
                await home.until(lambda: home.safe() and bool(home.closed()), SAFE_WITHIN_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            print(f"{victim} {blow.name}: safe and recorded after {time.monotonic() - start_s:.1f} s")
            (closed,) = home.closed()
            assert closed.why in EXPECTED[victim, blow]
            assert closed.check == look.check
            assert closed.who == "op-demo"
            await home.until(lambda: not home.lamp_lit(), 5.0)
            if victim != "broker":
                # Without a hand on the device: whatever was lost is there again.
                await home.until(lambda: {"guard", "link"} <= set(home.running.pids()), 10.0)
            verify_directory(home.home.ledger)
            assert home.world.sensor_opens() == 1, "nothing opened again by itself"

    run(work())


@pytest.mark.alone
def test_an_operator_who_vanishes_loses_the_picture_when_the_lease_lapses(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home) as (operator, _, _):
            # As a pulled cable: no goodbye, no more leases, nothing received.
            for task in list(operator._tasks):
                task.cancel()
            await home.until(lambda: home.safe() and bool(home.closed()), SAFE_WITHIN_S)
            assert home.closed()[0].why == "lease-lapsed"

    run(work())


def test_an_operator_who_hangs_up_ends_the_check_at_once(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home) as (operator, _, _):
            await operator.hang_up()
            await home.until(lambda: home.safe() and bool(home.closed()), SAFE_WITHIN_S)
            assert home.closed()[0].why in {"no-picture", "lease-lapsed", "eye-lost", "path-lost"}

    run(work())


def test_a_camera_that_gives_no_more_frames_is_a_fault(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home):
            from gateway.edge.bench_world import RoomScene

            home.world.set_scene(RoomScene(no_frames=True))
            await home.until(lambda: home.safe() and bool(home.closed()), SAFE_WITHIN_S)
            assert home.closed()[0].why == "camera-fault"

    run(work())


def test_stopping_the_home_in_the_middle_parks_and_records(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home):
            os.kill(home.running.processes["home"].pid, signal.SIGTERM)
            await home.until(lambda: home.safe() and bool(home.closed()), SAFE_WITHIN_S)
            assert home.closed()[0].why == "service-stopped"
            await asyncio.wait_for(home.running.processes["home"].wait(), 15.0)
            verify_directory(home.home.ledger)

    run(work())
