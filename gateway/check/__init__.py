"""The check as a machine: states, events, effects, lease. Pure."""

from gateway.check.machine import Facts, Why, step

__all__ = ["Facts", "Why", "step"]
