"""Cosignatures at the device: kept before used, a floor for the clock, and what no honest ledger can be shorter than.

Mutations tried, each red here: in guard_witness.py `store_cosigned` out, `with_floor` out, `agrees_with` out, the
comparison with `MAX_AHEAD_S` out, `<=` with the kept one out, the hourly checkpoint out, `_ask_about_start` out, or
once only, or for ever, `_start_size` not asked for, waiting without a witness; in guard_command.py the refusal while
`unwitnessed` out; in guard_core.py that it is said; in guard_state.py `_forgotten_size` by `size`, the checkpoints of
earlier starts out; in cosigned.py the witness's
signature not verified, the ledger's not verified; in guard.py `witnessed=witnessed` out, the floor from the kept one
out.
"""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guard_harness import GATEWAY, home, ledger_signer, witness

from centre.witness import Cosigner
from gateway.core.interval_clock import ClockState
from gateway.ipc import frame
from gateway.ledger import Checkpoint, NoteSigner, sign_checkpoint
from gateway.protocol.message import Verdict


@pytest.fixture
def world():
    with home() as made:
        yield made


@pytest.fixture
def unheard():
    """A home whose witness has not said anything."""
    with home(cosigns="nothing") as made:
        yield made


def kept(world):
    path = world.state_dir / "cosigned.json"
    return json.loads(path.read_text()) if path.exists() else None


def a_checked_night(world):
    assert world.watch()
    world.verdict(Verdict.SEEN)
    world.advance(4.0)


def reboot(world, *, ask=False):
    world.boot()
    world.join_link()
    if ask:
        world.ask_again()


def test_a_cosigned_checkpoint_is_kept_and_the_newest_stays(unheard):
    world = unheard
    assert kept(world) is None
    first = world.cosign()
    assert kept(world)["note"].encode() == first
    a_checked_night(world)
    second = world.cosign()
    assert kept(world)["note"].encode() == second != first
    world.say_cosigned(first)
    assert kept(world)["note"].encode() == second


@pytest.mark.parametrize("forged", ["another witness", "another ledger", "no cosignature", "bytes"])
def test_what_the_witness_did_not_sign_or_the_ledger_did_not_is_refused(unheard, forged):
    world = unheard
    note = (world.ledger_dir / "checkpoint").read_bytes()
    thief = NoteSigner(f"tillsyn/{GATEWAY}", Ed25519PrivateKey.generate())
    match forged:
        case "another witness":
            world.cosign(by=Cosigner("tillsyn/centre", Ed25519PrivateKey.generate()))
        case "another ledger":
            checkpoint = Checkpoint(thief.name, 1, b"\0" * 32)
            world.say_cosigned(
                thief.sign(checkpoint.text()) + witness().cosign(checkpoint, unix_s=int(world.true_unix_s))
            )
        case "no cosignature":
            world.say_cosigned(note)
        case _:
            world.say_cosigned(b"\xff" * 100)
    assert kept(world) is None
    assert world.refusals()[-1]["why"] == "bad-signature"
    assert not world.try_open()
    assert world.refusals()[-1]["why"] == "busy"


def test_the_cosignatures_time_is_a_floor_also_after_a_start(world):
    later_s = world.true_unix_s + 90.0
    world.cosign(unix_s=later_s)
    lo_unix_s = world.guard.gate.clock.interval(world.now_s).lo_unix_s
    assert lo_unix_s >= int(later_s)
    world.power_cut()
    world.centre = "silent"
    reboot(world)
    assert world.guard.gate.clock.state(world.now_s) is ClockState.FLOOR
    assert world.guard.gate.clock.interval(world.now_s).lo_unix_s >= int(later_s)


def test_a_witness_whose_clock_is_hours_ahead_of_an_attested_one_raises_nothing(unheard):
    world = unheard
    before = world.guard.gate.clock.interval(world.now_s)
    world.cosign(unix_s=world.true_unix_s + 3 * 3600)
    assert kept(world) is None
    assert world.guard.gate.clock.interval(world.now_s).lo_unix_s == pytest.approx(before.lo_unix_s, abs=2.0)


