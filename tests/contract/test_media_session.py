"""The picture's way: eye's Peer, media socket, link's carry, and a plain aiortc operator on the loopback, in one loop.

What is simulated is the operator alone; DTLS, SRTP, ICE and the sockets are real.

Mutations that turn these red, each tried: no `keep_sha256` in Peer.answer, no codec preferences, no `only_fingerprint`
of the offer, the label not asked, `MAX_MESSAGE_BYTES` not asked, `bufferedAmount` or
`readyState` of the channel not asked, ValueError of `say` not caught, `encrypted` not asked or always taken for a lost
path, SRTP not watched (media_aiortc.py); `connection is None` or
`inward is None` not asked, the socket not closed, the connection not closed, all addresses gathered instead of the
configured ones (ice_aioice.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aioice.stun
import aiortc.rtcicetransport
import numpy as np
import pytest
from aioice import Candidate, Connection
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from gateway.edge.camera_port import CameraSettings, EncodedUnit
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.ice_aioice import ByAddress, OneWayConnection, carry
from gateway.edge.media_aiortc import MAX_MESSAGE_BYTES, MAX_WAITING_BYTES, MOST_FALSE, Lost, MediaLostError, Peer
from gateway.ipc import media
from gateway.ipc.channel import pair
from gateway.protocol import sdp

pytestmark = pytest.mark.slow

LOOPBACK = "127.0.0.1"
WIDTH_PX, HEIGHT_PX, FPS = 320, 180, 30
REFUSED_WITHIN_S = 3.0
LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def library_as_it_was() -> Iterator[None]:
    """Peer and carry set two names of their libraries; other tests find them as they were."""
    connection, rto_s = aiortc.rtcicetransport.Connection, aioice.stun.RETRY_RTO
    yield
    aiortc.rtcicetransport.Connection, aioice.stun.RETRY_RTO = connection, rto_s


@pytest.fixture(scope="module")
def units() -> list[EncodedUnit]:
    """Half a second of a moving bar; the first unit is key."""
    settings = CameraSettings(WIDTH_PX, HEIGHT_PX, FPS, 300_000, 0.5)
    encoder = Libx264Encoder(WIDTH_PX, HEIGHT_PX, settings)
    made = []
    for number in range(FPS // 2):
        picture = np.full((HEIGHT_PX * 3 // 2, WIDTH_PX), 128, np.uint8)
        picture[:HEIGHT_PX, number * 20 : number * 20 + 20] = 220
        made.append(encoder.encode(picture, pts_us=0, key=number == 0))
    return made


def run(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S * 2):
            await work

    asyncio.run(limited())


def open_sockets() -> int:
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        # The directory's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            count += str(fd.readlink()).startswith("socket:")
    return count


async def until(true: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait for real media to arrive; looks often, and not longer than it must."""
    deadline_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline_s, "did not come in time"
        await asyncio.sleep(0.01)


class LoopbackConnection(Connection):
    """An operator's ICE on the loopback alone, which counts the RTP datagrams it was sent."""

    rtp = 0

    async def gather_candidates(self) -> None:
        self._local_candidates_start = True
        self._local_candidates += await self.get_component_candidates(component=1, addresses=[LOOPBACK])
        self._local_candidates_end = True

    async def recv(self) -> bytes:
        data = await super().recv()
        # RTP's version bits, and no RTCP payload type. Source: RFC 7983 §7, RFC 5761 §4.
        if data[0] >> 6 == 2 and not 192 <= data[1] <= 223:
            LoopbackConnection.rtp += 1
        return data


