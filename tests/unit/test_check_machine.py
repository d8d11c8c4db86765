"""The check as a machine: the whole table, and what must hold in every history.

The table is docs/check-states.md. To write it anew: python tests/unit/test_check_machine.py

Mutations of gateway/check/machine.py that turn these tests red, each tried:

* MountUp before SensorOff, or SensorOff left out, in `_close`
* RecordOpened after SensorOn; LampOn after SensorOn
* LetFramesOut in answer to Accepted, or twice; FirstFrame before the arrival taken as a picture
* LampOff in `_close`
* RecordClosed left out when the closing limit passes, or said twice by `_settled`
* `_settled` not asking for `parked`, or not for `eye_gone`
* the time of an opening counted from the first frame
* `counter >= last_counter` for a lease; `LEASE_LIFE_S`, `BEAT_LIFE_S`, `OPENING_LIMIT_S`, `CLOSING_LIMIT_S` changed
* `Disabled` left on Accepted
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest

from gateway.check import machine
from gateway.check.machine import (
    Accepted,
    AnswerMade,
    Closing,
    Disabled,
    Effect,
    Ended,
    Event,
    EyeGone,
    EyeHeard,
    Facts,
    Fault,
    FirstFrame,
    LampOff,
    LampOn,
    LeaseRenewed,
    LetFramesOut,
    LinkHeard,
    MountAim,
    MountArrived,
    MountParked,
    MountUp,
    Opening,
    Parked,
    RecordClosed,
    RecordLive,
    RecordOpened,
    SendAnswer,
    SensorOff,
    SensorOn,
    State,
    Tick,
    Watching,
    Why,
    step,
)

TABLE = Path(__file__).parents[2] / "docs" / "check-states.md"

NOW_S = 1000.0
FACTS = Facts("c-1", "u-1", "kid", "night-1", "night-1@2026-11-01", 1, 60.0)
OTHER = replace(FACTS, check="c-2")
COUNTER = 3

OPENING = Opening(FACTS, NOW_S, NOW_S + 9.0, NOW_S, NOW_S, COUNTER)
WATCHING = Watching(FACTS, NOW_S, NOW_S, NOW_S + 9.0, NOW_S, NOW_S, COUNTER, 7, "clear")
CLOSING = Closing(FACTS, Why.SEEN, NOW_S, 5.0, 7, "clear")

STATES: dict[str, State] = {
    "Parked": Parked(),
    "Opening": OPENING,
    "Opening, mount arrived": replace(OPENING, arrived=True),
    "Opening, answered": replace(OPENING, answered=True),
    "Opening, answered, mount arrived": replace(OPENING, answered=True, arrived=True),
    "Watching": WATCHING,
    "Closing": CLOSING,
    "Closing, eye gone": replace(CLOSING, eye_gone=True),
    "Closing, mount parked": replace(CLOSING, parked=True),
    "Closing, mount failed": replace(CLOSING, failed=Why.MOUNT_FAULT),
    "Closing, mount parked, then failed": replace(CLOSING, parked=True, failed=Why.MOUNT_FAULT),
    "Closing, ledger failed": replace(CLOSING, failed=Why.LEDGER_UNWRITABLE),
    "Closing, eye gone, ledger failed": replace(CLOSING, eye_gone=True, failed=Why.LEDGER_UNWRITABLE),
    "Closing, mount parked, ledger failed": replace(CLOSING, parked=True, failed=Why.LEDGER_UNWRITABLE),
    "Disabled": Disabled(Why.MOUNT_FAULT),
}
RUNNING = {name: state for name, state in STATES.items() if isinstance(state, Opening | Watching)}

EVENTS: dict[str, Event] = {
    "Accepted": Accepted(OTHER),
    "AnswerMade": AnswerMade("v=0"),
    "MountArrived": MountArrived(),
    "FirstFrame": FirstFrame(),
    "LeaseRenewed, higher counter": LeaseRenewed(COUNTER + 1),
    "LeaseRenewed, same counter": LeaseRenewed(COUNTER),
    "LeaseRenewed, lower counter": LeaseRenewed(COUNTER - 1),
    **{f"Ended: {why}": Ended(why) for why in Why},
    "Ended, higher counter": Ended(Why.SEEN, COUNTER + 1),
    "Ended, same counter": Ended(Why.NOT_SEEN, COUNTER),
    "EyeHeard": EyeHeard(9, "dark"),
    "LinkHeard": LinkHeard(),
    "EyeGone": EyeGone(),
    "MountParked": MountParked(),
    **{f"Fault: {why}": Fault(why) for why in Why},
    "Tick, in time": Tick(),
}


def overdue(state: State) -> Iterator[tuple[str, State]]:
    """The state as it is when one of its limits has just been reached."""
    match state:
        case Opening() | Watching():
            yield "Tick, agreed length reached", replace(state, opened_s=NOW_S - FACTS.max_s)
            yield "Tick, lease lapsed", replace(state, lease_until_s=NOW_S)
            yield "Tick, link silent", replace(state, link_heard_s=NOW_S - machine.BEAT_LIFE_S)
            if isinstance(state, Watching) or state.answered:
                yield "Tick, eye silent", replace(state, eye_heard_s=NOW_S - machine.BEAT_LIFE_S)
            if isinstance(state, Opening):
                yield "Tick, no picture in time", replace(state, opened_s=NOW_S - machine.OPENING_LIMIT_S)
        case Closing():
            yield "Tick, closing takes too long", replace(state, since_s=NOW_S - machine.CLOSING_LIMIT_S)


def product_of(names: dict[str, State]) -> Iterator[tuple[str, State, Event]]:
    for (state_name, state), (event_name, event) in itertools.product(names.items(), EVENTS.items()):
        yield f"{state_name} x {event_name}", state, event
    for state_name, state in names.items():
        for tick_name, late in overdue(state):
            yield f"{state_name} x {tick_name}", late, Tick()


PRODUCT = list(product_of(STATES))
HARM = [
    (name, state, event)
    for name, state, event in product_of(RUNNING)
    if isinstance(event, Fault | EyeGone)
    or (isinstance(event, Tick) and not name.endswith("in time"))
    or (isinstance(event, Ended) and event.counter in (None, COUNTER + 1))
]


# The table


def render() -> str:
    """The table as Markdown: for each state what changes it, and by name all that doesn't."""
    out = [INTRO]
    for state_name, shown in STATES.items():
        state = shown
        if isinstance(shown, Opening | Watching):
            # A sign of life is only seen to count when the last one was a while ago.
            state = replace(shown, eye_heard_s=NOW_S - 1.0, link_heard_s=NOW_S - 1.0)
        rows: dict[tuple[str, str], list[str]] = {}
        idle: list[str] = []
        cases = [(name, state, event) for name, event in EVENTS.items()]
        cases += [(name, late, Tick()) for name, late in overdue(state)]
        for event_name, before, event in cases:
            after, effects = step(before, event, now_s=NOW_S)
            if after == before and not effects:
                idle.append(event_name)
            else:
                key = (_state_text(before, after, event), _effects_text(effects))
                rows.setdefault(key, []).append(event_name)
        out += [f"## {state_name}", ""]
        if rows:
            out += ["| event | next state | orders, in this order |", "|---|---|---|"]
            out += [f"| {_joined(names)} | {after} | {effects} |" for (after, effects), names in rows.items()]
            out.append("")
        out += [f"Changes nothing: {_joined(idle)}.", ""]
    return "\n".join(out).rstrip() + "\n"


