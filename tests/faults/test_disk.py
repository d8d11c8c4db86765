"""The disk fails under the guard's ledger: no opening without its record, and a running check ends.

Faults are injected into the real guard by strace, at the system call, on the ledger's files only. Mutations that turn
these red: leave the fdatasync out of `Ledger.append`; catch LedgerUnwritableError in `Guard._record_opened` and go on;
don't end the guard's process once it is disabled.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_bench import Bench, bench, run, watching

from centre.operator import OPEN_STATUSES, Operator, OperatorError
from gateway.ledger import verify_directory

pytestmark = pytest.mark.faults

HEARTBEAT_S = 10.0
"""While a check runs the ledger is written at least this often; a fault is noticed then."""


@contextlib.contextmanager
def injected(home: Bench, *rules: str) -> Iterator[None]:
    """The guard's next system calls on the ledger's segment fail as `rules` say (strace's `inject=`)."""
    program = shutil.which("strace")
    assert program, "no strace on this machine: apt-get install strace (`make test` does it)"
    segment = max((home.home.ledger / "segments").iterdir())
    command = [program, "-f", "-qq", "-o", "/dev/null", "-p", str(home.pid("guard")), "-P", str(segment)]
    for rule in rules:
        command += ["-e", f"inject={rule}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 10.0
        while "TracerPid:\t0" in Path(f"/proc/{home.pid('guard')}/status").read_text():
            assert tracer.poll() is None, tracer.stderr.read() if tracer.stderr else ""
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        yield
    finally:
        tracer.terminate()
        tracer.wait()


@pytest.mark.parametrize(
    "rule", ["fdatasync:error=EIO", "fdatasync:error=ENOSPC", "write:error=EROFS", "write:error=EIO"]
)
def test_a_disk_that_fails_in_a_check_ends_it_and_loses_no_record(tmp_path: Path, rule: str):
    async def work() -> None:
        async with bench(tmp_path) as home:
            async with watching(home) as (_, _, look):
                before = [(record.kind, record.check) for record in home.records()]
                pid = home.pid("guard")
                with injected(home, rule):
                    took_s = await home.until(home.safe, HEARTBEAT_S + 12.0)
                    print(f"{rule}: safe after {took_s:.1f} s")
                    await home.until_ended("guard", pid)
            # Without the fault, and without a hand on the device: the record is made up for.
            await home.until_restarted("guard", pid)
            await home.until(lambda: bool(home.closed()), 10.0)
            assert home.closed()[0].check == look.check
            after = [(record.kind, record.check) for record in home.records()]
            assert after[: len(before)] == before
            verify_directory(home.home.ledger)
            assert home.world.sensor_opens() == 1

    run(work())


@pytest.mark.parametrize("rule", ["fdatasync:error=EIO", "write:error=ENOSPC", "write:error=EROFS"])
def test_no_sensor_goes_on_without_its_durable_record(tmp_path: Path, rule: str):
    async def work() -> None:
        async with bench(tmp_path) as home, Operator(home.running.url, home.home.login_token) as operator:
            known = await operator.wait_for_home(home.home.gateway, 20.0)
            challenged = await operator.challenge(known)
            due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
            with injected(home, rule):
                with pytest.raises(OperatorError) as refused:
                    await operator.open(known, challenged, due)
                assert refused.value.code == "ledger-unwritable"
                await asyncio.sleep(1.0)
                assert home.world.sensor_opens() == 0
                assert not home.lamp_lit()
            await home.until(home.safe, 12.0)
            verify_directory(home.home.ledger)

    run(work())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_guard_killed_at_a_write_leaves_a_ledger_that_verifies(tmp_path: Path, number: int):
    async def work() -> None:
        async with bench(tmp_path) as home:
            async with Operator(home.running.url, home.home.login_token) as operator:
                known = await operator.wait_for_home(home.home.gateway, 20.0)
                challenged = await operator.challenge(known)
                due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
                pid = home.pid("guard")
                with injected(home, f"write:signal=KILL:when={number}"):
                    with contextlib.suppress(OperatorError, TimeoutError):
                        look = await operator.open(known, challenged, due)
                        await asyncio.wait_for(look.first_frame.wait(), 12.0)
                    await home.until_restarted("guard", pid)
            await home.until(home.safe, 12.0)

            def every_opening_has_its_end() -> bool:
                opened = [record.check for record in home.records() if record.kind == "opened"]
                return opened == [record.check for record in home.closed()]

            await home.until(every_opening_has_its_end, 10.0)
            verify_directory(home.home.ledger)

    run(work())
