"""The sender on its own: what it asks of the camera and what it sends again, with time moved by hand.

The DTLS transport is played; what it would seal and send is kept. Rate and sealing have their own tests.

Mutations that turn these red, each tried: no `_begin_anew` at a word after a silence; none where much is missing, or
REPAIR_MOST_S of 100 s; one for each time that the same is missing (`_is_before_anew` not asked);
repairs before the key picture, or never before a picture; the numbers of what was given up not used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc import VideoStreamTrack
from aiortc.rtcdtlstransport import State
from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtpPacket,
)

from gateway.edge.camera_port import EncodedUnit
from gateway.edge.sender_aiortc import KEY_EVERY_S, PacedSender
from gateway.rate import Limits, Mode
from gateway.rate.control import SILENT_WITHOUT_REMB_S

PAYLOAD_TYPE, RTX_PAYLOAD_TYPE = 97, 98
KEY, PLAIN = b"\0\0\0\1\x65", b"\0\0\0\1\x41"


class FakeDtls:
    """Seals nothing and keeps everything."""

    state = "connected"
    _state = State.CONNECTED

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._tx_srtp = SimpleNamespace(protect=lambda packet: packet)
        self.transport = SimpleNamespace(_connection=SimpleNamespace(send_all=self.sent.extend))

    def _register_rtp_sender(self, *_: Any) -> None:
        pass

    def _unregister_rtp_sender(self, *_: Any) -> None:
        pass

    async def _send_rtp(self, _: bytes) -> None:
        pass


class World:
    """A sender, the clock that it sees, and how often it asked for a key picture."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.keys = 0
        self.dtls = FakeDtls()
        self.sender = PacedSender(VideoStreamTrack(), self.dtls)  # type: ignore[arg-type]
        self.sender.arm(
            Limits(start_bps=2_000_000, most_bps=8_000_000, fixed=True),
            request_key_frame=self._key,
            on_control=lambda _: None,
            clock=lambda: self.now_s,
        )

    def _key(self) -> None:
        self.keys += 1

    async def begin(self) -> None:
        codecs = [
            SimpleNamespace(payloadType=PAYLOAD_TYPE, mimeType="video/H264", parameters={}),
            SimpleNamespace(payloadType=RTX_PAYLOAD_TYPE, mimeType="video/rtx", parameters={"apt": PAYLOAD_TYPE}),
        ]
        await self.sender.send(
            SimpleNamespace(rtcp=SimpleNamespace(cname="x"), codecs=codecs, headerExtensions=[], muxId="0")
        )
        self.push(key=True)
        # The path is up from the first tick after the first picture.
        async with asyncio.timeout(2.0):
            while self.sender.control.heard_s is None:
                await asyncio.sleep(0.01)

    def push(self, *, key: bool = False, size: int = 3000) -> list[int]:
        """A picture, 40 ms after the one before; the sequences of those packets that left."""
        self.now_s += 0.04
        before = len(self.dtls.sent)
        assert self.sender.push(EncodedUnit((KEY if key else PLAIN) + b"x" * size, int(self.now_s * 1e6), key))
        self.sender._flush_later()
        return [packet.sequence_number for packet in self.parsed()[before:] if packet.payload_type == PAYLOAD_TYPE]

    def parsed(self) -> list[RtpPacket]:
        return [RtpPacket.parse(data) for data in self.dtls.sent]

    def again(self) -> list[int]:
        """What was sent again, by the numbers that it had at first."""
        return [
            int.from_bytes(packet.payload[:2], "big")
            for packet in self.parsed()
            if packet.payload_type == RTX_PAYLOAD_TYPE
        ]

    async def hear(self, packet: Any) -> None:
        await self.sender._handle_rtcp_packet(packet)

    async def report(self, fraction_lost: int = 0) -> None:
        info = RtcpReceiverInfo(self.sender._ssrc, fraction_lost, 0, 0, 0, 0, 0)
        await self.hear(RtcpRrPacket(ssrc=1, reports=[info]))

    async def miss(self, sequences: list[int]) -> None:
        await self.hear(RtcpRtpfbPacket(RTCP_RTPFB_NACK, 1, self.sender._ssrc, sequences))

    async def want_picture(self) -> None:
        await self.hear(RtcpPsfbPacket(RTCP_PSFB_PLI, 1, self.sender._ssrc))