def test_a_ledger_shorter_than_what_was_cosigned_is_an_alarm_at_the_start(world):
    early = world.copy_card()[0]
    a_checked_night(world)
    world.cosign()
    world.power_cut()
    shutil.rmtree(world.ledger_dir)
    shutil.copytree(next(early.rglob("ledger")), world.ledger_dir)
    world.judge.tampered = True
    reboot(world, ask=True)
    assert world.guard.gate.obstacle == "integrity-alarm"
    assert not world.try_open()


def test_nothing_opens_before_the_witness_has_cosigned_this_start(unheard):
    world = unheard
    assert world.hand(frame.AskState()).obstacle == "busy"
    assert not world.try_open()
    assert world.refusals()[-1]["why"] == "busy"
    old = (world.ledger_dir / "checkpoint").read_bytes()
    world.cosign()
    assert world.hand(frame.AskState()).obstacle is None
    assert world.try_open()
    world.power_cut()
    reboot(world, ask=True)
    world.cosign(old)  # what was true before this start says nothing of it
    assert not world.try_open()
    world.cosign()
    assert world.try_open()


def test_the_witness_is_asked_about_a_start_until_it_answers(unheard):
    world = unheard
    world.advance(1.0)
    assert size_of(world.note) == world.guard.chronicle.ledger.checkpoint_size
    world.note = b""
    world.advance(16.0)
    assert world.note
    world.cosign()
    world.note = b""
    world.advance(60.0)
    assert not world.note


def test_without_a_witness_in_its_configuration_a_home_waits_for_none(unheard):
    world = unheard
    world.stop()
    world.config = msgspec.structs.replace(world.config, witness=None)
    reboot(world, ask=True)
    assert world.try_open()


@pytest.mark.parametrize("deed", ["a card of before", "a copy that went on by itself"])
def test_a_card_that_is_whole_in_itself_never_opens_and_is_found_out_by_the_witnesss_next_word(world, deed):
    """The kept note went back with the card; what the witness says next can't be taken back."""
    card = world.copy_card()
    a_checked_night(world)
    cosigned = world.cosign()
    world.cosigns = "nothing"
    world.restore_card(card)
    reboot(world, ask=True)
    if deed != "a card of before":
        while world.guard.chronicle.size <= size_of(cosigned):
            world.pause(60.0)
            world.end_pause()
    assert world.guard.gate.obstacle is None, "by itself it is a good ledger"
    assert not world.try_open()
    assert not world.sensor_on
    world.judge.tampered = True
    world.say_cosigned(cosigned)
    world.advance(4.0)
    world.up()
    assert world.guard.gate.obstacle == "integrity-alarm"
    assert not world.try_open()


def size_of(note):
    return int(note.split(b"\n")[1])


def test_another_root_of_the_same_size_is_an_alarm(world):
    size = world.guard.chronicle.ledger.checkpoint_size
    world.judge.tampered = True
    world.cosign(sign_checkpoint(ledger_signer(), size, b"\x01" * 32))
    world.advance(4.0)
    world.up()
    assert world.guard.gate.obstacle == "integrity-alarm"


def test_a_kept_note_that_was_changed_is_an_alarm(world):
    world.cosign()
    world.power_cut()
    path = world.state_dir / "cosigned.json"
    path.write_text(path.read_text().replace('"days"', '"dayz"'))
    world.judge.tampered = True
    reboot(world)
    assert world.guard.gate.obstacle == "integrity-alarm"


def test_what_no_checkpoint_covers_is_signed_within_the_hour(world):
    world.pause(60.0 * 60)
    ledger = world.guard.chronicle.ledger
    assert ledger.checkpoint_size < ledger.size
    world.note = b""
    world.sleep_long(3700)
    assert world.guard.chronicle.ledger.checkpoint_size >= ledger.size - 1
    assert world.note


def test_a_lost_cosignature_is_asked_for_again(world):
    world.sleep_long(3700)
    world.note = b""
    world.sleep_long(3700)
    assert world.note  # with nothing new in the ledger, the same checkpoint goes out once more
