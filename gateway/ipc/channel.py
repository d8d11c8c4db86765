"""One end of a `SOCK_SEQPACKET` unix socket, as bounded typed frames.

The kernel keeps frame borders, so there is no framing to get wrong. Sending never waits: a peer that doesn't read is
taken for dead once `MAX_QUEUED` frames wait for it, because the guard must never hang on anybody.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from gateway.core.error import TransientError
from gateway.ipc.frame import MAX_FRAME_BYTES, Frame
from gateway.ipc.readable import Readable

MAX_QUEUED = 256
_MAX_FDS = 1

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


class ChannelLostError(TransientError):
    """The peer closed, died, doesn't read, or sent what it may not send."""


class Channel(Generic[T]):
    """A connected socket that takes frames of `accepts` and sends any frame.

    Usable from one task for receiving and from anywhere in the loop's thread for sending.
    """

    def __init__(self, sock: socket.socket, accepts: Any) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(accepts)
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._writing = False
        self._readable = Readable(sock)
        self.lost = False

    def send(self, frame: Frame, fds: Sequence[int] = ()) -> None:
        """Send or queue; raises ChannelLostError. Descriptors in `fds` are duplicated: the caller keeps its own."""
        if self.lost:
            raise ChannelLostError("closed")
        data = _encoder.encode(frame)
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(f"frame of {len(data)} bytes")
        if self._waiting:
            self._queue(data, fds)
            return
        try:
            self._send_now(data, fds)
        except BlockingIOError:
            self._queue(data, fds)
        except OSError as exc:
            self.close()
            raise ChannelLostError(str(exc)) from exc

    async def receive(self) -> tuple[T, list[int]]:
        """The next frame and its descriptors, which the caller now owns. Raises ChannelLostError at the end."""
        # Frames that are already there would otherwise be taken without ever letting the loop's timers run.
        await asyncio.sleep(0)
        while True:
            if self.lost:
                raise ChannelLostError("closed")
            try:
                data, fds, flags = _receive_now(self._sock)
            except BlockingIOError:
                await self._readable.wait()
                continue
            except OSError as exc:
                self.close()
                raise ChannelLostError(str(exc)) from exc
            if not data or len(data) > MAX_FRAME_BYTES or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _close_all(fds)
                self.close()
                raise ChannelLostError("peer closed" if not data else "oversized frame")
            try:
                return self._decoder.decode(data), fds
            # msgspec passes on what invalid UTF-8 and deep nesting raise; both are only a peer's way to be wrong.
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
                _close_all(fds)
                self.close()
                raise ChannelLostError("frame outside the union") from exc

    @property
    def waiting(self) -> int:
        """Frames that the peer has not taken yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Idempotent; a waiting receiver gets ChannelLostError."""
        if self.lost:
            return
        self.lost = True
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._sock)
        self._readable.end()
        with contextlib.suppress(OSError):
            # A close alone would not end the peer's side while a duplicate of this descriptor lives.
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for _, fds in self._waiting:
            _close_all(fds)
        self._waiting.clear()

    def _send_now(self, data: bytes, fds: Sequence[int]) -> None:
        if fds:
            socket.send_fds(self._sock, [data], list(fds))
        else:
            self._sock.send(data)

    def _queue(self, data: bytes, fds: Sequence[int]) -> None:
        if len(self._waiting) >= MAX_QUEUED:
            self.close()
            raise ChannelLostError("peer does not read")
        self._waiting.append((data, tuple(os.dup(fd) for fd in fds)))
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().add_writer(self._sock, self._drain)

    def _drain(self) -> None:
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                self._send_now(data, fds)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            _close_all(fds)
            self._waiting.popleft()
        self._writing = False
        asyncio.get_running_loop().remove_writer(self._sock)


def _receive_now(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """One frame, its descriptors and the message flags.

    Descriptors are taken close-on-exec, so that no child inherits a media socket. `socket.recv_fds` is of no use for
    that: in Python 3.11.7 it takes the flags and drops them (measured).
    """
    fds = array.array("i")
    data, ancillary, flags, _ = sock.recvmsg(
        MAX_FRAME_BYTES + 1, socket.CMSG_LEN(_MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, packed in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
    return data, fds.tolist(), flags


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends for sealed datagrams; the kernel's send buffer is the bound."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


async def connect(path: str) -> socket.socket:
    """Connect to a listening socket; raises ChannelLostError when nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, path)
    except OSError as exc:
        sock.close()
        raise ChannelLostError(f"{path}: {exc}") from exc
    return sock
