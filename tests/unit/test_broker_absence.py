"""After a broker's restart thousands of homes come back evenly; after an outage of its own line a home is back at once.

Mutations that turn these red, each tried: draw a moment anew at each refusal; take every refusal for an outage of our
own; draw from the whole spread when the broker has only closed the connection.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gateway.edge.broker_paho import Absence

SPREAD_S = 30.0
HOMES = 2000


def _back_s(dice: random.Random, *, away_s: float, by_peer: bool, answered: bool, try_s: float = 0.0) -> float:
    """How long after its broker or its line is there again a home is back; it was lost at 0."""
    absence = Absence(SPREAD_S, -100.0)
    now_s = absence.ended(0.0, by_peer=by_peer, dice=dice.random())
    for _ in range(10_000):
        if now_s >= away_s:
            return now_s - away_s
        now_s += try_s
        now_s += absence.failed(now_s, answered=answered, dice=dice.random())
    raise AssertionError("it never came back")


@pytest.mark.parametrize("away_s", [5.0, 20.0, 47.0, 600.0])
def test_a_restarted_broker_gets_its_homes_back_evenly(away_s: float):
    dice = random.Random(7)
    back = [_back_s(dice, away_s=away_s, by_peer=True, answered=True) for _ in range(HOMES)]
    by_second = Counter(int(moment) for moment in back)
    # Evenly would be 67 a second.
    assert max(by_second.values()) < 1.5 * HOMES / SPREAD_S
    assert max(back) <= SPREAD_S + 1.0


def test_a_broker_that_is_back_at_once_gets_them_within_four_seconds():
    dice = random.Random(7)
    back = [_back_s(dice, away_s=0.2, by_peer=True, answered=True) for _ in range(HOMES)]
    soon = Counter(int(moment) for moment in back if moment <= 4.0)
    assert sum(soon.values()) > 0.9 * HOMES
    assert max(soon.values()) < 0.3 * HOMES


@pytest.mark.parametrize("away_s", [0.0, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("by_peer", [False, True])
def test_a_short_outage_of_its_own_line_keeps_a_home_away_for_five_seconds_at_most(away_s: float, by_peer: bool):
    dice = random.Random(7)
    back = [_back_s(dice, away_s=away_s, by_peer=by_peer, answered=False) for _ in range(HOMES)]
    assert max(back) <= 5.0


def test_a_long_outage_is_asked_about_ever_less_often_and_once_a_minute_at_least():
    absence = Absence(SPREAD_S, 0.0)
    assert absence.failed(40.0, answered=False, dice=0.999) == pytest.approx(10.0, rel=0.01)
    assert absence.failed(864_000.0, answered=False, dice=0.999) < 60.0


def test_whoever_was_never_connected_is_no_part_of_a_storm():
    assert Absence(SPREAD_S, 0.0).failed(1.0, answered=True, dice=0.999) < 1.0
