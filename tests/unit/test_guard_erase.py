"""Erased is only what is held in the hand, by a second person, with everything told before: on the whole real guard.

Mutations, each tried and red: DeviceErase in ROLE_FOR for operators too; `verified.who == known.who` out of the gate,
and its version; `has_acted` out of `ReturnSide.code`; `forget_act` left out; the comparison of the codes left out;
`_is_cosigned` out of `erase`, and out of `work`; `_keep` out of `erase`; the version out of `return_code`; the refusal
of a further order out of `take`; `_said` true from the start; the statement published behind the checkpoint;
`_outbox_empty_since_said` not taken back; the ledger out of `_is_witnessed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from guard_harness import AUDIENCE, GATEWAY, INSTALL_EPOCH, World, home, key
from test_guard_interlock import kinds
from test_guard_return import NONCE, again, code, give_back, obstacle, order
from test_guard_set_up_again import act, ask, standing

from gateway.ipc import frame, setup
from gateway.protocol.message import Accepted, DeviceErase, Role
from gateway.protocol.return_code import return_code


@pytest.fixture
def world() -> Iterator[World]:
    """A returned home, which the witness has heard of."""
    with home() as made:
        made.config = msgspec.structs.replace(made.config, setup_socket=str(made.state_dir.parent / "setup.sock"))
        assert made.restart()
        made.join_link()
        made.advance(5.0)
        yield made


def shown(world: World) -> str | None:
    return standing(world).return_code


def erase(world: World, digits: str, *, version: int = 1, name: str = "in-1", role: Role = Role.INSTALLER) -> bytes:
    return world.say(DeviceErase(AUDIENCE, world.jti(), version, digits), world.person(name, role))


def is_marked(world: World) -> bool:
    return (world.state_dir / "erase-now").exists()


def held(world: World) -> str:
    """Returned, cosigned, and in somebody's hand; the code that it shows."""
    give_back(world)
    world.cosign()
    act(world)
    digits = shown(world)
    assert digits is not None
    return digits


def test_the_code_that_the_device_shows_is_the_one_that_the_centre_computes(world):
    returning = give_back(world, 4)
    assert shown(world) is None, "nobody holds it"
    act(world)
    ours = {
        "audience": AUDIENCE,
        "version": 4,
        "steward_kid": key("st-steward").verifying.kid,
        "nonce": NONCE,
        "device_kid": key("device").verifying.kid,
        "device_nonce": returning.nonce,
    }
    assert shown(world) == return_code(**ours)
    other = {"version": 5, "audience": "gw-other/3", "nonce": "m" * 21 + "A"}
    assert len({return_code(**(ours | {name: value})) for name, value in other.items()} | {shown(world)}) == 4
    world.advance(901.0)
    assert shown(world) is None


def test_with_act_code_and_second_person_it_is_erased_after_the_witness_has_all_of_it(world):
    digits = held(world)
    assert isinstance(world.deliver(erase(world, digits)), Accepted)
    (said,) = world.last_words
    assert (said.gateway, said.install_epoch, said.version) == (GATEWAY, INSTALL_EPOCH, 1)
    assert (said.who, said.second) == ("st-steward", "in-1")
    assert said.cosigned_size is not None
    assert said.cosigned_size >= 1
    assert [(body["why"], body["who"]) for body in kinds(world, "returned")][-1] == ("erasing", "in-1")
    world.advance(60.0)
    assert not is_marked(world), "the witness has not said that it knows the second person's word"
    world.cosign()
    world.advance(1.0)
    assert is_marked(world)


@pytest.mark.parametrize("flaw", ["no act", "other code", "same person", "other version", "operator", "not cosigned"])
def test_with_one_of_them_missing_nothing_is_erased(world, flaw):
    give_back(world)
    if flaw != "not cosigned":
        world.cosign()
    if flaw != "no act":
        act(world)
    digits = shown(world) or "000000"
    changes: dict[str, Any] = {
        "same person": {"name": "st-steward", "role": Role.STEWARD},
        "other version": {"version": 2},
        "operator": {"role": Role.OPERATOR},
    }.get(flaw, {})
    if flaw == "other code":
        digits = f"{(int(digits) + 1) % 1_000_000:06d}"
    refused = {
        "no act": "not-agreed",
        "other code": "nonce-unknown",
        "same person": "wrong-role",
        "other version": "stale-version",
        "operator": "wrong-role",
        "not cosigned": "busy",
    }
    assert code(world.deliver(erase(world, digits, **changes))) == refused[flaw]
    world.cosign()
    world.advance(60.0)
    assert not is_marked(world)
    assert world.last_words == []
    assert obstacle(world) == "returned"


