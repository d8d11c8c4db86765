"""The installer's evening as one pure function: which step comes after which, and what each owes the rest.

    contact → network → line → enrol → compare → commit → inform → consent → receipt → aim → check → alarm → protocol
    → done

No step can be skipped, and none is left before its facts are there. What it promises, in every history
(tests/unit/test_wizard_machine.py walks the whole table):

* An event that does not belong to the step changes nothing.
* What was enrolled is used only after somebody said that both short codes are the same: `Commit` comes from `compare`
  and from nowhere else. Said otherwise, everything of the enrolment is forgotten and enrolment begins anew.
* `done` is reached from `protocol` only. It is left by `Entered` alone, once for each time that the guard says so: a
  steward has consented and somebody did the physical act. What follows is the way without enrolment and consent; the
  device keeps its keys and the resident's word.

A `Progress` is durable before its effects are done. What it owes (`owed`) stays in it until it was done, so that a
power cut between the two repeats a note in the ledger and never loses one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.protocol.message import Id, ProtocolLine, Word

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Paper = Annotated[str, Meta(pattern=r"^(?!(?:18|19|20)?[0-9]{6}-?[0-9]{4}\Z)[A-Za-z0-9._-]{1,40}\Z")]
"""A paper's or key tag's reference; never a personal number."""


class Step(StrEnum):
    CONTACT = "contact"
    NETWORK = "network"
    LINE = "line"
    ENROL = "enrol"
    COMPARE = "compare"
    COMMIT = "commit"
    INFORM = "inform"
    CONSENT = "consent"
    RECEIPT = "receipt"
    AIM = "aim"
    CHECK = "check"
    ALARM = "alarm"
    PROTOCOL = "protocol"
    DONE = "done"


ORDER: tuple[Step, ...] = tuple(Step)


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what is kept."""


class Consent(Fact, frozen=True):
    """One person's consent. Of a signature only the hash is kept, with the paper it belongs to."""

    ref: Id
    how: Literal["drawn", "paper"]
    paper: Paper | None
    digest: Digest


class Pending(Fact, frozen=True):
    """What the centre gave, while nobody has said yet that the short codes are the same."""

    certificate_pem: str
    keys_json: str
    place_json: str
    short_code: str


class Owed(Fact, frozen=True):
    """A note for the ledger. Source: gateway.ipc.setup.Noted."""

    what: Word
    digest: Digest | None = None


class Progress(Fact, frozen=True):
    """Everything that set-up knows, durable after each step."""

    step: Step = Step.CONTACT
    network: Word | None = None
    line: tuple[ProtocolLine, ...] = ()
    is_line_good: bool = False
    pending: Pending | None = None
    resident: Consent | None = None
    cohabitant: Consent | None = None
    loan: Paper | None = None
    key_tags: tuple[Paper, ...] = ()
    aim_deg: float | None = None
    is_measured: bool = False
    ticks: tuple[Word, ...] = ()
    check: Id | None = None
    check_frames: int = 0
    check_s: float = 0.0
    alarm: Id | None = None
    is_answered: bool = False
    protocol_sha256: Digest | None = None
    owed: tuple[Owed, ...] = ()
    entered: int = 0
    """Which entering of set-up this is; 0 is the first evening."""


# Events


@dataclass(frozen=True, slots=True)
class LetIn:
    """The label's code was right."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The device is in a network; `kind` is wifi, ethernet or mobile."""

    kind: str


@dataclass(frozen=True, slots=True)
class LineMeasured:
    lines: tuple[ProtocolLine, ...]
    is_good: bool


@dataclass(frozen=True, slots=True)
class LineTaken:
    """Go on. With a line that is not good enough this changes nothing."""


@dataclass(frozen=True, slots=True)
class OtherNetwork:
    """Back to choosing."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    pending: Pending


@dataclass(frozen=True, slots=True)
class Compared:
    is_same: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """Guard and link have what they need, durably."""


@dataclass(frozen=True, slots=True)
class Informed:
    """The information was read with the resident."""


@dataclass(frozen=True, slots=True)
class Consented:
    resident: Consent
    cohabitant: Consent | None


@dataclass(frozen=True, slots=True)
class Received:
    """Receipts: for the loan, and for the keys where any were handed over."""

    loan: str
    key_tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aimed:
    aim_deg: float
    is_measured: bool


@dataclass(frozen=True, slots=True)
class Ticked:
    """What the installer has seen and heard: `room-dark`, `lamp-seen`, `noise-heard`."""

    ticks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckSeen:
    """The centre's operator made a real check and said *seen*."""

    check: str
    frames: int
    watched_s: float


