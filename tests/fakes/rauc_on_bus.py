"""A RAUC on a private bus: its documented D-Bus interface, and bundles that are JSON with a signer's name in them.

It reads a bundle as RAUC does: from a file, or by HTTP ranges from an address. What it says against one is in the words
of RAUC 1.13. Source: RAUC 1.13, data/de.pengutronix.rauc.Installer.xml, src/bundle.c, src/install.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

NAME = "de.pengutronix.rauc"
INSTALLER = f"{NAME}.Installer"
ERROR = "org.gtk.GDBus.UnmappedGError.Quark"
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""


@contextlib.contextmanager
def private_bus(folder: Path) -> Iterator[str]:
    """A D-Bus daemon of its own; its address."""
    path = folder / "bus"
    (folder / "bus.conf").write_text(BUS.format(path=path))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={folder / 'bus.conf'}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stdout is not None
        yield daemon.stdout.readline().strip()
    finally:
        daemon.terminate()
        daemon.wait(timeout=10)


def manifest_of(content: bytes) -> dict[str, Any]:
    return json.loads(content.split(b"\n", 1)[0])


def make_bundle(path: Path, *, size_bytes: int = 4096, **changes: str) -> str:
    """A bundle; the SHA-256 of its manifest."""
    manifest = {"compatible": "tillsyn-qemu", "version": "0.2.0", "format": "verity", "signer": "release"} | changes
    line = json.dumps(manifest, sort_keys=True).encode()
    path.write_bytes((line + b"\n").ljust(size_bytes, b"x"))
    return hashlib.sha256(line).hexdigest()


@dataclass
class FakeRauc:
    """The service. `floor` is `min-bundle-version`."""

    address: str
    compatible: str = "tillsyn-qemu"
    floor: str = "0.1.0"
    marked: list[tuple[str, str]] = field(default_factory=list)
    installed: list[bytes] = field(default_factory=list)
    last_error: str = ""
    step_s: float = 0.0
    chunk_bytes: int = 64 * 1024
    _bus: MessageBus | None = None
    _busy: bool = False

    async def start(self) -> None:
        self._bus = await MessageBus(bus_address=self.address, bus_type=BusType.SYSTEM).connect()
        self._bus.add_message_handler(self._take)
        await self._bus.request_name(NAME)

    def stop(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()

    def _take(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        match message.member:
            case "Get":
                name = message.body[1]
                value = {"Compatible": Variant("s", self.compatible), "LastError": Variant("s", self.last_error)}[name]
                return Message.new_method_return(message, "v", [value])
            case "InspectBundle":
                asyncio.get_running_loop().create_task(self._inspect(message))
                return True
            case "InstallBundle":
                if self._busy:
                    return Message.new_error(message, ERROR, "already processing a different method")
                self._busy = True
                asyncio.get_running_loop().create_task(self._install(message.body[0]))
                return Message.new_method_return(message)
            case "Mark":
                self.marked.append((message.body[0], message.body[1]))
                return Message.new_method_return(message, "ss", ["rootfs.1", "marked slot rootfs.1 as good"])
        return None

    async def _inspect(self, message: Message) -> None:
        assert self._bus is not None
        try:
            head = await asyncio.to_thread(_read, message.body[0], 0, 4096)
            manifest = self._demand(head)
        except (OSError, ValueError) as exc:
            self._bus.send(Message.new_error(message, ERROR, str(exc)))
            return
        digest = hashlib.sha256(head.split(b"\n", 1)[0]).hexdigest()
        told = {
            "manifest-hash": Variant("s", digest),
            "update": Variant(
                "a{sv}",
                {"compatible": Variant("s", manifest["compatible"]), "version": Variant("s", manifest["version"])},
            ),
            "bundle": Variant("a{sv}", {"format": Variant("s", manifest["format"])}),
        }
        self._bus.send(Message.new_method_return(message, "a{sv}", [told]))

    def _demand(self, head: bytes) -> dict[str, Any]:
        try:
            manifest = manifest_of(head)
        except ValueError:
            raise ValueError("bundle too small to contain valid CMS signature") from None
        if manifest["signer"] != "release":
            raise ValueError("signature verification failed: Verify error: unable to get local issuer certificate")
        if manifest["format"] == "plain":
            raise ValueError("Bundle format 'plain' not allowed")
        return manifest

    async def _install(self, source: str) -> None:
        result = 1
        try:
            content, whole = b"", None
            while whole is None or len(content) < whole:
                chunk, whole = await asyncio.to_thread(_read_of, source, len(content), self.chunk_bytes)
                content += chunk
                self._progress(100 * len(content) // max(1, whole))
                await asyncio.sleep(self.step_s)
            manifest = self._demand(content)
            if manifest["compatible"] != self.compatible:
                raise ValueError(f"Compatible mismatch: Expected '{self.compatible}' but bundle manifest has 'x'")
            if [int(n) for n in manifest["version"].split(".")] < [int(n) for n in self.floor.split(".")]:
                raise ValueError("bundle version 0.0.1 below min-bundle-version 0.1.0")
            self.installed.append(content)
            result = 0
        except (OSError, ValueError) as exc:
            self.last_error = str(exc)
        self._busy = False
        self._signal("Completed", INSTALLER, "i", [result])

    def _progress(self, percent: int) -> None:
        body = [INSTALLER, {"Progress": Variant("(isi)", [percent, "Copying image to rootfs.1", 2])}, []]
        self._signal("PropertiesChanged", "org.freedesktop.DBus.Properties", "sa{sv}as", body)

    def _signal(self, member: str, interface: str, signature: str, body: list[Any]) -> None:
        assert self._bus is not None
        self._bus.send(Message.new_signal("/", interface, member, signature, body))


def _read(source: str, first: int, size: int) -> bytes:
    return _read_of(source, first, size)[0]


def _read_of(source: str, first: int, size: int) -> tuple[bytes, int]:
    """Some bytes and the size of the whole. Raises OSError."""
    if not source.startswith("http"):
        content = Path(source).read_bytes()
        return content[first : first + size], len(content)
    request = urllib.request.Request(source, headers={"Range": f"bytes={first}-{first + size - 1}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        found = re.match(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if found is None:
            raise OSError("HTTP: no range")
        return answer.read(), int(found[1])
