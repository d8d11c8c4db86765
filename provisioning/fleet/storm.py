"""`tillsyn fleet storm N`: N connections of the device's own broker module, and a broker that restarts.

Each connection has its own certificate and one line of evidence that it says again until its PUBACK, as a home's outbox
does. A listener of the centre counts what arrives; nothing is lost when each line has come at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.core.error import TransientError
from gateway.edge.broker_paho import Broker, BrokerAddress, BrokerDown, BrokerUp, Incoming
from provisioning.authority import broker_config
from provisioning.authority.x509 import CertificateAuthority
from provisioning.fleet.simulate import Run, broker, make

BIN_S: Final = 1.0
SAY_AGAIN_S: Final = 1.0


@dataclass(slots=True)
class Home:
    """One connection, and when it came up in each of the broker's lives."""

    name: str
    link: Broker
    ups_s: list[float] = field(default_factory=list)
    said: int = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.link.run(), name=self.name)
            while True:
                match await self.link.next_event():
                    case BrokerUp():
                        self.ups_s.append(time.monotonic())
                    case BrokerDown() | Incoming():
                        pass

    async def say(self, line: bytes) -> None:
        """Until the broker has it and somebody to give it to, as the link does with evidence."""
        while True:
            try:
                self.said += 1
                await self.link.publish(f"tillsyn/v1/{self.name}/ledger", line, demand_listener=True)
            except TransientError:
                await asyncio.sleep(SAY_AGAIN_S)
                continue
            return


def histogram(moments_s: list[float], began_s: float) -> dict[str, int]:
    """How many came back in each second since the broker was there again."""
    found: dict[str, int] = {}
    for moment in sorted(moments_s):
        name = f"{int((moment - began_s) // BIN_S):03}"
        found[name] = found.get(name, 0) + 1
    return found


def _address(run: Run, name: str) -> BrokerAddress:
    folder = run.folder
    return BrokerAddress(
        "127.0.0.1", run.broker_port, folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key", "localhost"
    )


async def _listen(run: Run, heard: set[bytes], up: asyncio.Event) -> None:
    link = Broker(
        _address(run, "centre"), client_id="centre", subscriptions=["tillsyn/v1/+/ledger"], session_expiry_s=3600
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run(), name="centre")
        while True:
            match await link.next_event():
                case BrokerUp():
                    up.set()
                case Incoming() as incoming:
                    heard.add(incoming.payload)
                    incoming.ack()
                case BrokerDown():
                    pass


async def storm(count: int, *, limit_s: float, spread_s: float, away_s: float = 3.0) -> dict[str, Any]:
    """One run; its figures. `away_s` is how long the broker is gone."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
    with tempfile.TemporaryDirectory(prefix="tillsyn-storm-") as place:
        run = make(Path(place), count, 0.0)
        # A CA anew for all of them, because each home needs a certificate with its own name.
        authority = CertificateAuthority.make("tillsyn storm")
        (run.folder / "ca.pem").write_bytes(authority.pem())
        (run.folder / "acl").write_text(broker_config.acl(None))
        for name in (*run.homes, "centre", "broker"):
            identity = authority.issue(name, server_names=("localhost", "127.0.0.1") if name == "broker" else ())
            (run.folder / f"{name}.pem").write_bytes(identity.certificate)
            (run.folder / f"{name}.key").write_bytes(identity.key)
        homes = [
            Home(
                name,
                Broker(
                    _address(run, name),
                    client_id=name,
                    subscriptions=[f"tillsyn/v1/{name}/command"],
                    spread_s=spread_s,
                ),
            )
            for name in run.homes
        ]
        heard: set[bytes] = set()
        up = asyncio.Event()
        tasks = []
        try:
            async with asyncio.timeout(limit_s):
                async with broker(run):
                    tasks.append(asyncio.create_task(_listen(run, heard, up)))
                    await up.wait()
                    tasks += [asyncio.create_task(home.run()) for home in homes]
                    while not all(home.ups_s for home in homes):  # noqa: ASYNC110 - it waits for all of many
                        await asyncio.sleep(0.2)
                    first = len(homes)
                for home in homes:
                    home.ups_s.clear()
                # The broker is gone, and every home has something to say.
                lines = [f"{home.name} evidence\n".encode() for home in homes]
                saying = [asyncio.create_task(home.say(line)) for home, line in zip(homes, lines, strict=True)]
                tasks += saying
                await asyncio.sleep(away_s)
                async with broker(run):
                    began_s = time.monotonic()
                    await asyncio.gather(*saying)
                    while not (all(home.ups_s for home in homes) and len(heard) == count):  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
                    took_s = time.monotonic() - began_s
                    back = histogram([home.ups_s[0] for home in homes], began_s)
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
        return {
            "gateways": count,
            "spread_s": spread_s,
            "connected_before": first,
            "connected_after": sum(back.values()),
            "lines_said": len(lines),
            "lines_heard": len(heard & set(lines)),
            "all_back_s": round(took_s, 1),
            "most_in_one_second": max(back.values()),
            "back_by_second": back,
        }


def main(count: int, *, limit_s: float, spread_s: float) -> int:
    """Print the figures as JSON; 0 when every line has come."""
    told = asyncio.run(storm(count, limit_s=limit_s, spread_s=spread_s))
    print(json.dumps(told, indent=1))
    return 0 if told["lines_heard"] == count else 1
