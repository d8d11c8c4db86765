"""What the tunnel's service asks of whoever makes the tunnel: WireGuard's own tools, or NetworkManager."""

from __future__ import annotations

from typing import Protocol

from gateway.core.error import TransientError
from gateway.protocol.message import TunnelSettings


class TunnelError(TransientError):
    """The tunnel could not be made or asked about now; what stood before may be gone."""


class TunnelPort(Protocol):
    """One tunnel interface. Nothing is sent through it or for it while nobody has anything to say: no keep-alive."""

    async def apply(self, settings: TunnelSettings, private_key: bytes) -> None:
        """Make the interface be this and nothing else; an earlier session is given up. Raises TunnelError."""
        ...

    async def reached(self) -> bool:
        """Whether the centre has answered since the last `apply`. Raises TunnelError."""
        ...

    async def remove(self) -> None:
        """Take the interface away; idempotent. Raises TunnelError."""
        ...
