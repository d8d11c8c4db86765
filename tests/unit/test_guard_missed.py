"""The device itself says when an agreed occasion has ended without a check.

Mutations tried, each red here: in guard_missed.py `self._tell(item)` out, `self.records.append(…)` out, the report out;
in missed.py `in told or` out (told twice), `is_quiet or` and a pause's end out; in occasion_book.py the `HANDOVER` case
out, `agreed_unix_s` set to 0 in either place (a new home is told of occasions before its time); in guard.py
`chronicle.book = past.book` out; in ledger.py `MISSED_CHECK` out of `CLOSING`.
"""

from __future__ import annotations

import pytest
from guard_harness import home, line_of

from gateway.protocol.message import Verdict


@pytest.fixture
def world():
    with home() as made:
        yield made


def agree(world, *, starts_in_min=5, **line):
    agreement = world.fresh_agreement()
    agreement["lines"] = [line_of("night", world.local_minute(starts_in_min), **line)]
    world.put(agreement)
    world.missed.clear()
    return agreement


def recorded(world):
    world.judge._read()
    return [
        (body["line"], body["why"])
        for body in world.judge.records
        if body["kind"] == "missed-check" and body["line"] == "night"
    ]


def told(world):
    return [(report.line, report.why) for report in world.missed if report.line == "night"]


def pass_min(world, minutes):
    world.sleep_long(minutes * 60)
    world.advance(20.0)


def test_an_occasion_that_nobody_came_to_is_recorded_and_reported_once(world):
    agree(world, window_min=30)
    pass_min(world, 34)
    assert not recorded(world)
    pass_min(world, 2)
    assert recorded(world) == told(world) == [("night", "missed-check")]
    report = world.missed[-1]
    assert report.attempts == 0
    assert report.ended_unix_s <= world.true_unix_s
    pass_min(world, 60)
    world.stop()
    world.boot()
    world.join_link()
    world.ask_again()
    pass_min(world, 5)
    assert len(recorded(world)) == len(told(world)) == 1


def test_a_check_that_saw_the_resident_leaves_nothing_to_tell(world):
    agree(world, starts_in_min=0)
    assert world.watch()
    world.verdict(Verdict.SEEN)
    pass_min(world, 40)
    assert not recorded(world)


def test_a_recheck_that_nobody_made_is_told(world):
    agree(world, starts_in_min=0)
    assert world.watch()
    world.verdict(Verdict.NOT_SEEN)
    pass_min(world, 33)
    assert recorded(world) == told(world) == [("night", "recheck-missed")]
    assert world.missed[-1].attempts == 1


def test_the_last_look_that_did_not_see_is_a_hand_over_and_told_once(world):
    agree(world, starts_in_min=0, times=0)
    assert world.watch()
    world.verdict(Verdict.NOT_SEEN)
    world.advance(3.0)
    assert world.reports[-1].next == "handover"
    pass_min(world, 60)
    assert not recorded(world)
    assert [body["line"] for body in world.judge.records if body["kind"] == "handover"] == ["night"]


@pytest.mark.slow
def test_what_ended_while_the_power_was_off_is_told_at_the_next_start(world):
    agree(world, window_min=30)
    world.power_cut()
    world.sleep_long(3 * 3600)
    world.boot()
    world.join_link(broker_up=False)
    world.advance(20.0)
    assert not recorded(world)  # the floor does not know that the time has passed
    world.ask_again()
    world.advance(20.0)
    assert recorded(world) == told(world) == [("night", "missed-check")]


def test_without_any_network_it_is_recorded_all_the_same_and_told_when_there_is_one(world):
    agree(world, window_min=30)
    world.lose_link()
    pass_min(world, 40)
    assert recorded(world) == [("night", "missed-check")]
    assert not told(world)
    world.join_link()
    world.advance(1.0)
    assert told(world) == [("night", "missed-check")]


def test_a_cut_in_the_last_look_is_told_although_nobody_closed_it(world):
    agree(world, starts_in_min=0, times=0)
    assert world.watch()
    for _ in range(3):
        world.advance(5.0)
        world.lease()
    world.power_cut()
    world.boot()
    world.join_link()
    world.ask_again()
    pass_min(world, 41)
    assert recorded(world) == [("night", "not-seen")]


@pytest.mark.parametrize("why", ["paused", "withdrawn", "agreed pause"])
def test_where_no_check_was_wanted_none_is_missed(world, why):
    agreement = agree(world, window_min=30)
    if why == "paused":
        world.pause(2 * 3600.0)
    elif why == "withdrawn":
        world.stop_for_good()
    else:
        agreement = agreement | {"version": world.next_version()}
        agreement["pauses"] = [{"from": "2026-11-23T20:00", "until": "2026-11-24T12:00"}]
        world.put(agreement)
    pass_min(world, 90)
    assert not recorded(world)


def test_a_pause_that_leaves_time_for_a_check_excuses_nobody(world):
    agree(world, window_min=30)
    world.pause(10 * 60.0)
    pass_min(world, 40)
    assert recorded(world) == [("night", "missed-check")]


def test_a_pause_is_remembered_after_a_cut(world):
    agree(world, window_min=30)
    world.pause(50 * 60.0)
    world.power_cut()
    world.sleep_long(3 * 3600)
    world.boot()
    world.join_link()
    world.ask_again()
    world.advance(20.0)
    assert not recorded(world)


def test_a_new_agreement_is_not_asked_for_occasions_before_its_time(world):
    agreement = world.fresh_agreement()
    agreement["lines"] = [line_of("night", world.local_minute(-120), window_min=30)]
    world.put(agreement)
    pass_min(world, 30)
    assert not recorded(world)
    pass_min(world, 24 * 60)
    assert recorded(world) == [("night", "missed-check")]


def test_an_agreement_of_an_unknown_time_counts_from_when_the_time_is_known(world):
    agreement = world.fresh_agreement()
    agreement["lines"] = [line_of("night", world.local_minute(-180), window_min=30)]
    world.centre = "silent"
    world.power_cut()
    world.boot()
    world.join_link()
    world.put(agreement)
    world.advance(30.0)
    world.centre = "honest"
    world.ask_again()
    pass_min(world, 10)
    assert not recorded(world)
    pass_min(world, 24 * 60)
    assert recorded(world) == [("night", "missed-check")]


def test_on_a_full_disk_it_is_still_recorded_and_told(world):
    agree(world, window_min=30)
    world.disk.full = True
    pass_min(world, 36)
    assert told(world) == [("night", "missed-check")]
    assert recorded(world) == [("night", "missed-check")]
