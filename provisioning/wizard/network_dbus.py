"""NetworkManager over D-Bus, by dbus-fast: scan, join, fall back, and the device's own access point.

Only documented names are used: org.freedesktop.NetworkManager 1.42 (Debian 12) and later. What ends a try is the
device's own state and its reason, so that the installer hears why. Passwords go to NetworkManager and nowhere else.
Source: NetworkManager D-Bus reference, NMDeviceState, NMDeviceStateReason, NMConnectivityState.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final

from dbus_fast import BusType, DBusError, Variant
from dbus_fast.aio import MessageBus, ProxyInterface

from gateway.core.error import TransientError
from provisioning.wizard.network_port import TRY_S, Joining, Surroundings, Wifi

NM: Final = "org.freedesktop.NetworkManager"
PATH: Final = "/org/freedesktop/NetworkManager"
_OWN: Final = "tillsyn-setup"
"""The device's own access point."""
_ETHERNET, _WIFI = 1, 2
_ACTIVATED, _FAILED, _DISCONNECTED, _PREPARE = 100, 120, 30, 40
_PORTAL = 2
_REASONS: Final[dict[int, Joining]] = {
    5: Joining.NO_ADDRESS,  # IP_CONFIG_UNAVAILABLE
    7: Joining.WRONG_PASSWORD,  # NO_SECRETS
    8: Joining.WRONG_PASSWORD,  # SUPPLICANT_DISCONNECT
    9: Joining.FAILED,  # SUPPLICANT_CONFIG_FAILED
    10: Joining.WRONG_PASSWORD,  # SUPPLICANT_FAILED
    11: Joining.WRONG_PASSWORD,  # SUPPLICANT_TIMEOUT
    15: Joining.NO_ADDRESS,  # DHCP_START_FAILED
    16: Joining.NO_ADDRESS,  # DHCP_ERROR
    17: Joining.NO_ADDRESS,  # DHCP_FAILED
    40: Joining.NO_CABLE,  # CARRIER
    53: Joining.NOT_FOUND,  # SSID_NOT_FOUND
}
_KEY_MGMT_PSK, _KEY_MGMT_SAE, _KEY_MGMT_802_1X = 0x100, 0x400, 0x200
_PRIVACY = 0x1
_ADDRESSES: Final = {
    "ipv4": {"method": Variant("s", "auto"), "dhcp-timeout": Variant("i", 25)},
    "ipv6": {"method": Variant("s", "auto"), "ra-timeout": Variant("i", 25)},
}
"""NetworkManager's own patience is 45 s, as long as a try may take: it would never come to say what was missing."""
SCAN_S: Final = 6.0
PORTAL_PATIENCE_S: Final = 5.0
DOWN_S: Final = 8.0


class NetworkError(TransientError):
    """NetworkManager is not there, or does not do what it was asked."""


