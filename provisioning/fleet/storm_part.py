"""Some of a storm's homes, in a process of their own: `python -m provisioning.fleet.storm_part`.

paho waits by select(2), which takes no descriptor above 1023, and each of its connections has three: more than about
340 in one process never come up. What to do comes by standard input as JSON, one line; then a line for each of two
steps: connect and answer `up`; on `say` say what there is to say until the centre has it, and answer with the moments
(monotonic seconds, the same clock in every process) at which each home was there again, and how often they spoke.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.error import TransientError
from gateway.edge.broker_paho import Broker, BrokerAddress, BrokerDown, BrokerUp, Incoming

SAY_AGAIN_S: Final = 10.0
"""As gateway/services/evidence.py: so long without the centre's word, and the line goes again."""
NOT_TAKEN_S: Final = 1.0
AT_ONCE: Final = 16
"""So many are connected at a time before the broker is restarted: what is measured comes after that."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which homes, and where their broker is."""

    folder: str
    broker_port: int
    names: list[str]
    spread_s: float


def address(folder: Path, port: int, name: str) -> BrokerAddress:
    return BrokerAddress(
        "127.0.0.1", port, folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key", "localhost"
    )


def line_of(name: str) -> bytes:
    """What a home has to say."""
    return f"{name} evidence\n".encode()


@dataclass(slots=True)
class Home:
    """One connection, and when it came up in each of the broker's lives."""

    name: str
    link: Broker
    ups_s: list[float] = field(default_factory=list)
    is_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """The centre wants what comes after the line: it has it."""
    said: int = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.link.run(), name=self.name)
            while True:
                match await self.link.next_event():
                    case BrokerUp():
                        self.ups_s.append(time.monotonic())
                    case Incoming() as incoming:
                        incoming.ack()
                        self.is_wanted.set()
                    case BrokerDown():
                        pass

    async def say(self) -> None:
        """Until the centre has it, as the link does with evidence: a PUBACK is a broker's word and no more."""
        while not self.is_wanted.is_set():
            pause_s = SAY_AGAIN_S
            try:
                await self.link.publish(f"tillsyn/v1/{self.name}/ledger", line_of(self.name), demand_listener=True)
                self.said += 1
            except TransientError:
                pause_s = NOT_TAKEN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self.is_wanted.wait()


async def _up(homes: list[Home]) -> None:
    while not all(home.ups_s for home in homes):  # noqa: ASYNC110 - it waits for all of many
        await asyncio.sleep(0.05)


async def play(part: Part) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(AT_ONCE + 1))
    homes = [
        Home(
            name,
            Broker(
                address(Path(part.folder), part.broker_port, name),
                client_id=name,
                subscriptions=[f"tillsyn/v1/{name}/command", f"tillsyn/v1/{name}/wanted"],
                spread_s=part.spread_s,
            ),
        )
        for name in part.names
    ]
    async with asyncio.TaskGroup() as group:
        running = []
        for begin in range(0, len(homes), AT_ONCE):
            running += [group.create_task(home.run()) for home in homes[begin : begin + AT_ONCE]]
            await _up(homes[: begin + AT_ONCE])
        print("up", flush=True)
        if await asyncio.to_thread(sys.stdin.readline):
            for home in homes:
                home.ups_s.clear()
            async with asyncio.TaskGroup() as saying:
                for home in homes:
                    saying.create_task(home.say())
            await _up(homes)
            print(json.dumps([[home.ups_s[0], home.said] for home in homes]), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        for task in running:
            task.cancel()


def main() -> None:
    part = msgspec.json.decode(sys.stdin.readline(), type=Part, strict=True)
    asyncio.run(play(part))


if __name__ == "__main__":
    main()
