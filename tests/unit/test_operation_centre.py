"""Health and operational logs at the centre: the home's own word only, bounded, and shown to whoever works there.

Mutations that turn it red, each tried: in intake.py `_demand_own` out of `_take_health` or `_take_log`; `Branch.LOG`
passed over; in store/operation.py the bound on kinds out, the count not added.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_centre_app import World, a_world

from centre.store.operation import MAX_KINDS_AN_HOUR
from gateway.protocol.key import SigningKey
from gateway.protocol.message import ClockFact, Health, LogLine, LogLines

CLOCK = ClockFact("attested", 1.0, 2.0)


def health(gateway: str = "gw-a", **fields: object) -> Health:
    return Health(gateway, "b", 60.0, "0.1.0", CLOCK, 9, **fields)  # type: ignore[arg-type]


def log(*lines: LogLine, gateway: str = "gw-a") -> LogLines:
    return LogLines(gateway, "b", list(lines))


def play(folder: Path, act) -> None:
    async def run() -> None:
        async with a_world(folder) as world:
            await world.log_in()
            await act(world)

    asyncio.run(run())


async def shown(world: World) -> dict:
    response = await world.client.get("/api/v1/homes/gw-a/operation")
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.slow
def test_what_the_device_says_of_itself_is_shown(tmp_path):
    async def act(world: World) -> None:
        assert await shown(world) == {"health": None, "logged": []}
        world.home.say("health", health(temperature_c=48.0, throttled=["under-voltage"], outbox_items=3))
        world.home.say("health", health(temperature_c=49.0, certificate_days=12))
        for _ in range(2):
            world.home.say("log", log(LogLine("link", "warning", "broker-down", 4)))
        await world.settle()
        found = await shown(world)
        assert (found["health"]["temperature_c"], found["health"]["certificate_days"]) == (49.0, 12)
        assert found["health"]["heard_unix_s"] == world.state.clock()
        assert [(row["service"], row["event"], row["count"]) for row in found["logged"]] == [("link", "broker-down", 8)]

    play(tmp_path, act)


@pytest.mark.slow
@pytest.mark.parametrize("forged", ["key", "name"])
def test_only_the_home_itself_is_believed(tmp_path, forged):
    async def act(world: World) -> None:
        key = SigningKey.generate() if forged == "key" else None
        name = "gw-b" if forged == "name" else "gw-a"
        world.home.say("health", health(name), key=key)
        world.home.say("log", log(LogLine("eye", "error", "x", 1), gateway=name), key=key)
        await world.settle()
        assert await shown(world) == {"health": None, "logged": []}
        assert world.state.store.device_log("gw-b") == []
        assert world.state.store.health("gw-b") is None
        assert sum(world.state.store.alarm_counts().values()) == 2

    play(tmp_path, act)


@pytest.mark.slow
def test_a_home_that_logs_without_end_fills_no_disk(tmp_path):
    async def act(world: World) -> None:
        for number in range(MAX_KINDS_AN_HOUR // 32 + 3):
            world.home.say("log", log(*(LogLine("eye", "error", f"kind-{number}-{each}", 1) for each in range(32))))
        await world.settle()
        assert len((await shown(world))["logged"]) == MAX_KINDS_AN_HOUR

    play(tmp_path, act)
