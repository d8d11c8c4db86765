"""Server-sent events: what changed, to every open console page. Source: HTML Living Standard §9.2.

The stream promises news, not completeness: a page that was away, or too slow, is let go, connects again and fetches
the state anew. So nothing is kept here that a second worker would need; each worker hears the broker itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

HEARTBEAT_S: Final = 15.0
MAX_STREAMS: Final = 64
_QUEUE_LENGTH: Final = 64


class EventStream:
    """One for the process; not thread-safe."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self.also: Callable[[str, dict[str, Any]], None] | None = None
        """Where there are other workers: told what is sent here, so that their pages hear it too."""

    @property
    def count(self) -> int:
        return len(self._queues)

    @property
    def is_full(self) -> bool:
        return len(self._queues) >= MAX_STREAMS

    def send(self, event: str, values: dict[str, Any], *, is_ours: bool = True) -> None:
        """To every listener; one that is 64 events behind is let go. `is_ours` is False for another worker's news."""
        if is_ours and self.also is not None:
            self.also(event, values)
        chunk = b"event: %s\ndata: %s\n\n" % (event.encode("ascii"), msgspec.json.encode(values))
        for queue in tuple(self._queues):
            if queue.full():
                self._let_go(queue)
            else:
                queue.put_nowait(chunk)

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        for queue in tuple(self._queues):
            self._let_go(queue)

    async def listen(self, *, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[bytes]:
        """Chunks of a text/event-stream body, until `close` or until the listener is let go."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE_LENGTH)
        self._queues.add(queue)
        try:
            yield b"retry: 2000\n\n"
            while True:
                try:
                    async with asyncio.timeout(heartbeat_s):
                        chunk = await queue.get()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if chunk is None:
                    return
                yield chunk
        finally:
            self._queues.discard(queue)

    def _let_go(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
