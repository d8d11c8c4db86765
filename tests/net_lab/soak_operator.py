"""An operator without a browser, in the operator's namespace: one check for each line on standard input.

    python -m tests.net_lab.soak_operator URL TOKEN GATEWAY

Answers each line with one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from centre.operator import OPEN_STATUSES, Operator
from gateway.core.error import TransientError
from gateway.protocol.message import Verdict

LEASE_S = 12.0
"""By then a check that nobody renews has ended at the home."""


async def one(operator: Operator, gateway: str) -> dict[str, Any]:
    began_s = time.monotonic()
    known = await operator.wait_for_home(gateway, 20.0)
    challenged = await operator.challenge(known)
    # An attempt of 0 is one that runs.
    due = next(item for item in challenged.due if item.status in OPEN_STATUSES and item.attempt > 0)
    look = await operator.open(known, challenged, due)
    async with asyncio.timeout(20.0):
        await look.first_frame.wait()
    await asyncio.sleep(0.3)
    await operator.give_verdict(known, look, Verdict.SEEN)
    await operator.hang_up()
    outcome = await operator.closed(known, look.check)
    return {"first_ms": look.first_frame_ms, "why": outcome["why"], "took_s": time.monotonic() - began_s}


async def main(url: str, token: str, gateway: str) -> None:
    async with Operator(url, token) as operator:
        while await asyncio.to_thread(sys.stdin.readline):
            try:
                told = await one(operator, gateway)
            except (TransientError, TimeoutError, StopIteration) as exc:
                await operator.hang_up()
                await asyncio.sleep(LEASE_S)
                told = {"error": f"{type(exc).__name__}: {exc}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
