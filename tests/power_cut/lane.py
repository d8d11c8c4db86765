"""The two halves of the lane: cuts at random moments, and every state a short run put the disk through."""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guest.start import GATEWAY
from image import Guest, make_disk
from judge import Judgement, Told, judge, judge_with_start, mounted
from log_writes import Entry, apply, read_log
from machine import Machine

from gateway.ledger import NoteSigner
from gateway.services.guard_state import load_ledger_key

DISK_MIB = 160
"""Two block groups, so that ext4 has a backup of its superblock; sparse."""
LOG_DISK_MIB = 1024
"""Sparse; only what is logged takes room."""
STARTING_SHARE = 0.2
"""Of the cuts, how many fall into the start and its recovery."""
LOGGED_CHECKS = 8
END_LIMIT_S = 600.0


@dataclass(slots=True)
class Result:
    figures: dict[str, str | int | float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    lost: int = 0
    refused: int = 0

    @property
    def good(self) -> bool:
        return not self.faults and not self.lost and not self.refused

    def rows(self) -> list[tuple[str, str]]:
        return [
            (name, f"{value:.2f}" if isinstance(value, float) else str(value)) for name, value in self.figures.items()
        ]

    def judge(self, judgement: Judgement, where: str) -> None:
        self.lost += len(judgement.lost)
        self.refused += judgement.refused is not None
        if judgement.lost:
            these = ", ".join(map(str, judgement.lost[:5]))
            self.faults.append(f"{where}: {len(judgement.lost)} acknowledged records lost ({these}, …)")
        if judgement.refused is not None:
            self.faults.append(f"{where}: refused: {judgement.refused}")
        self.faults += [f"{where}: {fault}" for fault in judgement.faults]


class Lane:
    def __init__(self, guest: Guest, directory: Path, options: argparse.Namespace) -> None:
        self._guest = guest
        self._directory = directory
        self._options = options
        self._random = random.Random(options.seed)
        self._disk = directory / "disk.img"
        self._probe = directory / "probe.img"
        self._log_disk = directory / "log.img"
        self._mount_point = directory / "mnt"
        self._mended = 0
        self._saved: Path | None = None
        self._signer: NoteSigner = load_ledger_key(guest.key_pem, GATEWAY)
        self._full_boot_s = 0.0

    def random_cuts(self, cuts: int) -> Result:
        """Cut `cuts` times; every `fresh_every` cuts let the last recovery end by itself and take a new disk."""
        result, recovery_s, moments = Result(), [], Counter[str]()
        acknowledged = tails = host_tails = recovered = 0
        largest_error_s, number = 0.0, 0
        self._make_ready()
        while number < cuts and result.good:
            make_disk(self._disk, DISK_MIB)
            told = Told()
            last = min(number + self._options.fresh_every, cuts)
            while number < last and result.good:
                number += 1
                taken_up_s = self._cut_once(told)
                recovery_s.append(taken_up_s)
                moments[told.doing] += 1
                judgement = self._judge_disk(told)
                host_tails += judgement.torn_tail_bytes > 0
                result.judge(judgement, f"cut {number} during {told.doing!r}")
                result.faults += told.faults
                print(f"cut {number}: during {told.doing}, {judgement.size} records", flush=True)
            if result.good:
                self._end_well(told, result, f"the start after cut {number}")
            acknowledged += told.acknowledged
            tails += told.tails
            recovered += len(told.errors_s)
            largest_error_s = max(largest_error_s, told.largest_error_s)
        result.refused += any("refused by the guest" in fault for fault in result.faults)
        result.figures = {
            "cuts": number,
            "acknowledged records": acknowledged,
            "lost": result.lost,
            "refused ledgers": result.refused,
            "torn tails found by the host after a cut": host_tails,
            "torn tails cut off by the guest": tails,
            "file systems that e2fsck had to mend": self._mended,
            "checks that recovery closed": recovered,
            "largest error of a recovered length, s (at most 10)": largest_error_s,
            "seconds of a whole boot": self._full_boot_s,
            "seconds until a start had recovered (median)": statistics.median(recovery_s or [0.0]),
            "seconds until a start had recovered (longest)": max(recovery_s, default=0.0),
        }
        result.figures |= {f"  cut during: {doing}": count for doing, count in moments.most_common()}
        return result

    def enumerated(self, limit: int) -> Result:
        """Log all writes of a short run, then judge the disk at points of that log."""
        result = Result()
        self._make_ready()
        make_disk(self._disk, DISK_MIB)
        begun = self._directory / "begun.img"
        copy(self._disk, begun)
        self._make_log_disk()
        with self._machine() as machine:
            machine.order(seed=self._random.randrange(10**9), turns=LOGGED_CHECKS, boot=self._boot_id(), log=True)
            machine.wait_for("end", END_LIMIT_S)
            machine.wait_until_off(END_LIMIT_S)
            events = machine.events
        entries = read_log(self._log_disk)
        points, candidates = choose(entries, limit, self._random)
        kinds, tails, mended, acknowledged, largest_error_s = Counter[str](), 0, 0, 0, 0.0
        started_s = time.monotonic()
        with self._log_disk.open("rb") as log, begun.open("r+b") as disk:
            done = 0
            for point in points:
                for entry in entries[done : point.whole]:
                    apply(log, disk, entry)
                done = point.whole
                disk.flush()
                copy(begun, self._probe)
                with self._probe.open("r+b") as probe:
                    for index, sectors in point.parts:
                        apply(log, probe, entries[index], sectors)
                said = max((int(e.mark[5:]) for e in entries[: point.marks] if e.mark.startswith("said-")), default=0)
                told = told_by(events, said)
                with mounted(self._probe, self._mount_point) as was_mended:
                    judgement = judge_with_start(self._mount_point, told, self._signer)
                mended += was_mended
                result.judge(judgement, f"entry {point.whole} of {len(entries)}, {point.kind}, {said} sayings")
                kinds[point.kind] += 1
                tails += judgement.torn_tail_bytes > 0
                acknowledged = max(acknowledged, told.acknowledged)
                largest_error_s = max(largest_error_s, told.largest_error_s)
                if len(result.faults) > 20:
                    break
            for entry in entries[done:]:
                apply(log, disk, entry)
        if begun.read_bytes() != self._disk.read_bytes():
            result.faults.append("the log replayed to its end is not the disk: the replay is wrong")
        result.figures = {
            "entries in the log": len(entries),
            "points judged": sum(kinds.values()),
            "points there are (without mixed ones)": candidates,
            **{f"  {kind}": count for kind, count in sorted(kinds.items())},
            "acknowledged records at the last point": acknowledged,
            "lost": result.lost,
            "refused ledgers": result.refused,
            "torn tails": tails,
            "points with a torn superblock, mended by e2fsck -y": mended,
            "largest error of a recovered length, s (at most 10)": largest_error_s,
            "seconds for all points": time.monotonic() - started_s,
        }
        return result

    def _cut_once(self, told: Told) -> float:
        with self._machine() as machine:
            begun_s = time.monotonic()
            machine.order(seed=self._random.randrange(10**9), turns=-1, boot=self._boot_id())
            if self._random.random() < STARTING_SHARE:
                # Recovery takes a fraction of a second; half of these cuts fall behind it, into the first records.
                time.sleep(self._random.uniform(0.0, 1.0))
                taken_s = 0.0
            else:
                machine.wait_for("started")
                taken_s = time.monotonic() - begun_s
                time.sleep(self._random.uniform(0.0, self._options.window))
            machine.require_alive()
            machine.cut()
            for event in machine.events:
                told.hear(event)
        return taken_s

    def _end_well(self, told: Told, result: Result, where: str) -> None:
        """A start that is not cut: afterwards nothing is open."""
        with self._machine() as machine:
            machine.order(seed=0, turns=0, boot=self._boot_id())
            machine.wait_for("end", END_LIMIT_S)
            machine.wait_until_off(END_LIMIT_S)
            for event in machine.events:
                told.hear(event)
        result.judge(self._judge_disk(told), where)
        result.faults += [f"{where}: check {check} is still open" for check in sorted(told.unclosed)]
        result.faults += told.faults

    def _judge_disk(self, told: Told) -> Judgement:
        copy(self._disk, self._probe)
        with mounted(self._probe, self._mount_point) as was_mended:
            self._mended += was_mended
            return judge(self._mount_point, told)

    def _machine(self) -> Machine:
        machine = Machine(self._guest, self._directory, disk=self._disk, log_disk=self._log_disk, saved=self._saved)
        if self._saved is None:
            machine.wait_for("warm")
        return machine

    def _make_ready(self) -> None:
        """Boot once, and save the warm machine unless every boot is to be a whole one."""
        self._make_log_disk()
        if self._saved is not None or (self._options.full_boots and self._full_boot_s):
            return
        make_disk(self._disk, DISK_MIB)
        with self._machine() as machine:
            self._full_boot_s = machine.wait_for("warm")
            if not self._options.full_boots:
                saved = self._directory / "saved"
                machine.save(saved)
                self._saved = saved

    def _make_log_disk(self) -> None:
        with self._log_disk.open("wb") as file:
            file.truncate(LOG_DISK_MIB << 20)

    def _boot_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def copy(old: Path, new: Path) -> None:
    """Holes stay holes."""
    subprocess.run(["cp", "--sparse=auto", str(old), str(new)], check=True, timeout=60)


def told_by(events: list[dict[str, Any]], said: int) -> Told:
    """What was told by the time mark `said` was set; the steps of a check also after it, up to the next mark.

    Steps have no marks of their own. So a check is taken to have run as long as it can have at that point, and the
    error of its recovered length is the largest it can be.
    """
    told = Told()
    for event in events:
        if event["number"] <= said or event["event"] == "at":
            told.hear(event)
        elif event["event"] != "doing":
            break
    return told


@dataclass(frozen=True, slots=True)
class Point:
    """The disk after `whole` entries and `parts` of further ones; marks below `marks` were set by then."""

    whole: int
    kind: str
    marks: int
    parts: tuple[tuple[int, tuple[int, ...]], ...] = ()


def choose(entries: list[Entry], limit: int, seeded: random.Random) -> tuple[list[Point], int]:
    """At most `limit` points, and how many there were to choose from.

    * `barrier`: after each write that is a flush or FUA, and before it.
    * `entry`: after any other write.
    * `torn`: within a write, at each sector boundary: the first sectors are new, the rest is not.
    * `mixed`: a volatile cache wrote back in an order of its own: of the writes between two flushes any sectors.
    """
    barriers: dict[int, Point] = {0: Point(0, "barrier", 0)}
    plain, torn, mixed = [], [], []
    flushed = 0
    for index, entry in enumerate(entries):
        if entry.is_barrier:
            for whole in (index, index + 1):
                barriers[whole] = Point(whole, "barrier", whole)
        elif entry.is_write:
            plain.append(Point(index + 1, "entry", index + 1))
        if entry.is_write:
            torn += [Point(index, "torn", index, ((index, tuple(range(n))),)) for n in range(1, entry.sectors)]
        if entry.flushes:
            epoch = [(at, entries[at]) for at in range(flushed, index) if entries[at].is_write]
            if epoch:
                mixed.append(Point(flushed, "mixed", index, tuple(_mix(epoch, seeded))))
            flushed = index + 1
    plain = [point for point in plain if point.whole not in barriers]
    candidates = len(barriers) + len(plain) + len(torn)
    chosen: list[Point] = []
    # Each kind has its share; what a kind leaves over goes to the next.
    for share, kind in ((0.4, list(barriers.values())), (0.5, plain), (0.4, mixed), (1.0, torn)):
        room = max(0, round((limit - len(chosen)) * share))
        chosen += kind if len(kind) <= room else seeded.sample(kind, room)
    return sorted(chosen, key=lambda point: point.whole), candidates


def _mix(epoch: list[tuple[int, Entry]], seeded: random.Random) -> Iterator[tuple[int, tuple[int, ...]]]:
    for index, entry in epoch:
        if entry.is_barrier:  # FUA: durable when it was complete
            yield index, tuple(range(entry.sectors))
        else:
            yield index, tuple(each for each in range(entry.sectors) if seeded.random() < 0.5)