def test_the_last_word_goes_out_before_the_checkpoint_that_tells_that_it_arrived(world):
    digits = held(world)
    heard: list[str] = []
    published = world.published

    def tap(branch: str, payload: bytes, correlation: bytes) -> None:
        if payload.startswith(b"tillsyn/"):
            heard.append("checkpoint")
        elif branch == "reply":
            heard.append("word")
        published(branch, payload, correlation)

    world.published = tap
    assert isinstance(world.deliver(erase(world, digits)), Accepted)
    assert heard.index("word") < heard.index("checkpoint")


def test_a_wrong_code_costs_the_act(world):
    digits = held(world)
    wrong = f"{(int(digits) + 1) % 1_000_000:06d}"
    assert code(world.deliver(erase(world, wrong))) == "nonce-unknown"
    assert code(world.deliver(erase(world, digits))) == "not-agreed"
    act(world)
    assert isinstance(world.deliver(erase(world, digits)), Accepted)


def test_a_device_that_nobody_ordered_back_is_not_erased(world):
    act(world)
    assert code(world.deliver(erase(world, "000000"))) == "not-agreed"


def test_a_cut_after_the_second_persons_word_goes_on_at_the_next_start(world):
    digits = held(world)
    assert isinstance(world.deliver(erase(world, digits)), Accepted)
    world.last_words.clear()
    again(world)
    assert obstacle(world) == "returned"
    assert [(one.who, one.second) for one in world.last_words] == [("st-steward", "in-1")], "said again"
    world.cosign()
    world.advance(1.0)
    assert is_marked(world)


def test_once_confirmed_no_further_order_takes_it_back(world):
    digits = held(world)
    assert isinstance(world.deliver(erase(world, digits)), Accepted)
    assert code(world.deliver(order(world, 9))) == "busy"
    again(world)
    assert code(world.deliver(order(world, 9))) == "busy"
    assert isinstance(world.deliver(erase(world, digits)), Accepted), "asked again, answered again"


def test_without_a_line_to_the_second_person_the_wizard_carries_the_word(world):
    digits = held(world)
    assert isinstance(ask(world, setup.Allow(erase(world, digits))), setup.Done)
    assert len(world.last_words) == 1


def test_where_nobody_cosigns_an_empty_outbox_says_that_the_centre_has_it(world):
    world.config = msgspec.structs.replace(world.config, witness=None)
    assert world.restart()
    world.join_link()
    world.advance(5.0)
    give_back(world)
    act(world)
    digits = shown(world)
    assert digits is not None
    world.link.send(frame.LinkHealth(0, 0, 90))
    world.advance(1.0)
    assert isinstance(world.deliver(erase(world, digits)), Accepted)
    world.link.send(frame.LinkHealth(3, 0, 90))
    world.advance(5.0)
    assert not is_marked(world)
    world.link.send(frame.LinkHealth(0, 0, 90))
    world.advance(1.0)
    assert is_marked(world)


def test_beside_a_ledger_that_is_not_believed_it_is_the_outbox_that_says_so(world):
    world.power_cut()
    segment = next((world.ledger_dir / "segments").iterdir())
    kept = segment.read_bytes()
    segment.write_bytes(kept[:200] + bytes([kept[200] ^ 1]) + kept[201:])
    assert world.boot()
    world.join_link()
    give_back(world)
    act(world)
    digits = shown(world)
    assert digits is not None
    assert isinstance(world.deliver(erase(world, digits)), Accepted)
    world.advance(5.0)
    assert not is_marked(world)
    world.link.send(frame.LinkHealth(0, 0, 90))
    world.advance(1.0)
    assert is_marked(world)
    world.power_cut()
    segment.write_bytes(kept)
