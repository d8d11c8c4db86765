"""The demo: one home and one centre on this machine, with real parts in every joint.

`tillsyn demo` runs until Ctrl-C and prints where the console is. `tillsyn demo --once` plays the operator too and
prints one JSON object: exit status 0 only if the check ended `seen`, the mount is parked and the ledger verifies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from centre.operator import OPEN_STATUSES, Operator, OperatorError
from gateway.core.error import ConfigError, IntegrityError, TransientError
from gateway.edge.isolation_unshare import isolation
from gateway.ledger import verify_directory
from gateway.protocol.message import Verdict
from provisioning import bench_home
from provisioning.bench_home import BenchHome

START_LIMIT_S: Final = 60.0
_CONSOLE_URL: Final = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(slots=True)
class RunningBench:
    """The processes of a bench home: broker, centre, and the home's supervisor."""

    home: BenchHome
    url: str = ""
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def login_url(self) -> str:
        return f"{self.url}/login?token={self.home.login_token}"

    def pids(self) -> dict[str, int]:
        """Who runs now: broker, centre, supervisor, and by the supervisor's word guard, link and eye."""
        pids = {name: process.pid for name, process in self.processes.items() if process.returncode is None}
        with contextlib.suppress(OSError):
            for line in (self.home.directory / "home" / "run" / "pids").read_text().splitlines():
                name, pid = line.split()
                pids[name] = int(pid)
        return pids


