"""What guard, link and eye say to one another, over real sockets: bounded, typed, and never a hang.

Mutations of gateway/ipc/channel.py that turn these red, each tried: MSG_CMSG_CLOEXEC left out; no `shutdown` in
`close`; `_close_all(fds)` left out for a frame outside the union, in `close`, or after a queued send; `MAX_QUEUED`
not asked; the queue not asked before sending (order lost); RecursionError or UnicodeDecodeError not caught; oversized
frames let through; `_wake` left out of `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from picture_support import A_SIGNAL

from gateway.ipc import frame
from gateway.ipc.channel import MAX_QUEUED, Channel, ChannelLostError, connect, pair
from gateway.ipc.frame import MAX_FRAME_BYTES

LIMIT_S = 2.0
ANY = (
    frame.Beat
    | frame.CommandArrived
    | frame.TimeArrived
    | frame.CosignedArrived
    | frame.Logged
    | frame.LinkHealth
    | frame.BrokerChanged
    | frame.OutboxWants
    | frame.Publish
    | frame.MediaOpened
    | frame.MediaShut
    | frame.Start
    | frame.LetFramesOut
    | frame.Stop
    | frame.Ready
    | frame.AnswerMade
    | frame.FirstFrameOut
    | frame.EyeBeat
    | frame.AimLearnt
    | frame.FromOperator
    | frame.EyeFault
    | frame.Stopped
    | frame.NotTonight
    | frame.StopForGood
    | frame.EndPause
    | frame.AskState
    | frame.LocalFacts
    | frame.LinkSettingsAre
    | frame.LinkOrdered
    | frame.CentreAnswered
    | frame.TunnelOrder
    | frame.TunnelTaken
    | frame.CosignedArrived
    | frame.SetupAct
    | frame.UpdateOrdered
    | frame.UpkeepMay
    | frame.UpkeepIs
    | frame.TryEye
    | frame.UpdateSaid
)
FRAMES: list[frame.Frame] = [
    frame.Beat(),
    frame.CommandArrived(b"\x00\xff" * 8192, b"c" * 64),
    frame.CosignedArrived(b"note"),
    frame.Logged("warning", "broker-down", 3),
    frame.LinkHealth(2, 0, 200, "up"),
    frame.TimeArrived(b""),
    frame.BrokerChanged(True),
    frame.OutboxWants(7),
    frame.Publish("ledger", b"x" * 48 * 1024, b"", evidential=True, retain=True),
    frame.MediaOpened("c-1"),
    frame.MediaShut("c-1"),
    frame.Start("c-1", "v=0\r\nå" + "a" * 8000, softened=True),
    frame.LetFramesOut(),
    frame.Stop("closing"),
    frame.SetupAct(),
    frame.UpdateOrdered(b"{}", is_newer=True),
    frame.UpkeepMay(True, False, False, True, True, True, True, False, True, 2),
    frame.UpkeepIs("tillsyn-rpi4", "2026.11.1", "2026.10.1", 7),
    frame.TryEye(),
    frame.UpdateSaid(7, "2026.12.1", "refused", "wrong-compatible", 40, "a" * 64),
    frame.Ready(),
    frame.AnswerMade("v=0\r\n"),
    frame.FirstFrameOut(12.5),
    frame.EyeBeat(3, A_SIGNAL),
    frame.AimLearnt("0123456789"[:8] * 18),
    frame.FromOperator(b"grant~command"),
    frame.EyeFault("path-lost"),
    frame.Stopped(0),
    frame.LinkSettingsAre(2, on_trial=True, high_water=2),
    frame.LinkOrdered(b"{}"),
    frame.CentreAnswered(),
    frame.TunnelOrder(b"{}", renew_key=True),
    frame.TunnelTaken(2, "A" * 43 + "="),
    frame.NotTonight(3600.0),
    frame.StopForGood(),
    frame.EndPause(),
    frame.AskState(),
    frame.LocalFacts(False, True, 1.8e9, False, True, "attested", "a-1", 4, None),
]
UNIONS = {
    "to guard from link": frame.ToGuardFromLink,
    "to link": frame.ToLink,
    "to eye": frame.ToEye,
    "to tunnel": frame.ToTunnel,
    "from tunnel": frame.ToGuardFromTunnel,
    "to guard from eye": frame.ToGuardFromEye,
    "to guard from hand": frame.ToGuardFromHand,
    "to hand": frame.ToHand,
}


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one test's coroutine; a hang is a failure."""
    asyncio.run(asyncio.wait_for(work, LIMIT_S * 5))


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def channels(accepts: Any = ANY) -> tuple[Channel[Any], Channel[Any]]:
    one, other = pair()
    return Channel(one, accepts), Channel(other, accepts)


