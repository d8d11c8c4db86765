"""The button before there is a guard: held while power comes it is set-up's physical act, and no other press is one.

Mutations, each tried and red: the task out of `Fresh.run`; `is_held_since_start` out of `FreshButton.look`; `now_s <
START_S` out of `feel`; `is_held_since_start=False` out of `feel`; Meaning.STUCK among those that count.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.check.button import START_S, STUCK_S
from gateway.core.error import ConfigError
from gateway.edge.bench_world import BUTTON_PIN, BenchWorld
from gateway.services.fresh import Fresh, FreshConfig
from gateway.services.fresh_button import LOOK_S, FreshButton, fitted_button


class Hand:
    """Somebody at the button, with time moved by hand."""

    def __init__(self, folder: Path, *, at_s: float = 12.0) -> None:
        self.act = folder / "act"
        self.pressed = False
        self.at_s = at_s
        self.button = FreshButton(lambda: self.pressed, self.act, lambda: self.at_s)

    def hold(self, for_s: float, *, pressed: bool = True) -> None:
        self.pressed = pressed
        for _ in range(max(2, round(for_s / LOOK_S))):
            self.button.look()
            self.at_s += LOOK_S

    def let_go(self, for_s: float = 0.2) -> None:
        self.hold(for_s, pressed=False)


@pytest.mark.parametrize("held_s", [0.5, 10.0])
def test_held_since_power_came_and_let_go_is_the_act(tmp_path, held_s):
    hand = Hand(tmp_path)
    hand.hold(held_s)
    assert not hand.act.exists(), "not before it is let go"
    hand.let_go()
    assert hand.act.exists()
    hand.act.unlink()
    for wait_s in (2 * LOOK_S, 1.0):
        hand.hold(10.0)
        hand.let_go(wait_s)
    assert not hand.act.exists(), "another press in the same boot"


def test_pressed_later_is_none(tmp_path):
    hand = Hand(tmp_path)
    hand.let_go()
    hand.hold(10.0)
    hand.let_go()
    assert not hand.act.exists()


def test_a_process_that_was_started_anew_takes_no_press_for_it(tmp_path):
    hand = Hand(tmp_path, at_s=START_S)
    hand.hold(10.0)
    hand.let_go()
    assert not hand.act.exists()


def test_a_stuck_button_is_none(tmp_path):
    hand = Hand(tmp_path)
    hand.hold(STUCK_S + 1.0)
    hand.let_go()
    assert not hand.act.exists()


def test_let_go_and_pressed_at_once_is_not_held_since_power_came(tmp_path):
    hand = Hand(tmp_path)
    hand.pressed = True
    hand.button.look()
    hand.pressed = False
    hand.button.look()
    hand.hold(10.0)
    hand.let_go()
    assert not hand.act.exists()


def template(folder: Path, **changes: Any) -> dict[str, Any]:
    mount = {"driver": "bench", "pan_pin": 12, "lamp_pin": 18, "button_pin": BUTTON_PIN}
    return {"mount": mount, "world": str(folder / "world"), "act_path": str(folder / "act"), **changes}


def test_the_running_service_feels_the_devices_own_pin(tmp_path):
    (tmp_path / "template.toml").write_bytes(msgspec.toml.encode(template(tmp_path)))
    names = (str(tmp_path / each) for each in ("setup.sock", "identity", "template.toml"))
    service = Fresh(FreshConfig("gw-abc234defgh5", *names, demand_isolation=False), now_s=lambda: 12.0)
    world = BenchWorld(str(tmp_path / "world"))
    world.press()

    async def work() -> None:
        running = asyncio.create_task(service.run())
        try:
            async with asyncio.timeout(20.0):
                while not (tmp_path / "setup.sock").exists():
                    await asyncio.sleep(LOOK_S)
                await asyncio.sleep(10 * LOOK_S)
                assert not (tmp_path / "act").exists()
                world.let_go()
                while not (tmp_path / "act").exists():
                    await asyncio.sleep(LOOK_S)
        finally:
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(work())


@pytest.mark.parametrize("changes", [{"act_path": None}, {"mount": {"driver": "bench", "pan_pin": 12, "lamp_pin": 18}}])
def test_a_device_without_a_button_is_left_alone(tmp_path, changes):
    assert fitted_button(template(tmp_path, **changes)) is None


def test_a_template_that_is_none_is_the_images_fault(tmp_path):
    with pytest.raises(ConfigError):
        fitted_button(template(tmp_path, mount={"driver": "bench"}))
