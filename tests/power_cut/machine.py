"""One run of the guest in QEMU, on a disk that outlives it.

The disk's cache mode is `unsafe`: a write that the guest's driver has been told is complete stands in the host's page
cache, which the death of QEMU does not touch, and the guest's flushes are not carried on to the host's disk. What
SIGKILL takes away is the guest's memory: its page cache, its journal in the making, requests under way.

Booting takes most of a run under emulation, so a machine can be saved when it is warm (everything loaded, the disk's
driver not) and taken up again for each cut. What it then does with the disk it does for the first time.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from image import Guest

BOOT_LIMIT_S = 600.0
POLL_S = 0.02
MEMORY_MIB = 512


class MachineError(Exception):
    """The guest did not come up, or ended by itself when it should not."""


class Machine:
    """A running guest, waiting for orders or on its way there. Leaving the `with` block kills it."""

    def __init__(self, guest: Guest, directory: Path, *, disk: Path, log_disk: Path, saved: Path | None = None) -> None:
        self._told = directory / "told.jsonl"
        self._console = directory / "console.txt"
        self._orders = directory / "orders.sock"
        self._monitor = directory / "monitor.sock"
        for path in (self._told, self._console, self._orders, self._monitor):
            path.unlink(missing_ok=True)
        self._offset = 0
        self.events: list[dict[str, Any]] = []
        self._started_s = time.monotonic()
        command = ["nice", "-n", "10", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]
        command += ["-machine", "q35,accel=tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-display", "none"]
        command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs)]
        command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]
        command += ["-serial", f"file:{self._console}", "-monitor", f"unix:{self._monitor},server=on,wait=off"]
        command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=told,path={self._told}"]
        command += ["-device", "virtserialport,nr=1,chardev=told,name=told"]
        command += ["-chardev", f"socket,id=orders,path={self._orders},server=on,wait=off"]
        command += ["-device", "virtserialport,nr=2,chardev=orders,name=orders"]
        for name, path in (("data", disk), ("log", log_disk)):
            command += ["-drive", f"if=none,id={name},file={path},format=raw,cache=unsafe"]
            command += ["-device", f"virtio-blk-pci,drive={name}"]
        if saved is not None:
            command += ["-incoming", f"exec:cat {saved}"]
        # As nice as it is, exec keeps the process id: what we kill is QEMU.
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def order(self, *, seed: int, turns: int, boot: str, log: bool = False) -> None:
        """Let the guest begin."""
        orders = {"seed": seed, "turns": turns, "boot": boot, "log": log}
        with self._connected(self._orders) as connection:
            connection.sendall(json.dumps(orders).encode() + b"\n")
            self.wait_for("up")

    def save(self, path: Path) -> None:
        """Write the machine's whole state to `path`. Raises MachineError."""
        with self._connected(self._monitor) as monitor:
            monitor.sendall(f'migrate_set_parameter max-bandwidth 10G\nmigrate -d "exec:cat > {path}"\n'.encode())
            end_s, answer = time.monotonic() + BOOT_LIMIT_S, ""
            while not re.search(r"Migration status: (completed|failed)", answer):
                if time.monotonic() > end_s:
                    raise MachineError("the machine could not be saved")
                time.sleep(0.2)
                monitor.sendall(b"info migrate\n")
                answer = monitor.recv(65536).decode(errors="replace")
        if "failed" in answer:
            raise MachineError("the machine could not be saved")

    def _connected(self, path: Path) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(BOOT_LIMIT_S)
        end_s = time.monotonic() + BOOT_LIMIT_S
        while True:
            try:
                connection.connect(str(path))
            except OSError:
                if time.monotonic() > end_s or self._process.poll() is not None:
                    connection.close()
                    raise MachineError(f"{path.name}: QEMU does not listen") from None
                time.sleep(POLL_S)
            else:
                return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """The power is gone, now. What the guest had told by then is in `events`."""
        self._process.kill()
        self._process.wait()
        self._read()

    def require_alive(self) -> None:
        """Raise MachineError if the guest has ended by itself, other than by refusing its ledger."""
        if self._process.poll() is not None:
            self._read()
            if not any(each["event"] == "refused" for each in self.events):
                raise MachineError(f"the guest ended by itself; its console: {self._console_tail()}")

    def wait_for(self, event: str, limit_s: float = BOOT_LIMIT_S) -> float:
        """Seconds from the start until the guest told `event`. Raises MachineError; not when the guest refused."""
        end_s = time.monotonic() + limit_s
        while True:
            ended = self._process.poll() is not None
            self._read()
            if any(each["event"] in (event, "refused") for each in self.events):
                return time.monotonic() - self._started_s
            if ended or time.monotonic() > end_s:
                raise MachineError(f"no {event!r} from the guest; its console ends with: {self._console_tail()}")
            time.sleep(POLL_S)

    def wait_until_off(self, limit_s: float) -> None:
        """Wait for the guest's own end. Raises MachineError."""
        try:
            self._process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise MachineError(f"the guest does not end; its console: {self._console_tail()}") from None
        self._read()

    def _read(self) -> None:
        if not self._told.exists():
            return
        with self._told.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        # A line that the cut tore apart was not told.
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.events += [json.loads(line) for line in whole.splitlines()]

    def _console_tail(self) -> str:
        return self._console.read_text(errors="replace")[-1500:] if self._console.exists() else "(nothing)"
