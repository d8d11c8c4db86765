"""`tillsyn fleet storm N`: N connections of the device's own broker module, and a broker that restarts.

Each connection has its own certificate and one line of evidence that it says again until the centre says that it has
it, as a home's outbox does. A listener in the centre's place counts what arrives; nothing is lost when each line has
come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.edge.broker_paho import Broker, BrokerDown, BrokerUp, Incoming
from provisioning.authority import broker_config
from provisioning.authority.x509 import CertificateAuthority
from provisioning.fleet.simulate import Run, broker, make
from provisioning.fleet.storm_part import Part, address, line_of

BIN_S: Final = 1.0
HOMES_A_PROCESS: Final = 250


def histogram(moments_s: list[float], began_s: float) -> dict[str, int]:
    """How many came back in each second since the broker was there again."""
    found: dict[str, int] = {}
    for moment in sorted(moments_s):
        name = f"{int((moment - began_s) // BIN_S):03}"
        found[name] = found.get(name, 0) + 1
    return found


async def _listen(run: Run, heard: set[bytes], up: asyncio.Event) -> None:
    link = Broker(
        address(run.folder, run.broker_port, "centre"),
        client_id="centre",
        subscriptions=["tillsyn/v1/+/ledger"],
        session_expiry_s=3600,
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
                    # As the centre does, unsigned; lost with the connection, and said again when the line comes again.
                    link.publish(f"{incoming.topic.removesuffix('ledger')}wanted", b'{"seq":1}')
                case BrokerDown():
                    pass


@contextlib.asynccontextmanager
async def _listening(run: Run, heard: set[bytes]) -> AsyncIterator[None]:
    """The centre's end of the broker, connected."""
    up = asyncio.Event()
    listening = asyncio.create_task(_listen(run, heard, up))
    try:
        await up.wait()
        yield
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@contextlib.asynccontextmanager
async def _process(part: Part) -> AsyncIterator[asyncio.subprocess.Process]:
    """The homes of a part, on their way to their connections."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "provisioning.fleet.storm_part",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _tell(process, msgspec.json.encode(part))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")


async def _answer(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process of played homes has ended")
    return line.strip()


def _make(folder: Path, count: int) -> Run:
    run = make(folder, count, 0.0)
    # A CA anew for all of them, because each home needs a certificate with its own name.
    authority = CertificateAuthority.make("tillsyn storm")
    (run.folder / "ca.pem").write_bytes(authority.pem())
    (run.folder / "acl").write_text(broker_config.acl(None))
    for name in (*run.homes, "centre", "broker"):
        identity = authority.issue(name, server_names=("localhost", "127.0.0.1") if name == "broker" else ())
        (run.folder / f"{name}.pem").write_bytes(identity.certificate)
        (run.folder / f"{name}.key").write_bytes(identity.key)
    return run


async def storm(count: int, *, limit_s: float, spread_s: float, away_s: float) -> dict[str, Any]:
    """One run; its figures. `away_s` is how long the broker is gone."""
    with tempfile.TemporaryDirectory(prefix="tillsyn-storm-") as place:
        run = _make(Path(place), count)
        names = list(run.homes)
        lines = {line_of(name) for name in names}
        heard: set[bytes] = set()
        async with asyncio.timeout(limit_s), contextlib.AsyncExitStack() as stack:
            async with broker(run):
                await stack.enter_async_context(_listening(run, heard))
                processes = []
                for begin in range(0, count, HOMES_A_PROCESS):
                    part = Part(place, run.broker_port, names[begin : begin + HOMES_A_PROCESS], spread_s)
                    processes.append(await stack.enter_async_context(_process(part)))
                    # One after the other: what is measured comes after this.
                    await _answer(processes[-1])
            # The broker is gone, and every home has something to say.
            for process in processes:
                _tell(process, b"say")
            await asyncio.sleep(away_s)
            async with broker(run):
                began_s = time.monotonic()
                answers = [each for process in processes for each in json.loads(await _answer(process))]
                took_s = time.monotonic() - began_s
        moments_s = [moment_s for moment_s, _ in answers]
        back = histogram(moments_s, began_s)
        return {
            "gateways": count,
            "spread_s": spread_s,
            "away_s": away_s,
            "connected_after": len(moments_s),
            "lines": len(lines),
            "lines_said": sum(said for _, said in answers),
            "lines_heard": len(heard & lines),
            "all_back_s": round(max(moments_s) - began_s, 1),
            "all_heard_s": round(took_s, 1),
            "most_in_one_second": max(back.values()),
            "back_by_second": back,
        }


def main(count: int, *, limit_s: float, spread_s: float, away_s: float) -> int:
    """Print the figures as JSON; 0 when every line has come."""
    told = asyncio.run(storm(count, limit_s=limit_s, spread_s=spread_s, away_s=away_s))
    print(json.dumps(told, indent=1))
    return 0 if told["lines_heard"] == count else 1
