"""The queue as it was a moment ago, for all pages of this worker.

Reckoning it reads every home. A page asks after each piece of news, and in a night of a thousand homes that would be
all that the centre does. Pages ask half a second after the news, and what they get began to be read 0.4 s ago or later,
so it is never older than the news; whatever is then done with an item is decided by the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

MAX_AGE_S: Final = 0.4
Desk = tuple[list[Any], list[dict[str, Any]]]
"""Items, hand-overs."""


class DeskCache:
    """One thread reckons; whoever else asks waits in the event loop and takes no thread from what must not wait."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._began_s = float("-inf")
        self._forgotten = 0
        self._value: Desk = ([], [])

    async def get(self, read: Callable[[], Desk]) -> Desk:
        """What `read`, which blocks, gave; it was begun at most 0.4 s ago."""
        async with self._lock:
            if time.monotonic() - self._began_s > MAX_AGE_S:
                began_s, forgotten = time.monotonic(), self._forgotten
                self._value = await asyncio.to_thread(read)
                if forgotten == self._forgotten:
                    self._began_s = began_s
            return self._value

    def forget(self) -> None:
        """Something was changed here: the next one who asks sees it."""
        self._forgotten += 1
        self._began_s = float("-inf")
