"""One check, from the accepted opening to the parked mount, as one pure function.

    Parked ──Accepted──▶ Opening ──FirstFrame──▶ Watching
       ▲                    │  any fault, end, silence  │
       └──both safe── Closing ◀─────────────────────────┘

What it promises, in every history (tests/unit/test_check_machine.py walks them):

* The durable `opened` record is ordered before the sensor; a record that can't be written ends in `Disabled`.
* No frame leaves before the mount has arrived.
* Every event that means harm or doubt ends in SensorOff and MountUp. Closing needs no permission.
* The longest opening counts from the `opened` record, so that it bounds the time the sensor is on.
* `Parked` is reached only when the eye's process is gone and the mount reports parked. A mount that can't park ends in
  `Disabled`, which nothing leaves but a new start of the service.

All times are BOOTTIME in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

OPENING_LIMIT_S = 10.0
"""From the `opened` record to the first frame; Design D needs about one second, a slow network five."""
LEASE_LIFE_S = 9.0
LEASE_EVERY_S = 5.0
BEAT_LIFE_S = 3.0
"""A peer process that is silent for this long is taken for stopped."""
CLOSING_LIMIT_S = 8.0
"""A stopped eye is killed by the watchdog after 5 s; later than this the record is written without it."""


class Why(StrEnum):
    """Why a check ended. The words stand in `closed` records."""

    SEEN = "seen"
    NOT_SEEN = "not-seen"
    UNSURE = "unsure"
    OPERATOR_CLOSED = "operator-closed"
    TIME_UP = "time-up"
    LEASE_LAPSED = "lease-lapsed"
    NO_PICTURE = "no-picture"
    SEAL_BROKEN = "seal-broken"
    """Somebody on the way is not who was signed for, or altered what went by; seen by the eye or by the browser."""
    RESIDENT_STOPPED = "resident-stopped"
    REVOKED = "revoked"
    """The operator's grant died by a new epoch while the check ran."""
    RETURNED = "returned"
    """The lent device goes back."""
    CAMERA_FAULT = "camera-fault"
    MOUNT_FAULT = "mount-fault"
    LOW_POWER = "low-power"
    EYE_LOST = "eye-lost"
    LINK_LOST = "link-lost"
    BROKER_LOST = "broker-lost"
    LEDGER_UNWRITABLE = "ledger-unwritable"
    SERVICE_STOPPED = "service-stopped"
    RECOVERED = "recovered"
    """Written at the next start: the process or the power went away in the middle."""


VERDICTS = frozenset({Why.SEEN, Why.NOT_SEEN, Why.UNSURE})


@dataclass(frozen=True, slots=True)
class Facts:
    """What was accepted; nothing here changes while the check runs."""

    check: str
    who: str
    kid: str
    line: str
    occasion: str
    attempt: int
    max_s: float


# States


@dataclass(frozen=True, slots=True)
class Parked:
    """Sensor off, eye gone, mount up."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Sensor starts, mount travels, tunnel is made; nothing is shown yet."""

    facts: Facts
    opened_s: float
    lease_until_s: float
    eye_heard_s: float
    link_heard_s: float
    last_counter: int = 0
    arrived: bool = False
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Watching:
    """Somebody sees the picture."""

    facts: Facts
    opened_s: float
    first_frame_s: float
    lease_until_s: float
    eye_heard_s: float
    link_heard_s: float
    last_counter: int
    frames: int = 0
    view: str | None = None


@dataclass(frozen=True, slots=True)
class Closing:
    """Sensor is being closed, mount goes up; the record waits for both, but not for ever."""

    facts: Facts
    why: Why
    since_s: float
    watched_s: float
    frames: int
    view: str | None
    eye_gone: bool = False
    parked: bool = False
    failed: Why | None = None
    """Mount or ledger gave up while closing: the end is `Disabled`, not `Parked`."""


@dataclass(frozen=True, slots=True)
class Disabled:
    """Nothing opens until the service starts anew and finds everything whole."""

    why: Why


State = Parked | Opening | Watching | Closing | Disabled


# Events


@dataclass(frozen=True, slots=True)
class Accepted:
    facts: Facts


