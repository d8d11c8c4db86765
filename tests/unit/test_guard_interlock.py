"""Button, tamper switch, end stop and power on the whole real guard with time moved by hand.

Mutations, each tried and red: leave the dispatch out of PRESSED, of `_look_at_place`, of `_look_at_power`; leave
`gate.moved = True` out; don't read `moved` back in `remember`; don't clear `moved` in `take_agreement`; leave the
hindrance out of Commands._open; NOT_TONIGHT without `hands.obey`.
"""

import pytest
from guard_harness import home

from gateway.edge.power_sysfs import Power
from gateway.ipc import frame
from gateway.protocol.message import Accepted, Refused

ASK = frame.AskState()


class FakeInputs:
    """Contacts that a test closes and opens."""

    pressed = False
    in_place = True

    def is_pressed(self):
        return self.pressed

    def is_in_place(self):
        return self.in_place


class FakePower:
    now = Power(False, False)

    def __call__(self):
        return self.now


@pytest.fixture
def world():
    with home() as made:
        made.kill()
        made.inputs, made.read_power = FakeInputs(), FakePower()
        made.start()
        made.mend()
        yield made


def press(world, held_s):
    world.inputs.pressed = True
    world.advance(held_s)
    world.inputs.pressed = False
    world.advance(0.3)


def kinds(world, kind):
    return [body for body in world.judge.records if body["kind"] == kind]


def refused(world):
    """The code with which an opening is refused now."""
    challenged = world.challenge()
    due = world.due_now(challenged)
    _, reply = world.open(world.open_command(challenged, due))
    return reply.code if isinstance(reply, Refused) else reply


def test_a_press_ends_the_check_at_once_and_a_short_one_means_not_tonight(world):
    assert world.watch()
    world.inputs.pressed = True
    world.advance(0.2)
    assert world.guard.state.__class__.__name__ == "Closing"
    world.advance(0.3)
    world.inputs.pressed = False
    world.advance(3.0)
    assert not world.sensor_on
    assert kinds(world, "closed")[-1]["why"] == "resident-stopped"
    assert [body["why"] for body in kinds(world, "paused")] == ["local"]
    assert not kinds(world, "withdrawn")
    assert world.hand(ASK).paused


def test_a_long_press_withdraws_and_that_outlives_a_restart(world):
    press(world, 5.0)
    assert kinds(world, "withdrawn")[-1]["why"] == "local"
    world.kill()
    world.start()
    assert world.hand(ASK).withdrawn


def test_a_button_that_is_held_hinders_and_a_stuck_one_is_told_and_means_not_tonight(world):
    world.inputs.pressed = True
    world.advance(1.0)
    assert refused(world) == "paused"
    assert world.hand(ASK).obstacle == "paused"
    assert not kinds(world, "paused")
    world.advance(25.0)
    assert [body["why"] for body in kinds(world, "tamper")] == ["button-stuck"]
    assert [body["why"] for body in kinds(world, "paused")] == ["local"]
    world.advance(60.0)
    assert len(kinds(world, "tamper")) == 1
    world.inputs.pressed = False
    world.advance(1.0)
    assert not kinds(world, "withdrawn")
    assert world.hand(ASK).paused


def test_a_camera_that_is_taken_down_ends_the_check_and_refuses_until_a_new_agreement(world):
    assert world.watch()
    world.inputs.in_place = False
    world.advance(1.5)
    assert world.guard.state.__class__.__name__ == "Closing"
    world.advance(3.0)
    assert kinds(world, "closed")[-1]["why"] == "resident-stopped"
    assert [body["why"] for body in kinds(world, "tamper")] == ["moved"]
    assert world.hand(ASK).obstacle == "withdrawn"
    world.inputs.in_place = True
    world.kill()
    world.start()
    world.mend()
    assert world.hand(ASK).obstacle == "withdrawn"
    assert isinstance(world.put(world.fresh_agreement()), Accepted)
    assert world.hand(ASK).obstacle is None
    world.kill()
    world.start()
    world.mend()
    assert world.hand(ASK).obstacle is None
    assert len(kinds(world, "tamper")) == 1


def test_a_camera_that_still_hangs_elsewhere_is_told_again_after_a_new_agreement(world):
    world.inputs.in_place = False
    world.advance(1.5)
    assert isinstance(world.put(world.fresh_agreement()), Accepted)
    world.advance(1.5)
    assert world.hand(ASK).obstacle == "withdrawn"
    assert len(kinds(world, "tamper")) == 2


def test_a_knock_is_no_removal(world):
    world.inputs.in_place = False
    world.advance(0.5)
    world.inputs.in_place = True
    world.advance(5.0)
    assert not kinds(world, "tamper")


def test_under_voltage_ends_the_check_and_refuses_until_the_board_was_fed_for_a_minute(world):
    assert world.watch()
    world.read_power.now = Power(True, True)
    world.advance(5.0)
    assert kinds(world, "closed")[-1]["why"] == "low-power"
    assert [body["why"] for body in kinds(world, "power")] == ["low-power"]
    assert world.hand(ASK).obstacle == "low-power"
    world.read_power.now = Power(False, False)
    world.advance(30.0)
    assert world.hand(ASK).obstacle == "low-power"
    world.advance(35.0)
    assert world.hand(ASK).obstacle is None
    assert [body["why"] for body in kinds(world, "power")] == ["low-power", "power-good"]


def test_an_opening_on_a_starved_board_is_refused_with_its_code(world):
    world.read_power.now = Power(True, None)
    world.advance(4.0)
    assert refused(world) == "low-power"
    assert kinds(world, "refused")[-1]["why"] == "low-power"


def test_a_servo_that_dips_the_voltage_for_a_moment_ends_nothing(world):
    assert world.watch()
    world.read_power.now = Power(True, None)
    world.advance(1.2)
    world.read_power.now = Power(False, None)
    world.advance(4.0)
    assert not kinds(world, "power")
    assert world.sensor_on
    world.close_check()
    world.advance(3.0)


def test_an_end_stop_that_says_no_refuses_the_opening_and_is_told(world):
    world.kill()
    world.body.end_stop = True
    world.start()
    world.mend()
    world.body.end_stop = False
    world.advance(3.0)
    assert refused(world) == "not-parked"
    assert world.hand(ASK).obstacle == "not-parked"
    world.body.end_stop = True
    world.advance(2.0)
    assert world.hand(ASK).obstacle is None
    assert world.watch()
