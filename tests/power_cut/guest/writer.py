"""Runs in the guest: start as the guard does, then check after check as fast as it goes, until the power is cut.

First it loads everything it needs and waits for the host's orders, one JSON object on a second virtio port; the disk's
driver is loaded and the disk is seen only then, so that the machine can be saved before and taken up again many times.

Everything that was acknowledged is told to the host at once, one JSON object a line, on a virtio port. Told is only
what a caller may already act on: after `append`, `checkpoint`, `erase` or the storing of an agreement has returned.

Time within a check is simulated: it goes on by `STEP_S`, each step is told (`at`) before anything of that step is
written, and a heartbeat is due when the guard's is. So the host knows how long a check had really lasted.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guest.start import BOOTED_S, GATEWAY, SEGMENT_BYTES, Started, config_in, start

from gateway.core.error import GatewayError
from gateway.ledger import AppendedRecord, Ledger, NoteSigner, Record, RecordKind
from gateway.services.guard_state import forget_agreements, load_ledger_key, store_agreement

DATA = Path("/data")
KEY = Path("/lane/ledger.pem")
TELLING_PORT = Path("/dev/vport0p1")
ORDERS_PORT = Path("/dev/vport0p2")
DISK_MODULES = Path("/modules/disk_order")
DEVICE = "cut"
"""Name of the dm-log-writes device."""
HEARTBEAT_EVERY_S = float(Path("/lane/heartbeat_every_s").read_text())
"""The guard's own constant; the host reads it from gateway/services/guard_check.py."""
STEP_S = 2.5
LONGEST_S = 60.0
ERASE_EVERY_CHECKS = 25
"""Rarely: `erase` reads all older segments again, and would be what most cuts fall into."""
KEPT_RECORDS = 60
"""Retention leaves at least this many bodies."""
LOGGED_ERASE_EVERY_CHECKS = 4
LOGGED_KEPT_RECORDS = 15
"""The same in a short run that is logged, so that it erases at all."""


@dataclass(frozen=True, slots=True)
class Orders:
    seed: int
    turns: int
    """How many checks; -1 is until the cut."""
    boot: str
    """Boot id; a machine that is taken up again would find the kernel's unchanged."""
    log: bool
    """Put dm-log-writes under the file system, and mark its log."""


class Teller:
    """Says things to the host. With `marks` it also marks the log of dm-log-writes with the number of each saying."""

    def __init__(self) -> None:
        self._fd = os.open(TELLING_PORT, os.O_WRONLY)
        self.marks = False
        self._said = 0

    def say(self, event: str, *, marked: bool = False, **fields: Any) -> None:
        self._said += 1
        told = json.dumps({"event": event, "number": self._said, **fields}, separators=(",", ":"))
        os.write(self._fd, told.encode() + b"\n")
        if marked and self.marks:
            run("/sbin/dmsetup", "message", DEVICE, "0", "mark", f"said-{self._said}")


TELL = Teller()


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=120)


class TellingLedger(Ledger):
    """Tells of each record when `append` has returned, as a caller would be told."""

    def append(self, record: Record) -> AppendedRecord:
        appended = super().append(record)
        TELL.say(
            "ack",
            marked=True,
            seq=appended.seq,
            leaf=appended.leaf_hash.hex(),
            kind=record.kind.value,
            check=record.check,
            boottime=record.boottime,
            watched_s=record.watched_s,
            why=record.why,
        )
        return appended

    def checkpoint(self) -> bytes:
        note = super().checkpoint()
        TELL.say("checkpoint", marked=True, size=self.checkpoint_size)
        return note


class Writer:
    def __init__(self, started: Started, orders: Orders) -> None:
        self.config = config_in(DATA)
        self.chronicle, self.clock = started.chronicle, started.clock
        self.boot = orders.boot
        self.random = random.Random(orders.seed)
        self.erase_every_checks = LOGGED_ERASE_EVERY_CHECKS if orders.log else ERASE_EVERY_CHECKS
        self.kept_records = LOGGED_KEPT_RECORDS if orders.log else KEPT_RECORDS
        self.now_s = BOOTED_S
        self.version = started.past.versions.agreement
        self.agreement_seq = 0
        self.checks = 0

    def turn(self) -> None:
        """One check, and now and then what else happens to a ledger."""
        if self.checks % 5 == 0:
            self._take_agreement()
        self._check()
        if self.checks % self.erase_every_checks == 0:
            self._erase()

    def _append(self, kind: RecordKind, **fields: Any) -> None:
        rotates = self.chronicle.ledger._state.last_segment_bytes > SEGMENT_BYTES - 640
        TELL.say("doing", what="append, perhaps a new segment" if rotates else "append")
        self.chronicle.append(kind, self.now_s, self.clock, **fields)

    def _step(self, check: str) -> None:
        self.now_s += STEP_S
        TELL.say("at", check=check, now_s=self.now_s)

    def _check(self) -> None:
        self.checks += 1
        check = f"k-{self.boot[:12]}-{self.checks}"
        facts = {"who": "op-1", "check": check, "line": "night-1", "occasion": "2026-11-20T23:30", "attempt": 1}
        self.now_s += self.random.uniform(1.0, 600.0)
        self._append(RecordKind.OPENED, role="operator", **facts)
        TELL.say("at", check=check, now_s=self.now_s)
        heartbeat_s, opened_s = self.now_s, self.now_s
        self._step(check)
        self._append(RecordKind.LIVE, **facts)
        ends_s = opened_s + self.random.uniform(5.0, LONGEST_S)
        while self.now_s < ends_s:
            self._step(check)
            if self.now_s - heartbeat_s >= HEARTBEAT_EVERY_S:
                heartbeat_s = self.now_s
                self._append(RecordKind.HEARTBEAT, **facts)
        self._append(RecordKind.VERDICT, who="op-1", role="operator", check=check, why="seen")
        watched_s = round(self.now_s - opened_s, 3)
        self._append(RecordKind.CLOSED, why="seen", watched_s=watched_s, frames=int(watched_s * 15), **facts)
        TELL.say("doing", what="checkpoint")
        self.chronicle.checkpoint()

    def _take_agreement(self) -> None:
        TELL.say("doing", what="agreement")
        self.version += 1
        stored = agreement(self.version)
        digest = store_agreement(self.config, stored)
        self.agreement_seq = self.chronicle.size
        self._append(RecordKind.AGREEMENT, who="planner-1", role="planner", version=self.version, digest_of=digest)
        forget_agreements(self.config, keep=digest)
        TELL.say("agreement", marked=True, version=self.version)

    def _erase(self) -> None:
        ledger = self.chronicle.ledger
        # Never the newest agreement's record: without its body no agreement is in force.
        before = min(ledger.checkpoint_size, ledger.size - self.kept_records, self.agreement_seq)
        if before > 0:
            TELL.say("doing", what="erase")
            ledger.erase(before)
            TELL.say("erased", marked=True, before=before)


