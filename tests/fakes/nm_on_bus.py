"""A NetworkManager on a bus of its own: the part of its D-Bus interface that the wizard uses, and homes to be in.

What the air holds and what each network does to a newcomer is said by `Air`. Times are a tenth of real ones.
Source: NetworkManager D-Bus reference, 1.42.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from dbus_fast import DBusError, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusSignature
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

NM = "org.freedesktop.NetworkManager"
PATH = "/org/freedesktop/NetworkManager"
UNAVAILABLE, DISCONNECTED, PREPARE, ACTIVATED, FAILED = 20, 30, 40, 100, 120

O = Annotated[str, DBusSignature("o")]  # noqa: E741
U = Annotated[int, DBusSignature("u")]


@dataclass
class Net:
    """One Wi-Fi. `does` is what becomes of who knows the password: up, no-address, portal or nothing."""

    ssid: str
    password: str | None = "korrekt-häst"
    strength: int = 70
    does: str = "up"
    rsn: int = 0x100


@dataclass
class Air:
    """What is around the device."""

    nets: list[Net] = field(default_factory=lambda: [Net("Hemma"), Net("Hotell", None, 50, "portal", 0)])
    cable: str = "none"
    """none, up, or no-address"""
    has_radio: bool = True
    step_s: float = 0.05
    access_point: str | None = None
    """The network that the device raised by itself, while it stands."""
    joined: str | None = None
    tries: list[str] = field(default_factory=list)
    connections: set[str] = field(default_factory=set)


class _AccessPoint(ServiceInterface):
    def __init__(self, net: Net) -> None:
        super().__init__(f"{NM}.AccessPoint")
        self._net = net

    @dbus_property(access=PropertyAccess.READ)
    def Ssid(self) -> Annotated[bytes, DBusSignature("ay")]:
        return self._net.ssid.encode()

    @dbus_property(access=PropertyAccess.READ)
    def Strength(self) -> Annotated[int, DBusSignature("y")]:
        return self._net.strength

    @dbus_property(access=PropertyAccess.READ)
    def Flags(self) -> U:
        return 1 if self._net.password is not None else 0

    @dbus_property(access=PropertyAccess.READ)
    def WpaFlags(self) -> U:
        return 0

    @dbus_property(access=PropertyAccess.READ)
    def RsnFlags(self) -> U:
        return self._net.rsn


class _Device(ServiceInterface):
    def __init__(self, kind: int) -> None:
        super().__init__(f"{NM}.Device")
        self._kind = kind
        self.state = (DISCONNECTED, 0)

    def become(self, state: int, reason: int) -> None:
        """Change, and say so. What has failed is disconnected in the same moment, as with the real one."""
        before, self.state = self.state[0], (state, reason)
        self.StateChanged(state, before, reason)
        if state == FAILED:
            self.become(DISCONNECTED, 0)

    @dbus_signal()
    def StateChanged(self, state: int, before: int, reason: int) -> Annotated[Any, DBusSignature("uuu")]:
        return [state, before, reason]

    @dbus_property(access=PropertyAccess.READ)
    def DeviceType(self) -> U:
        return self._kind

    @dbus_property(access=PropertyAccess.READ)
    def State(self) -> U:
        return self.state[0]

    @dbus_property(access=PropertyAccess.READ)
    def StateReason(self) -> Annotated[Any, DBusSignature("(uu)")]:
        return list(self.state)


class _Wired(ServiceInterface):
    def __init__(self, air: Air) -> None:
        super().__init__(f"{NM}.Device.Wired")
        self._air = air

    @dbus_property(access=PropertyAccess.READ)
    def Carrier(self) -> Annotated[bool, DBusSignature("b")]:
        return self._air.cable != "none"


class _Wireless(ServiceInterface):
    def __init__(self, air: Air) -> None:
        super().__init__(f"{NM}.Device.Wireless")
        self._air = air

    @dbus_method()
    def RequestScan(self, options: Annotated[Any, DBusSignature("a{sv}")]):
        if self._air.access_point is not None:
            raise DBusError(f"{NM}.Device.NotAllowed", "Scanning not allowed while in AP mode")

    @dbus_method()
    def GetAllAccessPoints(self) -> Annotated[Any, DBusSignature("ao")]:
        if self._air.access_point is not None:
            return []
        return [f"{PATH}/AccessPoint/{number}" for number in range(len(self._air.nets))]


class _Connection(ServiceInterface):
    def __init__(self, manager: _Manager, path: str) -> None:
        super().__init__(f"{NM}.Settings.Connection")
        self._manager = manager
        self._path = path

    @dbus_method()
    def Delete(self):
        self._manager.air.connections.discard(self._path)


class _Active(ServiceInterface):
    def __init__(self, name: str, connection: str) -> None:
        super().__init__(f"{NM}.Connection.Active")
        self._name = name
        self._connection = connection

    @dbus_property(access=PropertyAccess.READ)
    def Id(self) -> Annotated[str, DBusSignature("s")]:
        return self._name

    @dbus_property(access=PropertyAccess.READ)
    def Connection(self) -> O:
        return self._connection


class _Manager(ServiceInterface):
    def __init__(self, bus: MessageBus, air: Air) -> None:
        super().__init__(NM)
        self._bus = bus
        self.air = air
        self._number = 0
        self.devices: dict[str, _Device] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._portal = False
        self._active: list[str] = []
        self._volatile: set[str] = set()

    def put(self, path: str, kind: int, *more: ServiceInterface) -> None:
        device = _Device(kind)
        self.devices[path] = device
        for interface in (device, *more):
            self._bus.export(path, interface)

    @dbus_method()
    def GetDevices(self) -> Annotated[Any, DBusSignature("ao")]:
        return list(self.devices)

    @dbus_property(access=PropertyAccess.READ)
    def ActiveConnections(self) -> Annotated[Any, DBusSignature("ao")]:
        return list(self._active)

    @dbus_method()
    def CheckConnectivity(self) -> U:
        return 2 if self._portal else 4

    @dbus_method()
    def DeactivateConnection(self, active: O):
        for device in self.devices.values():
            if device.state[0] == ACTIVATED:
                device.become(DISCONNECTED, 39)
        self.air.access_point = self.air.joined = None
        self._portal = False
        self._active = [one for one in self._active if one != active]
        self._forget_volatile()

    def _forget_volatile(self) -> None:
        """What was added as `volatile` goes with its activation, by itself."""
        self.air.connections -= self._volatile
        self._volatile.clear()

    @dbus_method()
    def AddAndActivateConnection2(
        self,
        settings: Annotated[Any, DBusSignature("a{sa{sv}}")],
        device: O,
        target: O,
        options: Annotated[Any, DBusSignature("a{sv}")],
    ) -> Annotated[Any, DBusSignature("ooa{sv}")]:
        plain = {section: {key: value.value for key, value in table.items()} for section, table in settings.items()}
        psk = plain.get("802-11-wireless-security", {}).get("psk")
        if psk is not None and not 8 <= len(psk) <= 63:
            raise DBusError(f"{NM}.Settings.Connection.InvalidProperty", "802-11-wireless-security.psk: invalid")
        self._forget_volatile()  # one at a time on one device: what was active ends
        self._number += 1
        path = f"{PATH}/Settings/{self._number}"
        self._bus.export(path, _Connection(self, path))
        self.air.connections.add(path)
        if options["persist"].value == "volatile":
            self._volatile.add(path)
        active = f"{PATH}/ActiveConnection/{self._number}"
        self._bus.export(active, _Active(plain["connection"]["id"], path))
        self._active = [active]
        self.devices[device].become(PREPARE, 0)
        self.air.access_point = self.air.joined = None
        task = asyncio.get_running_loop().create_task(self._play(plain, device))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return [path, f"{PATH}/ActiveConnection/{self._number}", {"x": Variant("s", "")}]

    async def _play(self, settings: dict[str, Any], path: str) -> None:
        await asyncio.sleep(self.air.step_s)
        device, radio = self.devices[path], settings.get("802-11-wireless")
        if radio is not None and radio["mode"] == "ap":
            self.air.access_point = bytes(radio["ssid"]).decode()
            device.become(ACTIVATED, 0)
            return
        if radio is None:
            name, does = "cable", self.air.cable
        else:
            name = bytes(radio["ssid"]).decode()
            net = next((one for one in self.air.nets if one.ssid == name), None)
            psk = settings.get("802-11-wireless-security", {}).get("psk")
            does = "gone" if net is None else net.does if psk == net.password else "wrong"
        self.air.tries.append(name)
        self._portal = does == "portal"
        match does:
            case "up" | "portal":
                self.air.joined = name
                device.become(ACTIVATED, 0)
            case "wrong" if net is not None and net.rsn == 0x400:
                device.become(FAILED, 53)  # seen with 1.42 and WPA3
            case "wrong":
                device.become(FAILED, 8)
            case "no-address":
                device.become(FAILED, 5)
            case "gone":
                device.become(FAILED, 53)
            case _:
                pass  # it never settles


class PrivateBus:
    """A dbus-daemon of our own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:path={folder}/bus"
        config = folder / "bus.conf"
        config.write_text(
            "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' "
            "'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'><busconfig><type>session</type>"
            f"<listen>{self.address}</listen><auth>EXTERNAL</auth><policy context='default'><allow own='*'/>"
            "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/></policy></busconfig>"
        )
        program = shutil.which("dbus-daemon")
        assert program, "no dbus-daemon on this machine: apt-get install dbus (`make test` does it)"
        self._process = subprocess.Popen([program, f"--config-file={config}", "--nofork", "--print-address"],
                                         stdout=subprocess.PIPE)  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def private_bus(folder: Path) -> Iterator[PrivateBus]:
    bus = PrivateBus(folder)
    try:
        yield bus
    finally:
        bus.close()


async def play(address: str, air: Air) -> MessageBus:
    """Be NetworkManager on this bus; disconnect the bus that is returned to end it."""
    bus = await MessageBus(bus_address=address).connect()
    manager = _Manager(bus, air)
    bus.export(PATH, manager)
    manager.put(f"{PATH}/Devices/1", 1, _Wired(air))
    if air.has_radio:
        manager.put(f"{PATH}/Devices/2", 2, _Wireless(air))
        for number, net in enumerate(air.nets):
            bus.export(f"{PATH}/AccessPoint/{number}", _AccessPoint(net))
    await bus.request_name(NM)
    return bus