@dataclass(frozen=True, slots=True)
class AnswerMade:
    answer: str


@dataclass(frozen=True, slots=True)
class MountArrived:
    pass


@dataclass(frozen=True, slots=True)
class FirstFrame:
    pass


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """A verified lease of the key that opened this check."""

    counter: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A verdict or a close, both verified."""

    why: Why
    counter: int | None = None


@dataclass(frozen=True, slots=True)
class EyeHeard:
    frames: int | None = None
    view: str | None = None


@dataclass(frozen=True, slots=True)
class LinkHeard:
    pass


@dataclass(frozen=True, slots=True)
class EyeGone:
    """The kernel says that the eye's socket is closed, hence its sensor too."""


@dataclass(frozen=True, slots=True)
class MountParked:
    pass


@dataclass(frozen=True, slots=True)
class Fault:
    why: Why


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Accepted
    | AnswerMade
    | MountArrived
    | FirstFrame
    | LeaseRenewed
    | Ended
    | EyeHeard
    | LinkHeard
    | EyeGone
    | MountParked
    | Fault
    | Tick
)


# Effects


@dataclass(frozen=True, slots=True)
class RecordOpened:
    """Durable before any later effect of the same step; failing it, the later ones must not happen."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class RecordLive:
    facts: Facts


@dataclass(frozen=True, slots=True)
class RecordClosed:
    """Record, then tell the centre."""

    facts: Facts
    why: Why
    watched_s: float
    frames: int
    view: str | None
    parked: bool


@dataclass(frozen=True, slots=True)
class LampOn:
    pass


@dataclass(frozen=True, slots=True)
class LampOff:
    """Only once the sensor is known to be off."""


@dataclass(frozen=True, slots=True)
class SensorOn:
    pass


@dataclass(frozen=True, slots=True)
class SensorOff:
    """Cut the media socket at once, then tell the eye to end."""


@dataclass(frozen=True, slots=True)
class MountAim:
    pass


@dataclass(frozen=True, slots=True)
class MountUp:
    pass


@dataclass(frozen=True, slots=True)
class LetFramesOut:
    pass


@dataclass(frozen=True, slots=True)
class SendAnswer:
    answer: str


Effect = (
    RecordOpened
    | RecordLive
    | RecordClosed
    | LampOn
    | LampOff
    | SensorOn
    | SensorOff
    | MountAim
    | MountUp
    | LetFramesOut
    | SendAnswer
)

Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event, *, now_s: float) -> Step:
    """The next state and what must be done, in order. Total: an event that fits nowhere changes nothing."""
    match state, event:
        case Parked(), Accepted(facts):
            opening = Opening(facts, now_s, now_s + LEASE_LIFE_S, now_s, now_s)
            return opening, (RecordOpened(facts), LampOn(), SensorOn(), MountAim())
        case Parked(), Fault(Why.MOUNT_FAULT | Why.LEDGER_UNWRITABLE as why):
            return Disabled(why), (SensorOff(), MountUp())
        case ((Opening() | Watching()), _):
            return _step_running(state, event, now_s)
        case Closing(), _:
            return _step_closing(state, event, now_s)
        case Disabled(), EyeGone():
            return state, (LampOff(),)
        case _:
            return state, ()


def _step_running(state: Opening | Watching, event: Event, now_s: float) -> Step:
    match state, event:
        case _, Fault(why):
            return _close(state, why, now_s)
        case _, Ended(why, counter) if counter is None or counter > state.last_counter:
            return _close(state, why, now_s)
        case _, EyeGone():
            closing, effects = _close(state, Why.EYE_LOST, now_s)
            return replace(closing, eye_gone=True), (*effects, LampOff())
        case _, Tick():
            overdue = _overdue(state, now_s)
            return (state, ()) if overdue is None else _close(state, overdue, now_s)
        case _, LeaseRenewed() if now_s >= state.lease_until_s:
            # It came after the end and only before the tick that would have seen that.
            return _close(state, Why.LEASE_LAPSED, now_s)
        case _, LeaseRenewed(counter) if counter > state.last_counter:
            return replace(state, last_counter=counter, lease_until_s=now_s + LEASE_LIFE_S), ()
        case _, LinkHeard():
            return replace(state, link_heard_s=now_s), ()
        case Opening(answered=False), AnswerMade(answer):
            return replace(state, answered=True, eye_heard_s=now_s), (SendAnswer(answer),)
        case Opening(arrived=False), MountArrived():
            return replace(state, arrived=True), (LetFramesOut(),)
        case Opening(arrived=False), FirstFrame():
            # An eye that shows a picture before the mount has arrived has broken its promise.
            return _close(state, Why.CAMERA_FAULT, now_s)
        case Opening(facts, opened_s, lease_until_s, _, link_heard_s, last_counter), FirstFrame():
            watching = Watching(facts, opened_s, now_s, lease_until_s, now_s, link_heard_s, last_counter)
            return watching, (RecordLive(facts),)
        case Opening(), EyeHeard():
            return replace(state, eye_heard_s=now_s), ()
        case Watching(), EyeHeard(frames, view):
            counted = max(frames or 0, state.frames)
            return replace(state, eye_heard_s=now_s, frames=counted, view=view or state.view), ()
        case _:
            return state, ()


def _step_closing(state: Closing, event: Event, now_s: float) -> Step:
    match event:
        case EyeHeard(frames, view):
            return replace(state, frames=max(frames or 0, state.frames), view=view or state.view), ()
        case EyeGone() if not state.eye_gone:
            return _settled(replace(state, eye_gone=True), (LampOff(),))
        case MountParked():
            return _settled(replace(state, parked=True), ())
        case Fault(Why.MOUNT_FAULT | Why.LEDGER_UNWRITABLE as why):
            return _settled(replace(state, failed=why), ())
        case Tick() if now_s - state.since_s >= CLOSING_LIMIT_S:
            # Something would not end. The record is written now, and nothing opens until a fresh start.
            stuck = state.failed or (Why.MOUNT_FAULT if state.eye_gone else Why.CAMERA_FAULT)
            return Disabled(stuck), (SensorOff(), MountUp(), _record(state))
        case _:
            return state, ()


def sensor_may_be_on(state: State) -> bool:
    """Can the eye hold the sensor open in this state?"""
    match state:
        case Opening() | Watching():
            return True
        case Closing(eye_gone=gone):
            return not gone
        case _:
            return False


def _overdue(state: Opening | Watching, now_s: float) -> Why | None:
    if now_s - state.opened_s >= state.facts.max_s:
        return Why.TIME_UP
    if now_s >= state.lease_until_s:
        return Why.LEASE_LAPSED
    # Before its answer an eye may still be loading its libraries; the limit of the opening bounds that.
    answered = isinstance(state, Watching) or state.answered
    if answered and now_s - state.eye_heard_s >= BEAT_LIFE_S:
        return Why.EYE_LOST
    if now_s - state.link_heard_s >= BEAT_LIFE_S:
        return Why.LINK_LOST
    if isinstance(state, Opening) and now_s - state.opened_s >= OPENING_LIMIT_S:
        return Why.NO_PICTURE
    return None


def _close(state: Opening | Watching, why: Why, now_s: float) -> tuple[Closing, tuple[Effect, ...]]:
    watched_s, frames, view = 0.0, 0, None
    if isinstance(state, Watching):
        watched_s, frames, view = now_s - state.first_frame_s, state.frames, state.view
    failed = why if why is Why.LEDGER_UNWRITABLE else None
    closing = Closing(state.facts, why, now_s, watched_s, frames, view, failed=failed)
    return closing, (SensorOff(), MountUp())


def _settled(closing: Closing, effects: tuple[Effect, ...]) -> Step:
    """Leave `Closing` once the eye is gone and the mount has either parked or failed to."""
    if not closing.eye_gone or not (closing.parked or closing.failed is Why.MOUNT_FAULT):
        return closing, effects
    end = Parked() if closing.failed is None else Disabled(closing.failed)
    return end, (*effects, _record(closing))


def _record(closing: Closing) -> RecordClosed:
    safe = closing.parked and closing.eye_gone
    return RecordClosed(closing.facts, closing.why, closing.watched_s, closing.frames, closing.view, safe)
