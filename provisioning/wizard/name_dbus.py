"""The device's name for set-up on the local network: `gw-xxxx.local`, by Avahi, asked over D-Bus.

Avahi is there while set-up is (systemd/unit/tillsyn-setup.service); it answers for the name on every interface and
follows the addresses by itself. Without it the device is reached by its own Wi-Fi and by its address.
Source: Avahi's D-Bus interface, org.freedesktop.Avahi.Server.SetHostName.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

from dbus_fast import BusType, DBusError
from dbus_fast.aio import MessageBus

LOG = logging.getLogger("tillsyn.setup")

AVAHI: Final = "org.freedesktop.Avahi"
LIMIT_S: Final = 5.0


async def announce(host: str, address: str | None = None) -> bool:
    """Have `<host>.local` answered for; whether it is. `address` is the bus's, None the system bus."""
    try:
        async with asyncio.timeout(LIMIT_S):
            bus = await MessageBus(bus_address=address, bus_type=BusType.SYSTEM).connect()
            try:
                tree = await bus.introspect(AVAHI, "/")
                server: Any = bus.get_proxy_object(AVAHI, "/", tree).get_interface(f"{AVAHI}.Server")
                if await server.call_get_host_name() != host:
                    await server.call_set_host_name(host)
            finally:
                with contextlib.suppress(OSError):
                    bus.disconnect()
    # dbus-fast has errors of its own for an interface that is missing, and EOFError for a bus that went away.
    except (OSError, EOFError, ValueError, TimeoutError, DBusError) as exc:
        LOG.warning("%s.local is not announced: %s", host, exc)
        return False
    LOG.info("%s.local is announced", host)
    return True
