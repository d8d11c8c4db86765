"""What the resident does at the device holds at once, without any network, and over a restart.

Mutations that turn these red: leave the Fault out of `Guard._withdraw`; don't read `withdrawn` back in `remember`;
let `take_agreement` lift any withdrawal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_bench import Bench, bench, run, watching

from centre.operator import Operator, OperatorError
from provisioning import bench_home
from provisioning.demo import put_agreement

pytestmark = pytest.mark.service


def _tillsyn(home: Bench, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments, "--socket", str(home.home.control_socket), "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def _refusal(home: Bench) -> str:
    async with Operator(home.running.url, home.home.login_token) as operator:
        known = await operator.home(home.home.gateway)
        challenged = await operator.challenge(known)
        from gateway.protocol.message import DueFact

        # What the page would show as due is the guard's to say; a hostile page asks anyway.
        due = DueFact("night-1", _occasion(home), "due", 1, 0.0, 0.0, 60)
        with pytest.raises(OperatorError) as refused:
            await operator.open(known, challenged, due)
        return refused.value.code


def _occasion(home: Bench) -> str:
    from datetime import UTC, datetime

    from gateway.agreement import parse_agreement

    (path,) = (home.home.directory / "home" / "state").glob("agreement-*.json")
    start = parse_agreement(path.read_bytes()).lines[0].start
    return f"{datetime.now(UTC).date().isoformat()}T{start}"


def test_stop_at_the_device_ends_the_check_at_once_and_holds_until_a_fresh_consent(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            async with watching(home):
                asked_s = time.monotonic()
                facts = _tillsyn(home, "stop")
                assert facts["withdrawn"]
                await home.until(lambda: not home.world.sensor_on(), 2.0)
                print(f"sensor off {time.monotonic() - asked_s:.2f} s after the command was started")
                await home.until(lambda: home.safe() and bool(home.closed()), 6.0)
                assert home.closed()[0].why == "resident-stopped"
            assert await _refusal(home) == "withdrawn"

            await home.kill("guard")

            # A new agreement with the old consent changes nothing of it; also not after the restart.
            await put_agreement(home.running, bench_home.agreement_now(home.home, version=2))
            assert await _refusal(home) == "withdrawn"
            fresh = bench_home.agreement_now(home.home, version=3)
            fresh["consent"]["resident"] |= {"given": time.strftime("%Y-%m-%d", time.gmtime()), "ref": "c-new"}
            # The look that was stopped counts as one; another line is another occasion.
            fresh["lines"][0]["id"] = "night-2"
            await put_agreement(home.running, fresh)
            async with watching(home):
                assert not _tillsyn(home, "state")["withdrawn"]

    run(work())


def test_not_tonight_works_without_a_broker_and_is_ended_only_at_the_device(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            broker = home.running.processes["broker"]
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                facts = _tillsyn(home, "pause", "--hours", "8")
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            assert facts["paused"]
            assert facts["paused_until_unix_s"] == pytest.approx(time.time() + 8 * 3600, abs=120)
            await home.until(lambda: home.world.sensor_opens() == 0, 1.0)
            async with Operator(home.running.url, home.home.login_token) as operator:
                while not (await operator.home(home.home.gateway))["online"]:
                    pass
            assert await _refusal(home) == "paused"
            assert not _tillsyn(home, "resume")["paused"]
            async with watching(home):
                pass

    run(work())


def test_a_guard_that_does_not_answer_is_said_with_what_to_do(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "stop", "--socket", str(tmp_path / "none.sock")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "Pull the camera's plug" in done.stderr
