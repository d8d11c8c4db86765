"""A command out, its answer back, over a network that loses some.

Mutations that turn a test here red (centre/exchange.py):
* drop the loop that says it again → test_a_command_that_was_lost_is_said_again_until_it_is_answered
* `if may_repeat else ()` dropped → test_an_opening_is_said_once
* drop the `break` → test_what_is_answered_is_not_said_again
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from centre.exchange import SAY_AGAIN_AFTER_S, Exchange, NoAnswerError
from gateway.decision.nonce import PER_KEY

ASKED = {"jti": "j-1", "untrusted_command": b"command", "correlation": b"c-1"}


class FakeBroker:
    """Takes what is published; `on_publish` gets the number of the copy."""

    def __init__(self, on_publish: Callable[[int], None]) -> None:
        self.copies = 0
        self._on_publish = on_publish

    def publish(self, topic: str, payload: bytes, **_: object) -> asyncio.Future[None]:
        assert (topic, payload) == ("tillsyn/v1/gw-a/command", b"command")
        self.copies += 1
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        self._on_publish(self.copies)
        return done


def ask(*, answered_copy: int | None, may_repeat: bool) -> tuple[int, bytes | None]:
    """(copies that went out, the answer) where the home hears only the copy of that number."""

    async def run() -> tuple[int, bytes | None]:
        def hear(copy: int) -> None:
            if copy == answered_copy:
                exchange.resolve("gw-a", correlation=b"c-1", jti="j-1", reply=b"reply")

        broker = FakeBroker(hear)
        exchange = Exchange(broker, answer_limit_s=0.2, say_again_after_s=(0.0, 0.01, 0.02))
        try:
            reply = await exchange.ask("gw-a", **ASKED, may_repeat=may_repeat)
        except NoAnswerError:
            reply = None
        await asyncio.sleep(0.05)
        return broker.copies, reply

    return asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("copy", [1, 2, 3, 4])
def test_a_command_that_was_lost_is_said_again_until_it_is_answered(copy):
    assert ask(answered_copy=copy, may_repeat=True) == (copy, b"reply")


def test_what_is_answered_is_not_said_again():
    assert ask(answered_copy=1, may_repeat=True) == (1, b"reply")


@pytest.mark.slow
def test_an_opening_is_said_once():
    assert ask(answered_copy=2, may_repeat=False) == (1, None)


@pytest.mark.slow
def test_a_home_that_stays_silent_is_asked_four_times_and_then_told_to_be_silent():
    assert ask(answered_copy=None, may_repeat=True) == (4, None)


def test_the_first_answers_nonce_outlives_every_copy():
    assert 1 + len(SAY_AGAIN_AFTER_S) <= PER_KEY
