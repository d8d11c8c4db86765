"""A new address of the broker on the whole real guard: who may order it, what it leaves, what became of it.

Mutations that turn these red, each tried: ConfigPut in ROLE_FOR for operators too; `<` → `<=` at the version in force;
the running check not asked; `hear` without its order given again; `settled` not set; `CentreAnswered` told before the
statement is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from guard_harness import AUDIENCE, World, home

from gateway.ipc import frame
from gateway.ledger import read_records
from gateway.protocol.message import Accepted, ConfigPut, LinkSettings, Refused, Role


def settings(version: int, host: str = "10.90.0.3") -> LinkSettings:
    return LinkSettings(version, host, 8883, "broker.example")


@pytest.fixture
def world() -> Iterator[World]:
    with home() as made:
        yield made


def said(world: World) -> list[tuple[str | None, int | None, str | None]]:
    """(why, version, who) of what the ledger has of set-up."""
    bodies = [stored.body for stored in read_records(world.ledger_dir)]
    return [(body.why, body.version, body.who) for body in bodies if body is not None and body.kind == "setup"]


def put(world: World, version: int, role: Role = Role.STEWARD, **changes: Any) -> Any:
    person = world.person("st-1", role)
    return world.deliver(world.say(ConfigPut(AUDIENCE, world.jti(), settings(version, **changes)), person), wait_s=0.3)


def link_says(world: World, version: int, *, on_trial: bool, high_water: int) -> None:
    assert world.link is not None
    world.link.send(frame.LinkSettingsAre(version, on_trial, high_water))
    world.advance(0.3)


def ordered(world: World) -> list[LinkSettings]:
    assert world.link is not None
    return world.link.ordered


def test_a_stewards_order_is_recorded_answered_and_handed_to_the_link(world: World) -> None:
    answer = put(world, 2)
    assert isinstance(answer, Accepted)
    assert answer.version == 2
    assert ordered(world) == [settings(2)]
    assert said(world) == [("config", 2, "st-1")]


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PLANNER, Role.INSTALLER, Role.RELEASE])
def test_nobody_else_may_send_a_home_to_another_broker(world: World, role: Role) -> None:
    answer = put(world, 2, role)
    assert isinstance(answer, Refused)
    assert answer.code == "wrong-role"
    assert ordered(world) == []


def test_an_older_order_and_another_of_the_same_version_are_refused_also_after_a_power_cut(world: World) -> None:
    assert isinstance(put(world, 3), Accepted)
    for _ in range(2):
        for stale in (put(world, 2), put(world, 3, host="10.90.0.9")):
            assert isinstance(stale, Refused)
            assert stale.code == "stale-version"
        world.power_cut()
        assert world.boot()
        world.join_link()
        world.advance(5.0)
    assert isinstance(put(world, 3), Accepted), "the same order again is no new one"
    assert said(world) == [("config", 3, "st-1")]


def test_in_the_middle_of_a_check_the_broker_stays_as_it_is(world: World) -> None:
    challenged = world.challenge()
    world.open(world.open_command(challenged, world.due_now(challenged)))
    answer = put(world, 2)
    assert isinstance(answer, Refused)
    assert answer.code == "busy"
    assert ordered(world) == []


def test_a_link_that_lacks_the_order_gets_it_again(world: World) -> None:
    put(world, 2)
    world.power_cut()
    assert world.boot()
    world.join_link()
    link_says(world, 1, on_trial=False, high_water=1)
    assert ordered(world) == [settings(2)]
    link_says(world, 2, on_trial=True, high_water=2)
    assert ordered(world) == [settings(2)], "one that has it gets nothing"


@pytest.mark.parametrize(("version", "word"), [(2, "config-kept"), (1, "config-left")])
def test_what_became_of_it_is_recorded_once_and_after_a_power_cut_not_again(
    world: World, version: int, word: str
) -> None:
    link_says(world, 1, on_trial=False, high_water=1)
    put(world, 2)
    link_says(world, 2, on_trial=True, high_water=2)
    assert said(world) == [("config", 2, "st-1")], "not while it is on trial"
    for _ in range(2):
        link_says(world, version, on_trial=False, high_water=2)
    world.power_cut()
    assert world.boot()
    world.join_link()
    link_says(world, version, on_trial=False, high_water=2)
    assert said(world) == [("config", 2, "st-1"), (word, 2, None)]


def test_only_a_verified_statement_of_the_centre_counts_as_its_answer(world: World) -> None:
    assert world.link is not None
    before = world.link.centre_answers
    world.link.send(frame.TimeArrived(b"anybody"))
    world.advance(0.3)
    assert world.link.centre_answers == before
    world.link.set_broker(up=True)  # the guard asks for the time then, and the harness' centre answers
    world.advance(5.0)
    assert world.link.centre_answers == before + 1
