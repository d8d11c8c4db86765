"""The picture after a cut of 3 s: both ways gone at the operator's end, then there again.

Measured from the end of the cut to the next decoded frame, and to the next key picture that has come whole; the
receiver is aiortc's on both sides. The two differ: aiortc's receiver waits for what a cut of few packets has swallowed
until its buffer of 128 is full, whatever key pictures lie behind it, and a browser goes on with the key picture. Where
a cut swallows many packets (the film) aiortc begins anew at once. What is not in it: a new address, and a path that
stays away until somebody gives up.
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

TOPIC = "8  After a cut of 3 s"
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


class KeyPictures:
    """Hears each RTP packet before the receiver does, and finds key pictures of which no packet is missing.

    Source: RFC 6184 §5.4 (an IDR slice is NAL type 5, alone, in a STAP-A (24) or in pieces, FU-A (28)).
    """

    def __init__(self, pc: RTCPeerConnection) -> None:
        self.whole_s: list[float] = []
        self._timestamp, self._next, self._is_key = -1, -1, False
        receiver: Any = pc.getReceivers()[0]
        receive = receiver._handle_rtp_packet  # noqa: SLF001

        async def hear(packet: Any, arrival_time_ms: int) -> None:
            self._note(packet)
            await receive(packet, arrival_time_ms=arrival_time_ms)

        receiver._handle_rtp_packet = hear  # noqa: SLF001

    def _note(self, packet: Any) -> None:
        kinds = _begins(packet.payload)
        if packet.timestamp != self._timestamp:
            self._timestamp, self._is_key = packet.timestamp, bool(kinds & {5, 7})
        elif packet.sequence_number != self._next:
            self._is_key = False
        self._next = (packet.sequence_number + 1) % 2**16
        if packet.marker and self._is_key:
            self.whole_s.append(time.monotonic())


def _begins(payload: bytes) -> set[int]:
    """The types of the NAL units that begin in a packet."""
    if not payload:
        return set()
    kind = payload[0] & 0x1F
    if kind == 28:
        return {payload[1] & 0x1F} if len(payload) > 1 and payload[1] & 0x80 else set()
    if kind != 24:
        return {kind}
    found, at = set(), 1
    while at + 2 < len(payload):
        found.add(payload[at + 2] & 0x1F)
        at += 2 + int.from_bytes(payload[at : at + 2], "big")
    return found


async def _recovery_ms(pc: RTCPeerConnection, frames: Callable[[], int]) -> tuple[float, float]:
    """To the next decoded frame and to the next whole key picture; `FRAME_LIMIT_S` where there was none."""
    pictures = KeyPictures(pc)
    await asyncio.sleep(STEADY_S)
    async with cut(pc):
        await asyncio.sleep(CUT_S)
    ended_s, before, whole = time.monotonic(), frames(), len(pictures.whole_s)
    decoded_s = ended_s + FRAME_LIMIT_S
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FRAME_LIMIT_S):
            while frames() == before:
                await asyncio.sleep(0.005)
            decoded_s = time.monotonic()
            while len(pictures.whole_s) == whole:
                await asyncio.sleep(0.005)
    whole_s = pictures.whole_s[whole] if len(pictures.whole_s) > whole else ended_s + FRAME_LIMIT_S
    return (decoded_s - ended_s) * 1000.0, (whole_s - ended_s) * 1000.0


async def measure(directory: Path, clip: Clip, *, rounds: int) -> list[Result]:
    seen: dict[str, list[tuple[float, float]]] = {"ours": [], "room": [], "bare": []}
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
    note = f"{FRAME_LIMIT_S * 1000:.0f} ms stand for none within that time"
    results = []
    for place, what in enumerate(("next decoded frame", "next whole key picture")):
        bare_side = Side.of(f"bare aiortc, same film: {what}", [each[place] for each in seen["bare"]])
        for name, source in (("ours", "film passed through"), ("room", "room drawn and encoded")):
            ours = Side.of(f"{source}: {what}", [each[place] for each in seen[name]])
            results.append(Result(TOPIC, "ms", ours, bare_side, note=note))
    return results
