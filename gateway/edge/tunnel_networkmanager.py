"""The tunnel by NetworkManager, over D-Bus: for boards whose interfaces are NetworkManager's.

This process then needs no right to set up interfaces, only NetworkManager's leave. The connection is added in memory:
NetworkManager writes no copy of the private key to its own files. It does not say when the centre answered; what the
interface received does. Source: NetworkManager's D-Bus reference (AddAndActivateConnection2, nm-settings-dbus).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import Any, Final

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gateway.edge.tunnel_port import TunnelError
from gateway.protocol.message import TunnelSettings

SERVICE: Final = "org.freedesktop.NetworkManager"
ROOT: Final = "/org/freedesktop/NetworkManager"
CALL_LIMIT_S: Final = 10.0
ACTIVE_LIMIT_S: Final = 10.0
_ACTIVATED: Final = 2
_DEACTIVATING: Final = 3
"""NMActiveConnectionState; 3 and above is the end of it."""


class NetworkManagerTunnel:
    """One connection of ours, named as its interface."""

    def __init__(
        self, interface: str, *, bus_address: str | None = None, interfaces: Path = Path("/sys/class/net")
    ) -> None:
        """`bus_address` None is the system's bus."""
        self._interface = interface
        self._bus_address = bus_address
        self._received = interfaces / interface / "statistics" / "rx_bytes"
        self._bus: MessageBus | None = None

    async def apply(self, settings: TunnelSettings, private_key: bytes) -> None:
        await self._delete_ours()
        # AddAndActivateConnection2 makes and starts it in one step; "/" lets NetworkManager choose the device.
        _, active, _ = await self._call(
            ROOT,
            SERVICE,
            "AddAndActivateConnection2",
            "a{sa{sv}}ooa{sv}",
            [self._connection(settings, private_key), "/", "/", {"persist": Variant("s", "memory")}],
        )
        deadline_s = asyncio.get_running_loop().time() + ACTIVE_LIMIT_S
        while (state := await self._state(active)) != _ACTIVATED:
            if state >= _DEACTIVATING:
                raise TunnelError("NetworkManager gave the tunnel up")
            if asyncio.get_running_loop().time() > deadline_s:
                raise TunnelError("NetworkManager does not get the tunnel up")
            await asyncio.sleep(0.05)

    async def reached(self) -> bool:
        try:
            return int(self._received.read_text()) > 0
        except (OSError, ValueError) as exc:
            raise TunnelError(f"{self._interface}: no such interface") from exc

    async def remove(self) -> None:
        await self._delete_ours()
        if self._bus is not None:
            bus, self._bus = self._bus, None
            bus.disconnect()

    def _connection(self, settings: TunnelSettings, private_key: bytes) -> dict[str, dict[str, Variant]]:
        peer = {
            "public-key": Variant("s", settings.centre_key),
            "endpoint": Variant("s", f"{settings.endpoint_host}:{settings.endpoint_port}"),
            "allowed-ips": Variant("as", [f"{address}/32" for address in settings.centre]),
            "persistent-keepalive": Variant("u", 0),
        }
        return {
            "connection": {
                "id": Variant("s", self._interface),
                "uuid": Variant("s", str(uuid.uuid4())),
                "type": Variant("s", "wireguard"),
                "interface-name": Variant("s", self._interface),
                "autoconnect": Variant("b", False),
            },
            "wireguard": {
                "private-key": Variant("s", private_key.decode().strip()),
                "private-key-flags": Variant("u", 0),
                "mtu": Variant("u", settings.mtu_bytes),
                "peer-routes": Variant("b", True),
                "peers": Variant("aa{sv}", [peer]),
            },
            "ipv4": {
                "method": Variant("s", "manual"),
                "address-data": Variant(
                    "aa{sv}", [{"address": Variant("s", settings.address), "prefix": Variant("u", 32)}]
                ),
                "never-default": Variant("b", True),
            },
            "ipv6": {"method": Variant("s", "disabled")},
        }

    async def _delete_ours(self) -> None:
        (paths,) = await self._call(f"{ROOT}/Settings", f"{SERVICE}.Settings", "ListConnections")
        for path in paths:
            each = f"{SERVICE}.Settings.Connection"
            try:
                (known,) = await self._call(path, each, "GetSettings")
            except TunnelError:
                continue  # it went while we looked
            if known["connection"]["id"].value == self._interface:
                await self._call(path, each, "Delete")

    async def _state(self, active: str) -> int:
        (state,) = await self._call(
            active, "org.freedesktop.DBus.Properties", "Get", "ss", [f"{SERVICE}.Connection.Active", "State"]
        )
        return int(state.value)

    async def _call(self, path: str, interface: str, member: str, signature: str = "", body: Any = ()) -> list[Any]:
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                if self._bus is None or not self._bus.connected:
                    kind = BusType.SYSTEM
                    self._bus = await MessageBus(bus_address=self._bus_address, bus_type=kind).connect()
                reply = await self._bus.call(
                    Message(
                        destination=SERVICE,
                        path=path,
                        interface=interface,
                        member=member,
                        signature=signature,
                        body=list(body),
                    )
                )
        except (OSError, TimeoutError, EOFError) as exc:
            with contextlib.suppress(Exception):
                if self._bus is not None:
                    self._bus.disconnect()
            self._bus = None
            raise TunnelError(f"NetworkManager: {type(exc).__name__}") from exc
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise TunnelError(f"NetworkManager: {member}: {reply.error_name}")
        return list(reply.body)