def agreement(version: int) -> bytes:
    return json.dumps(
        {
            "agreement": "a-1",
            "version": version,
            "gateway": GATEWAY,
            "install_epoch": 1,
            "timezone": "UTC",
            "valid": {"from": "2026-11-01", "until": "2027-10-31"},
            "consent": {
                "resident": {"given": "2026-10-30", "how": "signed-at-installation", "ref": "c-1"},
                "cohabitant": None,
            },
            "lines": [
                {
                    "id": "night-1",
                    "rrule": "FREQ=DAILY",
                    "start": "23:30",
                    "window_min": 30,
                    "max_s": 60,
                    "recheck": {"after_min": 15, "times": 1},
                }
            ],
            "picture": {"mode": "clear"},
            "lamp": "dim",
            "if_not_seen": [{"do": "call-resident", "within_min": 5}],
            "pauses": [],
            "resident_ref": "r-1",
        }
    ).encode()


def begin(signer: NoteSigner, boot: str) -> Started:
    TELL.say("doing", what="start")
    started = start(config_in(DATA), signer, boot, ledger_type=TellingLedger)
    TELL.say(
        "started",
        boot=boot,
        tail_bytes=started.tail_bytes,
        unclosed=started.past.unclosed.check if started.past.unclosed is not None else None,
        agreement_version=started.past.versions.agreement,
    )
    return started


def write(signer: NoteSigner, orders: Orders) -> None:
    started = begin(signer, orders.boot)
    writer = Writer(started, orders)
    while writer.checks != orders.turns:
        writer.turn()
    if orders.log:
        # A process that ended in the middle of a check: the start after it writes too, and its writes are logged.
        writer.now_s += 60.0
        facts = {"who": "op-1", "check": "k-unclosed", "line": "night-1", "occasion": "again", "attempt": 2}
        writer._append(RecordKind.OPENED, role="operator", **facts)
        writer.chronicle.close()
        started = begin(signer, "f" * 32)
    started.chronicle.close()


def orders_from_host() -> Orders:
    TELL.say("warm")
    fd = os.open(ORDERS_PORT, os.O_RDONLY)
    untrusted = b""
    while not untrusted.endswith(b"\n"):
        # While nobody has connected to the other side, reading gives nothing at once.
        untrusted += os.read(fd, 4096)
        time.sleep(0.02)
    return Orders(**json.loads(untrusted))


def mount(orders: Orders) -> None:
    for name in DISK_MODULES.read_text().split():
        run("/bin/busybox", "insmod", f"/modules/{name}")
    disk = "/dev/vda"
    if orders.log:
        sectors = Path("/sys/block/vda/size").read_text().strip()
        table = f"0 {sectors} log-writes /dev/vda /dev/vdb"
        run("/sbin/dmsetup", "--noudevrules", "--noudevsync", "create", DEVICE, "--table", table)
        disk = "/dev/dm-0"  # by its kernel name: there is no udev to make the other
    run("/bin/busybox", "mount", "-t", "ext4", disk, str(DATA))
    TELL.marks = orders.log


def unmount(orders: Orders) -> None:
    TELL.marks = False
    run("/bin/busybox", "umount", str(DATA))
    if orders.log:
        run("/sbin/dmsetup", "--noudevrules", "--noudevsync", "remove", DEVICE)


def main() -> int:
    signer = load_ledger_key(KEY, GATEWAY)
    orders = orders_from_host()
    mount(orders)
    TELL.say("up")
    try:
        write(signer, orders)
    except GatewayError as error:
        TELL.say("refused", reason=f"{type(error).__name__}: {error}")
        return 1
    unmount(orders)
    TELL.say("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
