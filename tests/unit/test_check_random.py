"""Random histories of a check in a small model of the home: what is true of the sensor, not only of the orders.

The model obeys orders as the guard's service does (guard_check.py, `_apply`): an `opened` record that can't
be written, or a lamp that can't be lit, stops the rest of that step and comes back as a fault. The eye may die, lie or
stand still (a watchdog then kills it after 5 s); the mount may jam or hang, ledger and lamp may fail.

Mutations of gateway/check/machine.py that turn this red, each tried:

* SensorOff left out in `_close`; MountUp left out in `_close`
* SensorOn before RecordOpened, or before LampOn
* LetFramesOut in answer to Accepted
* LampOff in `_close`
* `CLOSING_LIMIT_S = 20.0`; RecordClosed left out when that limit passes; `CLOSING_LIMIT_S = 3.0` (record before the
  sensor is off)
* Tick ignored in `_step_closing` or in `_step_running`
* `_settled` not asking for `eye_gone`
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.check import machine
from gateway.check.machine import Facts, Fault, Why, step

TICK_S = 0.25
SAFE_WITHIN_S = 12.0
WATCHDOG_S = 5.0
TRAVEL_S = 1.7


@dataclass
class EyeProcess:
    """The one process that can hold the sensor."""

    sensor: bool = False
    stuck_s: float | None = None
    ends_s: float | None = None


@dataclass
class Home:
    """What is physically so. `obey` does one order and says whether the rest of its step may follow."""

    now_s: float = 0.0
    eye: EyeProcess | None = None
    lamp: bool = False
    lamp_broken: bool = False
    mount: str = "up"
    """up, aimed, or moving."""
    mount_broken: bool = False
    mount_mute: bool = False
    """The mount's driver hangs: neither arrival nor fault is ever reported."""
    ledger_broken: bool = False
    media_joined: bool = False
    released: bool = False
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    eye_ends_after_s: float = 0.0
    due: list[tuple[float, machine.Event]] = field(default_factory=list)
    travel: tuple[float, machine.Event] | None = None

    @property
    def sensor(self) -> bool:
        return self.eye is not None and self.eye.sensor

    @property
    def frames_may_leave(self) -> bool:
        return self.sensor and self.released and self.media_joined

    def obey(self, effect: machine.Effect) -> bool:  # noqa: C901 - one case for each order
        match effect:
            case machine.RecordOpened(facts):
                if self.ledger_broken:
                    self._later(Fault(Why.LEDGER_UNWRITABLE))
                    return False
                self.opened.append(facts.check)
            case machine.RecordClosed(facts):
                if self.ledger_broken:
                    self._later(Fault(Why.LEDGER_UNWRITABLE))
                else:
                    self.closed.append(facts.check)
            case machine.RecordLive():
                if self.ledger_broken:
                    self._later(Fault(Why.LEDGER_UNWRITABLE))
            case machine.LampOn():
                if self.lamp_broken:
                    self._later(Fault(Why.CAMERA_FAULT))
                    return False
                self.lamp = True
            case machine.LampOff():
                self.lamp = False
            case machine.SensorOn():
                # The worst eye: it takes no time to be on.
                self.eye = self.eye or EyeProcess()
                self.eye.sensor = self.media_joined = True
            case machine.SensorOff():
                self.media_joined = self.released = False
                if self.eye is None:
                    self._later(machine.EyeGone())
                elif self.eye.stuck_s is None and self.eye.ends_s is None:
                    self.eye.ends_s = self.now_s + self.eye_ends_after_s
            case machine.MountAim():
                self._move(machine.MountArrived())
            case machine.MountUp():
                self._move(machine.MountParked())
            case machine.LetFramesOut():
                self.released = True
            case machine.SendAnswer():
                pass
        return True

    def happens(self) -> list[machine.Event]:
        """What the world reports by now: the kernel of the eye, the mount of its travel."""
        events: list[machine.Event] = []
        if self.eye is not None:
            killed_s = None if self.eye.stuck_s is None else self.eye.stuck_s + WATCHDOG_S
            ends_s = killed_s if killed_s is not None else self.eye.ends_s
            if ends_s is not None and self.now_s >= ends_s:
                self.eye = None
                events.append(machine.EyeGone())
        if self.travel is not None and self.now_s >= self.travel[0]:
            arrived = self.travel[1]
            self.travel = None
            if self.mount_broken:
                events.append(Fault(Why.MOUNT_FAULT))
            else:
                self.mount = "aimed" if isinstance(arrived, machine.MountArrived) else "up"
                events.append(arrived)
        ready = [event for due_s, event in self.due if due_s <= self.now_s]
        self.due = [(due_s, event) for due_s, event in self.due if due_s > self.now_s]
        return ready + events

    def _move(self, arrived: machine.Event) -> None:
        self.mount = "moving"
        self.travel = None if self.mount_mute else (self.now_s + TRAVEL_S, arrived)

    def _later(self, event: machine.Event) -> None:
        self.due.append((self.now_s, event))


REASONS = st.sampled_from(list(Why))


