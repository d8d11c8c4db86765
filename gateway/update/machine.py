"""An update as a machine: offered → downloading → installed → rebooting → gate → good, or fell back.

The state is what stands on the disk, and `Keep` is the first effect of each step that changes it: a power cut ends in
the same state, begun anew. Nothing here can make a tried system the one that boots but `MarkGood`, and that follows
from the gate alone. Whatever ends a try before it, the firmware boots the old system, and that one tells why.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from gateway.protocol.message import UpdateOffer, UpdatePhase
from gateway.update.gate import Facts, Judged, Reach, Watch, watch

MAX_INTERRUPTIONS: Final = 20
"""Downloads that broke off in the middle, before the offer is given up."""
MAX_GIVEN_UP: Final = 16
RESTART_AGAIN_S: Final = 120.0
"""A restart that was asked for and did not come is asked for again."""
DOWNLOAD_LIMIT_S: Final = 24 * 3600.0
"""An installation that takes longer is given up: somebody feeds it drop by drop."""

Word = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}\Z")]


class Tried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle that was booted and not found good."""

    manifest_sha256: str
    times: int


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """Base of all states. `floor` is the highest version that was ever good here, `statement` the highest taken."""

    statement: int = 0
    stated_unix_s: float = 0.0
    floor: str = "0.0.0"
    given_up: tuple[Tried, ...] = ()


class Idle(State, frozen=True, kw_only=True):
    """Nothing to do. Where an update ended here, what of, for the one who asks."""

    offer: UpdateOffer | None = None
    phase: UpdatePhase | None = None
    why: Word | None = None


class Offered(State, frozen=True, kw_only=True):
    """To be installed when that disturbs nobody."""

    offer: UpdateOffer
    interruptions: int = 0


class Downloading(State, frozen=True, kw_only=True):
    offer: UpdateOffer
    since_s: float
    percent: int = 0
    interruptions: int = 0


class Installed(State, frozen=True, kw_only=True):
    """Lies in the other slot; to be tried when a restart disturbs nobody."""

    offer: UpdateOffer


class Rebooting(State, frozen=True, kw_only=True):
    """The try was asked for; what comes next is another boot, of the new system or of the old one."""

    offer: UpdateOffer
    before: Reach
    boot: str
    """The boot in which it was asked for."""
    since_s: float


class Gated(State, frozen=True, kw_only=True):
    """The new system runs, as a try."""

    offer: UpdateOffer
    before: Reach
    boot: str
    watch: Watch


AnyState = Idle | Offered | Downloading | Installed | Rebooting | Gated


S = TypeVar("S", bound=State)


class Event(msgspec.Struct, frozen=True):
    """Base of what may happen."""


class Taken(Event, frozen=True):
    """The guard has verified an offer and recorded it. `is_newer`: there is something to install."""

    offer: UpdateOffer
    is_newer: bool


class Booted(Event, frozen=True):
    """Once in each start of the service: which boot this is, and whether it is a try of the other slot."""

    boot: str
    by_try: bool
    running: str
    reason: Word | None = None
    """What the old slot's books say of the try, if they say something."""


class Looked(Event, frozen=True):
    """One look, every few seconds. What the guard allows and says just now; None while it says nothing."""

    boot: str
    may_install: bool
    may_restart: bool
    is_over: bool
    """The offer's own time is over."""
    facts: Facts | None


class Refused(Event, frozen=True):
    """The bundle is not what was offered, or RAUC does not take it: it never will."""

    why: Word


class Progressed(Event, frozen=True):
    percent: int


class Interrupted(Event, frozen=True):
    """The download broke off; what is already there is used again."""

    why: Word


class Finished(Event, frozen=True):
    """RAUC has written and checked the other slot."""


class Effect(msgspec.Struct, frozen=True):
    """Base of orders."""


class Keep(Effect, frozen=True):
    state: AnyState


class Install(Effect, frozen=True):
    """Look at the bundle, compare it with the offer, install it."""

    offer: UpdateOffer


class StopInstalling(Effect, frozen=True):
    pass


class Restart(Effect, frozen=True):
    """Ask the firmware for one try of the other slot."""


class MarkGood(Effect, frozen=True):
    """Make the running slot the one that boots."""


class RestartBack(Effect, frozen=True):
    """Into the old slot: a plain restart, because the firmware has forgotten the try."""