async def start_broker(home: BenchHome, *, before: Sequence[str] = ()) -> asyncio.subprocess.Process:
    """Start Mosquitto for this bench; returns when it listens. Raises ConfigError when there is none.

    `before` are words before the command, as `ip netns exec` and a name; nobody waits for the listening then.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ConfigError("no mosquitto on this machine; `make setup` installs it (apt-get install mosquitto)")
    process = await asyncio.create_subprocess_exec(
        *before, program, "-c", str(home.broker_config), stdin=asyncio.subprocess.DEVNULL, stderr=_log(home, "broker")
    )
    deadline_s = time.monotonic() + START_LIMIT_S
    while not before and time.monotonic() < deadline_s:
        if process.returncode is not None:
            raise ConfigError(f"mosquitto ended with {process.returncode}: {_tail(home, 'broker')}")
        with contextlib.suppress(OSError), socket.create_connection((bench_home.ADDRESS, home.broker_port), 0.5):
            return process
        await asyncio.sleep(0.05)
    if before:
        return process
    await _end(process)
    raise ConfigError(f"mosquitto does not listen after {START_LIMIT_S:g} s: {_tail(home, 'broker')}")


async def start_centre(home: BenchHome, *, before: Sequence[str] = ()) -> tuple[asyncio.subprocess.Process, str]:
    """Start the centre; returns with its console's address."""
    process = await asyncio.create_subprocess_exec(
        *before,
        *_tillsyn("centre", "--config", str(home.centre_config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=_log(home, "centre"),
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while line := (await process.stdout.readline()).decode():
                if found := _CONSOLE_URL.search(line):
                    return process, found[0]
    except TimeoutError:
        pass
    await _end(process)
    raise ConfigError(f"the centre did not start: {_tail(home, 'centre')}")


async def start_home(home: BenchHome, *, before: Sequence[str] = ()) -> asyncio.subprocess.Process:
    """Start the home's supervisor, which starts guard and link."""
    return await asyncio.create_subprocess_exec(
        *before,
        *_tillsyn("--verbose", "home", "--config", str(home.home_config)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=_log(home, "home"),
    )


@asynccontextmanager
async def running(home: BenchHome, agreement: dict[str, Any] | None = None) -> AsyncIterator[RunningBench]:
    """Run a made bench home; ends everything it started. With `agreement`, returns once that is in force.

    Raises ConfigError or OperatorError when it doesn't come up; the message has the last words of what failed.
    """
    bench = RunningBench(home)
    try:
        bench.processes["broker"] = await start_broker(home)
        bench.processes["centre"], bench.url = await start_centre(home)
        bench.processes["home"] = await start_home(home)
        if agreement is not None:
            await put_agreement(bench, agreement)
        yield bench
    finally:
        for process in reversed(bench.processes.values()):
            await _end(process)


async def put_agreement(bench: RunningBench, agreement: dict[str, Any]) -> None:
    """Send an agreement as the planner would, and wait until the home has taken it. Raises OperatorError."""
    home = bench.home
    deadline_s = time.monotonic() + START_LIMIT_S
    async with Operator(bench.url, home.planner_token) as planner:
        while True:
            supervisor = bench.processes["home"]
            if supervisor.returncode is not None:
                raise ConfigError(f"the home ended with {supervisor.returncode}: {_tail(home, 'home')}")
            known = await planner.home(home.gateway)
            if known["online"] and known["clock"] is not None and known["clock"]["state"] != "floor":
                break
            if time.monotonic() > deadline_s:
                raise ConfigError(f"the home is not online after {START_LIMIT_S:g} s: {_tail(home, 'home')}")
            await asyncio.sleep(0.1)
        await planner.send_envelope(home.gateway, home.agreement_put(agreement))
        while (await planner.home(home.gateway))["version"] != agreement["version"]:
            if time.monotonic() > deadline_s:
                raise OperatorError(f"the home did not take the agreement: {_tail(home, 'home')}")
            await asyncio.sleep(0.05)


async def check_once(bench: RunningBench, *, watch_s: float) -> dict[str, Any]:
    """One whole check as an operator; what it gave. Raises OperatorError and TransientError."""
    home = bench.home
    async with Operator(bench.url, home.login_token) as operator:
        known = await operator.wait_for_home(home.gateway, START_LIMIT_S)
        challenged = await operator.challenge(known)
        due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
        look = await operator.open(known, challenged, due)
        async with asyncio.timeout(15.0):
            await look.first_frame.wait()
        await asyncio.sleep(watch_s)
        await operator.give_verdict(known, look, Verdict.SEEN)
        outcome = await operator.closed(known, look.check)
        records = await operator.ledger(home.gateway)
    assert look.first_frame_ms is not None
    return {
        "outcome": outcome["verdict"] or outcome["why"],
        "first_frame_ms": round(look.first_frame_ms),
        "frames": look.frames,
        "watched_s": outcome["watched_s"],
        "parked": outcome["parked"],
        "who": outcome["who"],
        "records_at_centre": len(records),
    }


def ledger_facts(home: BenchHome) -> dict[str, Any]:
    """The ledger as `tillsyn ledger verify` sees it."""
    try:
        report = verify_directory(home.ledger)
    except IntegrityError as exc:
        return {"records": 0, "verified": False, "why": str(exc)}
    return {"records": report.records, "verified": True}


def main(*, once: bool, camera: str, port: int, keep: Path | None, watch_s: float) -> int:
    """Run the demo. Exit status 0 when it ended well."""
    if camera.startswith("file:"):
        film = Path(camera.removeprefix("file:")).expanduser().absolute()
        if not film.is_file():
            raise ConfigError(f"{film}: no such film. Give CAMERA=file:PATH with a film that can be read.")
        camera = f"file:{film}"
    with contextlib.ExitStack() as stack:
        if keep is not None:
            if keep.exists() and any(keep.iterdir()):
                raise ConfigError(f"{keep}: not empty. --keep needs a new directory.")
            directory = keep
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tillsyn-demo-")))
        isolate = _isolation_or_warn()
        home = bench_home.make(directory, camera=camera, isolate=isolate, http_port=port)
        try:
            return asyncio.run(_once(home, watch_s) if once else _stay(home))
        except (TransientError, TimeoutError) as exc:
            words = str(exc) or "no picture in time"
            print(f"tillsyn demo: {words}\n{_tail(home, 'home')}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0


def _isolation_or_warn() -> bool:
    if isolation() is not None:
        return True
    print(
        "tillsyn demo: this machine allows no network namespaces (not root, no user namespaces): guard and eye run "
        "with the network in sight. Everything else is as it will be.",
        file=sys.stderr,
    )
    return False


async def _once(home: BenchHome, watch_s: float) -> int:
    async with running(home, bench_home.agreement_now(home)) as bench:
        result = await check_once(bench, watch_s=watch_s)
    facts = ledger_facts(home)
    print(
        json.dumps(
            {
                "outcome": result["outcome"],
                "first_frame_ms": result["first_frame_ms"],
                "frames": result["frames"],
                "watched_s": result["watched_s"],
                "parked": result["parked"],
                "who": result["who"],
                "ledger": facts,
            }
        )
    )
    wrong = [
        words
        for fails, words in (
            (result["outcome"] != "seen", f"the check ended {result['outcome']}"),
            (result["frames"] < 1, "no frame was decoded"),
            (not result["parked"], "the mount is not parked"),
            (not facts["verified"], f"the ledger does not verify: {facts.get('why')}"),
        )
        if fails
    ]
    for words in wrong:
        print(f"tillsyn demo: {words}", file=sys.stderr)
    return 1 if wrong else 0


async def _stay(home: BenchHome) -> int:
    async with running(home, bench_home.agreement_now(home)) as bench:
        print(
            f"\n  The console:  {bench.login_url}\n"
            f"  The ledger:   tillsyn ledger show {home.ledger}\n"
            "  Ctrl-C ends everything; keys, ledger and files are then gone (unless --keep).\n",
            flush=True,
        )
        waits = {asyncio.ensure_future(process.wait()): name for name, process in bench.processes.items()}
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        names = ", ".join(waits[task] for task in done)
        print(f"tillsyn demo: {names} ended by itself\n{_tail(home, 'home')}", file=sys.stderr)
        return 1


def _tillsyn(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "gateway.cli", *arguments]


def _log(home: BenchHome, name: str) -> int:
    # The child keeps the descriptor; ours is closed when the process object is collected with the loop.
    return os.open(home.directory / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _tail(home: BenchHome, name: str, lines: int = 12) -> str:
    try:
        return "\n".join((home.directory / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(10.0):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