class Operator:
    """A browser as aiortc plays it."""

    def __init__(self) -> None:
        aiortc.rtcicetransport.Connection = LoopbackConnection  # type: ignore[misc]
        LoopbackConnection.rtp = 0
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.frames = 0
        self.size_px = (0, 0)
        self.task: asyncio.Task[None] | None = None
        self.heard: list[tuple[str, str | bytes]] = []

    async def offer(self, *, codec: str = "video/H264", labels: tuple[str, ...] = ("check",)) -> str:
        self.video = self.pc.addTransceiver("video", direction="recvonly")
        capabilities = RTCRtpReceiver.getCapabilities("video")
        self.video.setCodecPreferences([one for one in capabilities.codecs if one.mimeType == codec])
        self.channels = {label: self.pc.createDataChannel(label) for label in labels}
        for label, channel in self.channels.items():
            channel.on("message", functools.partial(self._hear, label))
        self.pc.on("track", self._on_track)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return sdp.keep_sha256(self.pc.localDescription.sdp)

    async def take(self, answer: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        await self.pc.close()

    def _hear(self, label: str, message: str | bytes) -> None:
        self.heard.append((label, message))

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.task = asyncio.create_task(self._count(track))

    async def _count(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame: Any = await track.recv()
                self.frames += 1
                self.size_px = (frame.width, frame.height)


@dataclass
class Home:
    """One check's eye and link, and the duplicate that the guard keeps of the media socket."""

    peer: Peer
    carrying: asyncio.Task[None]
    kept: socket.socket
    key_frames_asked: list[None] = field(default_factory=list)
    first: list[None] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    pump: asyncio.Task[None] | None = None

    async def show(self, units: list[EncodedUnit]) -> None:
        """Push the picture round and round, as fast as a camera would."""
        number = 0
        while True:
            unit = units[number % len(units)]
            self.peer.push(EncodedUnit(unit.data, number * 1_000_000 // FPS, unit.key))
            number += 1
            await asyncio.sleep(1 / FPS)

    def start(self, units: list[EncodedUnit]) -> None:
        self.pump = asyncio.create_task(self.show(units))

    async def close(self) -> None:
        if self.pump is not None:
            self.pump.cancel()
        self.kept.close()
        await self.peer.close()
        async with asyncio.timeout(REFUSED_WITHIN_S):
            await self.carrying


@contextlib.asynccontextmanager
async def a_home(addresses: tuple[str, ...] = (LOOPBACK,)) -> AsyncIterator[Home]:
    eye_end, link_end = pair()
    kept = eye_end.dup()
    asked: list[None] = []
    first: list[None] = []
    messages: list[bytes] = []
    lost: list[Lost] = []
    peer = Peer(
        request_key_frame=lambda: asked.append(None),
        on_first=lambda: first.append(None),
        on_message=messages.append,
        on_lost=lost.append,
    )
    peer.attach(eye_end)
    carrying = asyncio.create_task(carry(link_end, ByAddress(tuple(addresses), relayed_only=False)))
    home = Home(peer, carrying, kept, asked, first, messages, lost)
    try:
        yield home
    finally:
        await home.close()


@contextlib.asynccontextmanager
async def a_check(labels: tuple[str, ...] = ("check",)) -> AsyncIterator[tuple[Operator, Home, str]]:
    """Operator and home, joined; leaves nothing open."""
    operator = Operator()
    try:
        offer = await operator.offer(labels=labels)
        async with a_home() as home:
            answer = await home.peer.answer(offer)
            await operator.take(answer)
            async with asyncio.timeout(LIMIT_S):
                await home.peer.connected.wait()
            yield operator, home, answer
    finally:
        await operator.close()


def test_a_picture_and_the_operators_words_come_through_sealed(units):
    async def work() -> None:
        async with a_check(labels=("check", "other")) as (operator, home, answer):
            # The answer: one fingerprint, H.264 and its retransmission, sending only, the configured address only.
            assert answer.count("a=fingerprint:") == answer.count("a=fingerprint:sha-256 ") >= 1
            assert sdp.only_fingerprint(answer)
            video = answer[answer.index("m=video") :]
            coded = {line.split()[1].split("/")[0] for line in video.splitlines() if line.startswith("a=rtpmap:")}
            assert coded <= {"H264", "rtx"}
            assert "H264" in coded
            assert "a=sendonly" in video
            candidates = [line for line in answer.splitlines() if line.startswith("a=candidate:")]
            assert candidates
            assert {line.split()[4] for line in candidates} == {LOOPBACK}

            assert home.first == []
            home.start(units)
            await until(lambda: operator.frames >= 10)
            assert operator.size_px == (WIDTH_PX, HEIGHT_PX)
            assert home.first == [None]
            assert home.peer.taken >= 10

            # A word on the agreed channel is heard, on another it isn't, and a long one isn't either.
            await until(lambda: all(channel.readyState == "open" for channel in operator.channels.values()))
            operator.channels["other"].send("not this")
            operator.channels["check"].send("x" * (MAX_MESSAGE_BYTES + 1))
            operator.channels["check"].send("å" * (MAX_MESSAGE_BYTES // 2 + 1))
            operator.channels["check"].send("y" * MAX_MESSAGE_BYTES)
            operator.channels["check"].send(b"lease")
            await until(lambda: len(home.messages) >= 2)
            assert home.messages == [b"y" * MAX_MESSAGE_BYTES, b"lease"]

            # And a word of ours arrives as text, on the agreed channel only.
            assert home.peer.say('{"kind":"å"}'.encode())
            await until(lambda: operator.heard)
            assert operator.heard == [("check", '{"kind":"å"}')]

            # A lost picture asks the camera for a key frame.
            asked = len(home.key_frames_asked)
            receiver = operator.video.receiver
            await receiver._send_rtcp_pli(receiver.getSynchronizationSources()[0].source)
            await until(lambda: len(home.key_frames_asked) > asked)

    run(work())


def test_a_word_that_nobody_can_take_is_lost_and_counted():
    async def work() -> None:
        async with a_check(labels=("other",)) as (_, home, _):
            assert not home.peer.say(b"{}")
            assert home.peer.unsaid == 1
        async with a_check() as (operator, home, _):
            await until(lambda: home.peer.say(b"{}"))
            await until(lambda: operator.heard)
            unsaid = home.peer.unsaid
            # In one turn of the loop nothing leaves: what is too much is lost, and nothing waits for it.
            said = [home.peer.say(b"x" * 1024) for _ in range(64)]
            assert said.count(True) == MAX_WAITING_BYTES // 1024
            assert home.peer.unsaid == unsaid + said.count(False)
            await until(lambda: len(operator.heard) == 1 + said.count(True))
            await operator.close()
            await until(lambda: home.lost)
            assert not home.peer.say(b"{}")

    run(work())


def test_a_limit_in_the_offer_silences_the_eye_and_no_more(units):
    async def work() -> None:
        operator = Operator()
        offer = await operator.offer()
        async with a_home() as home:
            await operator.take(await home.peer.answer(re.sub("a=max-message-size:.*", "a=max-message-size:8", offer)))
            home.start(units)
            await until(lambda: operator.frames >= 3)
            await until(lambda: home.peer.say(b"{}"))
            assert not home.peer.say(b"x" * 9)
            await until(lambda: operator.frames >= 6)
        await operator.close()

    run(work())


def test_the_guards_shutdown_of_its_duplicate_ends_the_picture_at_once(units):
    async def work() -> None:
        async with a_check() as (operator, home, _):
            home.start(units)
            await until(lambda: operator.frames >= 3)
            home.kept.shutdown(socket.SHUT_RDWR)
            async with asyncio.timeout(1.0):
                await home.carrying
            # What the kernel had already is read; from then on there is nothing.
            await asyncio.sleep(0.05)
            received = LoopbackConnection.rtp
            assert received > 0
            await asyncio.sleep(0.4)
            assert LoopbackConnection.rtp == received
            await until(lambda: home.lost, REFUSED_WITHIN_S)

    run(work())


def test_ten_checks_leave_no_socket_and_no_task_behind(units):
    async def work() -> None:
        async with a_check():
            pass
        await _settled()
        sockets, tasks = open_sockets(), len(asyncio.all_tasks())
        for _ in range(10):
            async with a_check() as (_, home, _):
                home.start(units)
        await _settled()
        assert open_sockets() <= sockets
        assert len(asyncio.all_tasks()) <= tasks

    run(work())


async def _settled() -> None:
    # Transports close in the loop's next turns.
    for _ in range(20):
        await asyncio.sleep(0.005)


def test_who_answers_with_another_certificate_than_the_signed_one_gets_nothing_and_is_said(units):
    async def work() -> None:
        operator, signed = Operator(), Operator()
        try:
            others = sdp.only_fingerprint(await signed.offer())
            own = await operator.offer()
            async with a_home() as home:
                offer = own.replace(sdp.only_fingerprint(own), others)
                assert sdp.only_fingerprint(offer) == others
                await operator.take(await home.peer.answer(offer))
                home.start(units)
                await until(lambda: home.lost)
                assert home.lost[0] is Lost.SEAL
                assert home.peer.taken == 0
                assert operator.frames == 0
        finally:
            await operator.close()
            await signed.close()

    run(work())


def test_datagrams_in_a_row_that_are_not_the_browsers_break_the_seal_and_a_lost_way_does_not():
    async def work() -> None:
        async with a_check() as (operator, home, _):
            ice = operator.video.receiver.transport.transport
            for _ in range(MOST_FALSE):
                # A receiver report by its first bytes; the rest is nobody's. Source: RFC 3550 §6.4.2.
                await ice._connection.send(b"\x81\xc9\x00\x07" + bytes(40))
            await until(lambda: home.lost)
            assert home.lost == [Lost.SEAL]
        async with a_check() as (operator, home, _):
            home.kept.shutdown(socket.SHUT_RDWR)
            await until(lambda: home.lost)
            assert set(home.lost) == {Lost.PATH}

    run(work())


def test_closing_is_idempotent_and_bounded():
    async def work() -> None:
        async with a_check() as (_, home, _):
            started_s = time.monotonic()
            await home.peer.close()
            await home.peer.close()
            assert time.monotonic() - started_s < 2.0
            async with asyncio.timeout(1.0):
                await home.carrying

    run(work())


# Offers that are no use


async def refused(offer: str) -> None:
    async with a_home() as home:
        started_s = time.monotonic()
        with pytest.raises(MediaLostError):
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await home.peer.answer(offer)
        assert time.monotonic() - started_s < REFUSED_WITHIN_S
        assert not home.peer.connected.is_set()


def without(offer: str, start: str) -> str:
    return "".join(line for line in offer.splitlines(keepends=True) if not line.startswith(start))


def test_a_useless_offer_is_refused_in_time():
    async def work() -> None:
        operator = Operator()
        good = await operator.offer()
        await operator.close()
        vp8_only = Operator()
        vp8 = await vp8_only.offer(codec="video/VP8")
        await vp8_only.close()
        fingerprint = f"a=fingerprint:sha-256 {sdp.only_fingerprint(good)}"
        useless = {
            "no fingerprint": without(good, "a=fingerprint:"),
            "a second fingerprint": good + fingerprint[:-2] + ("00" if fingerprint[-2:] != "00" else "01") + "\r\n",
            "a fingerprint of another kind": good.replace("sha-256", "sha-512"),
            "VP8 only": vp8,
            "no ICE password": without(good, "a=ice-pwd:"),
            "no shared port": without(good, "a=rtcp-mux"),
            "cut short": good[: len(good) // 2],
            "empty": "",
            "garbage": "\x00\xff" * 4000,
            "a fingerprint and garbage": f"{fingerprint}\r\nm=video\r\na=rtpmap:\r\n",
            "a bad candidate": good.replace("a=candidate:", "a=candidate:x "),
        }
        for name, offer in useless.items():
            try:
                await refused(offer)
            except BaseException as exc:
                exc.add_note(f"offer: {name}")
                raise

    run(work())


def test_an_answer_that_waits_for_a_silent_link_ends_with_the_media_socket():
    async def work() -> None:
        operator = Operator()
        offer = await operator.offer()
        eye_end, link_end = pair()
        peer = Peer(
            request_key_frame=lambda: None,
            on_first=lambda: None,
            on_message=lambda _: None,
            on_lost=lambda _: None,
        )
        peer.attach(eye_end)
        answering = asyncio.create_task(peer.answer(offer))
        await asyncio.sleep(0.05)
        assert not answering.done()
        link_end.shutdown(socket.SHUT_RDWR)
        link_end.close()
        with pytest.raises(MediaLostError):
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await answering
        await peer.close()
        await operator.close()

    run(work())


# The link alone: what an eye that was taken over can make it do

GATHER = media.control(media.Gather("abcd", "p" * 22))
CONNECT = media.control(media.Connect("efgh", "q" * 22, [], False, False))
DEEP = b"\x01\x82\xa1x" + b"\x91" * 8000 + b"\xa4type\xa5Ready"


async def said(words: list[bytes], addresses: tuple[str, ...] = (LOOPBACK,)) -> list[bytes]:
    """What the link answers to these words until it ends by itself."""
    eye_end, link_end = pair()
    eye_end.setblocking(False)
    carrying = asyncio.create_task(carry(link_end, ByAddress(tuple(addresses), relayed_only=False)))
    for word in words:
        eye_end.send(word)
    got = []
    async with asyncio.timeout(REFUSED_WITHIN_S):
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(eye_end, 65536):
                got.append(data)
        await carrying
    eye_end.close()
    return got


def test_only_configured_addresses_are_gathered():
    async def work() -> None:
        eye_end, link_end = pair()
        eye_end.setblocking(False)
        carrying = asyncio.create_task(carry(link_end, ByAddress((LOOPBACK,), relayed_only=False)))
        eye_end.send(GATHER)
        async with asyncio.timeout(REFUSED_WITHIN_S):
            word = media.from_link(await asyncio.get_running_loop().sock_recv(eye_end, 65536))
        assert isinstance(word, media.Gathered)
        candidates = [Candidate.from_sdp(line) for line in word.candidates]
        assert [(one.host, one.type, one.transport) for one in candidates] == [(LOOPBACK, "host", "udp")]
        eye_end.close()
        async with asyncio.timeout(REFUSED_WITHIN_S):
            await carrying

    run(work())


def test_an_address_that_is_not_ours_gives_no_candidate_and_the_eye_is_told():
    async def work() -> None:
        # 192.0.2.0/24 is for documentation (RFC 5737): nobody has it.
        got = await said([GATHER], ("192.0.2.1",))
        assert [media.from_link(one) for one in got] == [media.Failed()]

    run(work())


@pytest.mark.parametrize(
    "words",
    [
        [CONNECT],
        [GATHER, GATHER],
        [GATHER, CONNECT, CONNECT],
        [media.control(media.Connected())],
        [b"\x01"],
        [b"\x02"],
        [b"\x01\x81\xa4type\xa2\xff\xfe"],
        [DEEP],
        [b"\x01" + b"x" * media.MAX_CONTROL_BYTES],
        [GATHER, media.control(media.Connect("efgh", "q" * 22, ["not a candidate"], False, False)), GATHER],
    ],
    ids=["connect", "gather twice", "connect twice", "own", "nothing", "kind", "UTF-8", "deep", "long", "candidate"],
)
def test_words_out_of_turn_end_the_carrying_and_leave_no_socket(words):
    async def work() -> None:
        before = open_sockets()
        await said(words)
        await _settled()
        assert open_sockets() == before

    run(work())


def test_datagrams_before_the_path_is_made_go_nowhere():
    async def work() -> None:
        got = await said([media.sealed(b"x" * 1200), GATHER, media.sealed(b"x" * 1200), GATHER])
        assert [type(media.from_link(one)) for one in got] == [media.Gathered]

    run(work())


@pytest.mark.parametrize("segmenting", [True, False])
def test_datagrams_that_leave_together_arrive_whole_and_in_order(segmenting):
    """With the kernel's help and without: runs of equal ones, a shorter end, a longer one after it, one alone."""
    sizes = [1100, 1100, 1100, 400, 700, 700, 1200, 30, 30, 30, 31]
    sent = [bytes([0x80 + number]) * size for number, size in enumerate(sizes)]

    async def work() -> None:
        ours, theirs = (OneWayConnection(ByAddress((LOOPBACK,), relayed_only=False)) for _ in range(2))
        theirs.ice_controlling = True
        ours._segmenting = segmenting
        for one in (ours, theirs):
            await one.gather_candidates()
        for one, other in ((ours, theirs), (theirs, ours)):
            one.remote_username, one.remote_password = other.local_username, other.local_password
            for candidate in other.local_candidates:
                await one.add_remote_candidate(candidate)
            await one.add_remote_candidate(None)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(ours.connect(), theirs.connect())
            ours.send_frame(media.together(sent))
            assert [await theirs.recv() for _ in sent] == sent
        assert ours._segmenting is segmenting, "this kernel did not take them together"
        await ours.close()
        await theirs.close()

    run(work())


def test_a_cancelled_carrying_closes_everything():
    async def work() -> None:
        before = open_sockets()
        eye_end, link_end = pair()
        eye_end.setblocking(False)
        carrying = asyncio.create_task(carry(link_end, ByAddress((LOOPBACK,), relayed_only=False)))
        eye_end.send(GATHER)
        eye_end.send(CONNECT)
        await asyncio.sleep(0.1)
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await carrying
        while await asyncio.get_running_loop().sock_recv(eye_end, 65536):
            pass
        eye_end.close()
        await _settled()
        assert open_sockets() == before

    run(work())
