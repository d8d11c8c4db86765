"""What the host knows was acknowledged, and whether a ledger found after a cut keeps every word of it."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guest.start import config_in, start

from gateway.core.error import IntegrityError
from gateway.ledger import NoteSigner, Record, RecordKind, read_records, verify_directory
from gateway.services.guard_state import ledger_path, remember

LONGEST_ERROR_S = 10.0
"""R36."""


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[bool]:
    """`image` (a scratch copy: this writes to it) as a kernel finds it after a cut, journal replayed.

    Gives True when it had to be mended first: ext4 trusts that its superblock (1 KiB) is written whole, and a cut
    between its two sectors leaves a checksum that no kernel takes. `e2fsck -y` finds a backup, `e2fsck -p` does not.
    """
    at.mkdir(exist_ok=True)
    mount = ["mount", "-t", "ext4", "-o", "loop", str(image), str(at)]
    mended = subprocess.run(mount, check=False, timeout=60, capture_output=True).returncode != 0
    if mended:
        e2fsck = shutil.which("e2fsck", path="/usr/sbin:/sbin") or "e2fsck"
        subprocess.run([e2fsck, "-fy", str(image)], check=False, timeout=60, capture_output=True)
        subprocess.run(mount, check=True, timeout=60)
    try:
        yield mended
    finally:
        subprocess.run(["umount", str(at)], check=True, timeout=60)


@dataclass(slots=True)
class Told:
    """All that the guest said it had done, over all boots of one disk."""

    leaves: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Seq to leaf hash and kind of each acknowledged record."""
    checkpoint_size: int = 0
    agreement_version: int = 0
    erased_before: int = 0
    opened_s: dict[str, float] = field(default_factory=dict)
    last_at_s: dict[str, float] = field(default_factory=dict)
    """Simulated BOOTTIME at which a check was last known to run."""
    closed: set[str] = field(default_factory=set)
    errors_s: dict[str, float] = field(default_factory=dict)
    """For each check that was closed by recovery, how much longer it ran than its record says."""
    acknowledged: int = 0
    tails: int = 0
    faults: list[str] = field(default_factory=list)
    doing: str = "boot"

    def hear(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ack":
                self._acknowledge(event)
            case "checkpoint":
                self.checkpoint_size = max(self.checkpoint_size, event["size"])
            case "agreement":
                self.agreement_version = event["version"]
            case "erased":
                self.erased_before = event["before"]
            case "at":
                self.last_at_s[event["check"]] = event["now_s"]
            case "doing":
                self.doing = event["what"]
            case "started":
                self.tails += event["tail_bytes"] > 0
                self.doing = "nothing"
            case "up":
                self.doing = "boot"
            case "refused":
                self.faults.append(f"refused by the guest at its start: {event['reason']}")

    def _acknowledge(self, event: dict[str, Any]) -> None:
        seq = event["seq"]
        if seq in self.leaves:
            self.faults.append(f"record {seq} was acknowledged twice")
        self.leaves[seq] = (event["leaf"], event["kind"])
        self.acknowledged += 1
        self.note(event["kind"], event["check"], event["boottime"], event["why"], event["watched_s"])

    def note(self, kind: str, check: str | None, boottime_s: float, why: str | None, watched_s: float | None) -> None:
        """Learn of an opening or a closing, told or found on the disk; the second time changes nothing."""
        if check is None:
            return
        if kind == RecordKind.OPENED:
            self.opened_s.setdefault(check, boottime_s)
        elif kind == RecordKind.CLOSED and check not in self.closed:
            self.closed.add(check)
            if why == "recovered":
                self._recovered(check, watched_s or 0.0)

    def _recovered(self, check: str, watched_s: float) -> None:
        opened_s = self.opened_s[check]
        error_s = self.last_at_s.get(check, opened_s) - opened_s - watched_s
        self.errors_s[check] = error_s
        # The cut can come before the last step is told, or between telling and the heartbeat: below 0 is a step.
        if error_s > LONGEST_ERROR_S + 0.001 or error_s < -3.0:
            self.faults.append(f"check {check}: the recovered length is wrong by {error_s:.3f} s")

    @property
    def largest_error_s(self) -> float:
        return max(self.errors_s.values(), default=0.0)

    @property
    def unclosed(self) -> set[str]:
        return set(self.opened_s) - self.closed


@dataclass(frozen=True, slots=True)
class Judgement:
    lost: tuple[int, ...] = ()
    """Acknowledged records that are not there, or not the same."""
    refused: str | None = None
    faults: tuple[str, ...] = ()
    torn_tail_bytes: int = 0
    size: int = 0

    @property
    def good(self) -> bool:
        return not self.lost and self.refused is None and not self.faults


def judge(state_dir: Path, told: Told) -> Judgement:
    """Look at a ledger as a cut left it, without writing; what is found of openings and closings goes to `told`."""
    directory = ledger_path(config_in(state_dir))
    if not (directory / "ledger.pub").exists() and not told.leaves:
        return Judgement()  # Cut before the ledger was begun: the next start begins it.
    try:
        report = verify_directory(directory)
        stored = list(read_records(directory))
        past = remember(config_in(state_dir), stored)
    except IntegrityError as error:
        return Judgement(lost=_lost_in_ruins(directory, told), refused=str(error))
    bodies = [each.body for each in stored if each.body is not None]
    faults = list(_faults(told, bodies))
    if report.checkpoint_size < told.checkpoint_size:
        faults.append(f"the checkpoint of {told.checkpoint_size} is back at {report.checkpoint_size}")
    if past.versions.agreement < told.agreement_version:
        faults.append(f"agreement {told.agreement_version} is back at {past.versions.agreement}")
    if report.erased < told.erased_before:
        faults.append(f"{told.erased_before} bodies were erased, {report.erased} are")
    leaves = [each.leaf_hash.hex() for each in stored]
    lost = tuple(seq for seq, (leaf, _) in told.leaves.items() if seq >= len(leaves) or leaves[seq] != leaf)
    return Judgement(lost, None, tuple(faults), report.torn_tail_bytes, report.size)


def _lost_in_ruins(directory: Path, told: Told) -> tuple[int, ...]:
    found: dict[int, str] = {}
    try:
        for each in read_records(directory):
            found[each.seq] = each.leaf_hash.hex()
    except IntegrityError:
        pass
    return tuple(seq for seq, (leaf, _) in told.leaves.items() if found.get(seq) != leaf)


def _faults(told: Told, bodies: list[Record]) -> Iterator[str]:
    for kind in (RecordKind.OPENED, RecordKind.CLOSED):
        for check, count in Counter(body.check for body in bodies if body.kind is kind).items():
            if count > 1:
                yield f"check {check} has {count} {kind} records"
    for body in bodies:
        told.note(body.kind, body.check, body.boottime, body.why, body.watched_s)
    newest = next((body.check for body in reversed(bodies) if body.kind is RecordKind.OPENED), None)
    for check in told.unclosed - {newest}:
        yield f"check {check} was never closed"


def judge_with_start(state_dir: Path, told: Told, signer: NoteSigner) -> Judgement:
    """`judge`, then start as the guard does, then `judge` again: nothing may be open or torn any more."""
    before = judge(state_dir, told)
    if not before.good:
        return before
    try:
        start(config_in(state_dir), signer, "e" * 32).chronicle.close()
    except IntegrityError as error:
        return Judgement(refused=f"at the start: {error}", torn_tail_bytes=before.torn_tail_bytes)
    after = judge(state_dir, told)
    faults = list(after.faults) + told.faults + [f"check {each} is still open" for each in sorted(told.unclosed)]
    if after.torn_tail_bytes:
        faults.append("the torn line is still there")
    return Judgement(after.lost, after.refused, tuple(faults), before.torn_tail_bytes, after.size)
