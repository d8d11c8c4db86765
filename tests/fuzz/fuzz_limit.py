"""What every target holds the product to, whatever comes in: the errors it promised, its time and its memory.

A target calls the product only through `Doors.knock`. What is made beforehand (keys, signatures, a fresh gate) is not
on the clock.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

LIMIT_S = 0.05
MEMORY_LIMIT_BYTES = 20 * 2**20
"""Source: requirement F51, both."""
MEASUREMENTS = 3
"""A machine may be busy: what counts is the least of three."""

G = TypeVar("G")
R = TypeVar("R")


class BrokenPromiseError(AssertionError):
    """The product did with this input what it promised never to do."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[G, R]):
    """What one call gave: a result, or the promised error. `given` is what it was called with."""

    given: G
    result: R | None
    error: Exception | None

    @property
    def accepted(self) -> bool:
        return self.error is None


@dataclass(slots=True)
class Doors:
    """Calls the product and measures; `sample_every` calls one is made again under tracemalloc (0: never)."""

    sample_every: int = 200
    slack: float = 1.0
    """Times the limit that a call may take: more than 1 only for instrumented code, which is slower."""
    knocks: int = 0
    most_bytes: int = 0
    slowest_s: dict[str, float] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    """How often each door opened: one that never does hides what is behind it."""

    def knock(
        self,
        door: str,
        act: Callable[[G], R],
        *promised: type[Exception],
        given: Callable[[], G] = lambda: None,  # type: ignore[assignment,return-value]
        limit_s: float = LIMIT_S,
    ) -> Answer[G, R]:
        """Call `act(given())`; any error that was not promised goes through. Raises BrokenPromiseError over a limit.

        `given` is made anew for every measurement, so that nothing remembered makes the second one cheaper.
        """
        answer, cost_s = _called(act, given(), promised)
        slowest_s = self.slowest_s.get(door, 0.0)
        for _ in range(MEASUREMENTS - 1):
            if cost_s <= slowest_s:
                break
            cost_s = min(cost_s, _called(act, given(), promised)[1])
        if cost_s > limit_s * self.slack:
            raise BrokenPromiseError(f"{door}: {cost_s * 1000:.1f} ms, at most {limit_s * self.slack * 1000:.0f}")
        self.slowest_s[door] = max(slowest_s, cost_s)
        self.knocks += 1
        if self.sample_every and self.knocks % self.sample_every == 1 % self.sample_every:
            self._weigh(door, act, given, promised)
        self.accepted[door] = self.accepted.get(door, 0) + answer.accepted
        return answer

    def _weigh(
        self,
        door: str,
        act: Callable[[G], R],
        given: Callable[[], G],
        promised: tuple[type[Exception], ...],
    ) -> None:
        ready = given()
        tracemalloc.start()
        try:
            _called(act, ready, promised)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.most_bytes = max(self.most_bytes, peak_bytes)
        if peak_bytes > MEMORY_LIMIT_BYTES:
            raise BrokenPromiseError(f"{door}: {peak_bytes / 2**20:.1f} MiB")


def _called(act: Callable[[G], R], given: G, promised: tuple[type[Exception], ...]) -> tuple[Answer[G, R], float]:
    start_s = time.thread_time()
    try:
        result = act(given)
    except promised as error:
        return Answer(given, None, error), time.thread_time() - start_s
    return Answer(given, result, None), time.thread_time() - start_s


def demand(condition: bool, promise: str) -> None:
    """Like `assert`, and kept under -O."""
    if not condition:
        raise BrokenPromiseError(promise)
