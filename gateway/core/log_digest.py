"""What a service logged at WARNING and above, as counted events without anybody's words in them.

An event is made from the constant text of the call in our own source ("link lost: %s" becomes `link-lost`), never from
what was filled in: names, paths and a peer's bytes stay in the local journal. What libraries log is one event,
`library`. Bounded: beyond `MAX_EVENTS` kinds of events only their number is kept.
"""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal

MAX_EVENTS: Final = 32
MAX_COUNT: Final = 1_000_000
OWN: Final = "tillsyn."
LIBRARY: Final = "library"

Level = Literal["warning", "error"]
Service = Literal["guard", "eye", "link", "upkeep"]

_FILLED_IN: Final = re.compile(r"%[-#0 +]*[0-9*.]*[a-zA-Z%]")
_BETWEEN: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Counted:
    """One kind of event since the last draining."""

    service: Service
    level: Level
    event: str
    count: int


def event_of(record: logging.LogRecord) -> str:
    """A word of at most 40 letters, digits and hyphens; from our own source text alone."""
    if not record.name.startswith(OWN) or not isinstance(record.msg, str):
        return LIBRARY
    word = _BETWEEN.sub("-", _FILLED_IN.sub("", record.msg).lower()).strip("-")
    return word[:40].strip("-") or LIBRARY


class LogDigest(logging.Handler):
    """Counts records of one service; `drain` gives what has come since. Any thread may log."""

    def __init__(self, service: Service) -> None:
        super().__init__(logging.WARNING)
        self._service = service
        self._counts: dict[tuple[Service, Level, str], int] = {}
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count(self._service, "error" if record.levelno >= logging.ERROR else "warning", event_of(record))

    def count(self, service: Service, level: Level, event: str, times: int = 1) -> None:
        """Enter what another service has counted; `service` is the caller's knowledge, not the other's word."""
        key = (service, level, event)
        with self._guarded():
            if key in self._counts or len(self._counts) < MAX_EVENTS:
                self._counts[key] = min(MAX_COUNT, self._counts.get(key, 0) + times)
            else:
                self._left_out = min(MAX_COUNT, self._left_out + times)

    def drain(self) -> tuple[list[Counted], int]:
        """What was counted since the last call, and how many records of further kinds came."""
        with self._guarded():
            counted = [Counted(*key, count) for key, count in self._counts.items()]
            left_out, self._left_out = self._left_out, 0
            self._counts.clear()
        return counted, left_out

    def _guarded(self) -> AbstractContextManager[object]:
        assert self.lock is not None
        return self.lock
