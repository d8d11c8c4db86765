"""News between workers, by PostgreSQL's own LISTEN and NOTIFY: what one worker tells its pages, the others tell theirs.

News is not kept: a page that missed some fetches the state anew after ten seconds anyway. So a lost connection is made
again, and what was said meanwhile is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from typing import Any, Final

import psycopg

from centre.event_stream import EventStream

CHANNEL: Final = "tillsyn_news"
MAX_BYTES: Final = 7000
"""PostgreSQL takes 8000 in one notification."""
RETRY_S: Final = 2.0
_QUEUE_LENGTH: Final = 1000

_log = logging.getLogger(__name__)


class SharedNews:
    """One for the process."""

    def __init__(self, address: str, events: EventStream) -> None:
        self._address = address
        self._events = events
        self._me = secrets.token_hex(8)
        self._out: asyncio.Queue[str] = asyncio.Queue(_QUEUE_LENGTH)
        events.also = self._say

    def _say(self, event: str, values: dict[str, Any]) -> None:
        text = json.dumps([self._me, event, values], separators=(",", ":"))
        if len(text) <= MAX_BYTES and not self._out.full():
            self._out.put_nowait(text)

    async def run(self) -> None:
        """Say and hear until cancelled."""
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._speak(), name="news out")
                    group.create_task(self._hear(), name="news in")
            except* psycopg.Error as exc:
                _log.warning("news between workers: %s", type(exc.exceptions[0]).__name__)
            await asyncio.sleep(RETRY_S)

    async def _speak(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._address, autocommit=True) as connection:
            while True:
                await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, await self._out.get()))

    async def _hear(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._address, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            async for heard in connection.notifies():
                who, event, values = json.loads(heard.payload)
                if who != self._me:
                    self._events.send(event, values, is_ours=False)
