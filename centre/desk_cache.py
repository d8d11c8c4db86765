"""The queue as it was a moment ago, for all pages of this worker.

Reckoning it reads every home. A page asks after each piece of news, and in a night of a thousand homes that would be
all that the centre does. Pages ask half a second after the news, so what they get is never older than the news;
whatever is then done with an item is decided by the store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

MAX_AGE_S: Final = 0.4
Desk = tuple[list[Any], list[dict[str, Any]]]
"""Items, hand-overs."""


class DeskCache:
    """Thread-safe: one thread reckons, the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made_s = float("-inf")
        self._value: Desk = ([], [])

    def get(self, read: Callable[[], Desk]) -> Desk:
        """What `read` gives, at most 0.4 s old."""
        with self._lock:
            if time.monotonic() - self._made_s > MAX_AGE_S:
                self._value = read()
                self._made_s = time.monotonic()
            return self._value

    def forget(self) -> None:
        """Something was changed here: the next one who asks sees it."""
        with self._lock:
            self._made_s = float("-inf")