async def heard(channel: Channel[Any]) -> tuple[Any, list[int]]:
    async with asyncio.timeout(LIMIT_S):
        return await channel.receive()


async def lost(channel: Channel[Any]) -> None:
    with pytest.raises(ChannelLostError):
        await heard(channel)
    assert channel.lost


def test_there_is_an_example_of_every_frame():
    # The wizard's frames are in a module of their own: tests/unit/test_ipc_setup.py.
    ours = {one for one in frame.Frame.__subclasses__() if one.__module__ == frame.__name__}
    assert {type(one) for one in FRAMES} == ours


@pytest.mark.parametrize("sent", FRAMES, ids=lambda sent: type(sent).__name__)
def test_every_frame_arrives_as_it_was_sent(sent):
    async def work() -> None:
        here, there = channels()
        here.send(sent)
        assert await heard(there) == (sent, [])
        there.send(sent)
        assert await heard(here) == (sent, [])
        here.close()
        there.close()

    run(work())


@pytest.mark.parametrize("union", UNIONS.values(), ids=list(UNIONS))
def test_a_frame_out_of_turn_ends_the_channel(union):
    async def work() -> None:
        for sent in FRAMES:
            here, there = channels(union)
            here.send(sent)
            if isinstance(sent, union):
                assert (await heard(there))[0] == sent
            else:
                await lost(there)
                await lost(here)
            here.close()
            there.close()

    run(work())


def test_an_oversized_frame_is_refused_by_the_sender_and_the_channel_lives_on():
    async def work() -> None:
        here, there = channels()
        with pytest.raises(ValueError, match="bytes"):
            here.send(frame.Publish("ledger", b"x" * MAX_FRAME_BYTES))
        here.send(frame.Beat())
        assert (await heard(there))[0] == frame.Beat()
        here.close()
        there.close()

    run(work())


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, MAX_FRAME_BYTES + 2, 2 * MAX_FRAME_BYTES])
def test_an_oversized_frame_of_a_peer_ends_the_channel(size):
    async def work() -> None:
        raw, other = pair()
        channel: Channel[Any] = Channel(other, ANY)
        body = msgspec.msgpack.encode({"type": "Beat"})
        raw.send(body + b"\xc0" * (size - len(body)))
        with pytest.raises(ChannelLostError, match="oversized"):
            await heard(channel)
        assert channel.lost
        raw.close()

    run(work())


def test_fields_are_bounded():
    async def work() -> None:
        wrong: list[frame.Frame] = [
            frame.CommandArrived(b"x" * (48 * 1024 + 1), b""),
            frame.CommandArrived(b"", b"c" * 65),
            frame.Start("c-1", "v" * 8193, softened=False),
            frame.Start("c 1", "v=0", softened=False),
            frame.Stop("Not A Code"),
            frame.Stop("closing\n"),
            frame.EyeBeat(-1),
            frame.MediaOpened(""),
            frame.NotTonight(59.0),
            frame.NotTonight(15 * 86400.0),
            frame.NotTonight(float("nan")),
        ]
        for sent in wrong:
            here, there = channels()
            here.send(sent)
            await lost(there)
            here.close()

    run(work())