def _joined(names: list[str]) -> str:
    """Names with one word in common told together; all reasons but a few told by the few."""
    plain = [name for name in names if ": " not in name]
    for kind in ("Fault", "Ended"):
        told = [name.partition(": ")[2] for name in names if name.startswith(f"{kind}: ")]
        others = [why.value for why in Why if why.value not in told]
        if told and not others:
            plain.append(f"{kind} (any reason)")
        elif told and len(others) <= 3:
            plain.append(f"{kind} (any reason but {', '.join(others)})")
        elif told:
            plain.append(f"{kind} ({', '.join(told)})")
    return "; ".join(plain)


def _state_text(before: State, after: State, event: Event) -> str:
    name = type(after).__name__
    match after:
        case Opening():
            flags = [flag for flag in ("answered", "arrived") if getattr(after, flag)]
            learnt = _learnt(before, after)
            return ", ".join([name, *flags]) + learnt
        case Watching():
            return name + (_learnt(before, after) if isinstance(before, Watching) else "")
        case Closing():
            words = [name]
            if not isinstance(before, Closing):
                words.append(f"why: {_why_text(after.why, event)}")
            words += ["eye gone"] * after.eye_gone + ["mount parked"] * after.parked
            words += [f"failed: {after.failed.value}"] if after.failed else []
            return ", ".join(words) + (_learnt(before, after) if isinstance(before, Closing) else "")
        case Disabled(why):
            return f"{name}, why: {why.value}"
        case _:
            return name


