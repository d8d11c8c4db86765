"""The table of hardware faults, with real processes: each ends OFF, with its code. docs/hardware.md has the same table.

OFF: sensor off, mount up where anything can still turn it, lamp dark, and the record says why. One home for all of
them, whole again before each. Mutations that turn these red: no `_demand_up` and no question in `aim` (stuck);
UNIT_TIMEOUT_S = 60 (hangs); the interlock's task not started (button, taken down, under-voltage, the end stop). A
button that is held until it counts as stuck: tests/unit/test_guard_interlock.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from running_bench import SAFE_WITHIN_S, Bench, StandingBench, quick_mount, standing_bench, watching

from centre.operator import OPEN_STATUSES, Operator, OperatorError
from gateway.core.error import TransientError
from gateway.edge.bench_world import BUTTON_PIN, END_STOP_PIN, LAMP_PIN, SENSOR_POWER_PIN, HandsOn, RoomScene
from gateway.ipc import frame
from gateway.ledger import Record
from gateway.services import hand

pytestmark = pytest.mark.faults

STATE_LIMIT_S = 50.0
"""A guard that was killed is parked for and started anew within it, on a busy machine too."""


@dataclass(slots=True)
class Home(Bench):
    """The home that all share; what earlier tests left in its ledger is not counted."""

    standing: StandingBench
    records_before: int = 0
    opens_before: int = 0

    def records(self) -> list[Record]:
        return Bench.records(self)[self.records_before :]

    def sensor_opens(self) -> int:
        return self.world.sensor_opens() - self.opens_before

    async def state(self) -> frame.LocalFacts:
        return await hand.tell(self.home.control_socket, frame.AskState())

    async def until_state(self, condition: Callable[[frame.LocalFacts], bool]) -> None:
        facts = None
        try:
            async with asyncio.timeout(STATE_LIMIT_S):
                while True:
                    # A guard that starts anew does not answer.
                    with contextlib.suppress(TransientError):
                        if condition(facts := await self.state()):
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not within {STATE_LIMIT_S:g} s: {facts}") from None

    async def until_obstacle(self, obstacle: str | None) -> None:
        await self.until_state(lambda facts: facts.obstacle == obstacle)

    async def mend(self) -> None:
        """Whole and idle, with a line that nobody has looked by yet."""
        self.world.lay_hands(HandsOn())
        self.world.say_firmware()
        self.world.set_scene(RoomScene())
        with contextlib.suppress(TransientError):
            if (await self.state()).obstacle not in (None, "withdrawn"):
                # What goes only with time, as under-voltage: a guard that starts anew looks anew.
                os.kill(self.pid("guard"), signal.SIGKILL)
        await self.until_state(
            lambda facts: facts.obstacle in (None, "withdrawn") and facts.parked and not facts.checking
        )
        await self.standing.agree()
        await self.until_obstacle(None)
        assert self.safe()
        self.records_before, self.opens_before = len(Bench.records(self)), self.world.sensor_opens()


@pytest.fixture(scope="module")
def one_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with standing_bench(tmp_path_factory.mktemp("neck"), before=quick_mount) as standing:
        yield Home(standing.bench.running, standing.bench.world, standing)


@pytest.fixture
def home(one_home: Home) -> Home:
    one_home.standing.run(one_home.mend())
    return one_home


async def try_open(home: Home) -> str | None:
    """Ask for the picture; the refusal's code, or None when it was opened."""
    async with Operator(home.running.url, home.home.login_token) as operator:
        known = await operator.wait_for_home(home.home.gateway, 20.0)
        challenged = await operator.challenge(known)
        due = next(item for item in challenged.due if item.status in OPEN_STATUSES)
        try:
            await operator.open(known, challenged, due)
        except OperatorError as refused:
            return refused.code
        await home.until(lambda: bool(home.closed()), SAFE_WITHIN_S)
        return None


async def until_off(home: Home, why: str) -> None:
    """OFF with this reason; the mount is judged by the caller where it can't turn."""
    await home.until(lambda: not home.world.sensor_on() and bool(home.closed()), SAFE_WITHIN_S)
    assert home.closed()[0].why == why
    await home.until(lambda: not home.lamp_lit(), 5.0)
    await home.until(lambda: home.world.pin(SENSOR_POWER_PIN).state == 0, 5.0)


def kinds(home: Home, kind: str) -> list[str | None]:
    return [record.why for record in home.records() if record.kind == kind]


