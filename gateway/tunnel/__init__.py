"""The tunnel's life as a machine: which settings hold, which are on trial, and when the older ones come back. Pure."""

from gateway.tunnel.machine import TRIAL_S, Apply, Effect, Elapsed, Event, Keep, Ordered, Reached, Settled, State, step

__all__ = ["TRIAL_S", "Apply", "Effect", "Elapsed", "Event", "Keep", "Ordered", "Reached", "Settled", "State", "step"]
