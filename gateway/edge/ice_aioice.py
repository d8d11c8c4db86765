"""The link's end of the picture: ICE by aioice, for datagrams that it can't read.

Offers the configured addresses only (the tunnel's), asks no STUN server and resolves no names. Measured: aioice's
retransmission timer at 0.1 s while connecting saves 200 to 400 ms, left there it fails consent checks at 200 ms round
trip; so it is put to 2.0 s once ICE is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Any, Final

import aioice.stun
from aioice import Candidate, Connection

from gateway.ipc import media

LOG = logging.getLogger("tillsyn.link")

CONNECTING_RTO_S: Final = 0.1
CONNECTED_RTO_S: Final = 2.0


class AddressedConnection(Connection):
    """An aioice connection whose host candidates are on the given addresses and no others."""

    def __init__(self, addresses: Sequence[str], **options: Any) -> None:
        super().__init__(ice_controlling=False, **options)
        self._addresses = list(addresses)

    async def gather_candidates(self) -> None:
        self._local_candidates_start = True
        self._local_candidates += await self.get_component_candidates(component=1, addresses=self._addresses)
        self._local_candidates_end = True


async def carry(sock: socket.socket, addresses: Sequence[str]) -> None:
    """Carry one check's sealed datagrams between the media socket and the operator until either side ends.

    Closes `sock`. Never raises for what a peer does: a failure is told to the eye and the check ends there.
    """
    path = media.MediaSocket(sock)
    connection: AddressedConnection | None = None
    inward: asyncio.Task[None] | None = None
    try:
        while True:
            match media.from_eye(await path.receive()):
                case bytes() as datagram:
                    if connection is not None:
                        with contextlib.suppress(ConnectionError):
                            await connection.send(datagram)
                case media.Gather(ufrag, password) if connection is None:
                    connection = AddressedConnection(addresses, local_username=ufrag, local_password=password)
                    await connection.gather_candidates()
                    lines = [candidate.to_sdp() for candidate in connection.local_candidates]
                    path.send(media.control(media.Gathered(lines)))
                case media.Connect() as word if connection is not None and inward is None:
                    inward = asyncio.create_task(_connect_and_receive(connection, word, path), name="media inward")
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


async def _connect_and_receive(connection: AddressedConnection, word: media.Connect, path: media.MediaSocket) -> None:
    connection.remote_username, connection.remote_password = word.ufrag, word.password
    connection.remote_is_lite = word.lite
    connection.ice_controlling = word.controlling
    try:
        aioice.stun.RETRY_RTO = CONNECTING_RTO_S
        for line in word.candidates:
            candidate = Candidate.from_sdp(line)
            if not candidate.host.endswith(".local"):
                await connection.add_remote_candidate(candidate)
        # The end of candidates is never said: a browser that hides its addresses is learnt from its first check, and
        # how long an opening may take is the guard's to say.
        await connection.connect()
        aioice.stun.RETRY_RTO = CONNECTED_RTO_S
        path.send(media.control(media.Connected()))
        while True:
            path.send(media.sealed(await connection.recv()))
    except (OSError, ValueError) as exc:  # ConnectionError is an OSError
        LOG.info("path to the operator ended: %s", exc)
        with contextlib.suppress(OSError):
            path.send(media.control(media.Failed()))
