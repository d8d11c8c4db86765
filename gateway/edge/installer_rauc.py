"""RAUC over D-Bus, by dbus-fast: look at a bundle, install it, follow its progress, call the running slot good.

Only documented names of `de.pengutronix.rauc.Installer` are used (RAUC 1.9 and later). RAUC checks the bundle's own
signature, its board and its lowest version; what it says against one becomes a word of a closed list, because its text
may hold anything.
Source: RAUC 1.13, "D-Bus API", data/de.pengutronix.rauc.Installer.xml.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dbus_fast import BusType, DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gateway.core.error import TransientError, UntrustedInputError

NAME: Final = "de.pengutronix.rauc"
PATH: Final = "/"
INSTALLER: Final = "de.pengutronix.rauc.Installer"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
INSPECT_LIMIT_S: Final = 120.0
CALL_LIMIT_S: Final = 30.0
_WHY: Final = (
    (r"exceeds bundle size|too small|Invalid identifier|Invalid bundle format: (Signature|Decimal)", "damaged"),
    (r"compatible", "wrong-compatible"),
    (r"min-bundle-version|version.*(lower|older|below)|bundle version", "old-version"),
    (r"format.*(not allowed|plain)|plain.*(not allowed|format)|Bundle format", "plain-format"),
    (
        r"no signer|not trusted|self.signed|unable to get (local )?issuer|certificate verify|Verify error",
        "unknown-signer",
    ),
    (r"signature|CMS|PKCS|content info", "bad-signature"),
    (r"size|truncated|too large|squashfs|magic|short read|unexpected end|verity|hash", "damaged"),
)
_TRANSIENT: Final = re.compile(
    r"(timed? ?out|connect|resolve|network|HTTP|curl|nbd|Input/output|download|stream)", re.IGNORECASE
)


class RaucError(TransientError):
    """RAUC is not there, or something on the way broke: to be tried again."""


class BundleRefusedError(UntrustedInputError):
    """RAUC does not take this bundle, and never will. `why` is a word of a closed list."""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(f"{why}: {detail}"[:300])
        self.why = why


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the bundle's signed manifest says."""

    compatible: str
    version: str
    manifest_sha256: str
    format: str


def read_why(text: str) -> Exception:
    """RAUC's words as an error of ours."""
    for pattern, why in _WHY:
        if re.search(pattern, text, re.IGNORECASE):
            return BundleRefusedError(why, text)
    if _TRANSIENT.search(text):
        return RaucError(text[:300])
    return BundleRefusedError("not-installable", text)


class Rauc:
    """A connection to RAUC's service. `address` is a D-Bus address; None is the system bus."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._bus: MessageBus | None = None
        self._completed: asyncio.Queue[int] = asyncio.Queue(4)
        self.on_progress: Callable[[int], None] = lambda _percent: None

    async def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def compatible(self) -> str:
        """Which systems this board takes. Raises RaucError."""
        return str(await self._property("Compatible"))

    async def inspect(self, source: str) -> BundleFacts:
        """The bundle's facts, its signature checked. Raises BundleRefusedError, RaucError."""
        reply = await self._call("InspectBundle", "sa{sv}", [source, {}], limit_s=INSPECT_LIMIT_S)
        return _facts(_plain(reply[0]))

    async def install(self, source: str, *, limit_s: float) -> None:
        """Install into the other slot; returns when it is written and checked.

        Raises BundleRefusedError, RaucError. RAUC can't be told to stop: whoever cancels takes the source away.
        """
        while not self._completed.empty():
            self._completed.get_nowait()
        await self._call("InstallBundle", "sa{sv}", [source, {}], limit_s=CALL_LIMIT_S)
        try:
            async with asyncio.timeout(limit_s):
                result = await self._completed.get()
        except TimeoutError as exc:
            raise RaucError("the installation does not end") from exc
        if result != 0:
            raise read_why(str(await self._property("LastError")))

    async def mark_good(self) -> None:
        """The running slot becomes the one that boots. Raises RaucError."""
        await self._call("Mark", "ss", ["good", "booted"], limit_s=CALL_LIMIT_S)

    async def _connected(self) -> MessageBus:
        if self._bus is not None and self._bus.connected:
            return self._bus
        try:
            bus = await MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM).connect()
        except (OSError, DBusError, EOFError) as exc:
            raise RaucError(f"no bus: {exc}") from exc
        bus.add_message_handler(self._hear)
        rule = f"type='signal',sender='{NAME}',path='{PATH}'"
        await bus.call(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="AddMatch",
                signature="s",
                body=[rule],
            )
        )
        self._bus = bus
        return bus

    async def _call(
        self, member: str, signature: str, body: list[Any], *, limit_s: float, interface: str = INSTALLER
    ) -> list[Any]:
        bus = await self._connected()
        message = Message(
            destination=NAME, path=PATH, interface=interface, member=member, signature=signature, body=body
        )
        try:
            async with asyncio.timeout(limit_s):
                reply = await bus.call(message)
        except (TimeoutError, EOFError, OSError, DBusError) as exc:
            raise RaucError(f"{member}: {exc}") from exc
        if reply is None:
            raise RaucError(f"{member}: no answer")
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            if (reply.error_name or "").startswith("org.freedesktop.DBus.Error.") or "already processing" in text:
                raise RaucError(f"{member}: {reply.error_name}")
            raise read_why(text)
        return list(reply.body)

    async def _property(self, name: str) -> Any:
        reply = await self._call("Get", "ss", [INSTALLER, name], limit_s=CALL_LIMIT_S, interface=PROPERTIES)
        return _plain(reply[0])

    def _hear(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL or message.path != PATH:
            return
        if message.interface == INSTALLER and message.member == "Completed" and message.body:
            with contextlib.suppress(asyncio.QueueFull):
                self._completed.put_nowait(int(message.body[0]))
        elif message.interface == PROPERTIES and len(message.body) > 1 and "Progress" in message.body[1]:
            progress = _plain(message.body[1]["Progress"])
            if isinstance(progress, list | tuple) and progress and isinstance(progress[0], int):
                self.on_progress(min(100, max(0, progress[0])))


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _facts(told: Any) -> BundleFacts:
    try:
        update, bundle = told["update"], told.get("bundle", {})
        return BundleFacts(
            str(update["compatible"]), str(update["version"]), str(told["manifest-hash"]), str(bundle.get("format", ""))
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise BundleRefusedError("not-installable", "the bundle's facts are incomplete") from exc
