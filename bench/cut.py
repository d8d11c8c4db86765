"""The picture after a cut of 3 s: both ways gone at the operator's end, then there again.

Measured from the end of the cut to the next decoded frame; the receiver is the same on both sides. What is not in it: a
new address, and a path that stays away until somebody gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiortc import RTCPeerConnection

from bench import child
from bench.clip import Clip
from bench.result import Result, Side
from bench.session import bare, system

TOPIC = "8  After a cut of 3 s, the next frame"
CUT_S = 3.0
STEADY_S = 3.0
FRAME_LIMIT_S = 12.0


class Hole:
    """A datagram transport from which nothing comes out."""

    def sendto(self, _: bytes, __: Any = None) -> None:
        pass


@asynccontextmanager
async def cut(pc: RTCPeerConnection) -> AsyncIterator[None]:
    """While it holds, no datagram reaches this peer or leaves it."""
    ice: Any = pc.getReceivers()[0].transport.transport
    protocols = ice._connection._protocols  # noqa: SLF001
    kept = [one.transport for one in protocols]
    for one in protocols:
        one.transport, one.datagram_received = Hole(), lambda *_: None
    try:
        yield
    finally:
        for one, transport in zip(protocols, kept, strict=True):
            one.transport = transport
            del one.datagram_received


async def _recovery_ms(pc: RTCPeerConnection, frames: Callable[[], int]) -> float:
    await asyncio.sleep(STEADY_S)
    async with cut(pc):
        await asyncio.sleep(CUT_S)
    ended_s, before = time.monotonic(), frames()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FRAME_LIMIT_S):
            while frames() == before:
                await asyncio.sleep(0.005)
    return (time.monotonic() - ended_s) * 1000.0


async def measure(directory: Path, clip: Clip, *, rounds: int) -> list[Result]:
    seen: dict[str, list[float]] = {"ours": [], "room": [], "bare": []}
    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(child.running("bench.bare_sender", str(clip.ts)))
        film = await stack.enter_async_context(system(directory / "film", f"file:{clip.mp4}"))
        room = await stack.enter_async_context(system(directory / "room", "room"))
        for _ in range(rounds):
            for name, home in (("ours", film), ("room", room)):
                look, _ = await home.open()
                assert home.operator.pc is not None
                seen[name].append(await _recovery_ms(home.operator.pc, lambda look=look: look.frames))
                await home.close(look)
            async with bare(sender, decode=False) as plain:
                seen["bare"].append(await _recovery_ms(plain.pc, lambda plain=plain: plain.frames))
    beside = Side.of("bare aiortc, same film", seen["bare"])
    note = f"{FRAME_LIMIT_S * 1000:.0f} ms stand for none within that time"
    return [
        Result(TOPIC, "ms", Side.of("film passed through", seen["ours"]), beside, note=note),
        Result(TOPIC, "ms", Side.of("room drawn and encoded", seen["room"]), beside),
    ]
