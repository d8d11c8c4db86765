"""When an update may disturb: not within an hour before an agreed occasion, not during one, not while a check runs.

An update that has begun may take its time; so what is asked for is a stretch that is free for as long as it may take.
Every uncertainty is a no: a clock without an upper bound can't say that no occasion is near.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.core.interval_clock import Interval

BEFORE_S: Final = 3600.0
"""Nothing begins and nothing restarts so long before an occasion."""
INSTALL_S: Final = 1800.0
"""A free stretch that an installation wants before it begins. One that takes longer is held up when the hour begins."""
RESTART_S: Final = 900.0
"""A restart and the boot after it, and the boot back if it fails."""


@dataclass(frozen=True, slots=True)
class Span:
    """An agreed occasion: from its start to the end of the latest re-check there can be, Unix seconds."""

    start_unix_s: float
    end_unix_s: float


def may_disturb(spans: Iterable[Span] | None, interval: Interval, *, takes_s: float, busy: bool) -> bool:
    """Whether something that takes `takes_s` may begin now. `spans` is None where nothing is agreed at all."""
    if busy:
        return False
    if spans is None:
        return True
    if not math.isfinite(interval.hi_unix_s):
        return False
    begins, ends = interval.lo_unix_s, interval.hi_unix_s + takes_s
    return not any(begins < span.end_unix_s and span.start_unix_s - BEFORE_S < ends for span in spans)