def _why_text(why: Why, event: Event) -> str:
    return "that reason" if getattr(event, "why", None) is why else why.value


def _learnt(before: State, after: State) -> str:
    """Numbers that changed, by name: when heard, which counter, how many frames."""
    if type(before) is not type(after):
        return ""
    flags = ("answered", "arrived", "eye_gone", "parked", "failed")
    names = [
        entry.name
        for entry in fields(after)
        if entry.name not in flags and getattr(before, entry.name) != getattr(after, entry.name)
    ]
    return f" (new: {', '.join(f'`{name}`' for name in names)})" if names else ""


def _effects_text(effects: tuple[Effect, ...]) -> str:
    words = []
    for effect in effects:
        word = type(effect).__name__
        if isinstance(effect, RecordClosed):
            word += " (mount parked)" if effect.parked else " (mount not known to be parked)"
        words.append(word)
    return ", ".join(words) or "none"


INTRO = """\
# The check, state by state

This page is made by `python tests/unit/test_check_machine.py`, and a test compares it with what
`gateway/check/machine.py` does. Don't edit it by hand.

A check begins in *Parked*: sensor off, camera turned up. An accepted opening leads to *Opening*: the record is
written, the lamp lit, the sensor started, the mount sent on its way. With the first frame it is *Watching*. Whatever
ends it leads to *Closing*, where the sensor goes off and the mount goes up. Only when the eye's process is gone and the
mount reports that it is parked is it *Parked* again. What can't be made safe for certain ends in *Disabled*, which
nothing but a new start of the service leaves.

"Ended" is a verdict or a close by the operator, already verified. "Fault" is anything that went wrong. A "Tick" is
nothing but time; the limits it watches run on BOOTTIME. Each state is shown with every event there is: those that
change something in a table, the others by name.
"""


def test_the_table_in_docs_is_what_the_machine_does():
    assert TABLE.read_text() == render(), "run: python tests/unit/test_check_machine.py"


def test_the_representatives_name_every_state_and_every_event():
    assert {type(state) for state in STATES.values()} == set(machine.State.__args__)
    assert {type(event) for event in EVENTS.values()} == set(machine.Event.__args__)


# Every state with every event


def test_the_step_is_total_and_pure():
    for name, state, event in PRODUCT:
        first = step(state, event, now_s=NOW_S)
        assert first == step(state, event, now_s=NOW_S), name
        assert isinstance(first[0], machine.State), name


def test_every_event_that_means_harm_turns_the_sensor_off_and_the_mount_up():
    assert {type(event) for _, _, event in HARM} == {Fault, EyeGone, Tick, Ended}
    for name, state, event in HARM:
        after, effects = step(state, event, now_s=NOW_S)
        assert isinstance(after, Closing), name
        assert effects[:2] == (SensorOff(), MountUp()), name


@pytest.mark.parametrize("why", list(Why))
def test_a_fault_of_any_reason_closes_and_the_reason_is_kept(why):
    for name, state in RUNNING.items():
        after, _ = step(state, Fault(why), now_s=NOW_S)
        assert isinstance(after, Closing), name
        assert after.why is why


def test_the_mount_never_goes_up_without_the_sensor_being_turned_off_first():
    for name, state, event in PRODUCT:
        _, effects = step(state, event, now_s=NOW_S)
        if MountUp() in effects:
            assert SensorOff() in effects[: effects.index(MountUp())], name


def test_no_path_leaves_the_sensor_on_once_the_check_does_not_run():
    for name, state, event in PRODUCT:
        after, effects = step(state, event, now_s=NOW_S)
        if isinstance(state, Opening | Watching) and not isinstance(after, Opening | Watching):
            assert SensorOff() in effects, name
        assert (SensorOn() in effects) == (isinstance(state, Parked) and isinstance(after, Opening)), name


