"""HTTP/1.1 servers of ours on uvicorn: in the caller's TaskGroup, quiet, bounded, and with TLS 1.3 where asked for.

Behind TLS an application may want to know who the peer is: `peer_certificate(request.state)` is the peer's verified
certificate in DER, or None. uvicorn passes none by itself.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from asyncio import Transport
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

STOP_LIMIT_S: Final = 3
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_CONNECTIONS: Final = 128


class Server(uvicorn.Server):
    """uvicorn in our TaskGroup: signals are the caller's, and whoever started us is told when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class _PeerProtocol(H11Protocol):
    """Tells the application whose certificate the TLS layer has verified."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        peer = None if tls is None else tls.getpeercert(binary_form=True)
        self.app_state = {**self.app_state, "peer_der": peer}


def server_config(app: Any, *, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """One server: HTTP/1.1, no access log, no name of its own, and it does not believe a proxy."""
    config = uvicorn.Config(
        app,
        http=_PeerProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_LIMIT_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
    )
    if tls is not None:
        config.load()
        config.ssl = tls
        config.ssl_certfile = "given"  # what uvicorn asks to know that it speaks https
    return config


def peer_certificate(state: Any) -> bytes | None:
    """The verified certificate of the peer in DER. `state` is `request.state`."""
    peer = getattr(state, "peer_der", None)
    return peer if isinstance(peer, bytes) else None


def server_tls(certificate: Path, key: Path, *, clients_of: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 as a server; with `clients_of` a client may show a certificate of that CA, and none of another.

    Raises OSError and ssl.SSLError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    # A ticket would let a client come back without showing its certificate anew.
    context.num_tickets = 0
    if clients_of is not None:
        context.load_verify_locations(clients_of)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