@dataclass(frozen=True, slots=True)
class AlarmBegun:
    occasion: str


@dataclass(frozen=True, slots=True)
class AlarmAnswered:
    occasion: str


@dataclass(frozen=True, slots=True)
class ProtocolTaken:
    """The centre has the signed protocol."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The guard says that set-up was entered anew, for the `number`-th time."""

    number: int


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The guard says that set-up is closed: what was entered anew was not finished in time."""


Event = (
    LetIn
    | Joined
    | LineMeasured
    | LineTaken
    | OtherNetwork
    | Enrolled
    | Compared
    | Committed
    | Informed
    | Consented
    | Received
    | Aimed
    | Ticked
    | CheckSeen
    | AlarmBegun
    | AlarmAnswered
    | ProtocolTaken
    | Entered
    | Lapsed
)


# Effects


@dataclass(frozen=True, slots=True)
class Commit:
    """Give guard and link what was enrolled. Repeating it changes nothing."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of this enrolment is to be used: keys and certificate are thrown away."""


@dataclass(frozen=True, slots=True)
class WriteDown:
    """Give the guard what is owed to the ledger."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Tell the guard that set-up is over, and end."""


Effect = Commit | Forget | WriteDown | Finish

TICKS: tuple[str, ...] = ("room-dark", "lamp-seen", "noise-heard")


def step(progress: Progress, event: Event) -> tuple[Progress, tuple[Effect, ...]]:  # noqa: C901 - one table, read as one
    """The next progress and what is to be done, in this order."""
    match progress.step, event:
        case Step.CONTACT, LetIn():
            return _at(progress, Step.NETWORK), ()
        case Step.NETWORK, Joined(kind):
            return _at(progress, Step.LINE, network=kind, line=(), is_line_good=False), ()
        case Step.LINE | Step.ENROL, OtherNetwork():
            return _at(progress, Step.NETWORK, network=None, line=(), is_line_good=False), ()
        case Step.LINE, LineMeasured(lines, is_good):
            return _at(progress, Step.LINE, line=lines, is_line_good=is_good), ()
        case Step.LINE, LineTaken() if progress.is_line_good and progress.entered:
            return _owing(_at(progress, Step.AIM), Owed("network"), Owed("line")), (WriteDown(),)
        case Step.LINE, LineTaken() if progress.is_line_good:
            return _at(progress, Step.ENROL), ()
        case Step.ENROL, Enrolled(pending):
            return _at(progress, Step.COMPARE, pending=pending), ()
        case Step.COMPARE, Compared(False):
            return _at(progress, Step.ENROL, pending=None), (Forget(),)
        case Step.COMPARE, Compared(True):
            return _at(progress, Step.COMMIT), (Commit(),)
        case Step.COMMIT, Committed():
            # The guard did not exist before: what was found out until now is written down at its start.
            owed = (Owed("network"), Owed("line"), Owed("enrolled"))
            return _at(progress, Step.INFORM, pending=None, owed=owed), (WriteDown(),)
        case Step.INFORM, Informed():
            return _owing(_at(progress, Step.CONSENT), Owed("informed")), (WriteDown(),)
        case Step.CONSENT, Consented(resident, cohabitant):
            given = _owing(
                _at(progress, Step.RECEIPT, resident=resident, cohabitant=cohabitant),
                Owed("consent-resident", resident.digest),
            )
            if cohabitant is not None:
                given = _owing(given, Owed("consent-cohabitant", cohabitant.digest))
            return given, (WriteDown(),)
        case Step.RECEIPT, Received(loan, key_tags):
            signed = _owing(_at(progress, Step.AIM, loan=loan, key_tags=key_tags), Owed("loan-receipt"))
            return (_owing(signed, Owed("key-receipt")) if key_tags else signed), (WriteDown(),)
        case Step.AIM, Aimed(aim_deg, is_measured):
            return _at(progress, Step.AIM, aim_deg=aim_deg, is_measured=is_measured), ()
        case Step.AIM, Ticked(ticks) if progress.aim_deg is not None and set(ticks) == set(TICKS):
            return _owing(_at(progress, Step.CHECK, ticks=TICKS), *map(Owed, TICKS)), (WriteDown(),)
        case Step.CHECK, CheckSeen(check, frames, watched_s) if frames > 0:
            seen = _at(progress, Step.ALARM, check=check, check_frames=frames, check_s=watched_s)
            return _owing(seen, Owed("checked")), (WriteDown(),)
        case Step.ALARM, AlarmBegun(occasion):
            return _at(progress, Step.ALARM, alarm=occasion), ()
        case Step.ALARM, AlarmAnswered(occasion) if occasion == progress.alarm:
            answered = _at(progress, Step.PROTOCOL, is_answered=True)
            return _owing(answered, Owed("alarm-answered")), (WriteDown(),)
        case Step.PROTOCOL, ProtocolTaken(sha256) if not progress.owed:
            return _at(progress, Step.DONE, protocol_sha256=sha256), (Finish(),)
        case Step.DONE, Entered(number) if number > progress.entered:
            kept = Progress(
                resident=progress.resident,
                cohabitant=progress.cohabitant,
                loan=progress.loan,
                key_tags=progress.key_tags,
                entered=number,
            )
            return _at(kept, Step.NETWORK), ()
        case _, Lapsed() if progress.entered and progress.step is not Step.DONE:
            return _at(progress, Step.DONE, owed=()), ()
        case _:  # late, repeated, or out of turn: changes nothing
            return progress, ()