class Report(Effect, frozen=True):
    offer: UpdateOffer
    phase: UpdatePhase
    why: Word | None = None
    percent: int | None = None


def step(state: AnyState, event: Event, *, now_s: float) -> tuple[AnyState, tuple[Effect, ...]]:
    """The next state, and what to do in order. `now_s` is BOOTTIME."""
    match state, event:
        case _, Taken(offer, is_newer) if offer.statement > state.statement:
            return _taken(state, offer, is_newer=is_newer)
        case Offered(), Looked(is_over=True):
            return _end(state, state.offer, "failed", "deadline")
        case Offered(offer=offer, interruptions=interruptions), Looked(may_install=True):
            after: AnyState = _next(state, Downloading, offer=offer, since_s=now_s, interruptions=interruptions)
            return after, (Keep(after), Report(offer, "downloading", percent=0), Install(offer))
        case Downloading(), _:
            return _downloading(state, event, now_s)
        case Installed(offer=offer), Looked(may_restart=True, facts=Facts() as facts):
            # Whoever can't say how it is now can't be compared with afterwards: no facts, no restart.
            after = _next(state, Rebooting, offer=offer, before=facts.reach, boot=event.boot, since_s=now_s)
            return after, (Keep(after), Report(offer, "rebooting"), Restart())
        case Installed(offer=offer), Booted(boot=boot, by_try=True):
            # Tried without us: nothing is known of before, and what must be reached is asked of now.
            after = _next(state, Gated, offer=offer, before=Reach(), boot=boot, watch=Watch(now_s, Reach()))
            return after, (Keep(after), Report(offer, "gate"))
        case Installed(offer=offer), Booted():
            return state, (Report(offer, "installed"),)
        case Rebooting(since_s=since_s), Looked(may_restart=True) if now_s - since_s >= RESTART_AGAIN_S:
            return msgspec.structs.replace(state, since_s=now_s), (Restart(),)
        case Rebooting(), Booted():
            return _rebooted(state, event, now_s)
        case Gated(), Looked() | Booted():
            return _gated(state, event, now_s)
        case _:
            return state, ()


def _taken(state: AnyState, offer: UpdateOffer, *, is_newer: bool) -> tuple[AnyState, tuple[Effect, ...]]:
    busy = isinstance(state, Rebooting | Gated)
    known = {"statement": offer.statement, "stated_unix_s": offer.stated}
    if busy:
        # A try is judged first; the statement counts as heard, and the centre says again what it still wants.
        after = msgspec.structs.replace(state, **known)
        return after, (Keep(after),)
    same = getattr(state, "offer", None)
    if is_newer and same is not None and same.manifest_sha256 == offer.manifest_sha256 and not isinstance(state, Idle):
        after = msgspec.structs.replace(state, **known, offer=offer)
        return after, (Keep(after),)
    stop = (StopInstalling(),) if isinstance(state, Downloading) else ()
    if not is_newer:
        after = msgspec.structs.replace(_next(state, Idle, offer=offer, phase="good"), **known)
        return after, (*stop, Keep(after), Report(offer, "good", "up-to-date"))
    times = next((tried.times for tried in state.given_up if tried.manifest_sha256 == offer.manifest_sha256), 0)
    if times >= offer.tries:
        after = msgspec.structs.replace(
            _next(state, Idle, offer=offer, phase="refused", why="fell-back-before"), **known
        )
        return after, (*stop, Keep(after), Report(offer, "refused", "fell-back-before"))
    after = msgspec.structs.replace(_next(state, Offered, offer=offer), **known)
    return after, (*stop, Keep(after), Report(offer, "offered"))


def _downloading(state: Downloading, event: Event, now_s: float) -> tuple[AnyState, tuple[Effect, ...]]:
    offer = state.offer
    match event:
        case Refused(why):
            return _end(state, offer, "refused", why)
        case Finished():
            after: AnyState = _next(state, Installed, offer=offer)
            return after, (Keep(after), Report(offer, "installed"))
        case Interrupted(why) if state.interruptions + 1 >= MAX_INTERRUPTIONS:
            return _end(state, offer, "failed", why)
        case Interrupted(why):
            after = _next(state, Offered, offer=offer, interruptions=state.interruptions + 1)
            return after, (Keep(after), Report(offer, "offered", why))
        case Booted():
            # Power went, or this service did: RAUC begins again, and takes what lies in the slot already.
            after = _next(state, Offered, offer=offer, interruptions=state.interruptions)
            return after, (Keep(after),)
        case Progressed(percent) if state.percent < percent <= 100:
            after = msgspec.structs.replace(state, percent=percent)
            tenth = percent // 10 > state.percent // 10
            return after, ((Report(offer, "downloading", percent=percent),) if tenth else ())
        case Looked() if now_s - state.since_s >= DOWNLOAD_LIMIT_S:
            ended, effects = _end(state, offer, "failed", "too-slow")
            return ended, (StopInstalling(), *effects)
        case _:
            return state, ()