class NmNetwork:
    """A NetworkPort. `address` is D-Bus's; None is the system bus. `cables` are what counts as one (NMDeviceType)."""

    def __init__(
        self, address: str | None = None, *, try_s: float = TRY_S, cables: tuple[int, ...] = (_ETHERNET,)
    ) -> None:
        self._address = address
        self._try_s = try_s
        self._cables = cables
        self._bus: MessageBus | None = None

    async def look(self) -> Surroundings:
        """See NetworkPort.look."""
        wifis: dict[str, Wifi] = {}
        device = await self._device(_WIFI)
        if device is not None:
            with contextlib.suppress(DBusError):  # a scan was under way: its result is as good
                await self._call(device, f"{NM}.Device.Wireless", "request_scan", {})
                await asyncio.sleep(min(SCAN_S, self._try_s / 8))
            wifis = await self._in_sight(device)
        ordered = sorted(wifis.values(), key=lambda wifi: (-wifi.strength, wifi.ssid))
        return Surroundings(tuple(ordered), await self._has_cable())

    async def _in_sight(self, device: str) -> dict[str, Wifi]:
        """By name, the strongest of each."""
        wifis: dict[str, Wifi] = {}
        for path in await self._call(device, f"{NM}.Device.Wireless", "get_all_access_points"):
            with contextlib.suppress(DBusError, NetworkError):  # it went out of sight in the meantime
                found = await self._access_point_facts(path)
                known = wifis.get(found.ssid)
                if found.ssid and (known is None or known.strength < found.strength):
                    wifis[found.ssid] = found
        return wifis

    async def join_wifi(self, ssid: str, password: str | None) -> Joining:
        """See NetworkPort.join_wifi."""
        device = await self._device(_WIFI)
        if device is None:
            return Joining.NOT_FOUND
        settings: dict[str, dict[str, Variant]] = {
            "connection": {
                "id": Variant("s", "tillsyn"),
                "uuid": Variant("s", str(uuid.uuid4())),
                "type": Variant("s", "802-11-wireless"),
            },
            "802-11-wireless": {"ssid": Variant("ay", ssid.encode()), "mode": Variant("s", "infrastructure")},
            **_ADDRESSES,
        }
        if password is not None:
            settings["802-11-wireless-security"] = {"key-mgmt": Variant("s", "wpa-psk"), "psk": Variant("s", password)}
        outcome = await self._try(settings, device)
        if outcome is Joining.NOT_FOUND and password is not None and ssid in await self._in_sight(device):
            # A WPA3 network that was given a wrong password is "not found", says 1.42, while it stands in its own list.
            return Joining.WRONG_PASSWORD
        return outcome

    async def join_cable(self) -> Joining:
        """See NetworkPort.join_cable."""
        device = await self._device(*self._cables)
        if device is None or not await self._has_cable():
            return Joining.NO_CABLE
        if await self._property(device, f"{NM}.Device", "state") == _ACTIVATED:
            return await self._through_portal()
        settings = {
            "connection": {
                "id": Variant("s", "tillsyn-cable"),
                "uuid": Variant("s", str(uuid.uuid4())),
                "type": Variant("s", "802-3-ethernet"),
            },
            **_ADDRESSES,
        }
        return await self._try(settings, device)

    async def raise_access_point(self, ssid: str, password: str) -> None:
        """See NetworkPort.raise_access_point. WPA2: the Pi's radio can't do a WPA3 access point."""
        device = await self._device(_WIFI)
        if device is None:
            raise NetworkError("this device has no radio")
        await self.lower_access_point()
        settings = {
            "connection": {
                "id": Variant("s", _OWN),
                "uuid": Variant("s", str(uuid.uuid4())),
                "type": Variant("s", "802-11-wireless"),
                "autoconnect": Variant("b", value=False),
            },
            "802-11-wireless": {"ssid": Variant("ay", ssid.encode()), "mode": Variant("s", "ap")},
            "802-11-wireless-security": {
                "key-mgmt": Variant("s", "wpa-psk"),
                "proto": Variant("as", ["rsn"]),
                "pairwise": Variant("as", ["ccmp"]),
                "psk": Variant("s", password),
            },
            "ipv4": {"method": Variant("s", "shared")},
            "ipv6": {"method": Variant("s", "ignore")},
        }
        async with self._changes(device) as changes:
            await self._activate(settings, device, persist="volatile")
            outcome = await self._until_settled(changes)
        if outcome is not Joining.JOINED:
            await self.lower_access_point()
            raise NetworkError(f"the access point did not come up ({outcome})")

    async def lower_access_point(self) -> None:
        """See NetworkPort.lower_access_point."""
        # By its name, because a process that died may have left one behind; nobody could scan beside it.
        for active in await self._property(PATH, NM, "active_connections"):
            with contextlib.suppress(DBusError, NetworkError):  # it went in the meantime
                if await self._property(active, f"{NM}.Connection.Active", "id") == _OWN:
                    connection = await self._property(active, f"{NM}.Connection.Active", "connection")
                    await self._undo(connection, active)
                    await self._until_down()

    async def _until_down(self) -> None:
        """NetworkManager takes a moment to let go of the radio, in which nobody could scan. DOWN_S at most."""
        device = await self._device(_WIFI)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DOWN_S):
                while (  # noqa: ASYNC110 - another process lets go
                    device is not None and await self._property(device, f"{NM}.Device", "state") > _DISCONNECTED
                ):
                    await asyncio.sleep(0.1)

    async def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    # What a try is made of

    async def _try(self, settings: dict[str, dict[str, Variant]], device: str) -> Joining:
        async with self._changes(device) as changes:
            try:
                connection, active = await self._activate(settings, device, persist="disk")
            except DBusError as exc:
                # What NetworkManager can't even begin with: a password that is too short, for example.
                return Joining.WRONG_PASSWORD if "psk" in str(exc.text) else Joining.FAILED
            outcome = Joining.FAILED
            try:
                outcome = await self._until_settled(changes)
                if outcome is Joining.JOINED:
                    outcome = await self._through_portal()
            finally:
                if outcome is not Joining.JOINED:
                    await self._undo(connection, active)
            return outcome

    @contextlib.asynccontextmanager
    async def _changes(self, device: str) -> AsyncIterator[asyncio.Queue[tuple[int, int]]]:
        """The device's (state, reason) from here on, each. A look now and then would miss the one that failed: it is
        followed by another, without a reason, within the same moment (seen with 1.42).
        """
        found: asyncio.Queue[tuple[int, int]] = asyncio.Queue(64)
        proxy: Any = await self._interface(device, f"{NM}.Device")

        def note(state: int, _before: int, reason: int) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                found.put_nowait((state, reason))

        proxy.on_state_changed(note)
        try:
            yield found
        finally:
            proxy.off_state_changed(note)

    async def _activate(self, settings: dict[str, dict[str, Variant]], device: str, *, persist: str) -> tuple[str, str]:
        options = {"persist": Variant("s", persist)}
        found = await self._call(PATH, NM, "add_and_activate_connection2", settings, device, "/", options)
        return str(found[0]), str(found[1])

    async def _undo(self, connection: str, active: str) -> None:
        # It may be gone already: NetworkManager removes an activation that failed by itself.
        with contextlib.suppress(DBusError, NetworkError):
            await self._call(PATH, NM, "deactivate_connection", active)
        with contextlib.suppress(DBusError, NetworkError):
            await self._call(connection, f"{NM}.Settings.Connection", "delete")

    async def _until_settled(self, changes: asyncio.Queue[tuple[int, int]]) -> Joining:
        """Until the device is up, or down with a reason. What ends first, an access point, is not what was begun."""
        began = False
        try:
            async with asyncio.timeout(self._try_s):
                while True:
                    state, reason = await changes.get()
                    if state == _ACTIVATED:
                        return Joining.JOINED
                    if state == _FAILED or (began and state <= _DISCONNECTED):
                        return _REASONS.get(reason, Joining.FAILED)
                    began = began or _PREPARE <= state < _ACTIVATED
        except TimeoutError:
            return Joining.TOO_SLOW

    async def _through_portal(self) -> Joining:
        """Whether the way is open beyond this network, as far as NetworkManager can tell."""
        with contextlib.suppress(DBusError, NetworkError, TimeoutError):
            async with asyncio.timeout(PORTAL_PATIENCE_S):
                if await self._call(PATH, NM, "check_connectivity") == _PORTAL:
                    return Joining.PORTAL
        return Joining.JOINED

    async def _has_cable(self) -> bool:
        device = await self._device(*self._cables)
        if device is None:
            return False
        return bool(await self._property(device, f"{NM}.Device.Wired", "carrier"))

    async def _access_point_facts(self, path: str) -> Wifi:
        kind = f"{NM}.AccessPoint"
        ssid = bytes(await self._property(path, kind, "ssid")).decode("utf-8", "replace")
        flags = int(await self._property(path, kind, "flags"))
        security = int(await self._property(path, kind, "wpa_flags")) | int(
            await self._property(path, kind, "rsn_flags")
        )
        is_secured = bool(flags & _PRIVACY or security)
        is_usable = not security & _KEY_MGMT_802_1X and (
            not is_secured or bool(security & (_KEY_MGMT_PSK | _KEY_MGMT_SAE))
        )
        return Wifi(ssid, int(await self._property(path, kind, "strength")), is_secured, is_usable)

    async def _device(self, *kinds: int) -> str | None:
        for path in await self._call(PATH, NM, "get_devices"):
            if await self._property(path, f"{NM}.Device", "device_type") in kinds:
                return str(path)
        return None

    # D-Bus

    async def _connect(self) -> MessageBus:
        if self._bus is None or not self._bus.connected:
            try:
                self._bus = await MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM).connect()
            except (OSError, ValueError, EOFError) as exc:
                raise NetworkError("there is no system bus") from exc
        return self._bus

    async def _interface(self, path: str, name: str) -> ProxyInterface:
        bus = await self._connect()
        try:
            tree = await bus.introspect(NM, path)
            return bus.get_proxy_object(NM, path, tree).get_interface(name)
        except DBusError as exc:
            raise NetworkError(f"{path}: {exc.text}") from exc
        except Exception as exc:
            # dbus-fast has an error of its own for an interface that an object lacks, and raises EOFError for a bus
            # that went away.
            raise NetworkError(f"{path}: {exc}") from exc

    async def _call(self, path: str, interface: str, method: str, *arguments: Any) -> Any:
        proxy: Any = await self._interface(path, interface)
        return await getattr(proxy, f"call_{method}")(*arguments)

    async def _property(self, path: str, interface: str, name: str) -> Any:
        proxy: Any = await self._interface(path, interface)
        return await getattr(proxy, f"get_{name}")()
