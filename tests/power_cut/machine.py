"""One run of the guest in QEMU, on a disk that outlives it.

The disk's cache mode is `unsafe`: a write that the guest's driver has been told is complete stands in the host's page
cache, which the death of QEMU does not touch, and the guest's flushes are not carried on to the host's disk. What
SIGKILL takes away is the guest's memory: its page cache, its journal in the making, requests under way.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from image import Guest

BOOT_LIMIT_S = 180.0
POLL_S = 0.02
MEMORY_MIB = 512


class MachineError(Exception):
    """The guest did not come up, or ended by itself when it should not."""


class Machine:
    """A running guest. Leaving the `with` block kills it."""

    def __init__(
        self, guest: Guest, disk: Path, directory: Path, *, seed: int, turns: int, log_disk: Path | None = None
    ) -> None:
        self._told = directory / "told.jsonl"
        self._console = directory / "console.txt"
        for path in (self._told, self._console):
            path.unlink(missing_ok=True)
        self._offset = 0
        self.events: list[dict[str, Any]] = []
        self._started_s = time.monotonic()
        words = f"console=ttyS0 panic=-1 mitigations=off lane.seed={seed} lane.turns={turns}"
        command = ["nice", "-n", "10", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"]
        command += ["-machine", "q35,accel=tcg", "-cpu", "max", "-m", str(MEMORY_MIB), "-display", "none"]
        command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs)]
        command += ["-append", f"{words} lane.log={'yes' if log_disk else 'no'}"]
        command += ["-serial", f"file:{self._console}"]
        command += ["-device", "virtio-serial-pci", "-chardev", f"file,id=told,path={self._told}"]
        command += ["-device", "virtserialport,chardev=told,name=told"]
        for name, path in (("data", disk), ("log", log_disk)):
            if path is not None:
                command += ["-drive", f"if=none,id={name},file={path},format=raw,cache=unsafe"]
                command += ["-device", f"virtio-blk-pci,drive={name}"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def __enter__(self) -> Machine:
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
