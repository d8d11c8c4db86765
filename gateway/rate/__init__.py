"""How much may be sent: the rate the line carries, which of two sizes, or stills where video is useless. Pure."""

from gateway.rate.bucket import Bucket, Resends
from gateway.rate.control import (
    Begun,
    Control,
    Estimated,
    Event,
    Heard,
    Limits,
    Mode,
    Reported,
    StillSeen,
    Tick,
    step,
)

__all__ = [
    "Begun",
    "Bucket",
    "Control",
    "Estimated",
    "Event",
    "Heard",
    "Limits",
    "Mode",
    "Reported",
    "Resends",
    "StillSeen",
    "Tick",
    "step",
]
