"""The table of hardware faults, with real processes: each ends OFF, with its code. docs/hardware.md has the same table.

OFF: sensor off, mount up where anything can still turn it, lamp dark, and the record says why. Mutations that turn
these red: no `_demand_up` and no question in `aim` (stuck); UNIT_TIMEOUT_S = 60 (hangs); the interlock's task not
started (button, taken down, under-voltage, the end stop). A button that is held until it counts as stuck:
tests/unit/test_guard_interlock.py.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from running_bench import SAFE_WITHIN_S, Bench, bench, run, watching

from centre.operator import OPEN_STATUSES, Operator, OperatorError
from gateway.edge.bench_world import BUTTON_PIN, END_STOP_PIN, LAMP_PIN, SENSOR_POWER_PIN, HandsOn, RoomScene
from gateway.ipc import frame
from gateway.services import hand

pytestmark = pytest.mark.faults


async def state(home: Bench) -> frame.LocalFacts:
    return await hand.tell(home.home.control_socket, frame.AskState())


async def until_obstacle(home: Bench, obstacle: str | None) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if (await state(home)).obstacle == obstacle:
                    return
            except Exception as exc:  # noqa: BLE001  a guard that restarts does not answer
                print("no answer yet:", exc)
            await asyncio.sleep(0.2)


async def try_open(home: Bench) -> str | None:
    """Ask for the picture; the refusal's code, or None when it was opened."""
    async with Operator(home.running.url, home.home.login_token) as operator:
        known = await operator.wait_for_home(home.home.gateway, 20.0)
        challenged = await operator.challenge(known)
        due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
        try:
            await operator.open(known, challenged, due)
        except OperatorError as refused:
            return refused.code
        await asyncio.sleep(3.0)
        return None


async def until_off(home: Bench, why: str) -> None:
    """OFF with this reason; the mount is judged by the caller where it can't turn."""
    await home.until(lambda: not home.world.sensor_on() and bool(home.closed()), SAFE_WITHIN_S)
    assert home.closed()[0].why == why
    await home.until(lambda: not home.lamp_lit(), 5.0)
    await home.until(lambda: home.world.pin(SENSOR_POWER_PIN).state == 0, 5.0)


def kinds(home: Bench, kind: str) -> list[str | None]:
    return [record.why for record in home.records() if record.kind == kind]


def test_a_servo_that_sticks_shows_no_picture(tmp_path: Path):
    """It is up and stays there: the end stop never opens, so nobody knows where the camera looks."""

    async def work() -> None:
        async with bench(tmp_path) as home:
            home.world.lay_hands(HandsOn(servo_sticks=True))
            await try_open(home)
            await until_off(home, "mount-fault")
            assert home.closed()[0].frames in (0, None)
            assert home.mount_up()

    run(work())


def test_a_servo_that_sticks_at_the_bed_is_not_parked_and_nothing_opens_again(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            async with watching(home) as (operator, _, _):
                home.world.lay_hands(HandsOn(servo_sticks=True))
                await operator.hang_up()
                await home.until(lambda: not home.world.sensor_on() and bool(home.closed()), SAFE_WITHIN_S)
            assert home.mount_aimed(), "it is stuck there, and that is what must be told"
            await until_obstacle(home, "not-parked")
            assert await try_open(home) == "not-parked"
            assert home.world.sensor_opens() == 1

    run(work())


def test_an_end_stop_that_says_no_is_told_and_refuses(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            home.world.lay_hands(HandsOn(high=(END_STOP_PIN,)))
            await until_obstacle(home, "not-parked")
            assert await try_open(home) == "not-parked"
            assert home.world.sensor_opens() == 0
            home.world.lay_hands(HandsOn())
            await until_obstacle(home, None)
            async with watching(home):
                pass

    run(work())


@pytest.mark.parametrize("scene", [RoomScene(vanished=True), RoomScene(hangs=True)], ids=["vanishes", "hangs"])
def test_a_camera_that_vanishes_or_hangs_in_a_call_ends_off(tmp_path: Path, scene: RoomScene):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home):
            home.world.set_scene(scene)
            began_s = time.monotonic()
            await home.until(home.safe, SAFE_WITHIN_S)
            print(f"safe after {time.monotonic() - began_s:.1f} s")
            await until_off(home, "camera-fault")

    run(work())


def test_without_its_lamp_the_sensor_is_never_switched_on(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            home.world.lay_hands(HandsOn(broken=(LAMP_PIN,)))
            await try_open(home)
            await home.until(lambda: bool(home.closed()), SAFE_WITHIN_S)
            assert home.closed()[0].why == "camera-fault"
            assert home.world.sensor_opens() == 0
            assert home.mount_up()

    run(work())


def test_the_button_ends_the_check_within_a_second_and_nothing_opens_while_it_is_held(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home):
            home.world.press(BUTTON_PIN)
            off_s = await home.until(lambda: not home.world.sensor_on(), SAFE_WITHIN_S)
            print(f"sensor off {off_s:.2f} s after the press")
            assert off_s < 1.0
            await home.until(home.safe, SAFE_WITHIN_S)
            await until_off(home, "resident-stopped")
            assert (await state(home)).obstacle == "paused"
            home.world.let_go(BUTTON_PIN)
            await home.until(lambda: "local" in kinds(home, "withdrawn") + kinds(home, "paused"), 5.0)
            assert (await state(home)).obstacle is None

    run(work())


def test_a_camera_that_is_taken_down_is_told_and_stays_off_until_a_new_agreement(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            async with watching(home):
                home.world.take_down()
                await home.until(home.safe, SAFE_WITHIN_S)
                await until_off(home, "resident-stopped")
            assert kinds(home, "tamper") == ["moved"]
            await until_obstacle(home, "withdrawn")

    run(work())


def test_under_voltage_ends_the_check_and_refuses_the_next(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            async with watching(home):
                home.world.say_firmware(under_voltage=True)
                await home.until(home.safe, SAFE_WITHIN_S)
                await until_off(home, "low-power")
            assert kinds(home, "power") == ["low-power"]
            await until_obstacle(home, "low-power")

    run(work())
