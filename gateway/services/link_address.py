"""Which broker the link looks for: a new address is tried, and left again where no centre answers.

`step` is pure; what it returns stands on the disk before it is used, so that a power cut ends in the same trial, begun
anew. An address that is reached proves little, anybody's broker could stand there: it counts when the guard has
verified a fresh statement of the centre that came by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.config import LinkConfig
from gateway.core.boottime import boottime_s
from gateway.edge.outbox_sqlite import Outbox
from gateway.protocol.message import FallbackSettings, LinkSettings

LOG = logging.getLogger("tillsyn.link")

NAME: Final = "address"
TRIAL_S: Final = 600.0
"""Without an answer of the centre for so long, the address that worked comes back."""


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provisioned: LinkSettings
    """What the configuration's file said. Another one there is a new provisioning, and all this is over."""
    in_force: LinkSettings
    high_water: Annotated[int, Meta(ge=1, le=2**31)]
    """The highest version that was ever taken, also one that was left again."""
    trial: LinkSettings | None = None

    @property
    def current(self) -> LinkSettings:
        return self.in_force if self.trial is None else self.trial


class Ordered(msgspec.Struct, frozen=True):
    """The guard has verified new settings."""

    settings: LinkSettings


class Answered(msgspec.Struct, frozen=True):
    """The centre's statement came by the current settings, through their first address or their fallback."""

    by_fallback: bool


class Elapsed(msgspec.Struct, frozen=True):
    """So long, in seconds of BOOTTIME, the current settings have been tried without an answer that counts."""

    silent_s: float


Event = Ordered | Answered | Elapsed


def step(state: State, event: Event) -> State:
    """The next state; the same one where nothing changes."""
    trial = state.trial
    match event:
        case Ordered(settings) if settings.version > state.high_water:
            return State(state.provisioned, state.in_force, settings.version, settings)
        case Answered(by_fallback) if trial is not None:
            # By a fallback that was there before the centre is reached whatever the new address is worth.
            if by_fallback and trial.fallback == state.in_force.fallback:
                return state
            return State(state.provisioned, trial, state.high_water)
        case Elapsed(silent_s) if trial is not None and silent_s >= TRIAL_S:
            return State(state.provisioned, state.in_force, state.high_water)
        case _:
            return state


def provisioned(config: LinkConfig) -> LinkSettings:
    """What the configuration's file says, as version 1."""
    fallback = config.fallback
    return LinkSettings(
        1,
        config.broker_host,
        config.broker_port,
        config.broker_name,
        None if fallback is None else FallbackSettings(**msgspec.structs.asdict(fallback)),
    )


@dataclass(slots=True)
class Address:
    """The state in the outbox's file and the time since when the current settings are tried."""

    outbox: Outbox
    provisioned: LinkSettings
    now: Callable[[], float] = boottime_s
    state: State = field(init=False)
    _since_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._since_s = self.now()
        first = self.provisioned
        kept = State(first, first, 1)
        stored = self.outbox.state(NAME)
        if stored is not None:
            try:
                kept = msgspec.json.decode(stored, type=State)
            except msgspec.MsgspecError as exc:
                # The enrolment's address is the one thing that is still known. The guard gives its order again.
                LOG.error("address of the broker: %s; the enrolment's is used", exc)
        if kept.provisioned != first:
            kept = State(first, first, kept.high_water)
        self.state = kept

    def take(self, event: Event) -> bool:
        """Whether the link has to move. Raises LedgerUnwritableError where the state can't be written; nothing is
        changed then.
        """
        before, after = self.state, step(self.state, event)
        if after == before:
            return False
        self.outbox.keep_state(NAME, msgspec.json.encode(after))
        self.state = after
        word = "on trial" if after.trial is not None else "in force"
        LOG.warning("address of the broker: version %d is %s", after.current.version, word)
        if after.current == before.current:
            return False
        self._since_s = self.now()
        return True

    def look(self) -> bool:
        """Whether the link has to move back: nobody has answered for too long. Raises as `take`."""
        return self.take(Elapsed(self.now() - self._since_s))
