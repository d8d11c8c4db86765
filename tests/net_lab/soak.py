"""`make check-soak N=200`: checks in a row through the tunnel, and what they leave behind.

Counted after the first ones and after the last: memory, descriptors, threads and sockets of each process that lives on,
processes in the home, and allocations at the relay. Exit status 0 when nothing has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gateway.ledger import verify_directory
from provisioning import bench_home
from tests.net_lab.lab import Lab, LabError, running
from tests.net_lab.network import PREFIX, ROOT, TUNNEL_RELAY, obstacle, seclude, sh, within

WARM_UP = 20
LINES = 10
"""Of one agreement; after so many checks a new version comes."""
MOST_GROWTH_MIB = 12.0
"""Of one process: caches and the ledger's tree fill slowly. A leaked peer connection is 1 MiB at least, each time."""
SPARE = 6
"""Descriptors, threads and sockets: a pool of threads fills to this, whatever the number of checks."""
MOST_OTHERS = 0.1
"""Of the checks may end otherwise: on a busy machine an opening may take longer than the home waits."""
SETTLE_S = 15.0


@dataclass(frozen=True)
class Count:
    memory_mib: float
    fds: int
    threads: int
    sockets: int


def count(lab: Lab) -> dict[str, Count]:
    pids = lab.pids() | {name: process.pid for name, process in lab.processes.items() if name != "front"}
    counts = {}
    for name, pid in sorted(pids.items()):
        process = psutil.Process(pid)
        sockets = sum("socket:" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
        counts[name] = Count(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads(), sockets)
    return counts


def allocations() -> int:
    return len(sh(f"ss -Huan src {TUNNEL_RELAY}", namespace="centre").splitlines())


def in_home() -> int:
    return len(sh(f"ip netns pids {PREFIX}home").split())


def agreement(lab: Lab, version: int) -> dict[str, Any]:
    made = bench_home.agreement_now(lab.home, version=version, max_s=60)
    (line,) = made["lines"]
    made["lines"] = [line | {"id": f"v{version}-{number}"} for number in range(LINES)]
    return made


async def _agree(lab: Lab, version: int) -> None:
    """A check that ended by itself may still be ending: the home takes nothing new in the middle of one."""
    for _ in range(3):
        try:
            await lab.agree(agreement(lab, version))
        except LabError:
            await asyncio.sleep(5.0)
        else:
            return
    raise LabError(f"agreement {version} is not taken")


async def run(directory: Path, checks: int, limit_s: float) -> int:
    # The mount's way is no part of this: it is made short, so that the checks are many.
    async with running(directory, quick_mount=True) as lab:
        wrong: list[str] = []
        await lab.agree(agreement(lab, 1))
        await lab.until_tunnel("up", 30.0)
        dial = await asyncio.create_subprocess_exec(
            *within("operator"), sys.executable, "-m", "tests.net_lab.front", "dial", str(lab.http_port),
            str(lab.home.directory / "centre" / "ca.pem"), stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        operator = await asyncio.create_subprocess_exec(
            *within("operator"), sys.executable, "-m", "tests.net_lab.soak_operator", lab.url, lab.home.login_token,
            lab.home.gateway, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert dial.stdout is not None
        await dial.stdout.readline()
        try:
            before, home_before = {}, 0
            firsts: list[float] = []
            began_s = time.monotonic()
            version, left_in_it, others = 1, LINES, 0
            while len(firsts) < checks and time.monotonic() - began_s < limit_s and others <= checks * MOST_OTHERS:
                if left_in_it == 0:
                    version, left_in_it = version + 1, LINES
                    await _agree(lab, version)
                if not before and len(firsts) == min(WARM_UP, checks // 2):
                    await asyncio.sleep(SETTLE_S)
                    before, home_before = count(lab), in_home()
                told = await _check(operator)
                left_in_it -= 1
                if told.get("why") == "seen":
                    firsts.append(told["first_ms"])
                else:
                    others += 1
                    print(f"after {len(firsts)}: {told}", flush=True)
            took_s = time.monotonic() - began_s
            await asyncio.sleep(SETTLE_S)
            after, home_after, left = count(lab), in_home(), allocations()
        finally:
            for process in (operator, dial):
                if process.returncode is None:
                    process.terminate()
                await process.wait()
        report = verify_directory(lab.home.ledger)
    if others > checks * MOST_OTHERS:
        wrong.append(f"{others} checks ended otherwise")
    return _judge(
        len(firsts) + others, took_s, firsts, before, after, (home_before, home_after), left, report.records, wrong
    )


async def _check(operator: asyncio.subprocess.Process) -> dict[str, Any]:
    assert operator.stdin is not None
    assert operator.stdout is not None
    operator.stdin.write(b"go\n")
    await operator.stdin.drain()
    async with asyncio.timeout(90.0):
        line = await operator.stdout.readline()
    if not line:
        raise LabError("the operator's program ended")
    return dict(json.loads(line))


def _judge(
    checks: int,
    took_s: float,
    firsts: list[float],
    before: dict[str, Count],
    after: dict[str, Count],
    home: tuple[int, int],
    left: int,
    records: int,
    wrong: list[str],
) -> int:
    firsts.sort()
    median = firsts[len(firsts) // 2] if firsts else float("nan")
    print(f"{checks} checks in {took_s:.0f} s, {len(firsts)} seen, first frame median {median:.0f} ms, "
          f"{records} records verify")  # fmt: skip
    print(f"{'process':10} {'memory, MiB':>17} {'descriptors':>13} {'threads':>9} {'sockets':>9}")
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            wrong.append(f"{name} is gone")
            continue
        print(
            f"{name:10} {old.memory_mib:7.1f} → {new.memory_mib:7.1f} {old.fds:5} → {new.fds:5} "
            f"{old.threads:3} → {new.threads:3} {old.sockets:3} → {new.sockets:3}"
        )
        grown = [
            words
            for words, is_wrong in (
                ("memory", new.memory_mib - old.memory_mib > MOST_GROWTH_MIB),
                ("descriptors", new.fds > old.fds + SPARE),
                ("threads", new.threads > old.threads + SPARE),
                ("sockets", new.sockets > old.sockets + SPARE),
            )
            if is_wrong
        ]
        wrong += [f"{name}: more {', '.join(grown)}"] if grown else []
    print(f"processes in the home {home[0]} → {home[1]}; allocations left at the relay: {left}")
    if home[1] > home[0]:
        wrong.append("processes left in the home")
    if left:
        wrong.append("allocations left at the relay")
    for words in wrong:
        print(f"DOES NOT HOLD: {words}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make check-soak", description=__doc__)
    parser.add_argument("--checks", type=int, default=200)
    parser.add_argument("--limit-s", type=float, default=3600.0, help="stop and count after so long")
    options = parser.parse_args()
    if (why := obstacle()) is not None:
        print(why, file=sys.stderr)
        return 2
    seclude()
    with tempfile.TemporaryDirectory(prefix="tillsyn-soak-") as folder:
        return asyncio.run(run(Path(folder), options.checks, options.limit_s))


if __name__ == "__main__":
    sys.exit(main())