def test_a_servo_that_sticks_shows_no_picture(home: Home):
    """It is up and stays there: the end stop never opens, so nobody knows where the camera looks."""

    async def work() -> None:
        home.world.lay_hands(HandsOn(servo_sticks=True))
        await try_open(home)
        await until_off(home, "mount-fault")
        assert home.closed()[0].frames in (0, None)
        assert home.mount_up()

    home.standing.run(work())


def test_a_servo_that_sticks_at_the_bed_is_not_parked_and_nothing_opens_again(home: Home):
    async def work() -> None:
        async with watching(home) as (operator, _, _):
            home.world.lay_hands(HandsOn(servo_sticks=True))
            await operator.hang_up()
            await home.until(lambda: not home.world.sensor_on() and bool(home.closed()), SAFE_WITHIN_S)
        assert home.mount_aimed(), "it is stuck there, and that is what must be told"
        await home.until_obstacle("not-parked")
        assert await try_open(home) == "not-parked"
        assert home.sensor_opens() == 1

    home.standing.run(work())


def test_an_end_stop_that_says_no_is_told_and_refuses(home: Home):
    async def work() -> None:
        home.world.lay_hands(HandsOn(high=(END_STOP_PIN,)))
        await home.until_obstacle("not-parked")
        assert await try_open(home) == "not-parked"
        assert home.sensor_opens() == 0
        home.world.lay_hands(HandsOn())
        await home.until_obstacle(None)
        async with watching(home):
            pass

    home.standing.run(work())


@pytest.mark.parametrize("scene", [RoomScene(vanished=True), RoomScene(hangs=True)], ids=["vanishes", "hangs"])
def test_a_camera_that_vanishes_or_hangs_in_a_call_ends_off(home: Home, scene: RoomScene):
    async def work() -> None:
        async with watching(home):
            home.world.set_scene(scene)
            began_s = time.monotonic()
            await home.until(home.safe, SAFE_WITHIN_S)
            print(f"safe after {time.monotonic() - began_s:.1f} s")
            await until_off(home, "camera-fault")

    home.standing.run(work())


def test_without_its_lamp_the_sensor_is_never_switched_on(home: Home):
    async def work() -> None:
        home.world.lay_hands(HandsOn(broken=(LAMP_PIN,)))
        await try_open(home)
        await home.until(lambda: bool(home.closed()), SAFE_WITHIN_S)
        assert home.closed()[0].why == "camera-fault"
        assert home.sensor_opens() == 0
        assert home.mount_up()

    home.standing.run(work())


def test_the_button_ends_the_check_within_a_second_and_nothing_opens_while_it_is_held(home: Home):
    async def work() -> None:
        async with watching(home):
            home.world.press(BUTTON_PIN)
            off_s = await home.until(lambda: not home.world.sensor_on(), SAFE_WITHIN_S)
            print(f"sensor off {off_s:.2f} s after the press")
            assert off_s < 1.0
            await home.until(home.safe, SAFE_WITHIN_S)
            await until_off(home, "resident-stopped")
            assert (await home.state()).obstacle == "paused"
            home.world.let_go(BUTTON_PIN)
            await home.until(lambda: "local" in kinds(home, "withdrawn") + kinds(home, "paused"), 5.0)
            assert (await home.state()).obstacle is None

    try:
        home.standing.run(work())
    finally:
        home.standing.run(resume(home))


async def resume(home: Home) -> None:
    await hand.tell(home.home.control_socket, frame.EndPause())


def test_a_camera_that_is_taken_down_is_told_and_stays_off_until_a_new_agreement(home: Home):
    async def work() -> None:
        async with watching(home):
            home.world.take_down()
            await home.until(home.safe, SAFE_WITHIN_S)
            await until_off(home, "resident-stopped")
        assert kinds(home, "tamper") == ["moved"]
        await home.until_obstacle("withdrawn")
        home.world.lay_hands(HandsOn())
        await asyncio.sleep(1.0)
        assert (await home.state()).obstacle == "withdrawn", "hung back, it stays off"
        await home.standing.agree()
        await home.until_obstacle(None)

    home.standing.run(work())


def test_under_voltage_ends_the_check_and_refuses_the_next(home: Home):
    async def work() -> None:
        async with watching(home):
            home.world.say_firmware(under_voltage=True)
            await home.until(home.safe, SAFE_WITHIN_S)
            await until_off(home, "low-power")
        assert kinds(home, "power") == ["low-power"]
        await home.until_obstacle("low-power")
        assert await try_open(home) == "low-power"

    home.standing.run(work())
