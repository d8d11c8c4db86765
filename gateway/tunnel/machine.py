"""New settings are tried and left again: a tunnel that reaches nobody must not cut the home off for good.

The state is what stands on the disk. `Keep` is always the first effect of a step that has one: a power cut between
writing and applying ends in the same trial, begun anew. New settings are refused while older ones are on trial only by
their version: the newest wins, and what comes back after it is what was last known to work.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.protocol.message import TunnelSettings

TRIAL_S: Final = 600.0
"""Without an answer of the centre for so long, the settings that worked come back."""


class Settled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings, and which of the device's keys goes with them (the number in its file's name)."""

    settings: TunnelSettings
    key: Annotated[int, Meta(ge=0, le=2**31)]


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    in_force: Settled
    """What worked last."""
    high_water: Annotated[int, Meta(ge=1, le=2**31)]
    """The highest version that was ever taken, also one that was left again."""
    trial: Settled | None = None

    @property
    def current(self) -> Settled:
        return self.in_force if self.trial is None else self.trial


class Event(msgspec.Struct, frozen=True):
    """Base of what may happen."""


class Ordered(Event, frozen=True):
    """The guard has verified new settings."""

    settings: TunnelSettings
    renew_key: bool


class Reached(Event, frozen=True):
    """The centre has answered in the tunnel."""


class Elapsed(Event, frozen=True):
    """So long, in seconds of BOOTTIME, the current settings have been applied without an answer."""

    silent_s: float


class Effect(msgspec.Struct, frozen=True):
    """Base of orders."""


class Keep(Effect, frozen=True):
    """Write this state durably, with a fresh key pair under `state.current.key` if there is none yet."""

    state: State


class Apply(Effect, frozen=True):
    settled: Settled


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The next state, and what to do in order."""
    match event:
        case Ordered(settings, renew_key) if settings.version > state.high_water:
            # A key that is on trial itself is not known to work: the new one counts on from the highest.
            newest = max(state.in_force.key, 0 if state.trial is None else state.trial.key)
            trial = Settled(settings, newest + 1 if renew_key else state.in_force.key)
            after = State(state.in_force, settings.version, trial)
            return after, (Keep(after), Apply(trial))
        case Reached() if state.trial is not None:
            after = State(state.trial, state.high_water)
            return after, (Keep(after),)
        case Elapsed(silent_s) if state.trial is not None and silent_s >= TRIAL_S:
            after = State(state.in_force, state.high_water)
            return after, (Keep(after), Apply(after.in_force))
        case _:
            return state, ()
