"""Rollouts: the plan, the rings, the threshold, and that every home is accounted for, whatever it says or does not say.

Mutations that turn these red, each tried:
  rollout.is_over_threshold: `>` -> `>=` at the percentage         -> exactly the threshold goes on
  rollout.advance: without the threshold                           -> too many failures halt
  rollout.advance: without soak                                    -> a ring soaks
  rollout.advance: without approval                                -> a person lets the next ring begin
  store.roll: without the silent                                   -> silence is a failure
  store.change_rollout: resume without `is_seen`                   -> what a person has seen halts it no second time
  rollout.paces: without the minute                                -> no more than the rate
  rollout.paces: without the six seconds                           -> a minute's worth is not given out at once
  store.claim_offers: without the update of the status             -> two workers give each offer out once
"""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_support import offer

from centre.rollout import RINGS, Counts, Criteria, Step, advance, is_over_threshold, plan, read_offer
from centre.store import Store
from gateway.protocol.envelope import sign
from gateway.protocol.key import SigningKey
from gateway.protocol.message import UpdateReport

pytestmark = pytest.mark.slow

HOMES = {f"gw-{number:04}": ("lab",) if number < 3 else ("sim",) for number in range(1003)}
QUICK = Criteria(silent_s=100.0, soak_s=10.0, per_minute=100_000, needs_approval=False)
RELEASE = SigningKey.generate()


def test_the_plan_gives_the_lab_first_and_then_growing_rings_in_an_order_that_nobody_chose():
    places = plan(HOMES, "r-1", widest="all")
    assert Counter(place.ring for place in places) == {0: 3, 1: 10, 2: 90, 3: 400, 4: 500}
    assert {place.gateway for place in places} == set(HOMES)
    other = plan(HOMES, "r-2", widest="all")
    assert {p.gateway for p in places if p.ring == 1} != {p.gateway for p in other if p.ring == 1}
    assert places == plan(HOMES, "r-1", widest="all")


@given(st.integers(0, 300), st.sampled_from([name for name, _ in RINGS]))
def test_each_home_has_one_place_at_most_and_none_beyond_the_signed_ring(count, widest):
    homes = {f"gw-{number}": ("lab",) if number % 50 == 0 else () for number in range(count)}
    places = plan(homes, "s", widest=widest)
    assert len({place.gateway for place in places}) == len(places)
    assert all(place.ring <= [name for name, _ in RINGS].index(widest) for place in places)
    if widest == "all":
        assert len(places) == count


def test_exactly_the_threshold_goes_on_and_above_it_halts():
    assert not is_over_threshold(100, 2, Criteria())
    assert is_over_threshold(100, 3, Criteria())
    assert not is_over_threshold(5, 1, Criteria())
    assert is_over_threshold(5, 2, Criteria())


def test_a_ring_is_done_soaked_and_approved_before_the_next():
    waits = Criteria(soak_s=60.0)
    well = Counts(succeeded=10)

    def after(status="in-progress", counts=well, quiet_s=61.0, is_approved=False, ring=1, criteria=waits):
        return advance(status, ring, counts, criteria, quiet_s=quiet_s, is_approved=is_approved, last_ring=4)

    assert after(counts=Counts(queued=1, succeeded=9)) is None
    assert after(counts=Counts(in_progress=1, succeeded=9)) is None
    assert after(quiet_s=59.0) is None
    assert after() == Step("awaiting-approval", 1)
    assert after("awaiting-approval") is None
    assert after("awaiting-approval", is_approved=True) == Step("in-progress", 2)
    assert after(ring=4) == Step("completed", 4)
    assert after(counts=Counts(succeeded=90, bad=10)) == Step("halted", 1, "abort-threshold")
    assert after(counts=Counts(in_progress=90, bad=10)) == Step("halted", 1, "abort-threshold")
    assert after("awaiting-approval", counts=Counts(succeeded=90, bad=10)) == Step("halted", 1, "abort-threshold")
    assert after("paused") is None
    assert after(counts=Counts()) == Step("in-progress", 2)  # an empty ring, a centre without a lab, waits for nobody


def test_an_offer_is_read_without_being_believed():
    assert read_offer(sign(offer(), RELEASE)) == offer()
    assert read_offer(b"x.y.z") is None
    assert read_offer(b"") is None


class World:
    """A store with a rollout, and homes that answer."""

    def __init__(self, folder: Path, criteria: Criteria = QUICK, count: int = 203) -> None:
        self.store = Store(folder / "centre.sqlite")
        self.now = 1000.0
        self.offer = offer(statement=7)
        homes = dict(list(HOMES.items())[:count])
        self.places = plan(homes, "r-1", widest="all")
        self.begun = self.store.put_rollout(
            "r-1", offer_jws=sign(self.offer, RELEASE).decode(), offer=self.offer, criteria=criteria,
            places=self.places, who="st-1", now_unix_s=self.now,
        )  # fmt: skip
        self.given: Counter[str] = Counter()

    def look(self, passes_s: float = 1.0) -> list[str]:
        self.now += passes_s
        self.store.roll(now_unix_s=self.now)
        due = self.store.claim_offers(now_unix_s=self.now, new_correlation=lambda: secrets.token_bytes(16))
        names = [one["gateway"] for one in due]
        self.given.update(names)
        return names

    def say(self, gateway: str, phase: str, why: str | None = None) -> bool:
        report = UpdateReport(gateway, 7, "0.2.0", "0.1.0", phase, why)
        return self.store.put_update_report(report, now_unix_s=self.now)

    @property
    def status(self) -> tuple[str, int]:
        row = self.store.rollouts()[0]
        return row["status"], row["ring"]

    def counts(self) -> Counter[str]:
        return Counter(one["status"] for one in self.store.executions("r-1"))

    def go_on(self, *, fails=(), silent=(), limit=200) -> None:
        for _ in range(limit):
            for gateway in self.look(5.0):
                if gateway in silent:
                    continue
                self.say(gateway, "downloading")
                self.say(
                    gateway, "fell-back" if gateway in fails else "good", "no-broker" if gateway in fails else None
                )
            if self.status[0] != "in-progress":
                return