def played(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def work() -> None:
        world = World()
        await world.begin()
        try:
            await story(world)
        finally:
            await world.sender.stop()

    asyncio.run(work())


def test_the_first_word_after_a_silence_brings_a_key_picture_at_once_and_keeps_the_video():
    async def story(world: World) -> None:
        await world.report()
        assert world.keys == 0
        world.now_s += SILENT_WITHOUT_REMB_S - 0.1
        await world.report()
        assert world.keys == 0, "no silence yet"
        world.now_s += SILENT_WITHOUT_REMB_S
        await world.report(fraction_lost=250)
        assert world.keys == 1
        assert world.sender.control.mode is Mode.VIDEO
        assert world.sender.control.lost == 0.0
        world.now_s += 1.0
        await world.report()
        assert world.keys == 1

    played(story)


@pytest.mark.parametrize("word", ["miss", "want_picture"])
def test_any_word_ends_a_silence(word):
    async def story(world: World) -> None:
        swallowed = world.push()
        world.now_s += SILENT_WITHOUT_REMB_S
        await (world.miss(swallowed) if word == "miss" else world.want_picture())
        assert world.keys == 1

    played(story)


def test_a_few_missing_packets_are_sent_again_and_many_bring_a_key_picture_that_leaves_before_them():
    async def story(world: World) -> None:
        few = world.push()
        await world.miss(few)
        assert world.again() == few
        assert world.keys == 0
        # More than a second's worth at half the rate.
        many = [one for _ in range(60) for one in world.push(size=10_000)]
        await world.miss(many)
        assert world.keys == 1
        # Said again before it came, and after: it is the same cut.
        world.now_s += KEY_EVERY_S
        await world.miss(many)
        assert world.keys == 1
        world.push(key=True)
        world.now_s += KEY_EVERY_S
        await world.miss(many)
        assert world.keys == 1
        # A receiver that can't go on without them gets them all the same.
        for turn in range(400):
            world.now_s += 0.1
            if turn % 10 == 0:
                repaired = set(world.again())
                await world.miss([one for one in many if one not in repaired])
            world.sender._flush_later()
        assert set(world.again()) == {*few, *many}
        assert world.keys == 1

    played(story)


def test_after_a_cut_the_key_picture_leaves_before_what_is_sent_again():
    async def story(world: World) -> None:
        swallowed = world.push()
        world.now_s += SILENT_WITHOUT_REMB_S
        await world.report()
        # A line that carries little: what may leave at once is less than one packet.
        world.sender._bucket.set_rate(8.0, now_s=world.now_s)
        world.sender._bucket.spend(1_000_000, world.now_s)
        before = len(world.dtls.sent)
        world.sender.push(EncodedUnit(KEY + b"x" * 3000, int(world.now_s * 1e6), True))
        await world.miss(swallowed)
        assert len(world.dtls.sent) == before
        world.sender._bucket.set_rate(8e9, now_s=world.now_s)
        world.now_s += 1.0
        world.sender._flush_later()
        types = [packet.payload_type for packet in world.parsed()[before:]]
        assert types == [PAYLOAD_TYPE] * 3 + [RTX_PAYLOAD_TYPE] * len(swallowed)
        # And only that one.
        world.now_s += 0.5
        world.sender._bucket.spend(1_000_000_000, world.now_s)
        before = len(world.dtls.sent)
        world.sender.push(EncodedUnit(PLAIN + b"x" * 3000, int(world.now_s * 1e6), False))
        await world.miss(swallowed)
        world.now_s += 2.0
        world.sender._flush_later()
        assert world.parsed()[before].payload_type == RTX_PAYLOAD_TYPE

    played(story)


def test_what_was_given_up_before_it_left_leaves_no_gap():
    async def story(world: World) -> None:
        (*_, last) = world.push()
        world.sender._bucket.spend(1_000_000, world.now_s)
        for number in range(20):
            world.sender.push(EncodedUnit(PLAIN + b"x" * 30_000, int(world.now_s * 1e6) + number, False))
        assert world.sender._queue_s() > 0.5
        # A key picture needs nothing of what waits.
        world.sender.push(EncodedUnit(KEY + b"x" * 3000, int(world.now_s * 1e6) + 99, True))
        before = len(world.dtls.sent)
        world.now_s += 100.0
        world.sender._flush_later()
        assert [packet.sequence_number for packet in world.parsed()[before:]] == [
            (last + number) & 0xFFFF for number in (1, 2, 3)
        ]

    played(story)
