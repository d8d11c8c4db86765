"""The link's end of the picture: ICE by aioice, for datagrams that it can't read.

Two ways to the operator, chosen before a check and never mixed: the tunnel's own address as the only candidate, or
where there is no tunnel, one address at the centre's relay, asked for over TLS. No STUN server is asked, no name of a
peer is resolved. aioice knows one relay only, so the choice is made here and not by ICE.

Retransmission. aioice takes its timer from a module's global when a transaction begins. Measured: 0.1 s while
connecting saves 200 to 400 ms; left there it fails consent checks at 200 ms round trip and ends the session after 30 s.
So it is 0.1 s exactly while `_connecting` holds, and 2.0 s otherwise. The global is safe here because link is the only
process that imports this module, and it carries one check at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aioice.stun
import ifaddr
from aioice import Candidate, Connection, TransportPolicy

from gateway.core.error import ConfigError
from gateway.ipc import media

LOG = logging.getLogger("tillsyn.link")

CONNECTING_RTO_S: Final = 0.1
CONNECTED_RTO_S: Final = 2.0
UDP_SEGMENT: Final = 103
"""Source: linux/udp.h; Python's socket module has no name for it."""


@dataclass(frozen=True, slots=True)
class ByAddress:
    """Host candidates on these addresses, and no others.

    In a tunnel only the relay is a peer: of the operator's candidates only those at a relay are tried.
    """

    addresses: tuple[str, ...]
    relayed_only: bool


@dataclass(frozen=True, slots=True)
class ByRelay:
    """One candidate at the relay, over TLS with our own CA; credentials as the centre gave them for this check."""

    host: str
    port: int
    tls: ssl.SSLContext
    username: str
    credential: str


Way = ByAddress | ByRelay


