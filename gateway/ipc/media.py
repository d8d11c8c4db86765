"""The media socket between eye and link: sealed datagrams, and the few words ICE needs.

One byte says which: 0 a sealed datagram (DTLS or SRTP, opaque to the link), 1 a control word, 2 several sealed
datagrams that leave together, each after its length in two bytes. The guard makes the socket for one check, gives an
end to each, and keeps a duplicate: its shutdown ends the picture without anybody's help.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.ipc.readable import Readable

SEALED = 0
CONTROL = 1
TOGETHER = 2
MAX_DATAGRAM_BYTES = 1500
MAX_TOGETHER = 20
MAX_CONTROL_BYTES = 8 * 1024
MAX_FRAME_BYTES = 1 + MAX_TOGETHER * (2 + MAX_DATAGRAM_BYTES)

Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/_-]{4,256}\Z")]
"""ufrag or password. Source: RFC 8839 §5.4."""
CandidateLine = Annotated[str, Meta(max_length=300)]


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of all control words."""


class Gather(Word, frozen=True):
    ufrag: Token
    password: Token


class Connect(Word, frozen=True):
    ufrag: Token
    password: Token
    candidates: Annotated[list[CandidateLine], Meta(max_length=16)]
    controlling: bool
    lite: bool


class Gathered(Word, frozen=True):
    candidates: Annotated[list[CandidateLine], Meta(max_length=16)]


class Connected(Word, frozen=True):
    pass


class Failed(Word, frozen=True):
    pass


_from_eye: msgspec.msgpack.Decoder[Gather | Connect] = msgspec.msgpack.Decoder(Gather | Connect)
_from_link: msgspec.msgpack.Decoder[Gathered | Connected | Failed] = msgspec.msgpack.Decoder(
    Gathered | Connected | Failed
)


def control(word: Word) -> bytes:
    return bytes([CONTROL]) + msgspec.msgpack.encode(word)


def sealed(datagram: bytes) -> bytes:
    return b"\x00" + datagram


def together(datagrams: Sequence[bytes]) -> bytes:
    """Sealed datagrams as one frame: waking the link for each of a picture's packets cost more than carrying them.

    At most `MAX_TOGETHER` of at most `MAX_DATAGRAM_BYTES` each.
    """
    return b"\x02" + b"".join([part for one in datagrams for part in (len(one).to_bytes(2, "big"), one)])


def apart(data: bytes) -> list[bytes]:
    """The datagrams of a frame of sealed ones, of either kind. Raises ValueError when it is none, or not whole."""
    if data[:1] == b"\x00":
        return [data[1:]]
    if data[:1] != b"\x02":
        raise ValueError("not sealed")
    datagrams = []
    at, end = 1, len(data)
    while at < end:
        begin = at + 2
        at = begin + (data[begin - 2] << 8 | data[begin - 1] if begin <= end else 0)
        if at == begin or at > end or at - begin > MAX_DATAGRAM_BYTES:
            raise ValueError("not whole datagrams")
        datagrams.append(data[begin:at])
    if not 1 <= len(datagrams) <= MAX_TOGETHER:
        raise ValueError("too many datagrams, or none")
    return datagrams


def from_eye(data: bytes) -> list[bytes] | Gather | Connect:
    """Sealed datagrams, or a word. Raises ValueError when it is neither."""
    if data[:1] in (b"\x00", b"\x02"):
        return apart(data)
    try:
        return _from_eye.decode(_body(data))
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def from_link(data: bytes) -> bytes | Gathered | Connected | Failed:
    """A sealed datagram, or a word. Raises ValueError when it is neither."""
    if data and data[0] == SEALED:
        return data[1:]
    try:
        return _from_link.decode(_body(data))
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


class MediaSocket:
    """One end of the media socket, for one receiving task. Sending never waits: what doesn't fit is lost.

    Received is whatever is there before anybody waits: the datagrams of one picture come as a burst, and waiting anew
    for each of them cost more than carrying it. `forward` goes without a waiting task altogether.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._readable = Readable(sock)
        self._forwarded: asyncio.Future[None] | None = None
        self._closed = False

    async def receive(self) -> bytes:
        """The next frame of the socket. Raises ConnectionError at its end."""
        while True:
            if self._closed:
                raise ConnectionError("closed")
            try:
                data = self._sock.recv(MAX_FRAME_BYTES + 1)
            except BlockingIOError:
                await self._readable.wait()
                continue
            except OSError as exc:
                raise ConnectionError(str(exc)) from exc
            if not data:
                raise ConnectionError("media socket ended")
            return data

    async def forward(self, take: Callable[[bytes], None]) -> None:
        """Give every frame to `take`, straight from the loop, until the socket ends, which raises ConnectionError.

        A ValueError of `take` ends it too, and is raised here. From one task, and nobody may `receive` meanwhile.
        """
        if self._closed:
            raise ConnectionError("closed")
        loop = asyncio.get_running_loop()
        ended = self._forwarded = loop.create_future()

        def read() -> None:
            try:
                data = self._sock.recv(MAX_FRAME_BYTES + 1)
                if not data:
                    raise ConnectionError("media socket ended")
                take(data)
            except BlockingIOError:
                return
            except (OSError, ValueError) as exc:
                loop.remove_reader(self._sock)
                if not ended.done():
                    ended.set_exception(exc)

        loop.add_reader(self._sock, read)
        try:
            await ended
        finally:
            self._forwarded = None
            if self._sock.fileno() != -1:
                loop.remove_reader(self._sock)

    def send(self, data: bytes) -> None:
        """Raises ConnectionError at the socket's end; a full socket loses the frame, as any network does."""
        if self._closed:
            raise ConnectionError("closed")
        try:
            self._sock.send(data)
        except BlockingIOError:
            return
        except OSError as exc:
            raise ConnectionError(str(exc)) from exc

    def close(self) -> None:
        """Idempotent; ends the socket for every duplicate of it, and wakes the receiver."""
        if self._closed:
            return
        self._closed = True
        self._readable.end()
        if self._forwarded is not None and not self._forwarded.done():
            self._forwarded.set_exception(ConnectionError("closed"))
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def _body(data: bytes) -> bytes:
    if not data or data[0] != CONTROL or len(data) > MAX_CONTROL_BYTES:
        raise ValueError("neither a sealed datagram nor a word")
    return data[1:]
