"""Set-up is entered again by two hands only, on the whole real guard: a steward's signed consent, and the physical act.

Mutations, each tried and red: SetupEnter in ROLE_FOR for planners too; `_is_allowed()` out of `_enter_if_both`; its
`_has_acted()` out; `is_allowed=False` out of `entered`, and out of `done`; `<=` as `<` in the gate's `_setup_until`;
`until_unix_s` out of `is_open`; `START_S` out of button.py; `was_awaited` always true; `_set_up` of standing.py
restating what is old alone; its sort by what was set up instead of when.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from guard_harness import AUDIENCE, World, home
from test_guard_interlock import FakeInputs, kinds

from gateway.ipc import frame, setup
from gateway.ledger import read_records
from gateway.protocol.message import Accepted, Refused, Role, SetupEnter

DECODER = msgspec.msgpack.Decoder(setup.ToSetup)
ACT = frame.SetupAct()


@pytest.fixture
def world() -> Iterator[World]:
    """A home whose set-up is done."""
    with home() as made:
        made.kill()
        made.inputs = FakeInputs()
        folder = made.state_dir.parent
        made.config = msgspec.structs.replace(
            made.config, setup_socket=str(folder / "setup.sock"), act_path=str(folder / "act")
        )
        assert made.boot()
        made.mend()
        assert is_open(made)
        assert isinstance(ask(made, setup.Finish()), setup.Done)
        assert not is_open(made)
        yield made


def ask(world: World, word: Any) -> Any:
    """One word of a wizard's, and its answer."""
    assert world.config.setup_socket is not None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(world.config.setup_socket)
    sock.send(msgspec.msgpack.encode(word))
    sock.setblocking(False)
    try:
        while True:
            world.advance(0.05)
            got = DECODER.decode(sock.recv(frame.MAX_FRAME_BYTES))
            if not isinstance(got, frame.Beat):
                return got
    finally:
        sock.close()


def standing(world: World) -> setup.Standing:
    found = ask(world, setup.AskStanding())
    assert isinstance(found, setup.Standing)
    return found


def is_open(world: World) -> bool:
    return standing(world).is_open


def consent(world: World, role: Role = Role.STEWARD, *, at_unix_s: float | None = None) -> bytes:
    at = world.true_unix_s if at_unix_s is None else at_unix_s
    return world.say(SetupEnter(AUDIENCE, world.jti(), at), world.person("st-1", role))


def said(world: World) -> list[tuple[str | None, str | None]]:
    """What the ledger says of set-up: (why, who)."""
    bodies = [stored.body for stored in read_records(world.ledger_dir) if stored.body is not None]
    return [(body.why, body.who) for body in bodies if body.kind == "setup"]


def act(world: World) -> None:
    assert world.hand(ACT) is not None


def test_whoever_will_look_has_an_eye_that_stands_by_with_its_camera_closed(world):
    act(world)
    assert isinstance(world.deliver(consent(world)), Accepted)
    assert not standing(world).eye_ready
    assert isinstance(ask(world, setup.AskNonce()), setup.NonceIssued)
    world.advance(1.0)
    assert standing(world).eye_ready
    assert not world.sensor_on
    world.advance(40.0)
    assert not standing(world).eye_ready, "nobody used it"


@pytest.mark.slow
def test_neither_hand_alone_opens(world):
    act(world)
    assert not is_open(world)
    assert isinstance(ask(world, setup.AskNonce()), setup.Denied)
    world.advance(1000.0)
    assert isinstance(world.deliver(consent(world)), Accepted)
    assert not is_open(world), "the act was too long ago"
    assert standing(world).is_allowed
    assert said(world) == [("begun", None), ("done", "installer"), ("allowed", "st-1")]


@pytest.mark.parametrize("act_first", [True, False])
def test_both_hands_open_and_the_ledger_names_who_consented(world, act_first):
    if act_first:
        act(world)
    assert isinstance(world.deliver(consent(world)), Accepted)
    if not act_first:
        world.power_cut()
        assert world.boot()
        world.join_link()
        act(world)
    found = standing(world)
    assert (found.is_open, found.entered, found.is_allowed) == (True, 1, False)
    assert said(world)[2:] == [("allowed", "st-1"), ("entered", "st-1")]
    assert (world.state_dir.parent / "act").exists()
    assert isinstance(ask(world, setup.AskNonce()), setup.NonceIssued)
    world.power_cut()
    assert world.boot()
    assert is_open(world)
    # Done again: neither the same consent is worth anything any more, nor one that came while it was open, nor the act.
    world.join_link()
    assert isinstance(world.deliver(consent(world)), Accepted)
    assert isinstance(ask(world, setup.Finish()), setup.Done)
    act(world)
    assert not is_open(world)


def test_without_a_line_the_wizard_carries_the_consent(world):
    world.lose_link()
    world.power_cut()
    assert world.boot()
    act(world)
    envelope = consent(world)
    assert isinstance(ask(world, setup.Allow(envelope)), setup.Done)
    assert is_open(world)
    assert isinstance(ask(world, setup.Finish()), setup.Done)
    act(world)
    denied = ask(world, setup.Allow(envelope))
    assert isinstance(denied, setup.Denied)
    assert denied.code == "stale-version"
    assert not is_open(world)


