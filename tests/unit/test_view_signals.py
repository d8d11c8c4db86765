"""A view signal's way: from the camera's small pictures to the operator, the guard's records and the centre.

Mutations that turn a test here red, each tried: `pts_us <= newest` not asked, LEARNT_AFTER 3 → 1 (viewing.py);
`calibration ==` not asked, `is not None` not asked in `learn` (aim_book.py); SIGNAL_EVERY_S 0.9 → 0, the signature not
in `Start` (guard_eye.py); `view=effect.view` dropped (guard_check.py); the frames not compared (store/signal.py).
"""

from __future__ import annotations

import json

import msgspec
import pytest
from guard_harness import GATEWAY, home
from picture_support import A_SIGNAL
from test_centre_app import play
from view_scenes import drawn

from gateway.edge.camera_port import LumaSample
from gateway.ipc import frame
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Signal, Verdict
from gateway.protocol.picture import Aim, View
from gateway.services.aim_book import AimBook
from gateway.services.viewing import Viewing

FIFTH_US = 200_000


@pytest.fixture
def world():
    with home() as made:
        yield made


def samples(planes, start_us=0):
    return [LumaSample(plane, start_us + number * FIFTH_US) for number, plane in enumerate(planes)]


# In the eye


def test_a_signal_comes_once_a_second_and_the_same_picture_twice_is_no_new_one():
    viewing = Viewing(None)
    made = []
    for sample in samples(drawn(View.CLEAR, 4).planes):
        made += [viewing.take(sample), viewing.take(sample), viewing.take(None)]
    signals = [signal for signal in made if signal is not None]
    assert [signal.t_us for signal in signals] == [1_000_000, 2_000_000, 3_000_000]
    assert {signal.view for signal in signals} == {View.CLEAR}
    assert viewing.signal == signals[-1]
    once = Viewing(None)
    alone = [once.take(sample) for sample in samples(drawn(View.CLEAR, 4).planes)]
    assert [signal for signal in alone if signal is not None] == signals


def test_a_camera_that_gives_a_picture_every_two_seconds_is_judged_when_there_are_two():
    viewing = Viewing(None)
    planes = drawn(View.CLEAR, 4).planes
    made = [viewing.take(LumaSample(plane, number * 2_000_000)) for number, plane in enumerate(planes[:4])]
    assert [signal is not None for signal in made] == [False, True, True, True]


def test_a_clear_picture_teaches_its_signature_once_and_is_compared_with_it_afterwards():
    viewing = Viewing(None)
    scene = drawn(View.CLEAR, 4)
    learnt = []
    for sample in samples(scene.planes * 2):
        viewing.take(sample)
        if viewing.learnt is not None:
            learnt.append((sample.pts_us, viewing.learnt))
            viewing.learnt = None
    assert len(learnt) == 1
    assert learnt[0][0] == 3_000_000
    later = Viewing(learnt[0][1])
    elsewhere = drawn(View.CLEAR, 5)
    first = [later.take(sample) for sample in samples(scene.planes[:6])][-1]
    other = Viewing(learnt[0][1])
    moved = [other.take(sample) for sample in samples(elsewhere.planes[:6])][-1]
    assert (first.view, first.aim) == (View.CLEAR, Aim.MEASURED)
    assert (moved.view, moved.aim) == (View.MISAIMED, Aim.MEASURED)


@pytest.mark.parametrize("view", [View.DARK, View.COVERED, View.BLURRED, View.FROZEN])
def test_a_picture_that_is_not_clear_teaches_nothing(view):
    viewing = Viewing(None)
    for sample in samples(drawn(view, 4).planes * 2):
        viewing.take(sample)
    assert viewing.learnt is None


# In the guard


