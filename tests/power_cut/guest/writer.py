"""Runs in the guest: start as the guard does, then check after check as fast as it goes, until the power is cut.

Everything that was acknowledged is told to the host at once, one JSON object a line, on a virtio port. Told is only
what a caller may already act on: after `append`, `checkpoint`, `erase` or the storing of an agreement has returned.

Time within a check is simulated: it goes on by `STEP_S`, each step is told (`at`) before anything of that step is
written, and a heartbeat is due when the guard's is. So the host knows how long a check had really lasted.

    python3 -m guest.writer <seed> <turns, -1 = until the cut> <dm device that takes marks, or ->
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from guest.start import BOOTED_S, SEGMENT_BYTES, Started, config_in, start

from gateway.core.boottime import boot_id
from gateway.core.error import GatewayError
from gateway.ledger import AppendedRecord, Ledger, NoteSigner, Record, RecordKind
from gateway.services.guard_state import forget_agreements, load_ledger_key, store_agreement

DATA = Path("/data")
KEY = Path("/lane/ledger.pem")
PORT = Path("/dev/vport0p1")
HEARTBEAT_EVERY_S = float(Path("/lane/heartbeat_every_s").read_text())
"""The guard's own constant; the host reads it from gateway/services/guard.py."""
STEP_S = 2.5
LONGEST_S = 60.0
KEPT_RECORDS = 60
"""Retention leaves at least this many bodies."""


class Teller:
    """Says things to the host. With a dm-log-writes device it also marks its log with the number of each saying."""

    def __init__(self, device: str | None) -> None:
        self._fd = os.open(PORT, os.O_WRONLY)
        self._device = device
        self._said = 0

    def say(self, event: str, *, marked: bool = False, **fields: Any) -> None:
        os.write(self._fd, json.dumps({"event": event, **fields}, separators=(",", ":")).encode() + b"\n")
        self._said += 1
        if marked and self._device is not None:
            command = ["/sbin/dmsetup", "message", self._device, "0", "mark", f"said-{self._said}"]
            subprocess.run(command, check=True, timeout=60)


TELL: Teller


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
    def __init__(self, started: Started, boot: str, seed: int) -> None:
        self.config = config_in(DATA)
        self.chronicle, self.clock = started.chronicle, started.clock
        self.boot = boot
        self.random = random.Random(seed)
        self.now_s = BOOTED_S
        self.version = started.past.agreement_version
        self.agreement_seq = 0
        self.checks = 0

    def turn(self) -> None:
        """One check, and now and then what else happens to a ledger."""
        if self.checks % 5 == 0:
            self._take_agreement()
        self._check()
        if self.checks % 7 == 0:
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
        before = min(ledger.checkpoint_size, ledger.size - KEPT_RECORDS, self.agreement_seq)
        if before > 0:
            TELL.say("doing", what="erase")
            ledger.erase(before)
            TELL.say("erased", marked=True, before=before)


def agreement(version: int) -> bytes:
    return json.dumps(
        {
            "agreement": "a-1",
            "version": version,
            "gateway": "g-power-cut",
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
        agreement_version=started.past.agreement_version,
    )
    return started


def run(signer: NoteSigner, seed: int, turns: int, *, marked: bool) -> None:
    boot = boot_id()
    started = begin(signer, boot)
    writer = Writer(started, boot, seed)
    while writer.checks != turns:
        writer.turn()
    if marked:
        # A process that ended in the middle of a check: the start after it writes too, and its writes are logged.
        writer.now_s += 60.0
        facts = {"who": "op-1", "check": "k-unclosed", "line": "night-1", "occasion": "again", "attempt": 2}
        writer._append(RecordKind.OPENED, role="operator", **facts)
        writer.chronicle.close()
        started = begin(signer, "f" * 32)
    started.chronicle.close()


def main() -> int:
    global TELL  # noqa: PLW0603 -- one port, one process
    seed, turns, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    TELL = Teller(None if device == "-" else device)
    TELL.say("up")
    try:
        run(load_ledger_key(KEY, "g-power-cut"), seed, turns, marked=device != "-")
    except GatewayError as error:
        TELL.say("refused", reason=f"{type(error).__name__}: {error}")
        return 1
    TELL.say("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
