"""The home's own word that a check was missed: it begins a hand-over, or joins the one that the centre began.

Mutations that turn it red, each tried: in intake.py `_demand_own` out of the `MissedCheck` case; `put_missed` out;
`_hand_over` out of `_take_missed`; in missed.py `reason_of` gives `told.why`.
"""

from __future__ import annotations

import pytest
from test_handover_life import END_S, LINE, OCCASION, START_S, Night, play

from centre.missed import GRACE_S
from gateway.protocol.key import SigningKey
from gateway.protocol.message import MissedCheck


async def tell(
    night: Night, *, why: str = "missed-check", gateway: str = "gw-a", key: SigningKey | None = None
) -> None:
    night.home.say("reply", MissedCheck(gateway, LINE, OCCASION, why, 0, END_S, 9), key=key)
    await night.world.settle()


def events(night: Night, handover: str) -> list[str]:
    return [event["what"] for event in night.store.handover_events(handover)]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["home", "centre"])
def test_the_homes_alarm_and_the_centres_are_one_hand_over(tmp_path, first):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = END_S + 1
        if first == "home":
            await tell(night)
        (one,) = await night.look(END_S + GRACE_S)
        await tell(night)
        await tell(night)
        assert len(await night.look(END_S + 2 * GRACE_S)) == 1
        assert one["reason"] == "missed-check"
        assert events(night, one["id"]).count("told") == 1

    play(tmp_path, act)


@pytest.mark.slow
def test_a_home_whose_agreement_the_centre_never_saw_is_heard_all_the_same(tmp_path):
    async def act(night: Night) -> None:
        night.clock.unix_s = END_S + 1
        await tell(night, why="recheck-missed")
        (one,) = await night.handovers()
        assert (one["line"], one["occasion"], one["reason"]) == (LINE, OCCASION, "recheck-missed")

    play(tmp_path, act)


@pytest.mark.slow
def test_the_refusal_says_more_than_nobody_came(tmp_path):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = START_S + 60
        await night.open("camera-fault")
        night.clock.unix_s = END_S + 1
        await tell(night)
        assert [one["reason"] for one in await night.handovers()] == ["camera-fault"]

    play(tmp_path, act)


@pytest.mark.slow
@pytest.mark.parametrize("forged", ["key", "name"])
def test_only_the_home_itself_is_believed(tmp_path, forged):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = END_S + 1
        if forged == "key":
            await tell(night, key=SigningKey.generate())
        else:
            await tell(night, gateway="gw-b")
        assert await night.handovers() == []

    play(tmp_path, act)
