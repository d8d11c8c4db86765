"""A command out, its signed answer back.

Only the waiting is in this process: the command and its answer are rows. With several workers each hears every reply,
and the one whose request waits finds it here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from centre.port import BrokerPort
from gateway.core.error import TransientError
from gateway.protocol.topic import Branch, topic

COMMAND_EXPIRY_S: Final = 30
ANSWER_LIMIT_S: Final = 12.0
SAY_AGAIN_AFTER_S: Final = (0.5, 1.5, 3.5)
"""A command that a flood pushed out is said again this long after the first time. Three times: a key has four places
for nonces at a device, so the first answer's is still good after all of them."""


class NoAnswerError(TransientError):
    """The home did not answer in time; whether it got the command is not known."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    gateway: str
    jti: str
    answered: asyncio.Future[bytes]


class Exchange:
    def __init__(
        self,
        broker: BrokerPort,
        *,
        answer_limit_s: float = ANSWER_LIMIT_S,
        say_again_after_s: tuple[float, ...] = SAY_AGAIN_AFTER_S,
    ) -> None:
        self._broker = broker
        self._answer_limit_s = answer_limit_s
        self._say_again_after_s = say_again_after_s
        self._waiting: dict[bytes, _Waiting] = {}

    async def ask(
        self, gateway: str, *, jti: str, untrusted_command: bytes, correlation: bytes, may_repeat: bool = False
    ) -> bytes:
        """Publish and wait for the verified reply. Raises NoAnswerError, or TransientError when the broker is away.

        `may_repeat` is for commands that do the same however often they come. An opening never is one: a second copy
        would be refused, and its refusal might be all that is heard.
        """
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = _Waiting(gateway, jti, answered)
        try:
            async with asyncio.timeout(self._answer_limit_s):
                said_s = asyncio.get_running_loop().time()
                await self._say(gateway, untrusted_command, correlation)
                for after_s in self._say_again_after_s if may_repeat else ():
                    wait_s = max(0.0, said_s + after_s - asyncio.get_running_loop().time())
                    if (await asyncio.wait({answered}, timeout=wait_s))[0]:
                        break
                    await self._say(gateway, untrusted_command, correlation)
                return await answered
        except TimeoutError as exc:
            raise NoAnswerError(gateway) from exc
        finally:
            del self._waiting[correlation]

    async def _say(self, gateway: str, untrusted_command: bytes, correlation: bytes) -> None:
        await self._broker.publish(
            topic(gateway, Branch.COMMAND),
            untrusted_command,
            correlation=correlation,
            response_topic=topic(gateway, Branch.REPLY),
            # A command that waited in the broker's queue is a command nobody is looking for any more.
            expiry_s=COMMAND_EXPIRY_S,
        )

    def tell(self, name: str, payload: bytes, *, expiry_s: int) -> None:
        """Publish what nobody waits for; lost when the broker is away."""
        self._broker.publish(name, payload, expiry_s=expiry_s).add_done_callback(lambda done: done.exception())

    def resolve(self, gateway: str, *, correlation: bytes, jti: str, reply: bytes) -> None:
        """Hand a verified reply to whoever waits for it; correlation, home and `re` must all fit."""
        waiting = self._waiting.get(correlation)
        fits = waiting is not None and (waiting.gateway, waiting.jti) == (gateway, jti)
        if waiting is not None and fits and not waiting.answered.done():
            waiting.answered.set_result(reply)

    def close(self) -> None:
        """End all waiting with TransientError, so that the server can stop."""
        for waiting in self._waiting.values():
            if not waiting.answered.done():
                waiting.answered.set_exception(TransientError("the centre stops"))
