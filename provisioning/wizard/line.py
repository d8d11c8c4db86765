"""What the line is good for: names, time, centre, broker, relay, width and loss, each measured and said by itself.

One line of the result is one `ProtocolLine`; what to do about a bad one is in the wizard's words, under the line's
name. Where the centre names no relay there is none to measure: such a line says `none` and is not held against it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from gateway.core.error import GatewayError
from gateway.protocol.message import ProtocolLine
from provisioning.enrolment.est_client import NO_CHECK_TIME, EstClient, UnreachableError
from provisioning.enrolment.word import EndPoint, Targets

LEAST_BPS: Final = 300_000
"""Below this the picture is a still each second at best. Source: measured, docs of the media room."""
MOST_LOSS_PERCENT: Final = 10
MOST_OFF_S: Final = 60.0
PINGS: Final = 20
PING_S: Final = 1.0
CONNECT_S: Final = 5.0
_STUN_COOKIE: Final = bytes.fromhex("2112a442")


async def measure(client: EstClient, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> list[ProtocolLine]:
    """Every line, in the order in which they depend on one another. What can't be measured any more is not good."""
    lines = [await _names(client)]
    targets: Targets | None = None
    reached = ProtocolLine("centre", "measured", is_good=False, value="not tried")
    date: datetime | None = None
    if lines[0].is_good:
        try:
            targets, date = await asyncio.to_thread(client.targets), now()
            theirs = await asyncio.to_thread(client.date)
            reached = ProtocolLine("centre", "measured", is_good=True)
        except UnreachableError as exc:
            reached = ProtocolLine("centre", "measured", is_good=False, value=exc.step)
        except GatewayError as exc:
            reached = ProtocolLine("centre", "measured", is_good=False, value=type(exc).__name__)
    lines.append(reached)
    if targets is None or date is None:
        return lines + [ProtocolLine(name, "measured", is_good=False, value="not tried") for name in _LATER]
    lines.append(_time(theirs, now()))
    lines.append(await _broker(targets.broker, client))
    lines += await _relay(targets.relay)
    lines.append(await _width(client))
    return lines


_LATER: Final = ("time", "broker", "relay", "loss-percent", "width-kbps")


def is_good(lines: list[ProtocolLine]) -> bool:
    return all(line.is_good for line in lines)


async def _names(client: EstClient) -> ProtocolLine:
    host = urlsplit(client.url).hostname or ""
    try:
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, TimeoutError, UnicodeError):
        return ProtocolLine("dns", "measured", is_good=False)
    return ProtocolLine("dns", "measured", is_good=True)


def _time(theirs: datetime | None, ours: datetime) -> ProtocolLine:
    """How far the device's clock is off. It sets itself once a time server answers; the guard asks the centre too."""
    if theirs is None:
        return ProtocolLine("time", "measured", is_good=False, value="not told")
    off_s = (ours - theirs).total_seconds()
    return ProtocolLine("time", "measured", abs(off_s) <= MOST_OFF_S, f"{off_s:.0f} s off")


async def _broker(place: EndPoint, client: EstClient) -> ProtocolLine:
    """TLS with the broker, up to the point where it wants our certificate: none is there before the enrolment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=client.ca.decode("ascii"))
    if not client.knows_time:
        context.verify_flags |= NO_CHECK_TIME
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(
                place.host, place.port, ssl=context, server_hostname=place.name or place.host
            )
    except ssl.SSLError:
        return ProtocolLine("broker", "measured", is_good=False, value="certificate")
    except (OSError, TimeoutError):
        return ProtocolLine("broker", "measured", is_good=False, value="connect")
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
    return ProtocolLine("broker", "measured", is_good=True)


async def _relay(place: EndPoint | None) -> list[ProtocolLine]:
    """STUN binding requests over UDP, answered by every TURN server. Source: RFC 8489 §6."""
    if place is None:
        return [
            ProtocolLine("relay", "measured", is_good=True, value="none"),
            ProtocolLine("loss-percent", "measured", is_good=True, value="not measured"),
        ]
    answered = await asyncio.to_thread(_stun_answers, place)
    loss = round(100 * (PINGS - answered) / PINGS)
    return [
        ProtocolLine("relay", "measured", answered > 0),
        ProtocolLine("loss-percent", "measured", loss <= MOST_LOSS_PERCENT, str(loss)),
    ]


def _stun_answers(place: EndPoint) -> int:
    waiting: set[bytes] = set()
    answered = 0
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.connect(address)
            sock.settimeout(0.05)
            for _ in range(PINGS):
                number = os.urandom(12)
                waiting.add(number)
                with contextlib.suppress(OSError):
                    sock.send(b"\x00\x01\x00\x00" + _STUN_COOKIE + number)
                answered += _take(sock, waiting)
            ends_s = time.monotonic() + PING_S
            while waiting and time.monotonic() < ends_s:
                answered += _take(sock, waiting)
    except OSError:
        return answered
    return answered


def _take(sock: socket.socket, waiting: set[bytes]) -> int:
    try:
        answer = sock.recv(1500)
    except OSError:
        return 0
    if len(answer) < 20 or answer[:2] != b"\x01\x01" or answer[8:20] not in waiting:
        return 0
    waiting.discard(answer[8:20])
    return 1


async def _width(client: EstClient) -> ProtocolLine:
    began_s = time.monotonic()
    try:
        got_bytes = await asyncio.to_thread(client.line_bytes)
    except GatewayError:
        return ProtocolLine("width-kbps", "measured", is_good=False, value="broken off")
    bps = got_bytes * 8 / max(0.001, time.monotonic() - began_s)
    return ProtocolLine("width-kbps", "measured", bps >= LEAST_BPS, str(round(bps / 1000)))
