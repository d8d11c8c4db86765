"""`python tests/fuzz`: every target in its own process for its share of the time; then a table.

Exit 1 if anything was found: the input is kept outside the tree, with the log; `--replay TARGET FILE` runs it again.
Exit 2 without Atheris.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
for place in (FOLDER, ROOT / "tests" / "unit", ROOT):
    if str(place) not in sys.path:
        sys.path.append(str(place))

LANES = min(2, os.cpu_count() or 1)
ROUND_S = 600.0
"""A process fuzzes no longer than this and hands its corpus on, so that libFuzzer's own memory stays small."""
GRACE_S = 60.0
"""For starting, instrumenting and reading the seeds; a process that takes longer is stopped and counts as hung."""
GROWTH_LIMIT_MB = 64.0
REPLAY_TIMEOUT_S = 120.0
NO_ATHERIS = """\
Atheris is not installed here. It has wheels for Linux on x86-64 with Python 3.11 to 3.13 only, so it has its own lock:

    .venv/bin/python -m pip install --require-hashes -r requirements/fuzz.lock

With another Python or another machine, make the virtual environment with one of those (make setup PYTHON=python3.13).
The same targets run without it over all seeds: .venv/bin/python -m pytest tests/unit/test_fuzz_smoke.py"""
COLUMNS = ["target", "executions", "exec/s", "seconds", "slowest-ms", "at"] + [
    "peak-MiB",
    "RSS-MB",
    "growth-MB",
    "edges",
    "found",
]


@dataclass(slots=True)
class Lane:
    """One process that fuzzes one target."""

    name: str
    seconds: float
    folder: Path
    log: IO[bytes]
    process: subprocess.Popen[bytes]
    stop_at_s: float


