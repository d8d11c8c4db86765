"""A NetworkManager on a private bus: as much of it as a WireGuard connection needs, by its own D-Bus names.

What it makes of a connection stands in `made`, and in a directory that looks like /sys/class/net. `refuse` makes every
activation fail, as NetworkManager does for a connection that it can't bring up.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

NAME = "org.freedesktop.NetworkManager"
ROOT = "/org/freedesktop/NetworkManager"
ACTIVATED, DEACTIVATED = 2, 4


@dataclass
class FakeNetworkManager:
    address: str
    interfaces: Path
    made: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """D-Bus path to the connection's settings."""
    options: dict[str, Any] = field(default_factory=dict)
    refuse: bool = False
    _count: int = 0

    def answer(self, interface: str, received_bytes: int) -> None:
        """The centre answers: the interface has received something."""
        (self.interfaces / interface / "statistics" / "rx_bytes").write_text(f"{received_bytes}\n")

    def take(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.destination not in (NAME, None):
            return None
        match message.member:
            case "ListConnections":
                return Message.new_method_return(message, "ao", [list(self.made)])
            case "GetSettings":
                return Message.new_method_return(message, "a{sa{sv}}", [self._without_secrets(message.path)])
            case "Delete":
                gone = self.made.pop(message.path)
                name = gone["connection"]["interface-name"].value
                (self.interfaces / name / "statistics" / "rx_bytes").unlink()
                return Message.new_method_return(message)
            case "AddAndActivateConnection2":
                connection, _, _, self.options = message.body
                self._count += 1
                path = f"{ROOT}/Settings/{self._count}"
                self.made[path] = connection
                statistics = self.interfaces / connection["connection"]["interface-name"].value / "statistics"
                statistics.mkdir(parents=True, exist_ok=True)
                (statistics / "rx_bytes").write_text("0\n")
                active = f"{ROOT}/ActiveConnection/{self._count}"
                return Message.new_method_return(message, "ooa{sv}", [path, active, {}])
            case "Get":
                state = DEACTIVATED if self.refuse else ACTIVATED
                return Message.new_method_return(message, "v", [Variant("u", state)])
        return None

    def _without_secrets(self, path: str) -> dict[str, dict[str, Any]]:
        settings = {name: dict(section) for name, section in self.made[path].items()}
        settings["wireguard"].pop("private-key", None)
        return settings


BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def private_bus(folder: Path) -> Iterator[str]:
    """A dbus-daemon of our own; its address."""
    config = folder / "bus.conf"
    config.write_text(BUS.format(path=folder / "bus"))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert daemon.stdout is not None
        yield daemon.stdout.readline().decode().strip()
    finally:
        daemon.terminate()
        daemon.wait(5)
        assert daemon.stdout is not None
        daemon.stdout.close()


@contextlib.asynccontextmanager
async def networkmanager(folder: Path) -> AsyncIterator[FakeNetworkManager]:
    """The fake, on a bus of its own."""
    with private_bus(folder) as address:
        bus = await MessageBus(bus_address=address, bus_type=BusType.SESSION).connect()
        fake = FakeNetworkManager(address, folder / "net")
        bus.add_message_handler(fake.take)
        await bus.request_name(NAME)
        yield fake
        bus.disconnect()