def test_the_record_of_an_opening_comes_before_all_else_and_before_the_sensor():
    after, effects = step(Parked(), Accepted(FACTS), now_s=NOW_S)
    assert isinstance(after, Opening)
    assert effects[0] == RecordOpened(FACTS)
    assert effects.index(RecordOpened(FACTS)) < effects.index(LampOn()) < effects.index(SensorOn())
    assert MountAim() in effects
    for name, state, event in PRODUCT:
        opens = any(isinstance(effect, RecordOpened) for effect in step(state, event, now_s=NOW_S)[1])
        assert opens == (isinstance(state, Parked) and isinstance(event, Accepted)), name


def test_frames_are_let_out_by_the_mounts_arrival_alone_and_once():
    for name, state, event in PRODUCT:
        _, effects = step(state, event, now_s=NOW_S)
        arrives = isinstance(state, Opening) and not state.arrived and isinstance(event, MountArrived)
        assert (LetFramesOut() in effects) == arrives, name


@pytest.mark.parametrize("answered", [False, True])
def test_a_picture_before_the_mount_has_arrived_closes_the_check(answered):
    after, effects = step(replace(OPENING, answered=answered), FirstFrame(), now_s=NOW_S)
    assert isinstance(after, Closing)
    assert after.why is Why.CAMERA_FAULT
    assert effects == (SensorOff(), MountUp())


def test_the_first_frame_after_the_arrival_is_recorded_once():
    state = replace(OPENING, answered=True, arrived=True)
    after, effects = step(state, FirstFrame(), now_s=NOW_S + 1.0)
    assert isinstance(after, Watching)
    assert effects == (RecordLive(FACTS),)
    assert after.first_frame_s == NOW_S + 1.0
    assert step(after, FirstFrame(), now_s=NOW_S + 2.0) == (after, ())


def test_the_lamp_goes_dark_only_when_the_eye_is_known_to_be_gone():
    for name, state, event in PRODUCT:
        if LampOff() in step(state, event, now_s=NOW_S)[1]:
            assert isinstance(event, EyeGone), name


def test_parked_is_reached_only_with_the_eye_gone_and_the_mount_parked():
    for name, state, event in PRODUCT:
        after, _ = step(state, event, now_s=NOW_S)
        if isinstance(after, Parked) and not isinstance(state, Parked):
            assert isinstance(state, Closing), name
            assert state.eye_gone or isinstance(event, EyeGone), name
            assert state.parked or isinstance(event, MountParked), name
            assert state.failed is None, name


def test_a_closed_record_says_parked_only_when_it_is_known():
    for name, state, event in PRODUCT:
        for effect in step(state, event, now_s=NOW_S)[1]:
            if isinstance(effect, RecordClosed) and effect.parked:
                assert isinstance(state, Closing), name
                assert state.parked or isinstance(event, MountParked), name


@pytest.mark.parametrize("why", list(Why))
def test_nothing_leaves_disabled(why):
    for name, event in EVENTS.items():
        after, effects = step(Disabled(why), event, now_s=NOW_S + 1e6)
        assert after == Disabled(why), name
        assert set(effects) <= {LampOff()}, name


def test_an_opening_is_accepted_in_parked_alone():
    for name, state in STATES.items():
        after, effects = step(state, Accepted(OTHER), now_s=NOW_S)
        if not isinstance(state, Parked):
            assert (after, effects) == (state, ()), name


@pytest.mark.parametrize("event", [AnswerMade("again"), MountArrived()])
def test_a_repeated_answer_or_arrival_changes_nothing(event):
    state = replace(OPENING, answered=True, arrived=True)
    assert step(state, event, now_s=NOW_S + 1.0) == (state, ())


@pytest.mark.parametrize("state_name", ["Parked", "Watching", "Closing", "Disabled"])
@pytest.mark.parametrize("event", [AnswerMade("late"), MountArrived(), FirstFrame()])
def test_late_words_change_nothing(state_name, event):
    state = STATES[state_name]
    assert step(state, event, now_s=NOW_S + 1.0) == (state, ())


@pytest.mark.parametrize("event", [EyeGone(), LeaseRenewed(99), Ended(Why.SEEN), LinkHeard(), EyeHeard(3), Tick()])
def test_parked_heeds_nothing_of_a_check_that_is_over(event):
    assert step(Parked(), event, now_s=NOW_S) == (Parked(), ())


