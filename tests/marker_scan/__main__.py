"""`python tests/marker_scan`: stream marker frames through the whole gateway, and look for them in all that it wrote.

Broker, centre, guard, eye, link and supervisor run in a room in which only a few tmpfs can be written
(`walls.py`). Four checks, one after another: a film that is passed on, the drawn room, the same softened, and a film
that is decoded and encoded anew; and these again, until there was as much picture as was asked for. While each runs,
before it ends, everything that can be written is searched, and what the processes hold open without a name; once more
at the end, with needles planted, which must all be found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY), str(HERE), str(HERE.parent / "service")]

import walls  # noqa: E402
from scan import Found, Needles, scan  # noqa: E402

CHECKS = ("passed", "room", "softened", "encoded")
LONGEST_CHECK_S = 180
LONGEST_PICTURE_S = 80.0
"""What is left of a check is for the scan at its end, while its picture still runs: on a busy machine it takes long."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/marker_scan", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of picture in all (default 600)")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=CHECKS, help="which of the four, all by default")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    rounds = max(1, math.ceil(options.seconds / len(options.checks) / LONGEST_PICTURE_S))
    each_s = options.seconds / len(options.checks) / rounds
    if each_s < 2.0:
        parser.error("--seconds: 2 or more for each check")
    walls.enter()
    walls.build(REPOSITORY)

    from marker import make_film, needles

    films = {"passed": walls.KEPT / "passed.mp4", "encoded": walls.KEPT / "encoded.mkv"}
    make_film(films["passed"])
    # The same film in a form that may not pass: it is larger than what is asked for.
    films["encoded"].symlink_to(films["passed"])
    known = Needles(needles(films["passed"]))
    walls.close()
    report = asyncio.run(_stream(films, known, [*options.checks] * rounds, each_s))
    report |= _plant(known)
    print(json.dumps(report) if options.json else _table(report))
    return 0 if not report["hits"] and not report["unreadable"] and report["planted_found"] == report["planted"] else 1


async def _stream(films: dict[str, Path], known: Needles, checks: Sequence[str], each_s: float) -> dict[str, object]:
    from running_bench import Bench, watching

    from gateway.edge.bench_world import BenchWorld
    from gateway.protocol.message import Verdict
    from provisioning import bench_home
    from provisioning.demo import running

    report: dict[str, object] = {
        "needles": len(known.known),
        "frames": {},
        "hits": [],
        "unreadable": [],
        "watched_s": 0.0,
    }
    for number, name in enumerate(checks):
        print(f"marker scan: {name} …", file=sys.stderr, flush=True)
        camera = f"file:{films[name]}" if name in films else "room"
        home = bench_home.make(Path("/tmp") / f"{name}-{number}", camera=camera)
        if name == "encoded":
            _ask_for_less(home.directory)
        agreement = bench_home.agreement_now(home, max_s=LONGEST_CHECK_S)
        agreement["picture"] = {"mode": "softened" if name == "softened" else "clear"}
        async with running(home, agreement) as started:
            async with watching(Bench(started, BenchWorld(home.world))) as (operator, facts, look):
                began_s = time.monotonic()
                await asyncio.sleep(each_s)
                # Still running: what is only there while it runs is there now.
                found = await asyncio.to_thread(scan, walls.WRITABLE, known)
                report["watched_s"] += time.monotonic() - began_s
                report["frames"][name] = report["frames"].get(name, 0) + look.frames
                _add(report, found)
                await operator.give_verdict(facts, look, Verdict.SEEN)
                await operator.closed(facts, look.check)
            _add(report, await asyncio.to_thread(scan, walls.WRITABLE, known))
    return report


def _ask_for_less(directory: Path) -> None:
    """So that the film is larger than what is asked for, and is encoded anew."""
    for path in directory.rglob("eye.toml"):
        text = path.read_text()
        path.write_text("width_px = 320\nheight_px = 180\n" + text)
        return
    raise FileNotFoundError("eye.toml")


def _add(report: dict, found: Found) -> None:
    report["hits"] += found.hits
    report["unreadable"] += found.unreadable
    report["scans"] = report.get("scans", 0) + 1
    for name in ("files", "bytes_read", "open_files", "processes"):
        report[name] = max(report.get(name, 0), getattr(found, name))


def _plant(known: Needles) -> dict[str, object]:
    """Put a needle of each kind where something might leave it, and see that the scan finds each."""
    kinds = {name.split(":")[0]: needle for needle, name in known.known.items()}
    for number, needle in enumerate(kinds.values()):
        folder = walls.WRITABLE[number % len(walls.WRITABLE)]
        (folder / f"planted-{number}.bin").write_bytes(os.urandom(70_000) + needle + os.urandom(7))
    base = sqlite3.connect("/tmp/planted.sqlite")
    base.execute("CREATE TABLE t (b BLOB)")
    base.execute("INSERT INTO t VALUES (?)", (next(iter(known.known)),))
    base.commit()
    base.close()
    # A process that holds a deleted file and one without a name.
    held = (
        "import os, sys, time; needle = bytes.fromhex(sys.argv[1]); "
        "f = open('/tmp/held', 'wb'); f.write(needle); f.flush(); os.unlink('/tmp/held'); "
        "m = os.memfd_create('held'); os.write(m, needle); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", held, next(iter(known.known)).hex()], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    found = scan(walls.WRITABLE, known)
    child.kill()
    child.wait()
    expected = [f"planted-{number}.bin" for number in range(len(kinds))]
    expected += ["planted.sqlite", "/tmp/held", "/memfd:held"]
    missed = [name for name in expected if not any(name in hit for hit in found.hits)]
    return {"planted": len(expected), "planted_found": len(expected) - len(missed), "planted_missed": missed}


def _table(report: dict) -> str:
    return "\n".join(f"{name:16} {value}" for name, value in report.items())


if __name__ == "__main__":
    sys.exit(main())
