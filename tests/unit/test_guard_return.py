"""A returned device opens nothing any more, on the whole real guard: whatever comes afterwards, and after every cut.

Mutations, each tried and red: DeviceReturn in ROLE_FOR for planners too; `core.dispatch` out of `ReturnSide.take`;
`store_return` left out; `take_withdrawal` for `take_return`; the RETURNED out of `Gate._decide`; `load_return` without
the record's version, without the file, and with nothing for a file that can't be read; `<=` as `<` in `Gate._return`;
the record at a start left out; RETURNED out of standing.py; the exception for trust out of `_take_trust`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from guard_harness import AUDIENCE, World, home
from test_guard_interlock import kinds

from gateway.ipc import frame
from gateway.protocol.message import (
    Accepted,
    AgreementWithdraw,
    Challenge,
    Close,
    DeviceReturn,
    Message,
    Refused,
    Returning,
    Role,
)

NONCE = "n" * 21 + "A"


@pytest.fixture
def world() -> Iterator[World]:
    """A home that is armed, in an agreed window."""
    with home() as made:
        assert isinstance(made.challenge(), Message)
        yield made


def order(world: World, version: int = 1, role: Role = Role.STEWARD, nonce: str = NONCE) -> bytes:
    return world.say(DeviceReturn(AUDIENCE, world.jti(), version, nonce), world.person(f"st-{role}", role))


def give_back(world: World, version: int = 1, nonce: str = NONCE) -> Returning:
    reply = world.deliver(order(world, version, nonce=nonce))
    assert isinstance(reply, Returning), reply
    return reply


def code(reply: Any) -> str:
    assert isinstance(reply, Refused), reply
    return reply.code


def obstacle(world: World) -> str | None:
    facts = world.hand(frame.AskState())
    assert facts is not None
    return facts.obstacle


def again(world: World) -> None:
    world.power_cut()
    assert world.boot()
    world.join_link()
    world.advance(5.0)


def test_from_the_order_on_every_command_that_does_not_close_is_refused_also_after_a_cut_and_a_newer_agreement(world):
    challenged = world.challenge()
    opening = world.open_command(challenged, world.due_now(challenged))
    give_back(world)
    for _ in range(2):
        assert obstacle(world) == "returned"
        assert code(world.deliver(world.say(Challenge(AUDIENCE, world.jti()), world.person()))) == "returned"
        assert code(world.put(world.fresh_agreement())) == "returned"
        assert code(world.open(opening)[1]) == "returned"
        assert not world.sensor_on
        # What closes is heard, and whoever must be believed tomorrow too.
        for message, role in ((Close(AUDIENCE, world.jti(), "c-none"), Role.OPERATOR),
                              (AgreementWithdraw(AUDIENCE, world.jti()), Role.STEWARD)):  # fmt: skip
            assert isinstance(world.deliver(world.say(message, world.person(f"p-{role}", role))), Accepted)
        assert isinstance(world.raise_trust(), Accepted)
        again(world)
    assert world.hand(frame.AskState()).withdrawn


def test_a_running_check_is_closed_and_says_why(world):
    assert world.watch()
    give_back(world)
    world.advance(15.0)
    assert not world.sensor_on
    assert world.body.place == "up"
    assert kinds(world, "closed")[-1]["why"] == "returned"
    assert obstacle(world) == "returned"


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PLANNER, Role.INSTALLER, Role.RELEASE])
def test_nobody_but_a_steward_takes_it_back(world, role):
    assert code(world.deliver(order(world, role=role))) == "wrong-role"
    assert obstacle(world) is None


def test_consent_is_closed_for_good_and_the_ledger_names_who_did_it(world):
    give_back(world)
    (record,) = kinds(world, "returned")
    assert (record["who"], record["role"], record["why"], record["version"]) == ("st-steward", "steward", "ordered", 1)
    (withdrawn,) = kinds(world, "withdrawn")
    assert withdrawn["why"] == "returned"
    assert withdrawn["digest_of"] is not None
    world.advance(1.0)
    assert (world.ledger_dir / "checkpoint").read_bytes() == world.note, "a checkpoint went out to be cosigned"


def test_the_same_order_again_has_the_same_answer_and_an_older_one_is_refused(world):
    first = give_back(world, 3)
    for _ in range(2):
        assert give_back(world, 3).nonce == first.nonce
        assert code(world.deliver(order(world, 3, nonce="m" * 21 + "A"))) == "stale-version"
        assert code(world.deliver(order(world, 2))) == "stale-version"
        again(world)
    assert len(kinds(world, "returned")) == 1
    assert give_back(world, 4).nonce != first.nonce
    assert obstacle(world) == "returned"


@pytest.mark.parametrize("lost", ["file", "record", "content"])
def test_the_file_or_the_record_alone_keeps_it_returned(world, lost):
    path = world.state_dir / "returned.json"
    if lost == "record":
        card = world.copy_card()
        give_back(world, 5)
        kept = path.read_bytes()
        world.power_cut()
        world.restore_card(card)
        path.write_bytes(kept)
        assert world.boot()
        world.join_link()
        assert [(each["why"], each["version"]) for each in kinds(world, "returned")] == [("ordered", 5)]
    else:
        give_back(world, 5)
        world.power_cut()
        path.unlink() if lost == "file" else path.write_bytes(b"{")
        assert world.boot()
        world.join_link()
    assert obstacle(world) == "returned"
    assert code(world.put(world.fresh_agreement())) == "returned"
    if lost != "record":
        # Which nonce it was nobody knows any more: only a later order has an answer.
        assert code(world.deliver(order(world, 5))) == "stale-version"
        give_back(world, 6)


def test_an_order_that_can_not_be_kept_is_no_order_and_yet_ends_the_check(world):
    assert world.watch()
    (world.state_dir / "returned.json.tmp").mkdir()
    assert code(world.deliver(order(world))) == "ledger-unwritable"
    world.advance(15.0)
    assert not world.sensor_on
    assert obstacle(world) is None
    again(world)
    assert obstacle(world) is None


def test_on_a_full_disk_it_is_recorded_from_the_reserve(world):
    world.disk.full = True
    give_back(world)
    assert kinds(world, "returned")
    world.disk.full = False
    again(world)
    assert obstacle(world) == "returned"


def test_a_ledger_that_is_not_believed_does_not_keep_the_device_from_going_back(world):
    world.power_cut()
    segment = next((world.ledger_dir / "segments").iterdir())
    kept = segment.read_bytes()
    segment.write_bytes(kept[:200] + bytes([kept[200] ^ 1]) + kept[201:])
    assert world.boot()
    world.join_link()
    assert obstacle(world) == "integrity-alarm"
    give_back(world)
    again(world)
    assert obstacle(world) == "returned"
    world.power_cut()
    segment.write_bytes(kept)


def test_what_is_due_is_nothing_and_nothing_is_missed_by_it(world):
    give_back(world)
    world.sleep_long(26 * 3600.0)
    world.ask_again()
    world.advance(60.0)
    assert world.guard.gate.due(now_s=world.now_s) == []
    assert world.missed == []


def test_retention_says_it_again(world):
    give_back(world, 7)
    standing = world.guard.chronicle.standing
    (restated,) = [fields for kind, fields in standing.restatements(10**6, 0.0) if kind == "returned"]
    assert (restated["version"], restated["who"]) == (7, "st-steward")
