"""One boot of the card in QEMU, from the firmware's choice to the end by restart or by a cut.

Between boots we are the firmware: which partition boots is read from `autoboot.txt` as Raspberry Pi's does it, a try
that was asked for holds for one boot and is forgotten by a power cut, and where we booted from stands in the device
tree.

Orders to the guest go by a shell behind a virtio port. Its unit comes from QEMU by systemd's own way for credentials
(fw_cfg), which no board has; nothing of it is in the image or on the card. Source: systemd-debug-generator(8),
systemd.system-credentials(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from tests.image_lab import write_log
from tests.image_lab.card import Card, CardError, sh

BOOT_LIMIT_S = 1500.0
"""Everything emulated, on cores that others use too: two idle ones need a minute."""
SHELL_UNIT = """\
[Unit]
Description=The lab's shell
DefaultDependencies=no
After=systemd-udevd.service
StartLimitIntervalSec=0
[Service]
Environment=PORT=/dev/virtio-ports/lab
ExecStart=/bin/sh -c 'while [ ! -e $PORT ]; do sleep 0.2; done; exec /bin/sh 0<>$PORT 1>&0 2>&0'
Restart=always
RestartSec=1
"""
PATIENCE = "[Service]\nTimeoutStartSec=300\n"
"""Park, emulated on a host that others use as well, may take longer than the 30 s after which a device gives it up."""
MEMORY_MIB = 1024
WORDS = " ".join((
    "systemd.wants=l.service systemd.show_status=1",
    # A name that is too long for fw_cfg.
    f"systemd.set_credential_binary=systemd.unit-dropin.tillsyn-park.service:{b64encode(PATIENCE.encode()).decode()}",
))  # fmt: skip
"""What the lab adds to the command line."""
CPU = ("-machine", "virt", "-cpu", "max,pauth=off", "-smp", "2", "-m", str(MEMORY_MIB))


class Machine:
    """A powered machine. `number` is the partition it booted from."""

    def __init__(self, card: Card, directory: Path, *, key_hex: str, before: Sequence[str] = ()) -> None:
        self.card, self.directory, self._key_hex, self._before = card, directory, key_hex, tuple(before)
        self.number = 0
        self.process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._turn = 0
        self.disks: list[Path] = []
        self.tryboot_asked = False
        self.has_watchdog = False
        self.has_network = True
        self.takes_discards = False
        self.more_words = ""
        self.write_log: Path | None = None
        """Where QEMU logs each write to the card, from the next power-on."""
        self.selection_before = b""
        self.boots = 0
        (directory / "shell.service").write_text(SHELL_UNIT)
        (directory / "key").write_text(key_hex)

    @property
    def console(self) -> str:
        path = self.directory / f"console-{self.boots}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    async def power_on(self, *, tryboot: bool = False) -> None:
        """Boot what the firmware chooses. A plain power-on forgets that a try was asked for."""
        self.number = self.card.choice(tryboot=tryboot)
        self.boots += 1
        self.tryboot_asked = False
        line = self.card.take_boot_files(self.number, self.directory)
        tree = self._device_tree(tryboot=tryboot)
        asked, port = self.directory / "firmware", self.directory / "lab.sock"
        for path in (asked, port, self.directory / "qmp.sock"):
            path.unlink(missing_ok=True)
        command = ["qemu-system-aarch64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", *CPU]
        command += ["-kernel", str(self.directory / "kernel.img"), "-initrd", str(self.directory / "initrd.img")]
        command += ["-append", f"{line} {WORDS} {self.more_words}".strip(), "-dtb", str(tree)]
        command += ["-serial", f"file:{self.directory / f'console-{self.boots}.txt'}"]
        for number, path in enumerate([self.card.path, *self.disks]):
            kind = "" if number == 0 else ",readonly=on"
            more = ",discard=unmap" if number == 0 and self.takes_discards else ""
            source = f"file={path},format=raw"
            if number == 0 and self.write_log is not None:
                self.selection_before = self.card.read_part("select")
                source = write_log.drive(path, self.write_log)
            command += ["-drive", f"if=none,id=d{number},{source},cache=unsafe{kind}{more}"]
            command += ["-device", f"virtio-blk-pci,drive=d{number}"]
        net = "user,id=net,ipv6=off" + ("" if self.has_network else ",restrict=on")
        command += ["-netdev", net, "-device", "virtio-net-pci,netdev=net,romfile="]
        # As a rule no watchdog: 15 s of a busy host would count as a hang of the guest.
        command += ["-device", "i6300esb"] if self.has_watchdog else []
        command += ["-qmp", f"unix:{self.directory / 'qmp.sock'},server=on,wait=off"]
        command += ["-device", "virtio-rng-pci"]
        command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=firmware,path={asked}"]
        command += ["-device", "virtserialport,chardev=firmware,name=tillsyn.firmware"]
        command += ["-chardev", f"socket,id=lab,path={port},server=on,wait=off"]
        command += ["-device", "virtserialport,chardev=lab,name=lab"]
        # 55 characters are all that a name may have.
        for name, file in (("tillsyn.data-key", "key"), ("systemd.extra-unit.l.service", "shell.service")):
            command += ["-fw_cfg", f"name=opt/io.systemd.credentials/{name},file={self.directory / file}"]
        self._log = (self.directory / "qemu.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            # With us ends the machine, however we end.
            *self._before,
            *("setpriv", "--pdeathsig", "KILL"),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self._log.close()
        self._reader = self._writer = None

    def _device_tree(self, *, tryboot: bool) -> Path:
        tree = self.directory / "tree.dtb"
        machine = [*CPU[:1], f"{CPU[1]},dumpdtb={tree}", *CPU[2:]]
        subprocess.run(["qemu-system-aarch64", "-nodefaults", *machine], check=True, capture_output=True, timeout=60)
        put = ["fdtput", "-p", "-t", "i", str(tree), "/chosen/bootloader"]
        for name, value in (("partition", self.number), ("tryboot", int(tryboot))):
            subprocess.run([*put, name, str(value)], check=True, capture_output=True, timeout=60)
        return tree

    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    # Orders

    async def order(self, command: str, *, limit_s: float = 120.0) -> str:
        """Run a command in the guest's shell; its output. Raises CardError when it fails or the machine ends."""
        code, said = await self.try_order(command, limit_s=limit_s)
        if code != 0:
            raise CardError(f"in the guest: {command[:200]}: {code}: {said[-800:]}")
        return said

    async def try_order(self, command: str, *, limit_s: float = 120.0) -> tuple[int, str]:
        async with asyncio.timeout(limit_s):
            if self._writer is None:
                await self._connect()
            assert self._writer is not None
            assert self._reader is not None
            self._turn += 1
            mark = f"END-{self._turn}-"
            self._writer.write(f'( {command}\n) </dev/null 2>&1; echo "\n{mark}$?-"\n'.encode())
            await self._writer.drain()
            said = b""
            while True:
                try:
                    piece = await asyncio.wait_for(self._reader.read(65536), 1.0)
                except TimeoutError:
                    if not self.running():
                        raise CardError(f"the machine ended: {self.console[-800:]}") from None
                    continue
                if not piece:
                    self._writer = None
                    raise CardError(f"the machine ended: {self.console[-800:]}")
                said += piece
                if found := re.search(rf"\n?{mark}(\d+)-".encode(), said):
                    return int(found[1]), said[: found.start()].decode(errors="replace").strip()

    async def ask(self, command: str) -> None:
        """Run a command that may end the machine before it answers."""
        with contextlib.suppress(CardError):
            await self.try_order(command, limit_s=300.0)

    async def _connect(self) -> None:
        """Returns once the guest's shell answers; the caller's limit counts."""
        path = self.directory / "lab.sock"
        while True:
            if not self.running():
                raise CardError(f"the machine ended: {self.console[-800:]}")
            with contextlib.suppress(OSError):
                self._reader, self._writer = await asyncio.open_unix_connection(str(path))
                break
            await asyncio.sleep(0.2)
        # The port takes what is written before anybody reads it, or drops it: ask until there is an answer.
        while True:
            if not self.running():
                raise CardError(f"the machine ended: {self.console[-800:]}")
            self._turn += 1
            mark = f"HERE-{self._turn}-"
            self._writer.write(f"\n\necho {mark}\n".encode())
            said = b""
            try:
                async with asyncio.timeout(3.0):
                    while mark.encode() not in said:
                        piece = await self._reader.read(65536)
                        if not piece:
                            raise CardError("the machine ended")
                        said += piece
            except TimeoutError:
                continue
            # Answers to earlier questions may still be on their way.
            with contextlib.suppress(TimeoutError):
                while True:
                    await asyncio.wait_for(self._reader.read(65536), 0.5)
            return

    async def until(self, command: str, *, limit_s: float = BOOT_LIMIT_S, every_s: float = 1.0) -> float:
        """Seconds until a command succeeds in the guest."""
        began_s = time.monotonic()
        while True:
            left_s = limit_s - (time.monotonic() - began_s)
            if left_s <= 0:
                raise CardError(f"not within {limit_s:g} s: {command}")
            code, _ = await self.try_order(command, limit_s=max(left_s, 5.0))
            if code == 0:
                return time.monotonic() - began_s
            await asyncio.sleep(every_s)

    # Copies

    async def copy_card(self, to: Path) -> None:
        """The card as a power cut at this moment would leave it: the machine stands still meanwhile.

        What the guest has not yet given to its disk is not in the copy, as it would not be after a cut.
        """
        await self._tell("stop")
        await asyncio.to_thread(sh, "cp", "--sparse=always", str(self.card.path), str(to))
        await self._tell("cont")

    async def stand_still(self) -> None:
        """Every write that was begun has ended, and no other follows."""
        await self._tell("stop")

    async def _tell(self, word: str) -> None:
        """One word to QEMU's monitor; returns when it has been done."""
        reader, writer = await asyncio.open_unix_connection(str(self.directory / "qmp.sock"))
        try:
            await self._monitor(reader, writer, "qmp_capabilities")
            await self._monitor(reader, writer, word)
        finally:
            writer.close()

    async def _monitor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, word: str) -> None:
        writer.write(json.dumps({"execute": word}).encode())
        await writer.drain()
        async with asyncio.timeout(60.0):
            while True:
                line = await reader.readline()
                if not line:
                    raise CardError("the machine ended")
                told = json.loads(line)
                if "error" in told:
                    raise CardError(f"{word}: {told['error']}")
                if "return" in told:
                    return

    # Ends

    async def until_off(self, limit_s: float = BOOT_LIMIT_S) -> bool:
        """Wait for the guest's own end (a restart, a panic). Whether it asked the firmware for a try."""
        assert self.process is not None
        async with asyncio.timeout(limit_s):
            await self.process.wait()
        self._forget()
        asked = self.directory / "firmware"
        self.tryboot_asked = asked.exists() and "tryboot" in asked.read_text(errors="replace")
        return self.tryboot_asked

    async def cut(self) -> None:
        """The power is gone, now."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def disk_of(path: Path, to: Path) -> Path:
    """A file as a disk: whole sectors."""
    to.write_bytes(path.read_bytes())
    os.truncate(to, (path.stat().st_size + 1048575) // 1048576 * 1048576)
    return to
