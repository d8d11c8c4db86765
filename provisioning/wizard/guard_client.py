"""The wizard's end of the guard's set-up socket: one question at a time, and what comes by itself.

Guard or `fresh` may go away and come back in between (at the enrolment it must); a question waits for that, and a
preview ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from gateway.core.error import TransientError, UntrustedInputError
from gateway.ipc import frame, setup
from gateway.ipc.channel import Channel, ChannelLostError, connect

LOG = logging.getLogger("tillsyn.setup")

BEAT_S: Final = 1.0
RETRY_S: Final = 0.2
ANSWER_S: Final = 8.0
EYE_READY_S: Final = 20.0
"""Below the nonce's life."""

A = TypeVar("A", bound=frame.Frame)


class GuardAwayError(TransientError):
    """Nobody answers at the socket."""


class GuardDeniesError(UntrustedInputError):
    """The guard decided against it; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class GuardClient:
    """Run `run` beside it. `on_media` gets the wizard's end of a preview's media socket, and owns it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._channel: Channel[setup.ToSetup] | None = None
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[setup.Answer] | None = None
        self._answers: dict[str, asyncio.Future[str]] = {}
        self.on_media: Callable[[socket.socket], None] = lambda sock: sock.close()
        self.on_ended: Callable[[str, str], None] = lambda _check, _why: None

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            try:
                channel: Channel[setup.ToSetup] = Channel(await connect(self._path), setup.ToSetup)
            except ChannelLostError:
                await asyncio.sleep(RETRY_S)
                continue
            self._channel = channel
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._beat(channel))
                    group.create_task(self._hear(channel))
            except* ChannelLostError:
                pass
            finally:
                self._lose(channel)

    async def ask(self, word: frame.Frame, kind: type[A]) -> A:
        """Say `word`; the answer, which is of `kind`. Raises GuardDeniesError, GuardAwayError."""
        async with self._turn:
            answered: asyncio.Future[setup.Answer] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(ANSWER_S):
                    channel = await self._connected()
                    self._waiting = answered
                    channel.send(word)
                    answer = await answered
            except (TimeoutError, ChannelLostError) as exc:
                raise GuardAwayError("the guard does not answer") from exc
            finally:
                self._waiting = None
        if isinstance(answer, setup.Denied):
            raise GuardDeniesError(answer.code)
        if not isinstance(answer, kind):
            raise GuardAwayError(f"the guard answers {type(answer).__name__} to {type(word).__name__}")
        return answer

    async def standing(self) -> setup.Standing:
        return await self.ask(setup.AskStanding(), setup.Standing)

    async def preview(self, offer: str) -> tuple[setup.PreviewOpened, str]:
        """Open a preview; the eye's answer. Raises GuardDeniesError, GuardAwayError."""
        nonce = await self.ask(setup.AskNonce(), setup.NonceIssued)
        # Asking has started the eye. Only when it stands by does the opening's time begin to run; if it never does,
        # the guard is asked all the same, and says why.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EYE_READY_S):
                while not (await self.standing()).eye_ready:  # noqa: ASYNC110 - bounded, another process starts it
                    await asyncio.sleep(RETRY_S)
        opened = await self.ask(setup.Preview(nonce.nonce, offer), setup.PreviewOpened)
        waiting = self._answers.setdefault(opened.check, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(ANSWER_S):
                return opened, await waiting
        except TimeoutError as exc:
            raise GuardAwayError("the camera gives no answer") from exc
        finally:
            self._answers.pop(opened.check, None)

    async def _connected(self) -> Channel[setup.ToSetup]:
        while self._channel is None or self._channel.lost:  # noqa: ASYNC110 - bounded by the caller's timeout
            await asyncio.sleep(RETRY_S / 4)
        return self._channel

    async def _beat(self, channel: Channel[setup.ToSetup]) -> None:
        while True:
            channel.send(frame.Beat())
            await asyncio.sleep(BEAT_S)

    async def _hear(self, channel: Channel[setup.ToSetup]) -> None:
        while True:
            got, fds = await channel.receive()
            match got:
                case frame.MediaOpened() if len(fds) == 1:
                    self.on_media(socket.socket(fileno=fds.pop()))
                case setup.PreviewAnswer(check, answer):
                    future = self._answers.setdefault(check, asyncio.get_running_loop().create_future())
                    if not future.done():
                        future.set_result(answer)
                case setup.PreviewEnded(check, why):
                    LOG.info("preview ended: %s", why)
                    future_or_none = self._answers.get(check)
                    if future_or_none is not None and not future_or_none.done():
                        future_or_none.set_exception(GuardDeniesError(why))
                    self.on_ended(check, why)
                case frame.Beat() | frame.MediaOpened():
                    pass
                case _:
                    if self._waiting is not None and not self._waiting.done():
                        self._waiting.set_result(got)
            for fd in fds:
                os.close(fd)

    def _lose(self, channel: Channel[setup.ToSetup]) -> None:
        channel.close()
        if self._channel is channel:
            self._channel = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ChannelLostError("lost"))
        with contextlib.suppress(KeyError):
            self._answers.clear()
