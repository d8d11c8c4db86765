"""What the wizard asks of whatever joins the device to a network; `network_dbus` is NetworkManager's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

TRY_S: Final = 45.0
"""How long one try may take, before it counts as failed."""


class Joining(StrEnum):
    """How a try ended. Each has its sentence in the wizard's words."""

    JOINED = "joined"
    WRONG_PASSWORD = "wrong-password"  # noqa: S105 - an outcome, not a password
    NOT_FOUND = "not-found"
    NO_ADDRESS = "no-address"
    PORTAL = "portal"
    """Joined, but the network wants somebody to fill in a page first: no device can."""
    NO_CABLE = "no-cable"
    TOO_SLOW = "too-slow"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wifi:
    """One network in the air. `strength` is 0 to 100; `is_usable` False where this device can't join it."""

    ssid: str
    strength: int
    is_secured: bool
    is_usable: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found. One radio can't look around and be an access point: this is from before that was raised."""

    wifis: tuple[Wifi, ...]
    has_cable: bool


class NetworkPort(Protocol):
    async def look(self) -> Surroundings:
        """Scan. Raises NetworkError when NetworkManager is not there."""

    async def join_wifi(self, ssid: str, password: str | None) -> Joining:
        """Join, for `TRY_S` at most. A try that failed leaves no connection of it behind."""

    async def join_cable(self) -> Joining:
        """Use the cable: Ethernet, or the mobile router at its end."""

    async def raise_access_point(self, ssid: str, password: str) -> None:
        """The device's own network, for a home that has none yet. Raises NetworkError."""

    async def lower_access_point(self) -> None:
        """End it and forget it. Repeating it is allowed."""
