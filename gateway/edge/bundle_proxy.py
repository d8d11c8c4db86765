"""The one way by which RAUC reads a bundle: from the loopback, while this process fetches it from the centre by mTLS.

RAUC streams by HTTP ranges. Between it and the server stands this proxy, because RAUC knows no cap on the rate, no
bound on the size and no pause, and would need the client's key. What it promises: not a byte beyond the offer's size is
passed on, a server that says another size is cut off, the rate stays below the cap, a connection that breaks in the
middle of a range is taken up again where it broke, and while `may_flow` is clear nothing flows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from gateway.core.error import TransientError

LOG = logging.getLogger("tillsyn.upkeep")

CHUNK_BYTES: Final = 16 * 1024
MAX_HEAD_BYTES: Final = 16 * 1024
CONNECT_LIMIT_S: Final = 20.0
SILENCE_LIMIT_S: Final = 60.0
TRIES: Final = 5
"""Of one range, before RAUC hears that it failed."""
_RANGE: Final = re.compile(r"bytes=(\d{1,15})-(\d{0,15})\Z")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z")


class UpstreamError(TransientError):
    """The server is not reached, says something else than was asked, or falls silent."""


@dataclass(slots=True)
class Bucket:
    """A token bucket: `take` waits until so many bytes fit under the rate."""

    rate_bytes_s: float
    _free_s: float = 0.0

    async def take(self, size: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._free_s = max(self._free_s, now_s) + size / self.rate_bytes_s
        if self._free_s > now_s:
            await asyncio.sleep(self._free_s - now_s)


@dataclass(slots=True)
class BundleProxy:
    """Serves one bundle under a name that nobody can guess, for as long as it is `running`."""

    url: str
    size_bytes: int
    tls: ssl.SSLContext | None
    rate_bytes_s: float
    may_flow: asyncio.Event = field(default_factory=asyncio.Event)
    fetched_bytes: int = 0
    size_differs: bool = False
    _name: str = field(default_factory=lambda: f"/{secrets.token_hex(16)}.raucb")
    _server: asyncio.Server | None = None
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(self.rate_bytes_s)

    async def start(self) -> str:
        """Listen on the loopback; the address for RAUC."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}{self._name}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self._server is not None:
                head = await reader.readuntil(b"\r\n\r\n")
                if not await self._answer(head.decode("latin-1"), writer):
                    break
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, UpstreamError) as exc:
            LOG.info("bundle: %s", exc)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may stay."""
        lines = head.split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or words[0] not in ("GET", "HEAD") or words[1] != self._name:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return False
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        first, last = 0, self.size_bytes - 1
        found = _RANGE.match(headers.get("range", ""))
        if found is not None:
            first = int(found[1])
            last = min(last, int(found[2])) if found[2] else last
        if first > last:
            writer.write(
                f"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{self.size_bytes}\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            await writer.drain()
            return True
        status = "206 Partial Content" if found is not None else "200 OK"
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {last - first + 1}\r\nAccept-Ranges: bytes\r\n"
        if found is not None:
            answer += f"Content-Range: bytes {first}-{last}/{self.size_bytes}\r\n"
        if words[0] == "HEAD":
            writer.write(f"{answer}\r\n".encode())
            await writer.drain()
            return True
        await self._pass_on(first, last, writer, f"{answer}\r\n".encode())
        return True

    async def _pass_on(self, first: int, last: int, writer: asyncio.StreamWriter, answer: bytes) -> None:
        """Fetch [first, last] and write it behind `answer`, taking up again what breaks. Raises UpstreamError."""
        tries, at = 0, first
        while at <= last:
            try:
                async for chunk in self._fetch(at, last):
                    if answer:
                        writer.write(answer)
                        answer = b""
                    writer.write(chunk)
                    await writer.drain()
                    at += len(chunk)
                    tries = 0
            except UpstreamError as exc:
                tries += 1
                if tries >= TRIES or self.size_differs:
                    raise
                LOG.info("bundle: %s, taken up again at %d", exc, at)
                await asyncio.sleep(min(5.0, 0.2 * 2**tries))

    async def _fetch(self, first: int, last: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
        parts = urlsplit(self.url)
        port = parts.port or (443 if self.tls is not None else 80)
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=self.tls, limit=MAX_HEAD_BYTES)
        except (OSError, TimeoutError, ssl.SSLError) as exc:
            raise UpstreamError(f"not reached: {type(exc).__name__}") from exc
        try:
            request = (
                f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nRange: bytes={first}-{last}\r\n"
                "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
            )
            writer.write(request.encode())
            async with asyncio.timeout(SILENCE_LIMIT_S):
                await writer.drain()
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self._demand_range(head, first, last)
            left = last - first + 1
            while left:
                await self.may_flow.wait()
                async with asyncio.timeout(SILENCE_LIMIT_S):
                    chunk = await reader.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise UpstreamError("broke off")
                await self._bucket.take(len(chunk))
                left -= len(chunk)
                self.fetched_bytes += len(chunk)
                yield chunk
        except (OSError, TimeoutError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            raise UpstreamError(type(exc).__name__) from exc
        finally:
            writer.close()

    def _demand_range(self, head: str, first: int, last: int) -> None:
        """Exactly what was asked for, of a file of exactly the offered size. Raises UpstreamError."""
        lines = head.split("\r\n")
        status = lines[0].split(" ")
        if len(status) < 2 or status[1] != "206":
            raise UpstreamError(f"status {status[1][:3] if len(status) > 1 else 'none'}")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        found = _CONTENT_RANGE.match(headers.get("content-range", ""))
        if found is None or int(found[3]) != self.size_bytes:
            self.size_differs = True
            raise UpstreamError("another size than was offered")
        if (int(found[1]), int(found[2])) != (first, last):
            raise UpstreamError("another range than was asked for")


def client_tls(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.3 to the server with the bundles: our own CA, our own certificate. Raises OSError."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(cert, key)
    return context