def test_a_rollout_ends_with_every_home_accounted_for(tmp_path):
    world = World(tmp_path)
    world.go_on()
    assert world.status == ("completed", 4)
    assert world.counts() == {"succeeded": 203}
    assert set(world.given.values()) == {1}


def test_too_many_failures_halt_and_what_a_person_has_seen_halts_it_no_second_time(tmp_path):
    world = World(tmp_path)
    ring = [place.gateway for place in world.places if place.ring == 3]
    fails = set(ring[:3])
    world.go_on(fails=fails)
    assert world.status == ("halted", 3)
    assert world.store.rollouts()[0]["why"] == "abort-threshold"
    before = world.given.copy()
    for _ in range(5):
        assert world.look(60.0) == []
    assert world.given == before
    assert world.store.change_rollout("r-1", "resume", who="st-2", now_unix_s=world.now) == "in-progress"
    world.go_on()
    assert world.status == ("completed", 4)
    assert world.counts() == {"succeeded": 200, "failed": 3}


def test_silence_is_a_failure_and_a_late_word_is_heard(tmp_path):
    world = World(tmp_path)
    silent = {place.gateway for place in world.places if place.ring == 3}
    world.go_on(silent=silent)
    assert world.status == ("halted", 3)
    assert world.counts()["timed-out"] == len(silent)
    late = min(silent)
    assert world.say(late, "good")
    assert world.counts()["succeeded"] >= 1
    assert {one["gateway"]: one["status"] for one in world.store.executions("r-1")}[late] == "succeeded"


def test_a_home_that_was_away_is_given_the_offer_again_and_one_that_answered_is_not(tmp_path):
    world = World(tmp_path, msgspec.structs.replace(QUICK, silent_s=3000.0))
    first = world.look()
    assert len(first) == 3
    world.store.note_offer_answer(first[0], "offer-7", None, now_unix_s=world.now)
    world.store.note_offer_answer(first[1], "offer-7", "busy", now_unix_s=world.now)
    assert world.look(1001.0) == first[1:]


def test_a_refusal_is_the_homes_last_word(tmp_path):
    world = World(tmp_path)
    first = world.look()
    world.store.note_offer_answer(first[0], "offer-7", "wrong-device", now_unix_s=world.now)
    assert world.counts()["rejected"] == 1


def test_no_more_than_the_rate(tmp_path):
    world = World(tmp_path, msgspec.structs.replace(QUICK, per_minute=2, silent_s=3000.0))
    assert len(world.look()) == 1
    assert len(world.look(7.0)) == 1
    assert world.look(30.0) == []
    assert len(world.look(24.0)) == 1


def test_a_minutes_worth_is_not_given_out_at_once(tmp_path):
    world = World(tmp_path, msgspec.structs.replace(QUICK, per_minute=20, silent_s=3000.0))
    assert len(world.look()) == 2
    assert world.look(3.0) == []
    assert len(world.look(4.0)) == 1


def test_two_workers_give_each_offer_out_once(tmp_path):
    world = World(tmp_path)
    other = Store(tmp_path / "centre.sqlite")
    mine = world.look()
    theirs = other.claim_offers(now_unix_s=world.now, new_correlation=lambda: secrets.token_bytes(16))
    assert len(mine) == 3
    assert theirs == []


def test_a_pause_holds_and_an_abort_cancels_what_was_not_given(tmp_path):
    world = World(tmp_path)
    given = world.look()
    assert world.store.change_rollout("r-1", "pause", who="st-1", now_unix_s=world.now) == "paused"
    assert world.store.change_rollout("r-1", "approve", who="st-1", now_unix_s=world.now) is None
    assert world.look(500.0) == []
    assert world.store.change_rollout("r-1", "abort", who="st-1", now_unix_s=world.now) == "canceled"
    assert world.store.change_rollout("r-1", "resume", who="st-1", now_unix_s=world.now) is None
    assert world.counts() == {"canceled": 200, "in-progress": len(given)}


def test_one_rollout_at_a_time_for_a_board(tmp_path):
    world = World(tmp_path)
    args = {"offer_jws": "x", "offer": world.offer, "criteria": QUICK, "places": [], "who": "st-1", "now_unix_s": 1.0}
    assert world.begun
    assert not world.store.put_rollout("r-2", **args)


def test_a_report_that_comes_twice_is_one_line_of_the_history(tmp_path):
    world = World(tmp_path)
    assert world.say("gw-0001", "gate")
    assert not world.say("gw-0001", "gate")
    assert [line["phase"] for line in world.store.update_history("gw-0001")] == ["gate"]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_homes_do_each_is_in_one_state_and_the_sums_are_right(tmp_path_factory, data):
    world = World(tmp_path_factory.mktemp("rollout"), count=60)
    for _ in range(data.draw(st.integers(1, 12))):
        for gateway in world.look(data.draw(st.sampled_from([1.0, 30.0, 200.0]))):
            word = data.draw(st.sampled_from(["good", "fell-back", "refused", "downloading", None]))
            if word is not None:
                world.say(gateway, word)
        act = data.draw(st.sampled_from([None, None, "pause", "resume", "abort", "approve"]))
        if act is not None:
            world.store.change_rollout("r-1", act, who="st-1", now_unix_s=world.now)
        assert sum(world.counts().values()) == 60
        rings = world.store.rollouts()[0]["rings"]
        assert sum(entry["homes"] for entry in rings) == 60