@pytest.mark.parametrize("why", [Why.MOUNT_FAULT, Why.LEDGER_UNWRITABLE])
def test_a_mount_or_ledger_that_fails_between_checks_disables(why):
    assert step(Parked(), Fault(why), now_s=NOW_S) == (Disabled(why), (SensorOff(), MountUp()))


# Time


@pytest.mark.parametrize("counter", [COUNTER, COUNTER - 1, 0, -1])
def test_a_lease_with_a_counter_that_is_not_higher_does_nothing(counter):
    for state in RUNNING.values():
        assert step(state, LeaseRenewed(counter), now_s=NOW_S + 5.0) == (state, ())


@pytest.mark.parametrize("counter", [COUNTER, COUNTER - 1, 0, -1])
def test_a_verdict_with_a_counter_that_is_not_higher_does_nothing(counter):
    for state in RUNNING.values():
        assert step(state, Ended(Why.SEEN, counter), now_s=NOW_S + 5.0) == (state, ())


def test_a_lease_lives_nine_seconds_from_its_renewal():
    state, _ = step(WATCHING, LeaseRenewed(COUNTER + 1), now_s=NOW_S + 8.0)
    assert _closed_by_silence(state, NOW_S + 16.9) is None
    assert _closed_by_silence(state, NOW_S + 17.0) is Why.LEASE_LAPSED


def test_a_renewal_that_comes_after_the_end_ends_the_check_instead():
    # Mutation: leave the case for a late LeaseRenewed out of `_step_running`.
    state, effects = step(WATCHING, LeaseRenewed(COUNTER + 1), now_s=WATCHING.lease_until_s)
    assert isinstance(state, Closing)
    assert state.why is Why.LEASE_LAPSED
    assert effects[0] == SensorOff()


def test_the_first_lease_counts_from_the_acceptance():
    state, _ = step(Parked(), Accepted(replace(FACTS, max_s=180.0)), now_s=NOW_S)
    assert isinstance(state, Opening)
    late = replace(state, opened_s=NOW_S + 5.0)  # so that the limit of the opening doesn't come first
    assert _closed_by_silence(late, NOW_S + 8.9) is None
    assert _closed_by_silence(late, NOW_S + 9.0) is Why.LEASE_LAPSED


@pytest.mark.parametrize(
    ("field", "why"), [("eye_heard_s", Why.EYE_LOST), ("link_heard_s", Why.LINK_LOST)], ids=["eye", "link"]
)
def test_a_process_that_is_silent_for_three_seconds_ends_the_check(field, why):
    for state in (WATCHING, replace(OPENING, answered=True)):
        before, _ = step(replace(state, **{field: NOW_S - 2.9}), Tick(), now_s=NOW_S)
        after, _ = step(replace(state, **{field: NOW_S - 3.0}), Tick(), now_s=NOW_S)
        assert not isinstance(before, Closing)
        assert isinstance(after, Closing)
        assert after.why is why


def test_an_eye_that_still_loads_may_be_silent_until_the_limit_of_the_opening():
    state = replace(OPENING, eye_heard_s=NOW_S - 9.0)
    assert step(state, Tick(), now_s=NOW_S) == (state, ())


@pytest.mark.parametrize(("event", "field"), [(EyeHeard(), "eye_heard_s"), (LinkHeard(), "link_heard_s")])
def test_a_sign_of_life_counts_for_whoever_gave_it(event, field):
    for state in RUNNING.values():
        after, effects = step(state, event, now_s=NOW_S + 2.0)
        assert after == replace(state, **{field: NOW_S + 2.0})
        assert effects == ()


def test_an_opening_without_a_picture_ends_after_ten_seconds():
    for answered, arrived in itertools.product([False, True], repeat=2):
        state = replace(OPENING, answered=answered, arrived=arrived)
        assert _closed_by_silence(state, NOW_S + 9.9, kept=True) is None
        assert _closed_by_silence(state, NOW_S + 10.0, kept=True) is Why.NO_PICTURE


def test_the_agreed_length_counts_from_the_opening_and_no_lease_moves_it():
    state: State = replace(WATCHING, first_frame_s=NOW_S + 8.0, facts=replace(FACTS, max_s=30.0))
    for counter, after_s in enumerate(range(29), COUNTER + 1):
        state, effects = step(state, LeaseRenewed(counter), now_s=NOW_S + after_s)
        assert effects == ()
    assert _closed_by_silence(state, NOW_S + 29.9, kept=True) is None
    assert _closed_by_silence(state, NOW_S + 30.0, kept=True) is Why.TIME_UP