def _rebooted(state: Rebooting, event: Booted, now_s: float) -> tuple[AnyState, tuple[Effect, ...]]:
    offer = state.offer
    if event.boot == state.boot:
        return msgspec.structs.replace(state, since_s=now_s), ()  # only this service was restarted
    if event.by_try:
        gate = Watch(now_s, state.before)
        after: AnyState = _next(state, Gated, offer=offer, before=state.before, boot=event.boot, watch=gate)
        return after, (Keep(after), Report(offer, "gate"))
    if event.running == offer.version:
        return _good(state, offer)  # it was marked good, and the power went before that was kept here
    return _fell_back(state, offer, event.reason or "did-not-boot")


def _gated(state: Gated, event: Event, now_s: float) -> tuple[AnyState, tuple[Effect, ...]]:
    match event:
        case Booted(boot, by_try) if boot == state.boot and by_try:
            # The service was restarted within the try: that is not steady, and the ten minutes begin anew.
            gate = Watch(state.watch.since_s, state.before)
            after: AnyState = msgspec.structs.replace(state, watch=gate)
            return after, (Keep(after),)
        case Booted(running=running) if running == state.offer.version:
            return _good(state, state.offer)
        case Booted(reason=reason):
            lack = state.watch.lack
            return _fell_back(state, state.offer, reason or (lack.value if lack is not None else "lost"))
        case Looked(facts=facts):
            gate, judged = watch(state.watch, facts, now_s=now_s)
            after = msgspec.structs.replace(state, watch=gate)
            if judged is Judged.GOOD:
                good, effects = _good(state, state.offer)
                # First the slot, then our own word of it: the other way round a cut would leave a word that is not so.
                return good, (MarkGood(), *effects)
            could_check = facts is not None and facts.guard_well and facts.reach.broker
            if judged is Judged.BAD and (event.may_restart or not could_check):
                # What was missing is kept, and told by the old system, which has a way to the centre. Where a check
                # could still be had, it is not disturbed.
                return after, (Keep(after), RestartBack())
            return after, ((Keep(after),) if gate.lack is not state.watch.lack else ())
        case _:
            return state, ()


def _good(state: AnyState, offer: UpdateOffer) -> tuple[AnyState, tuple[Effect, ...]]:
    after = _next(state, Idle, offer=offer, phase="good")
    after = msgspec.structs.replace(after, floor=offer.version)
    return after, (Keep(after), Report(offer, "good"))


def _fell_back(state: AnyState, offer: UpdateOffer, why: str) -> tuple[AnyState, tuple[Effect, ...]]:
    times = next((tried.times for tried in state.given_up if tried.manifest_sha256 == offer.manifest_sha256), 0)
    others = tuple(tried for tried in state.given_up if tried.manifest_sha256 != offer.manifest_sha256)
    given_up = (*others, Tried(offer.manifest_sha256, times + 1))[-MAX_GIVEN_UP:]
    after = msgspec.structs.replace(_next(state, Idle, offer=offer, phase="fell-back", why=why), given_up=given_up)
    return after, (Keep(after), Report(offer, "fell-back", why))


def _end(state: AnyState, offer: UpdateOffer, phase: UpdatePhase, why: str) -> tuple[AnyState, tuple[Effect, ...]]:
    after = _next(state, Idle, offer=offer, phase=phase, why=why)
    return after, (Keep(after), Report(offer, phase, why))


def _next(state: AnyState, kind: type[S], **fields: Any) -> S:
    """Another state with the same memory."""
    return kind(
        statement=state.statement,
        stated_unix_s=state.stated_unix_s,
        floor=state.floor,
        given_up=state.given_up,
        **fields,
    )