def resume(progress: Progress) -> tuple[Effect, ...]:
    """What is to be done again after a start: the effects of the last step may not have been."""
    if progress.step is Step.COMMIT:
        return (Commit(),)
    if progress.step is Step.DONE:
        return (Finish(),)
    return (WriteDown(),) if progress.owed else ()


def written_down(progress: Progress, note: Owed) -> Progress:
    """The guard has it durably."""
    return msgspec.structs.replace(progress, owed=tuple(one for one in progress.owed if one != note))


def protocol_lines(progress: Progress) -> list[ProtocolLine]:
    """Every line of the installation's protocol: measured, ticked or recorded."""
    resident, cohabitant = progress.resident, progress.cohabitant
    lines = [
        ProtocolLine("network", "measured", progress.network is not None, progress.network),
        *progress.line,
        ProtocolLine("information-read", "ticked", is_good=True),
        ProtocolLine("consent-resident", "recorded", resident is not None, None if resident is None else resident.ref),
    ]
    if cohabitant is not None:
        lines.append(ProtocolLine("consent-cohabitant", "recorded", is_good=True, value=cohabitant.ref))
    lines.append(ProtocolLine("loan-receipt", "recorded", progress.loan is not None, progress.loan))
    lines += [ProtocolLine("key-receipt", "recorded", is_good=True, value=tag) for tag in progress.key_tags]
    how: Literal["measured", "ticked"] = "measured" if progress.is_measured else "ticked"
    aim = None if progress.aim_deg is None else f"{progress.aim_deg:.1f}"
    lines.append(ProtocolLine("aim-deg", how, progress.aim_deg is not None, aim))
    lines += [ProtocolLine(tick, "ticked", tick in progress.ticks) for tick in TICKS]
    lines.append(ProtocolLine("check-frames", "measured", progress.check_frames > 0, str(progress.check_frames)))
    lines.append(ProtocolLine("check-s", "measured", progress.check_s > 0, f"{progress.check_s:.1f}"))
    lines.append(ProtocolLine("test-alarm", "measured", progress.is_answered, progress.alarm))
    return lines


def _at(progress: Progress, place: Step, **changes: object) -> Progress:
    return msgspec.structs.replace(progress, step=place, **changes)


def _owing(progress: Progress, *notes: Owed) -> Progress:
    return msgspec.structs.replace(progress, owed=(*progress.owed, *notes))
