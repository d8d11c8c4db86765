"""The frames between wizard and guard: each arrives as it was sent, and neither side takes the other's words.

Mutation that turns it red: put `Done` into `ToGuardFromSetup`.
"""

from __future__ import annotations

import asyncio
import typing
from typing import Any

import pytest
from test_ipc_channel import heard

from gateway.ipc import frame, setup
from gateway.ipc.channel import Channel, ChannelLostError, pair
from gateway.protocol.key import SigningKey
from gateway.protocol.message import ProtocolLine

JWK = SigningKey.generate().verifying.jwk()
NONCE = "A" * 22
WORDS: list[Any] = [
    setup.AskStanding(), setup.MakeKeys(), setup.ForgetKeys(), setup.Install("gw-a", 1, ["g"], [JWK], b"trust"),
    setup.Note("network"), setup.Allow(b"consent"),
    setup.AskNonce(), setup.Preview(NONCE, "v=0"), setup.RenewPreview(1), setup.EndPreview(),
    setup.Nudge(-2.0), setup.SaveAim(), setup.BeginAlarm(), setup.SignProtocol([ProtocolLine("dns", "measured", True)]),
    setup.Finish(),
]  # fmt: skip
ANSWERS: list[Any] = [
    setup.Standing(True, True), setup.KeysMade(JWK, "vkey"), setup.Done(), setup.Denied("busy"),
    setup.NonceIssued(NONCE), setup.PreviewOpened("p-1", 300.0), setup.ProtocolSigned(b"jws"),
    setup.PreviewAnswer("p-1", "v=0"), setup.PreviewEnded("p-1", "time-up"),
]  # fmt: skip


def test_there_is_an_example_of_every_frame():
    ours = {one for one in frame.Frame.__subclasses__() if one.__module__ == setup.__name__}
    assert {type(one) for one in WORDS + ANSWERS} == ours


def test_no_word_goes_both_ways_but_the_beat():
    to_guard, to_setup = set(typing.get_args(setup.ToGuardFromSetup)), set(typing.get_args(setup.ToSetup))
    assert to_guard & to_setup == {frame.Beat}
    assert to_guard == {type(one) for one in WORDS} | {frame.Beat}


@pytest.mark.parametrize("sent", WORDS + ANSWERS, ids=lambda sent: type(sent).__name__)
def test_every_frame_arrives_as_it_was_sent_and_only_on_its_side(sent):
    async def work() -> None:
        one, other = pair()
        mine, theirs = Channel(one, setup.ToSetup), Channel(other, setup.ToGuardFromSetup)
        if sent in WORDS:
            mine.send(sent)
            assert await heard(theirs) == (sent, [])
            theirs.send(sent)
            with pytest.raises(ChannelLostError):
                await heard(mine)
        else:
            theirs.send(sent)
            assert await heard(mine) == (sent, [])
            mine.send(sent)
            with pytest.raises(ChannelLostError):
                await heard(theirs)
        mine.close()
        theirs.close()

    asyncio.run(work())
