"""The centre's parts killed in the middle of a check: off within the lease, the ledger right, and the next check works.

Nobody touches the device in between, and nobody restarts anything of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gateway.check.machine import LEASE_LIFE_S
from gateway.ledger import verify_directory
from provisioning import bench_home
from tests.net_lab.lab import Lab, LabError, running
from tests.net_lab.network import PREFIX, sh
from tests.net_lab.onlooker import Onlooker, onlooker

SLACK_S = 4.0
"""Above the lease: the machine's tick, and the mount's way up."""
BACK_LIMIT_S = 90.0
WHY = {
    "relay": {"lease-lapsed", "no-picture", "eye-lost"},
    "endpoint": {"broker-lost", "lease-lapsed", "no-picture"},
    "broker": {"broker-lost"},
}


def _agreement(lab: Lab, version: int) -> dict[str, Any]:
    """One with a line of its own, so that an earlier check does not count against the next."""
    agreement = bench_home.agreement_now(lab.home, version=version, max_s=60)
    agreement["lines"][0]["id"] = f"night-{version}"
    return agreement


async def _picture(lab: Lab, operator: Onlooker) -> None:
    await operator.page.reload()
    await operator.ready(limit_s=40.0)
    await operator.start()
    if await operator.first_frame_ms(25.0) is None:
        raise LabError(f"no picture: {await operator.words()}\n{lab.log('home')}")


def _closed(lab: Lab) -> list[Any]:
    return [record for record in lab.records() if record.kind == "closed"]


async def run(directory: Path) -> tuple[list[str], list[str]]:
    """(what was measured, what does not hold)."""
    lines: list[str] = []
    wrong: list[str] = []
    async with running(directory) as lab:
        await lab.agree(_agreement(lab, 1))
        await lab.until_tunnel("up", 30.0)
        async with onlooker(lab) as operator:
            version = 1
            for name, start in (
                ("relay", lab.start_relay),
                ("endpoint", lab.start_endpoint),
                ("broker", lab.start_broker),
            ):
                version += 2
                try:
                    await lab.agree(_agreement(lab, version))
                    words = await _one(lab, operator, name, start, version)
                    lines.append(f"holds: {words}")
                except (LabError, TimeoutError) as exc:
                    lines.append(f"DOES NOT HOLD: {name}: {str(exc) or 'too late'}")
                    wrong.append(name)
        report = verify_directory(lab.home.ledger)
        lines.append(f"holds: the ledger verifies, {report.records} records")
    return lines, wrong


async def _one(lab: Lab, operator: Onlooker, name: str, start: Callable[[], Awaitable[None]], version: int) -> str:
    await _picture(lab, operator)
    before = len(_closed(lab))
    await asyncio.sleep(2.0)
    began_s = time.monotonic()
    await lab.kill(name)
    if name == "endpoint":
        sh("ip link delete wg0", namespace="centre", check=False)
    async with asyncio.timeout(LEASE_LIFE_S + SLACK_S):
        while not lab.safe():
            await asyncio.sleep(0.05)
    safe_s = time.monotonic() - began_s
    async with asyncio.timeout(10.0):
        while len(_closed(lab)) == before:
            await asyncio.sleep(0.05)
    (closed,) = _closed(lab)[before:]
    if closed.why not in WHY[name]:
        raise LabError(f"recorded as {closed.why}")
    await start()
    back_s = time.monotonic()
    async with asyncio.timeout(BACK_LIMIT_S):
        while True:
            try:
                await lab.agree(_agreement(lab, version + 1))
                break
            except LabError:
                await asyncio.sleep(1.0)
    await _picture(lab, operator)
    took_s = time.monotonic() - back_s
    way = (await lab.facts())["tunnel"]
    await operator.say_if_possible("seen")
    async with asyncio.timeout(15.0):
        while len(_closed(lab)) == before + 1 or not lab.safe():
            await asyncio.sleep(0.05)
    if (why := _closed(lab)[-1].why) != "seen":
        raise LabError(f"the next check ended {why}")
    left = sh(f"ip netns pids {PREFIX}home", check=False).split()
    return (
        f"{name} killed: safe after {safe_s:.1f} s, recorded {closed.why}; "
        f"next picture {took_s:.1f} s after it was back, by {way}; {len(left)} processes in the home"
    )
