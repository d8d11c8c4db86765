"""The queue of all pages is reckoned once, and nobody gets it from before the news that made them ask.

Mutations that turn it red, each tried: count the age from the end of the reading; keep what was read while somebody
changed something; read without the lock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from centre.desk_cache import MAX_AGE_S, DeskCache


class Reading:
    """Blocks until it may go on; gives how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self.began = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> tuple[list[Any], list[dict[str, Any]]]:
        self.count += 1
        number = self.count
        self.began.set()
        assert self.may_end.wait(20)
        return [number], []


async def _begun(reading: Reading) -> None:
    async with asyncio.timeout(20):
        while not reading.began.is_set():
            await asyncio.sleep(0.001)


def test_many_who_ask_at_once_are_one_reading_and_take_one_thread() -> None:
    async def play() -> None:
        cache, reading = DeskCache(), Reading()
        asked = [asyncio.create_task(cache.get(reading)) for _ in range(50)]
        await _begun(reading)
        # More than the pool has threads wait, and it still has one for whoever sends a command.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "sent"), 20) == "sent"
        reading.may_end.set()
        assert {items[0] for items, _ in await asyncio.gather(*asked)} == {1}

    asyncio.run(play())


def test_what_was_changed_during_a_reading_is_read_by_the_next() -> None:
    async def play() -> None:
        cache, reading = DeskCache(), Reading()
        first = asyncio.create_task(cache.get(reading))
        await _begun(reading)
        cache.forget()
        second = asyncio.create_task(cache.get(reading))
        reading.may_end.set()
        assert [(await each)[0] for each in (first, second)] == [[1], [2]]

    asyncio.run(play())


@pytest.mark.slow
def test_the_age_counts_from_the_beginning_of_the_reading() -> None:
    """News that came while it was read is not in it: a page that asks half a second after the news must not get it."""

    async def play() -> None:
        cache, reading = DeskCache(), Reading()
        first = asyncio.create_task(cache.get(reading))
        await _begun(reading)
        began_s = time.monotonic()
        await asyncio.sleep(MAX_AGE_S + 0.05)
        reading.may_end.set()
        assert (await first)[0] == [1]
        assert time.monotonic() - began_s > MAX_AGE_S
        assert (await cache.get(reading))[0] == [2]

    asyncio.run(play())