@dataclass(slots=True)
class Sum:
    """What one target did, over its rounds."""

    executions: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest_door: str = ""
    most_bytes: int = 0
    rss_mb: float = 0.0
    growth_mb: float = 0.0
    edges: int = 0
    found: int = 0

    def add(self, figures: dict[str, Any]) -> None:
        self.executions += figures["executions"]
        self.seconds += figures["seconds"]
        self.most_bytes = max(self.most_bytes, figures["most_bytes"])
        self.rss_mb = max(self.rss_mb, figures["rss_mb"])
        self.growth_mb = max(self.growth_mb, figures["growth_mb"])

    def add_replayed(self, figures: dict[str, Any]) -> None:
        if figures["slowest_s"] > self.slowest_s:
            self.slowest_s, self.slowest_door = figures["slowest_s"], figures["slowest_door"]
        self.most_bytes = max(self.most_bytes, figures["most_bytes"])

    def cells(self, name: str) -> list[str]:
        rate = self.executions / self.seconds if self.seconds else 0.0
        return [
            name, str(self.executions), f"{rate:.0f}", f"{self.seconds:.0f}", f"{self.slowest_s * 1000:.1f}",
            self.slowest_door, f"{self.most_bytes / 2**20:.2f}", f"{self.rss_mb:.0f}", f"{self.growth_mb:.0f}",
            str(self.edges), str(self.found),
        ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="some of the targets; all by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="of fuzzing, in all; starting comes on top")
    parser.add_argument("--replay", nargs="+", metavar=("TARGET", "FILE"), help="run kept inputs again, uninstrumented")
    parser.add_argument("--worker", metavar="TARGET", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        from fuzz_worker import replay

        replay(options.replay[0], [Path(each) for each in options.replay[1:]])
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    if options.worker:
        from fuzz_worker import work

        work(options.worker, seconds=options.seconds, folder=options.folder)
        return 0
    from fuzz_target import TARGETS

    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.seconds <= 0:
        parser.error("--seconds is to be more than 0")
    return fuzz(list(options.targets or TARGETS), options.seconds)


def fuzz(names: list[str], seconds: float) -> int:
    """Give every target its share on all cores; 1 if anything was found."""
    folder = Path(tempfile.mkdtemp(prefix="tillsyn-fuzz-"))
    sums = {name: Sum() for name in names}
    waiting, lanes = rounds(names, seconds), []
    try:
        while True:
            while len(lanes) < LANES and (turn := next(waiting, None)) is not None:
                if not sums[turn[0]].found:  # what was found stands in the way of everything behind it
                    lanes.append(start(*turn, folder))
            if not lanes:
                break
            for lane in [lane for lane in lanes if has_ended(lane)]:
                lanes.remove(lane)
                finish(lane, sums[lane.name])
            time.sleep(0.1)
    finally:
        for lane in lanes:
            lane.process.kill()
            lane.process.wait()
            lane.log.close()
    print(table([COLUMNS, *(sums[name].cells(name) for name in names)]))
    if any(each.found for each in sums.values()):
        for name in names:
            shutil.rmtree(folder / name / "corpus", ignore_errors=True)
            shutil.rmtree(folder / name / "seeds", ignore_errors=True)
        print(f"found inputs and their logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def rounds(names: list[str], seconds: float) -> Iterator[tuple[str, float]]:
    """(target, seconds) one after another, so that every core is busy and no process is old."""
    left_s = seconds * LANES / len(names)
    while left_s >= 1.0:
        share_s = min(left_s, ROUND_S)
        for name in names:
            yield name, share_s
        left_s -= share_s


def start(name: str, seconds: float, folder: Path) -> Lane:
    own = folder / name
    own.mkdir(exist_ok=True)
    (own / "figures.json").unlink(missing_ok=True)
    log = (own / "log").open("wb")
    command = [sys.executable, str(FOLDER), "--worker", name, "--seconds", str(seconds), "--folder", str(own)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=own)
    return Lane(name, seconds, own, log, process, time.monotonic() + seconds + GRACE_S)


def has_ended(lane: Lane) -> bool:
    if lane.process.poll() is None and time.monotonic() > lane.stop_at_s:
        lane.process.kill()
        lane.process.wait()
    return lane.process.returncode is not None


def finish(lane: Lane, total: Sum) -> None:
    """Add up what the process did, and say at once what it found."""
    lane.log.close()
    figures_path, log = lane.folder / "figures.json", (lane.folder / "log").read_text(errors="replace")
    growth_mb = 0.0
    if figures_path.exists():
        figures = json.loads(figures_path.read_text())
        growth_mb = figures["growth_mb"]
        total.add(figures)
    covered = [
        line.partition(" cov: ")[2].split()[0] for line in log.splitlines() if line.startswith("#") and " cov: " in line
    ]
    total.edges = max([total.edges, *(int(each) for each in covered if each.isdigit())])
    kept = sorted((lane.folder / "found").glob("*"))
    if lane.process.returncode != 0 or kept or growth_mb > GROWTH_LIMIT_MB:
        total.found += max(1, len(kept))
        print(f"{lane.name}: exit {lane.process.returncode}, grown by {growth_mb:.0f} MB", file=sys.stderr)
        told = log.partition("Uncaught Python exception")[2] or "\n".join(log.splitlines()[-15:])
        say(kept, told.partition("NEW_FUNC")[0])
        return
    slow = sorted((lane.folder / "slow").glob("*"))
    command = [sys.executable, str(FOLDER), "--replay", lane.name, *map(str, slow)]
    replayed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=REPLAY_TIMEOUT_S)
    if replayed.returncode == 0:
        total.add_replayed(json.loads(replayed.stdout))
        return
    total.found += 1
    print(f"{lane.name}: what was slowest breaks a promise without the fuzzer too", file=sys.stderr)
    say(slow, "\n".join(replayed.stderr.splitlines()[-15:]))


def say(paths: list[Path], told: str) -> None:
    for path in paths:
        print(f"  {path}", file=sys.stderr)
    print("".join(f"  | {line}\n" for line in told.splitlines()[:30]), file=sys.stderr)


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in (0, 5) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
