"""Waiting until a socket can be read: the one piece that channels and media sockets share."""

from __future__ import annotations

import asyncio
import socket


class Readable:
    """For one waiting task. Whoever closes the socket calls `end` first."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return when there may be something to read, or after `end`."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        loop.add_reader(self._sock, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._sock.fileno() != -1:
                loop.remove_reader(self._sock)

    def end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