def text(value: str) -> bytes:
    return bytes([0xA0 + len(value)]) + value.encode()


DEEP = b"\x82" + text("x") + b"\x91" * 60_000 + b"\x01" + text("type") + text("Ready")
NOT_UTF8 = b"\x82" + text("type") + text("EyeFault") + text("code") + b"\xa2\xff\xfe"
NOT_UTF8_TAG = b"\x81" + text("type") + b"\xa2\xff\xfe"
VALID = [msgspec.msgpack.encode(sent) for sent in FRAMES if len(msgspec.msgpack.encode(sent)) < 200]


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    """A valid frame cut short, with a byte changed, or with something after it."""
    data = bytearray(draw(st.sampled_from(VALID)))
    at = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(["cut", "changed", "longer"])):
        case "cut":
            del data[at:]
        case "changed":
            data[at] = draw(st.integers(0, 255))
        case _:
            data += draw(st.binary(min_size=1, max_size=20))
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | garbled())
@example(DEEP)
@example(NOT_UTF8)
@example(NOT_UTF8_TAG)
@example(b"")
@example(b"\xc1")
def test_no_bytes_of_a_peer_do_more_than_end_the_channel(untrusted):
    async def work() -> None:
        raw, other = pair()
        channel: Channel[Any] = Channel(other, frame.ToGuardFromEye)
        raw.send(untrusted)
        try:
            got, fds = await heard(channel)
        except ChannelLostError:
            assert channel.lost
        else:
            assert isinstance(got, frame.ToGuardFromEye)
            assert fds == []
        channel.close()
        raw.close()

    run(work())


# Descriptors


def test_a_descriptor_arrives_close_on_exec_and_the_sender_keeps_its_own():
    async def work() -> None:
        before = open_fds()
        here, there = channels()
        mine, theirs = pair()
        here.send(frame.MediaOpened("c-1"), (theirs.fileno(),))
        got, fds = await heard(there)
        assert got == frame.MediaOpened("c-1")
        assert len(fds) == 1
        assert not os.get_inheritable(fds[0])
        assert theirs.fileno() != -1
        with socket.socket(fileno=fds[0]) as passed:
            passed.send(b"through")
            assert mine.recv(100) == b"through"
        mine.close()
        theirs.close()
        here.close()
        there.close()
        assert open_fds() == before

    run(work())


@pytest.mark.parametrize(
    "data",
    [b"\xc1", msgspec.msgpack.encode(frame.Ready()), b"x" * (MAX_FRAME_BYTES + 1)],
    ids=["garbage", "turn", "size"],
)
def test_a_descriptor_with_a_wrong_frame_is_closed(data):
    async def work() -> None:
        before = open_fds()
        raw, other = pair()
        channel: Channel[Any] = Channel(other, frame.ToEye)
        socket.send_fds(raw, [data], [raw.fileno()])
        await lost(channel)
        raw.close()
        assert open_fds() == before

    run(work())


def test_two_descriptors_at_once_end_the_channel_and_none_stays():
    async def work() -> None:
        before = open_fds()
        raw, other = pair()
        channel: Channel[Any] = Channel(other, frame.ToEye)
        socket.send_fds(raw, [msgspec.msgpack.encode(frame.Beat())], [raw.fileno(), other.fileno()])
        await lost(channel)
        raw.close()
        assert open_fds() == before

    run(work())


# A peer that doesn't read


def test_a_peer_that_does_not_read_is_lost_after_the_bound_and_nobody_waits_for_it():
    async def work() -> None:
        before = open_fds()
        here, there = channels()
        word = frame.FromOperator(b"x" * 1000)
        started_s = time.monotonic()
        while len(here._waiting) < MAX_QUEUED:
            here.send(word, (0,))
        with pytest.raises(ChannelLostError, match="does not read"):
            here.send(word, (0,))
        assert time.monotonic() - started_s < LIMIT_S
        assert here.lost
        with pytest.raises(ChannelLostError):
            here.send(frame.Beat())
        there.close()
        assert open_fds() == before

    run(work())