class Check(RuleBasedStateMachine):
    """Rules are what may come in; the world's own answers come by themselves as time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Home()
        self.state: machine.State = machine.Parked()
        self.checks = 0
        self.whole = True
        """Nothing has broken so far: then no check may end anywhere but in Parked."""

    # What comes in

    @rule(max_s=st.floats(1.0, 60.0), ends_after_s=st.floats(0.0, 3.0), prepared=st.booleans())
    def an_opening_is_accepted(self, max_s, ends_after_s, prepared):
        if isinstance(self.state, machine.Parked):
            self.checks += 1
            self.home.eye_ends_after_s = ends_after_s
            if prepared:
                self.home.eye = self.home.eye or EyeProcess()
        facts = Facts(f"c-{self.checks}", "u", "k", "l", "o", 1, max_s)
        self.hear(machine.Accepted(facts))

    @precondition(lambda self: self.home.eye is not None and self.home.eye.stuck_s is None)
    @rule(word=st.sampled_from([machine.AnswerMade("v=0"), machine.FirstFrame(), machine.EyeHeard(3, "clear")]))
    def the_eye_says_something(self, word):
        self.hear(word)

    @rule(counter=st.integers(0, 40))
    def a_lease_comes(self, counter):
        self.hear(machine.LeaseRenewed(counter))

    @rule(why=REASONS, counter=st.none() | st.integers(0, 40))
    def the_operator_ends_it(self, why, counter):
        self.whole = self.whole and why is not Why.LEDGER_UNWRITABLE
        self.hear(machine.Ended(why, counter))

    @rule()
    def the_link_is_heard(self):
        self.hear(machine.LinkHeard())

    @rule(why=REASONS)
    def something_fails(self, why):
        self.whole = self.whole and why not in (Why.LEDGER_UNWRITABLE, Why.MOUNT_FAULT)
        self.hear(Fault(why))

    @precondition(lambda self: self.home.eye is not None)
    @rule()
    def the_eye_dies(self):
        self.home.eye = None
        self.hear(machine.EyeGone())

    @precondition(lambda self: self.home.eye is not None and self.home.eye.ends_s is None)
    @rule()
    def the_eye_stands_still(self):
        self.home.eye.stuck_s = self.home.eye.stuck_s or self.home.now_s

    @rule(part=st.sampled_from(["mount_broken", "mount_mute", "ledger_broken", "lamp_broken"]))
    def a_part_breaks(self, part):
        setattr(self.home, part, True)
        self.whole = False

    @rule(ticks=st.integers(1, 40))
    def time_passes_in_silence(self, ticks):
        self.wait(ticks * TICK_S, kept=False)

    @rule(ticks=st.integers(1, 120))
    def time_passes_while_all_are_well(self, ticks):
        self.wait(ticks * TICK_S, kept=True)

    @rule()
    def the_check_goes_as_it_should(self):
        """A short way to the picture, which random events seldom find."""
        self.an_opening_is_accepted(60.0, 0.5, True)
        self.wait(TRAVEL_S + TICK_S, kept=True)
        if self.home.eye is not None and self.home.eye.stuck_s is None:
            self.hear(machine.AnswerMade("v=0"))
            self.hear(machine.FirstFrame())

    # What must come of it

    @rule(why=REASONS)
    def after_a_closing_nothing_but_time_is_needed(self, why):
        """F25, F60: whatever ends it, 12 s later all is safe, with no word from anybody."""
        ends = isinstance(self.state, machine.Opening | machine.Watching)
        self.whole = self.whole and why is not Why.LEDGER_UNWRITABLE
        self.hear(machine.Ended(why))
        self.wait(SAFE_WITHIN_S, kept=False)
        if ends:
            self.all_is_safe()

    def teardown(self):
        """And without any closing either: silence for as long as a lease, and then the same."""
        self.wait(machine.LEASE_LIFE_S + SAFE_WITHIN_S, kept=False)
        self.all_is_safe()

    def all_is_safe(self):
        assert isinstance(self.state, machine.Parked if self.whole else machine.Parked | machine.Disabled)
        assert not self.home.sensor
        assert not self.home.lamp
        assert not self.home.frames_may_leave
        assert self.home.mount == "up" or isinstance(self.state, machine.Disabled)
        if not self.home.ledger_broken:
            assert self.home.opened == self.home.closed

    @invariant()
    def what_must_hold_at_every_moment(self):
        home = self.home
        if home.sensor:
            assert home.opened, "sensor on without a record"
            assert home.opened[-1] not in home.closed, "sensor on after the closed record"
            assert home.lamp, "sensor on in the dark"
        if home.frames_may_leave:
            assert home.mount == "aimed", "frames leave while the mount travels"
        if isinstance(self.state, machine.Parked):
            assert home.mount == "up", "said to be parked, but isn't"
            assert not home.sensor
        assert len(set(home.opened)) == len(home.opened)
        assert len(set(home.closed)) == len(home.closed), "closed twice in the record"
        assert set(home.closed) <= set(home.opened), "closed what was never opened"

    # How it goes

    def hear(self, event):
        """One event, and all that comes of it at once."""
        todo = [event]
        while todo:
            before = self.state
            self.state, effects = step(before, todo.pop(0), now_s=self.home.now_s)
            assert isinstance(self.state, machine.Disabled) or not isinstance(before, machine.Disabled)
            for effect in effects:
                if not self.home.obey(effect):
                    break
                self.what_must_hold_at_every_moment()
            todo += self.home.happens()

    def wait(self, seconds, *, kept):
        """Time, tick by tick; with `kept`, link, eye and operator give their signs of life."""
        for _ in range(round(seconds / TICK_S)):
            self.home.now_s += TICK_S
            for event in self.home.happens():
                self.hear(event)
            if kept:
                self.hear(machine.LinkHeard())
                if self.home.eye is not None and self.home.eye.stuck_s is None:
                    self.hear(machine.EyeHeard(1))
                if isinstance(self.state, machine.Opening | machine.Watching):
                    self.hear(machine.LeaseRenewed(self.state.last_counter + 1))
            self.hear(machine.Tick())
            self.what_must_hold_at_every_moment()


Check.TestCase.settings = settings(
    max_examples=120, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_no_random_history_leaves_the_camera_open = pytest.mark.slow(Check.TestCase)
