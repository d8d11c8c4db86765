"""The evening's steps: the whole table, walked and in every order.

Mutations that turn safety tests red:

* let `Compared(True)` through from `enrol`: test_the_whole_table_is_as_written.
* `LineTaken` without `if progress.is_line_good`: test_a_line_that_is_not_good_is_not_taken.
* `Aimed` not needed for `Ticked`: test_no_step_is_left_before_its_facts_are_there.
* `ProtocolTaken` in spite of `owed`: test_set_up_does_not_end_while_the_ledger_lacks_a_step.
* `Entered` without its comparison: test_an_entering_counts_once.
* `Lapsed` without `progress.entered`: test_the_whole_table_is_as_written.
* `Forget` left out: test_codes_that_differ_throw_everything_away.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.message import ProtocolLine
from provisioning.wizard import machine
from provisioning.wizard.machine import (
    ORDER,
    TICKS,
    Aimed,
    AlarmAnswered,
    AlarmBegun,
    CheckSeen,
    Commit,
    Committed,
    Compared,
    Consent,
    Consented,
    Enrolled,
    Entered,
    Finish,
    Forget,
    Informed,
    Joined,
    Lapsed,
    LetIn,
    LineMeasured,
    LineTaken,
    OtherNetwork,
    Owed,
    Pending,
    Progress,
    ProtocolTaken,
    Received,
    Step,
    Ticked,
    WriteDown,
    protocol_lines,
    resume,
    step,
    written_down,
)

D = "0" * 64
RESIDENT = Consent("c-1", "drawn", None, D)
GOOD = (ProtocolLine("dns", "measured", is_good=True),)
BAD = (ProtocolLine("dns", "measured", is_good=False),)
PENDING = Pending("pem", "{}", "{}", "123 456")

WAY = [
    LetIn(), Joined("wifi"), LineMeasured(GOOD, is_good=True), LineTaken(), Enrolled(PENDING), Compared(is_same=True),
    Committed(), Informed(), Consented(RESIDENT, None), Received("loan-1", ("T-1",)), Aimed(12.0, is_measured=False),
    Ticked(TICKS), CheckSeen("c-9", 40, 3.0), AlarmBegun("test-1"), AlarmAnswered("test-1"), ProtocolTaken(D),
]  # fmt: skip
EVENTS = [
    *WAY, Entered(1), Lapsed(),
    LineMeasured(BAD, is_good=False), OtherNetwork(), Compared(is_same=False), Consented(RESIDENT, RESIDENT),
    Received("loan-1", ()), Ticked(()), CheckSeen("c-9", 0, 0.0), AlarmAnswered("test-other"),
]  # fmt: skip


def after(*events: machine.Event, write: bool = True) -> Progress:
    progress = Progress()
    for event in events:
        progress, _ = step(progress, event)
        if write:
            progress = msgspec.structs.replace(progress, owed=())
    return progress


AT = {Step.CONTACT: Progress()} | {(one := after(*WAY[:number])).step: one for number in range(len(WAY) + 1)}
"""A progress at each step, with the facts that the way there brings; the last one where a step has several."""

# From → on → to, and the effects. Whatever is not here changes nothing.
TABLE = {
    (Step.CONTACT, "LetIn"): (Step.NETWORK, ()),
    (Step.NETWORK, "Joined"): (Step.LINE, ()),
    (Step.LINE, "LineMeasured"): (Step.LINE, ()),
    (Step.LINE, "LineTaken"): (Step.ENROL, ()),
    (Step.LINE, "OtherNetwork"): (Step.NETWORK, ()),
    (Step.ENROL, "OtherNetwork"): (Step.NETWORK, ()),
    (Step.ENROL, "Enrolled"): (Step.COMPARE, ()),
    (Step.COMPARE, "Compared(is_same=True)"): (Step.COMMIT, (Commit(),)),
    (Step.COMPARE, "Compared(is_same=False)"): (Step.ENROL, (Forget(),)),
    (Step.COMMIT, "Committed"): (Step.INFORM, (WriteDown(),)),
    (Step.INFORM, "Informed"): (Step.CONSENT, (WriteDown(),)),
    (Step.CONSENT, "Consented"): (Step.RECEIPT, (WriteDown(),)),
    (Step.RECEIPT, "Received"): (Step.AIM, (WriteDown(),)),
    (Step.AIM, "Aimed"): (Step.AIM, ()),
    (Step.AIM, "Ticked"): (Step.CHECK, (WriteDown(),)),
    (Step.CHECK, "CheckSeen"): (Step.ALARM, (WriteDown(),)),
    (Step.ALARM, "AlarmBegun"): (Step.ALARM, ()),
    (Step.ALARM, "AlarmAnswered"): (Step.PROTOCOL, (WriteDown(),)),
    (Step.PROTOCOL, "ProtocolTaken"): (Step.DONE, (Finish(),)),
    (Step.DONE, "Entered"): (Step.NETWORK, ()),
}


def name(event: machine.Event) -> str:
    return repr(event) if isinstance(event, Compared) else type(event).__name__


def test_every_step_is_reached():
    assert set(AT) == set(ORDER)


@pytest.mark.parametrize("place", ORDER)
def test_the_whole_table_is_as_written(place):
    for event in WAY + [OtherNetwork(), Compared(is_same=False), Entered(1), Lapsed()]:
        before = AT[place]
        got, effects = step(before, event)
        expected = TABLE.get((place, name(event)))
        if expected is None:
            assert got is before, (place, event)
            assert effects == ()
        else:
            assert (got.step, effects) == expected, (place, event)


def test_the_way_ends_with_everything_done():
    done = after(*WAY)
    assert done.step is Step.DONE
    assert all(line.is_good for line in protocol_lines(done))


@pytest.mark.parametrize("left_out", range(len(WAY)))
def test_no_step_can_be_skipped(left_out):
    assert after(*WAY[:left_out], *WAY[left_out + 1 :]).step is not Step.DONE


def test_a_line_that_is_not_good_is_not_taken():
    assert after(*WAY[:2], LineMeasured(BAD, is_good=False), LineTaken()).step is Step.LINE


def test_no_step_is_left_before_its_facts_are_there():
    assert after(*WAY[:10], Ticked(TICKS)).step is Step.AIM  # no aim was kept
    assert after(*WAY[:11], Ticked(TICKS[:2])).step is Step.AIM
    assert after(*WAY[:12], CheckSeen("c-9", 0, 0.0)).step is Step.CHECK  # no picture was seen
    assert after(*WAY[:14], AlarmAnswered("test-other")).step is Step.ALARM


def test_codes_that_differ_throw_everything_away():
    progress, effects = step(AT[Step.COMPARE], Compared(is_same=False))
    assert (progress.step, progress.pending, effects) == (Step.ENROL, None, (Forget(),))


def test_another_network_makes_a_new_test_necessary():
    moved = after(*WAY[:4], OtherNetwork(), Joined("mobile"))
    assert (moved.step, moved.line, moved.is_line_good) == (Step.LINE, (), False)


def test_set_up_does_not_end_while_the_ledger_lacks_a_step():
    owing = msgspec.structs.replace(AT[Step.PROTOCOL], owed=(Owed("checked"),))
    assert step(owing, ProtocolTaken(D))[0].step is Step.PROTOCOL


def test_what_is_owed_stays_until_it_was_written_down():
    progress = after(*WAY[:9], write=False)
    assert [note.what for note in progress.owed] == ["network", "line", "enrolled", "informed", "consent-resident"]
    assert written_down(progress, progress.owed[0]).owed == progress.owed[1:]
    assert resume(progress) == (WriteDown(),)


AGAIN = [Entered(1), Joined("mobile"), LineMeasured(GOOD, is_good=True), LineTaken()]


def test_an_entering_leaves_out_enrolment_and_consent_and_nothing_else():
    again = after(*WAY, *AGAIN)
    assert (again.step, again.entered, again.resident, again.loan) == (Step.AIM, 1, RESIDENT, "loan-1")
    assert (again.aim_deg, again.check, again.alarm, again.protocol_sha256) == (None, None, None, None)
    assert [note.what for note in step(after(*WAY, *AGAIN[:3]), LineTaken())[0].owed] == ["network", "line"]
    done = after(*WAY, *AGAIN, *WAY[10:])
    assert done.step is Step.DONE
    assert all(line.is_good for line in protocol_lines(done))


@pytest.mark.parametrize("left_out", range(len(AGAIN) + len(WAY[10:])))
def test_no_step_of_an_entering_can_be_skipped(left_out):
    way = [*AGAIN, *WAY[10:]]
    again = after(*WAY, *way[:left_out], *way[left_out + 1 :])
    assert again.step is not Step.DONE or left_out == 0


def test_an_entering_counts_once():
    done = after(*WAY, *AGAIN, *WAY[10:])
    assert step(done, Entered(1)) == (done, ())
    assert step(done, Entered(2))[0].step is Step.NETWORK


def test_an_entering_that_lapsed_owes_nothing():
    lapsed, effects = step(step(after(*WAY, *AGAIN[:3]), LineTaken())[0], Lapsed())
    assert (lapsed.step, lapsed.owed, effects) == (Step.DONE, (), ())


def test_a_start_does_the_last_effects_again():
    assert resume(AT[Step.COMMIT]) == (Commit(),)
    assert resume(AT[Step.DONE]) == (Finish(),)
    assert resume(AT[Step.ENROL]) == ()


@pytest.mark.slow
@given(st.lists(st.sampled_from(EVENTS), max_size=60))
def test_nothing_is_committed_uncompared(history):
    progress, compared, committed = Progress(), False, False
    for event in history:
        before = progress
        progress, effects = step(progress, event)
        assert abs(ORDER.index(progress.step) - ORDER.index(before.step)) <= 2 or progress.entered
        if Commit() in effects:
            assert event == Compared(is_same=True)
            assert before.step is Step.COMPARE
            compared = True
        committed = committed or progress.step is Step.INFORM
        assert compared or not committed
        if before.step is Step.DONE:
            assert progress is before or progress.entered > before.entered
        if Finish() in effects:
            assert progress.resident is not None
            assert progress.check_frames > 0
            assert progress.is_answered
            assert not progress.owed


def test_what_is_kept_reads_back_the_same():
    for progress in AT.values():
        assert msgspec.json.decode(msgspec.json.encode(progress), type=Progress) == progress
