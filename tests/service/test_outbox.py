"""What the home recorded while the broker was away reaches the centre afterwards: each record once, in order.

A broker that was started anew acknowledges what it throws away while the centre has not come back yet; such an
acknowledgement does not count. Mutations that turn these red: leave `demand_listener` out; keep the outbox in memory (a
killed link loses it); don't say `OutboxWants` at a new connection; start feeding at the newest record.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from running_bench import Bench, bench, run

from centre.operator import Operator
from gateway.core.error import TransientError
from gateway.ipc import frame
from gateway.services import hand
from provisioning.demo import start_broker

pytestmark = pytest.mark.service

PAUSES = 40


async def _numbers_at_the_centre(home: Bench, operator: Operator) -> list[int]:
    numbers: list[int] = []
    while rows := await operator.ledger(home.home.gateway, after=numbers[-1] if numbers else -1):
        numbers += [row["seq"] for row in rows]
    return numbers


async def _answered(home: Bench) -> None:
    """Return once the guard, started anew, hears the resident again."""
    async with asyncio.timeout(30.0):
        while True:
            try:
                await hand.tell(home.home.control_socket, frame.AskState())
            except TransientError:
                await asyncio.sleep(0.2)
            else:
                return


@pytest.mark.timeout(240)
def test_records_of_an_outage_arrive_once_and_in_order_over_kills(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            broker = home.running.processes["broker"]
            broker.kill()
            await broker.wait()
            for number in range(PAUSES):
                await hand.tell(home.home.control_socket, frame.NotTonight(3600.0))
                await hand.tell(home.home.control_socket, frame.EndPause())
                if number in (10, 25):
                    await home.kill("link" if number == 10 else "guard")
                    await _answered(home)
            recorded = len(home.records())
            assert recorded >= 2 * PAUSES
            home.running.processes["broker"] = await start_broker(home.home)
            await hand.tell(home.home.control_socket, frame.StopForGood())
            recorded = len(home.records())
            async with Operator(home.running.url, home.home.login_token) as operator:
                # Home and centre come back each at a moment of its own.
                async with asyncio.timeout(120.0):
                    while len(numbers := await _numbers_at_the_centre(home, operator)) < recorded:
                        await asyncio.sleep(0.5)
                assert numbers == list(range(len(numbers)))
                # The centre has them all, so it can cosign what the home signed.
                async with asyncio.timeout(20.0):
                    while not (witnessed := (await operator.home(home.home.gateway))["witnessed"]):
                        await asyncio.sleep(0.5)
                assert witnessed["is_cosigned"]
                assert (await operator.home(home.home.gateway))["disabled"] is None

    run(work(), limit_s=220.0)