def test_signals_are_signed_come_once_a_second_and_the_last_stands_in_the_record(world):
    assert world.watch()
    world.eyes[-1].signal = A_SIGNAL
    for _ in range(10):
        world.lease()
        # The eye beats also when it has something new to say.
        world.eyes[-1].say(frame.EyeBeat(world.eyes[-1].frames, A_SIGNAL))
        world.advance(0.5)
    seen = [signal for signal in world.signals if signal.view is not None]
    assert seen[-1] == Signal(GATEWAY, world.check, seen[-1].frames, A_SIGNAL)
    assert 3 <= len(seen) <= 6
    world.verdict(Verdict.SEEN)
    world.advance(4.0)
    assert world.reports[-1].view == "dark"
    closed = next(body for body in reversed(world.judge.records) if body["kind"] == "closed")
    assert closed["view"] == "dark"


@pytest.mark.slow
@pytest.mark.parametrize("view", list(View))
def test_no_signal_ends_a_check_or_says_who_was_seen(world, view):
    """Signals describe the picture. Whatever they say, the check runs on, and the verdict is the operator's."""
    assert world.watch()
    world.eyes[-1].signal = msgspec.structs.replace(A_SIGNAL, view=view)
    for _ in range(8):
        world.lease()
        world.advance(0.5)
    assert world.sensor_on
    world.verdict(Verdict.SEEN)
    world.advance(4.0)
    assert (world.reports[-1].why, world.reports[-1].verdict) == ("seen", Verdict.SEEN)


def test_the_first_clear_picture_is_kept_for_this_calibration_and_given_to_later_eyes(world):
    assert world.watch()
    eye = world.eyes[-1]
    assert eye.start.signature is None
    eye.say(frame.AimLearnt("01234567" * 18))
    eye.say(frame.AimLearnt("7" * 144))
    world.advance(0.5)
    config = world.config
    assert AimBook(config).signature == "01234567" * 18
    moved = msgspec.structs.replace(config, mount=msgspec.structs.replace(config.mount, aim_deg=12.0))
    assert AimBook(moved).signature is None
    assert json.loads(AimBook(config)._path.read_bytes()).keys() == {"calibration", "signature"}
    world.close_check()
    world.advance(4.0)
    assert world.watch()
    assert world.eyes[-1].start.signature == "01234567" * 18


def test_a_signature_that_can_not_be_read_is_none_and_stops_nothing(world):
    path = AimBook(world.config)._path
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in (b"", b"{", b'{"calibration":"x","signature":"8"}', b"\xff" * 100):
        path.write_bytes(content)
        assert AimBook(world.config).signature is None


# In the centre


@pytest.mark.slow
def test_the_centre_keeps_the_newest_signal_of_each_home_and_no_other(tmp_path):
    async def act(centre):
        await centre.log_in()
        say = centre.home.say
        say("signal", Signal("gw-a", "c-1", 15, A_SIGNAL))
        say("signal", Signal("gw-a", "c-1", 14, None))
        await centre.settle()
        known = (await centre.client.get("/api/v1/homes")).json()
        assert known[0]["signal"]["check"] == "c-1"
        assert known[0]["signal"]["frames"] == 15
        assert known[0]["signal"]["view"]["view"] == "dark"
        assert known[1]["signal"] is None
        say("signal", Signal("gw-a", "c-2", 0))
        await centre.settle()
        assert (await centre.client.get("/api/v1/homes")).json()[0]["signal"]["view"] is None
        before = sum(centre.state.store.alarm_counts().values())
        say("signal", Signal("gw-a", "c-3", 1), key=SigningKey.generate())
        say("signal", Signal("gw-b", "c-3", 1))
        centre.broker.deliver("tillsyn/v1/gw-a/signal", b'{"check":"c-3","frames":1,"view":"dark"}')
        await centre.settle()
        assert sum(centre.state.store.alarm_counts().values()) == before + 3
        assert (await centre.client.get("/api/v1/homes")).json()[0]["signal"]["check"] == "c-2"

    play(tmp_path, act)


def test_a_signal_holds_no_picture():
    """What a signal can carry is a word, five measures and a time."""
    assert len(msgspec.json.encode(A_SIGNAL)) < 200
