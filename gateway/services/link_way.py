"""Which way out the link uses: the tunnel, or where no tunnel gets through, TLS to the centre.

The broker's connection decides: it is tried inside the tunnel first, and by the fallback when that gave nothing within
2.5 s. The picture goes the same way as the commands. While the fallback is used, the tunnel is tried again from time to
time, never in the middle of a check.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.config import LinkConfig
from gateway.core.error import TransientError
from gateway.edge.broker_paho import Broker, BrokerAddress, can_reach
from gateway.edge.ice_aioice import ByAddress, ByRelay, Way, interface_addresses, relay_tls
from gateway.protocol.message import LinkSettings

LOG = logging.getLogger("tillsyn.link")

TRY_TUNNEL_FIRST_S: Final = 5.0
"""At a start link may be there before the tunnel is; later pauses are twice as long each time."""
TRY_TUNNEL_MOST_S: Final = 900.0
"""Each try is one TCP connection through the tunnel, thus one handshake that a network without UDP swallows."""
MAX_CREDENTIAL_BYTES: Final = 1024


class RelayCredentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the centre gives for one check. Unsigned: it opens nothing but a way through the centre's own relay, and
    where the relay is and who vouches for it stands in our configuration.
    """

    username: Annotated[str, Meta(pattern=r"^[0-9]{1,12}:[A-Za-z0-9._:-]{1,120}\Z")]
    credential: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/=]{1,120}\Z")]


_credentials: Final = msgspec.json.Decoder(RelayCredentials)


def broker_addresses(config: LinkConfig, settings: LinkSettings) -> tuple[BrokerAddress, BrokerAddress | None]:
    """The broker inside the tunnel, and by the fallback if there is one."""

    def address(host: str, port: int) -> BrokerAddress:
        return BrokerAddress(host, port, Path(config.ca), Path(config.cert), Path(config.key), settings.broker_name)

    fallback = settings.fallback
    return (
        address(settings.broker_host, settings.broker_port),
        None if fallback is None else address(fallback.broker_host, fallback.broker_port),
    )


@dataclass(slots=True)
class WayOut:
    """The way in use and what belongs to it. Raises ConfigError when the CA's file is unusable."""

    config: LinkConfig
    settings: LinkSettings
    by_fallback: bool = False
    _credentials: RelayCredentials | None = None
    _pause_s: float = TRY_TUNNEL_FIRST_S
    _relay_tls: ssl.SSLContext | None = field(init=False)

    def __post_init__(self) -> None:
        self._relay_tls = None
        self.use(self.settings)

    def use(self, settings: LinkSettings) -> None:
        """From the next connection on."""
        self.settings = settings
        self.by_fallback = False
        self._pause_s = TRY_TUNNEL_FIRST_S
        if settings.fallback is not None and self._relay_tls is None:
            self._relay_tls = relay_tls(Path(self.config.ca))

    def note_up(self, *, by_fallback: bool) -> None:
        if by_fallback is not self.by_fallback:
            LOG.warning("tunnel: %s", "fallback" if by_fallback else "up")
        self.by_fallback = by_fallback
        if not by_fallback:
            self._pause_s = TRY_TUNNEL_FIRST_S

    @property
    def word(self) -> str:
        """`up`, `fallback`, or `none` on a bench that has no tunnel."""
        if self.config.tunnel_interface is None:
            return "none"
        return "fallback" if self.by_fallback else "up"

    def take_credentials(self, untrusted: bytes) -> None:
        """Keep the newest; drops what is none."""
        try:
            if len(untrusted) > MAX_CREDENTIAL_BYTES:
                raise ValueError("too long")
            self._credentials = _credentials.decode(untrusted)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            LOG.warning("dropped what is no relay credential")

    def ice(self) -> Way:
        """How the next check's picture goes out."""
        fallback = self.settings.fallback
        if self.by_fallback and fallback is not None and self._credentials is not None:
            assert self._relay_tls is not None
            return ByRelay(
                fallback.relay_host,
                fallback.relay_port,
                self._relay_tls,
                self._credentials.username,
                self._credentials.credential,
            )
        if self.config.tunnel_interface is not None:
            return ByAddress(interface_addresses(self.config.tunnel_interface), relayed_only=True)
        return ByAddress(tuple(self.config.ice_addresses), relayed_only=False)

    async def return_to_tunnel(self, broker: Broker, *, busy: Callable[[], bool]) -> None:
        """Try the tunnel again while the fallback is used; `busy` says that a picture is on its way."""
        while True:
            await asyncio.sleep(self._pause_s * random.uniform(0.8, 1.2))  # noqa: S311
            if not self.by_fallback or busy():
                continue
            self._pause_s = min(self._pause_s * 2, TRY_TUNNEL_MOST_S)
            try:
                await can_reach(self.settings.broker_host, self.settings.broker_port)
            except TransientError:
                continue
            if not busy():
                LOG.info("the tunnel answers again")
                broker.hang_up()