def test_frames_that_waited_arrive_in_order_with_their_descriptors():
    async def work() -> None:
        before = open_fds()
        here, there = channels()
        mine, theirs = pair()
        filled = 0
        while not here._waiting:
            here.send(frame.EyeBeat(filled, A_SIGNAL))
            filled += 1
        # Room in the socket again, but the loop hasn't had its turn: what comes now must not overtake what waits.
        got: list[tuple[Any, list[int]]] = [(there._decoder.decode(there._sock.recv(65536)), []) for _ in range(20)]
        here.send(frame.MediaOpened("c-1"), (theirs.fileno(),))
        theirs.close()
        for number in range(100):
            here.send(frame.EyeBeat(number))
        got += [(await heard(there)) for _ in range(filled + 101 - len(got))]
        assert [one.frames for one, _ in got[:filled]] == list(range(filled))
        assert got[filled][0] == frame.MediaOpened("c-1")
        assert [one.frames for one, _ in got[filled + 1 :]] == list(range(100))
        with socket.socket(fileno=got[filled][1][0]) as passed:
            passed.send(b"through")
            assert mine.recv(100) == b"through"
        # And then sending is direct again.
        here.send(frame.Beat())
        assert (await heard(there))[0] == frame.Beat()
        mine.close()
        here.close()
        there.close()
        assert open_fds() == before

    run(work())


# The end


def test_close_wakes_a_waiting_receiver():
    async def work() -> None:
        here, there = channels()
        waiting = asyncio.create_task(here.receive())
        await asyncio.sleep(0)
        here.close()
        with pytest.raises(ChannelLostError):
            await asyncio.wait_for(waiting, LIMIT_S)
        there.close()

    run(work())


@pytest.mark.parametrize("waits", [True, False])
def test_close_ends_the_peer_even_while_a_duplicate_of_the_descriptor_lives(waits):
    async def work() -> None:
        here, there = channels()
        kept = os.dup(here._sock.fileno())
        waiting = asyncio.create_task(there.receive()) if waits else None
        await asyncio.sleep(0)
        here.close()
        with pytest.raises(ChannelLostError):
            await asyncio.wait_for(waiting or there.receive(), LIMIT_S)
        with pytest.raises(ChannelLostError):
            there.send(frame.Beat())
        os.close(kept)

    run(work())


def test_close_is_idempotent_and_final():
    async def work() -> None:
        here, there = channels()
        for _ in range(3):
            here.close()
        with pytest.raises(ChannelLostError):
            here.send(frame.Beat())
        await lost(here)
        there.close()

    run(work())


def test_what_was_sent_before_the_end_is_still_received():
    async def work() -> None:
        here, there = channels()
        here.send(frame.Stopped(7))
        here.close()
        assert (await heard(there))[0] == frame.Stopped(7)
        await lost(there)

    run(work())


def test_a_cancelled_receiver_leaves_the_channel_usable():
    async def work() -> None:
        here, there = channels()
        waiting = asyncio.create_task(there.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        here.send(frame.Beat())
        assert (await heard(there))[0] == frame.Beat()
        here.close()
        there.close()

    run(work())


def test_two_hundred_channels_leave_no_descriptor_behind():
    async def work() -> None:
        before = open_fds()
        for number in range(200):
            here, there = channels()
            here.send(frame.MediaOpened(f"c-{number}"), (0,))
            if number % 2:
                for fd in (await heard(there))[1]:
                    os.close(fd)
            there.close()
            here.close()
        assert open_fds() == before

    run(work())


def test_connecting_to_nobody_is_a_lost_channel_and_leaves_no_descriptor(tmp_path):
    async def work() -> None:
        before = open_fds()
        (tmp_path / "plain").write_text("")
        for name in ("absent", "plain", "x" * 300):
            with pytest.raises(ChannelLostError):
                await connect(str(tmp_path / name))
        assert open_fds() == before

    run(work())