def test_the_agreed_length_holds_while_opening_too():
    state = replace(OPENING, facts=replace(FACTS, max_s=4.0))
    assert _closed_by_silence(state, NOW_S + 3.9, kept=True) is None
    assert _closed_by_silence(state, NOW_S + 4.0, kept=True) is Why.TIME_UP


def test_what_was_watched_counts_from_the_first_frame():
    state = replace(WATCHING, first_frame_s=NOW_S + 2.0)
    closing, _ = step(state, Ended(Why.SEEN), now_s=NOW_S + 7.5)
    assert isinstance(closing, Closing)
    assert (closing.watched_s, closing.frames, closing.view) == (5.5, 7, "clear")
    never_seen, _ = step(OPENING, Ended(Why.SEEN), now_s=NOW_S + 7.5)
    assert isinstance(never_seen, Closing)
    assert (never_seen.watched_s, never_seen.frames) == (0.0, 0)


def test_frames_never_count_backwards_and_the_last_view_stays():
    state, _ = step(WATCHING, EyeHeard(3, None), now_s=NOW_S)
    assert isinstance(state, Watching)
    assert (state.frames, state.view) == (7, "clear")
    closing, _ = step(CLOSING, EyeHeard(12, "dark"), now_s=NOW_S)
    assert isinstance(closing, Closing)
    assert (closing.frames, closing.view) == (12, "dark")


@pytest.mark.parametrize("state_name", [name for name in STATES if name.startswith("Closing")])
def test_a_closing_that_does_not_end_disables_after_eight_seconds(state_name):
    state = STATES[state_name]
    assert step(state, Tick(), now_s=NOW_S + 7.9) == (state, ())
    after, effects = step(state, Tick(), now_s=NOW_S + 8.0)
    assert isinstance(after, Disabled)
    assert effects[:2] == (SensorOff(), MountUp())
    assert [type(effect) for effect in effects[2:]] == [RecordClosed]


def test_a_stuck_eye_is_named_a_camera_fault_and_a_stuck_mount_a_mount_fault():
    assert step(replace(CLOSING, parked=True), Tick(), now_s=NOW_S + 8.0)[0] == Disabled(Why.CAMERA_FAULT)
    assert step(replace(CLOSING, eye_gone=True), Tick(), now_s=NOW_S + 8.0)[0] == Disabled(Why.MOUNT_FAULT)


def test_after_a_stuck_eye_has_ended_at_last_the_lamp_goes_dark():
    assert step(Disabled(Why.CAMERA_FAULT), EyeGone(), now_s=NOW_S) == (Disabled(Why.CAMERA_FAULT), (LampOff(),))


def _closed_by_silence(state: State, now_s: float, *, kept: bool = False) -> Why | None:
    """Why a Tick at `now_s` closes; with `kept`, eye, link and lease have just given a sign of life."""
    assert isinstance(state, Opening | Watching)
    state = replace(state, link_heard_s=now_s, eye_heard_s=now_s)
    if kept:
        state = replace(state, lease_until_s=now_s + 1.0)
    after, _ = step(state, Tick(), now_s=now_s)
    return after.why if isinstance(after, Closing) else None


# Every history: time stands still but for the limits, so the reachable states are few and all are visited


@dataclass(frozen=True, slots=True)
class Told:
    """What has been ordered and reported so far, as whoever obeys the orders knows it."""

    opened: bool = False
    sensor: bool = False
    lamp: bool = False
    aimed: bool = False
    arrived: bool = False
    out: bool = False
    eye_gone: bool = True
    up: bool = True


HISTORY_EVENTS: tuple[Event, ...] = (
    Accepted(FACTS),
    AnswerMade("v=0"),
    MountArrived(),
    FirstFrame(),
    LeaseRenewed(1),
    Ended(Why.SEEN),
    EyeHeard(1, "clear"),
    LinkHeard(),
    EyeGone(),
    MountParked(),
    *map(Fault, Why),
    Tick(),
)