def relay_tls(ca: Path) -> ssl.SSLContext:
    """TLS to the relay, our own CA and no public one, name checked. Raises ConfigError.

    1.3 where the relay can; 1.2 with forward secrecy and AEAD only is taken too, because Debian's coturn 4.6.1 refuses
    every TLS 1.3 handshake (measured, November 2026). What goes through it is sealed by DTLS-SRTP already.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"CA of the relay: {exc}") from exc
    return context


def interface_addresses(name: str) -> tuple[str, ...]:
    """The IPv4 addresses of an interface now; none where it does not exist."""
    return tuple(
        str(each.ip)
        for adapter in ifaddr.get_adapters()
        if adapter.name == name
        for each in adapter.ips
        if each.is_IPv4
    )


def runs(datagrams: list[bytes]) -> list[list[bytes]]:
    """The same in order, in runs that are equal in length but for a last one that may be shorter."""
    made: list[list[bytes]] = []
    for datagram in datagrams:
        if made and len(made[-1][-1]) == len(made[-1][0]) >= len(datagram):
            made[-1].append(datagram)
        else:
            made.append([datagram])
    return made


class OneWayConnection(Connection):
    """An aioice connection whose candidates are those of one way and no others."""

    def __init__(self, way: Way, **options: Any) -> None:
        self._addresses: list[str] = []
        self._segmenting = isinstance(way, ByAddress)
        match way:
            case ByAddress():
                self._addresses = list(way.addresses)
            case ByRelay():
                options |= {
                    "turn_server": (way.host, way.port),
                    "turn_username": way.username,
                    "turn_password": way.credential,
                    "turn_ssl": way.tls,
                    "turn_transport": "tcp",
                    "transport_policy": TransportPolicy.RELAY,
                }
        super().__init__(ice_controlling=False, **options)

    def send_all(self, datagrams: list[bytes]) -> None:
        """Send by the pair in use; before there is one they are lost, as on any network. Never waits.

        aioice's own `send` is two coroutines a datagram, which do no more than this.
        """
        pair = self._nominated.get(1)
        if pair is None:
            return
        transport, address = pair.protocol.transport, pair.remote_addr
        if self._segmenting and len(datagrams) > 1:
            datagrams = self._send_segmented(datagrams, transport, address)
        for datagram in datagrams:
            transport.sendto(datagram, address)

    def _send_segmented(self, datagrams: list[bytes], transport: Any, address: tuple[str, int]) -> list[bytes]:
        """Send what the kernel will cut apart by itself, one call for a run of equal ones; gives what is left to send.

        A call for each datagram was a third of link's work. Source: udp(7), UDP_SEGMENT; Linux 4.18.
        """
        sock = transport.get_extra_info("socket")
        if sock is None:
            return datagrams
        at = 0
        for run in runs(datagrams):
            if len(run) > 1:
                size = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(run[0])))]
                try:
                    sock._sock.sendmsg(run, size, 0, address)  # noqa: SLF001  asyncio's wrapper hides the call
                except BlockingIOError:
                    pass  # a full buffer loses them, as a full line does
                except OSError as exc:
                    LOG.info("datagrams go one by one: %s", exc)
                    self._segmenting = False
                    return datagrams[at:]
            else:
                transport.sendto(run[0], address)
            at += len(run)
        return []

    def send_frame(self, frame: bytes) -> None:
        """Send what the eye sealed. Raises ValueError for anything else."""
        self.send_all(media.apart(frame))

    async def gather_candidates(self) -> None:
        self._local_candidates_start = True
        self._local_candidates += await self.get_component_candidates(component=1, addresses=self._addresses)
        self._local_candidates_end = True


@contextlib.contextmanager
def _connecting() -> Iterator[None]:
    aioice.stun.RETRY_RTO = CONNECTING_RTO_S
    try:
        yield
    finally:
        aioice.stun.RETRY_RTO = CONNECTED_RTO_S


async def carry(sock: socket.socket, way: Way) -> None:
    """Carry one check's sealed datagrams between the media socket and the operator until either side ends.

    Closes `sock`. Never raises for what a peer does: a failure is told to the eye and the check ends there.
    """
    path = media.MediaSocket(sock)
    connection: OneWayConnection | None = None
    inward: asyncio.Task[None] | None = None
    try:
        while True:
            match media.from_eye(await path.receive()):
                case list() as datagrams:
                    if connection is not None:
                        connection.send_all(datagrams)
                        if inward is not None:
                            # Both words are said: from here on without a task's waking for what comes.
                            await path.forward(connection.send_frame)
                case media.Gather(ufrag, password) if connection is None:
                    connection = OneWayConnection(way, local_username=ufrag, local_password=password)
                    await connection.gather_candidates()
                    lines = [candidate.to_sdp() for candidate in connection.local_candidates]
                    if not lines:
                        # No tunnel after all, or a relay that gave nothing: better said now than waited for.
                        LOG.warning("no address to offer to the operator")
                        path.send(media.control(media.Failed()))
                        return
                    path.send(media.control(media.Gathered(lines)))
                case media.Connect() as word if connection is not None and inward is None:
                    relayed_only = isinstance(way, ByRelay) or way.relayed_only
                    receiving = _connect_and_receive(connection, word, path, relayed_only=relayed_only)
                    inward = asyncio.create_task(receiving, name="media inward")
                case _:
                    LOG.warning("eye spoke out of turn")
                    return
    except (OSError, ValueError) as exc:
        LOG.info("media ended: %s", exc)
    finally:
        if inward is not None:
            inward.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await inward
        if connection is not None:
            await connection.close()
        path.close()


async def _connect_and_receive(
    connection: OneWayConnection, word: media.Connect, path: media.MediaSocket, *, relayed_only: bool
) -> None:
    connection.remote_username, connection.remote_password = word.ufrag, word.password
    connection.remote_is_lite = word.lite
    connection.ice_controlling = word.controlling
    try:
        for line in word.candidates:
            candidate = Candidate.from_sdp(line)
            if not candidate.host.endswith(".local") and (candidate.type == "relay" or not relayed_only):
                await connection.add_remote_candidate(candidate)
        # The end of candidates is never said: a browser that hides its addresses is learnt from its first check, and
        # how long an opening may take is the guard's to say.
        with _connecting():
            await connection.connect()
        path.send(media.control(media.Connected()))
        while True:
            path.send(media.sealed(await connection.recv()))
    except (OSError, ValueError) as exc:  # ConnectionError is an OSError
        LOG.info("path to the operator ended: %s", exc)
        with contextlib.suppress(OSError):
            path.send(media.control(media.Failed()))