def test_the_wizard_can_carry_nothing_else(world):
    act(world)
    for person, message in ((Role.OPERATOR, "challenge"), (Role.STEWARD, "withdraw")):
        from gateway.protocol.message import AgreementWithdraw, Challenge

        kind = Challenge if message == "challenge" else AgreementWithdraw
        envelope = world.say(kind(AUDIENCE, world.jti()), world.person(f"p-{message}", person))
        assert isinstance(ask(world, setup.Allow(envelope)), setup.Denied)
    assert isinstance(ask(world, setup.Allow(b"x")), setup.Denied)
    assert not world.hand(frame.AskState()).withdrawn
    assert not is_open(world)


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PLANNER, Role.INSTALLER, Role.RELEASE])
def test_nobody_but_a_steward_consents(world, role):
    act(world)
    reply = world.deliver(consent(world, role))
    assert isinstance(reply, Refused)
    assert reply.code == "wrong-role"
    assert not is_open(world)


def test_a_consent_of_another_day_and_one_that_was_taken_are_refused(world):
    for at_unix_s in (world.true_unix_s - 13 * 3600.0, world.true_unix_s + 3600.0):
        reply = world.deliver(consent(world, at_unix_s=at_unix_s))
        assert isinstance(reply, Refused)
        assert reply.code == "outside-window"
    envelope = consent(world)
    assert isinstance(world.deliver(envelope), Accepted)
    reply = world.deliver(envelope)
    assert isinstance(reply, Refused)
    assert reply.code == "stale-version"
    world.power_cut()
    assert world.boot()
    world.join_link()
    reply = world.deliver(envelope)
    assert isinstance(reply, Refused)
    assert reply.code == "stale-version"


@pytest.mark.slow
def test_a_consent_ends_by_itself_and_so_does_set_up_that_is_never_finished(world):
    assert isinstance(world.deliver(consent(world)), Accepted)
    world.sleep_long(13 * 3600.0)
    world.ask_again()
    act(world)
    assert not is_open(world)
    assert isinstance(world.deliver(consent(world)), Accepted)
    assert is_open(world)
    world.sleep_long(13 * 3600.0)
    world.ask_again()
    assert not is_open(world)
    assert isinstance(ask(world, setup.AskNonce()), setup.Denied)
    world.restart()
    assert not is_open(world)


def hold_over_power(world: World, held_s: float) -> None:
    world.power_cut()
    world.inputs.pressed = True
    assert world.boot()
    world.join_link()
    world.advance(held_s)
    world.inputs.pressed = False
    world.advance(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("held_s", [2.0, 6.0])
def test_the_button_held_while_power_comes_is_the_act_and_no_stop(world, held_s):
    assert isinstance(world.deliver(consent(world)), Accepted)
    hold_over_power(world, held_s)
    assert is_open(world)
    assert not kinds(world, "withdrawn")
    assert not kinds(world, "paused")


def test_where_nobody_waited_for_it_it_is_not_tonight_too_until_a_steward_consents(world):
    hold_over_power(world, 6.0)
    assert not is_open(world)
    assert not kinds(world, "withdrawn")
    assert world.hand(frame.AskState()).paused
    world.ask_again()
    assert isinstance(ask(world, setup.Allow(consent(world))), setup.Done)
    assert is_open(world)
    assert not world.hand(frame.AskState()).paused
    assert [body["why"] for body in kinds(world, "paused")] == ["local", "ended"]


def test_what_the_resident_has_paused_no_act_ends(world):
    assert world.pause(3600.0)
    hold_over_power(world, 2.0)
    world.ask_again()
    assert isinstance(ask(world, setup.Allow(consent(world))), setup.Done)
    assert is_open(world)
    assert world.hand(frame.AskState()).paused


@pytest.mark.slow
def test_the_button_in_a_guard_that_was_restarted_is_the_residents(world):
    assert isinstance(world.deliver(consent(world)), Accepted)
    world.advance(200.0)
    world.stop()
    world.inputs.pressed = True
    assert world.start()
    world.advance(6.0)
    world.inputs.pressed = False
    world.advance(0.3)
    assert not is_open(world)
    assert [body["why"] for body in kinds(world, "withdrawn")] == ["local"]


def test_retention_leaves_the_door_as_it_was(world):
    """`begun` grows old before `done` does: restated alone, it would be the newest word and open set-up."""
    ledger = world.guard.chronicle
    (begun,) = [stored.seq for stored in read_records(world.ledger_dir) if stored.body.why == "begun"]
    (done,) = [stored.seq for stored in read_records(world.ledger_dir) if stored.body.why == "done"]
    for before_seq in (begun + 1, done + 1):
        restated = [fields["why"] for kind, fields in ledger.standing.restatements(before_seq, 0.0) if kind == "setup"]
        assert restated == ["begun", "done"]
    # Entered a second time: the newest word of each kind, in the order in which they were said.
    for _ in range(2):
        act(world)
        world.advance(5.0)
        assert isinstance(world.deliver(consent(world)), Accepted)
        assert isinstance(ask(world, setup.Finish()), setup.Done)
    restated = [fields for kind, fields in ledger.standing.restatements(done + 1, 0.0) if kind == "setup"]
    assert [fields["why"] for fields in restated] == ["begun", "allowed", "entered", "done"]
    assert restated[2]["version"] == 2
    assert restated[1]["until_unix_s"] > world.true_unix_s