def _obeyed(  # noqa: C901 - one case for each order
    told: Told, before: State, event: Event, after: State, effects: tuple[Effect, ...]
) -> Told:
    """`told` after one step; asserts what must hold between one order and the next."""
    where = f"{before} x {event} -> {after}, {effects}, {told}"
    if isinstance(event, EyeGone):
        told = replace(told, eye_gone=True, sensor=False)
    if isinstance(event, MountArrived) and told.aimed:
        told = replace(told, arrived=True)
    if isinstance(event, MountParked) and not told.aimed:
        told = replace(told, up=True)
    for effect in effects:
        match effect:
            case RecordOpened():
                assert not told.opened, where
                told = replace(told, opened=True)
            case RecordLive():
                assert told.opened, where
                assert told.out, where
            case RecordClosed():
                assert told.opened, where
                assert not told.sensor, where
                assert effect.parked == (told.up and told.eye_gone), where
                told = replace(told, opened=False)
            case LampOn():
                assert told.opened, where
                told = replace(told, lamp=True)
            case LampOff():
                assert told.eye_gone, where
                assert not told.sensor, where
                told = replace(told, lamp=False)
            case SensorOn():
                assert told.opened, where
                assert told.lamp, where
                told = replace(told, sensor=True, eye_gone=False)
            case SensorOff():
                told = replace(told, sensor=False, out=False)
            case MountAim():
                told = replace(told, aimed=True, arrived=False, up=False)
            case MountUp():
                assert not told.sensor, where
                told = replace(told, aimed=False, arrived=False, up=False)
            case LetFramesOut():
                assert told.arrived, where
                assert told.sensor, where
                assert not told.out, where
                told = replace(told, out=True)
            case SendAnswer():
                assert told.sensor, where
    match after:
        case Parked():
            assert told == Told(), where
        case Opening() | Watching():
            assert told.opened, where
            assert told.lamp, where
            assert told.aimed, where
            assert not told.up, where
            assert told.sensor != told.eye_gone, where
        case Closing():
            assert told.opened, where
            assert not told.sensor, where
            assert not told.out, where
            assert not told.aimed, where
        case Disabled():
            assert not told.opened, where
            assert not told.sensor, where
            assert not told.out, where
            assert not told.aimed, where
    return told


def _collapsed(state: State) -> State:
    """The same state with every time put back to NOW_S, and nothing watched."""
    match state:
        case Opening() | Watching():
            fresh = replace(state, opened_s=NOW_S, lease_until_s=NOW_S + 9.0, eye_heard_s=NOW_S, link_heard_s=NOW_S)
            return replace(fresh, first_frame_s=NOW_S) if isinstance(fresh, Watching) else fresh
        case Closing():
            return replace(state, since_s=NOW_S, watched_s=0.0)
        case _:
            return state


def _histories() -> set[tuple[State, Told]]:
    """Every (state, told) that any sequence of events leads to, checked on the way."""
    start = (Parked(), Told())
    seen: set[tuple[State, Told]] = {start}
    todo: list[tuple[State, Told]] = [start]
    while todo:
        state, told = todo.pop()
        steps = [(state, event) for event in HISTORY_EVENTS] + [(late, Tick()) for _, late in overdue(state)]
        for before, event in steps:
            after, effects = step(before, event, now_s=NOW_S)
            reached = (_collapsed(after), _obeyed(told, before, event, after, effects))
            if reached not in seen:
                seen.add(reached)
                todo.append(reached)
    return seen


@pytest.mark.slow
def test_in_every_history_orders_come_in_a_safe_order_and_each_opening_is_closed_in_the_record_once():
    seen = _histories()
    assert {type(state) for state, _ in seen} == set(machine.State.__args__)


@pytest.mark.slow
def test_every_state_a_history_reaches_is_like_one_in_the_table():
    def shape(state: State) -> tuple[object, ...]:
        flags = [getattr(state, name, None) for name in ("answered", "arrived", "eye_gone", "parked", "failed")]
        return (type(state), *flags)

    assert {shape(state) for state, _ in _histories()} <= {shape(state) for state in STATES.values()}


@pytest.mark.slow
def test_the_sensor_may_be_on_is_said_whenever_it_may():
    for state, told in _histories():
        if isinstance(state, Opening | Watching | Closing) and not told.eye_gone:
            assert machine.sensor_may_be_on(state)
    assert not machine.sensor_may_be_on(Parked())
    assert not machine.sensor_may_be_on(Disabled(Why.MOUNT_FAULT))


if __name__ == "__main__":
    TABLE.write_text(render())
