"""An operator without a browser, in the operator's namespace; one word a line on standard input, one JSON object back.

    python -m tests.image_lab.onlooker URL TOKEN GATEWAY

`open` ends with the first picture, `seen` with the report of the end, `drop` hangs up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from centre.operator import OPEN_STATUSES, Look, Operator, OperatorError
from gateway.core.error import TransientError
from gateway.protocol.message import Verdict

WARM_S = 20.0
"""Emulated, an eye needs this long to have its libraries; a challenge starts it and holds for 30 s."""
WATCH_S = 4.0


class Onlooker:
    def __init__(self, operator: Operator, gateway: str) -> None:
        self.operator, self.gateway = operator, gateway
        self.known: dict[str, Any] = {}
        self.look: Look | None = None

    async def open(self) -> dict[str, Any]:
        self.known = await self.operator.wait_for_home(self.gateway, 90.0)
        challenged = await self.operator.challenge(self.known)
        await asyncio.sleep(WARM_S)
        # After a check that was cut off a re-check is listed as well, which opens only in a quarter of an hour.
        now_s = time.time()
        due = [
            item
            for item in challenged.due
            if item.status in OPEN_STATUSES and item.attempt > 0 and item.opens_unix_s <= now_s
        ]
        if not due:
            raise OperatorError("nothing is due")
        self.look = await self.operator.open(self.known, challenged, due[0])
        async with asyncio.timeout(30.0):
            await self.look.first_frame.wait()
        return {"first_frame_ms": round(self.look.first_frame_ms or 0.0), "check": self.look.check}

    async def seen(self) -> dict[str, Any]:
        assert self.look is not None
        await asyncio.sleep(WATCH_S)
        frames = self.look.frames
        await self.operator.give_verdict(self.known, self.look, Verdict.SEEN)
        await self.operator.hang_up()
        outcome = await self.operator.closed(self.known, self.look.check, 60.0)
        return {"frames": frames} | {key: outcome[key] for key in ("verdict", "why", "watched_s", "parked", "who")}

    async def drop(self) -> dict[str, Any]:
        await self.operator.hang_up()
        return {}


async def main(url: str, token: str, gateway: str) -> None:
    async with Operator(url, token) as operator:
        onlooker = Onlooker(operator, gateway)
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            try:
                told = await {"open": onlooker.open, "seen": onlooker.seen, "drop": onlooker.drop}[word]()
            except (TransientError, TimeoutError) as exc:
                await operator.hang_up()
                told = {"error": f"{type(exc).__name__}: {exc}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
