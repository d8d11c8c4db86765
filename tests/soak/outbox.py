"""Three days' worth of records without a broker: `make outbox-soak`, or `python tests/soak/outbox.py --records 10000`.

The real home (guard, link, park under the stand-in for systemd), the real centre, a real Mosquitto that is away while
the guard writes record after record into its ledger; link and guard get SIGKILL in between. Then the broker comes back.
At the end the centre must hold every record once, byte for byte as it stands in the home's ledger, and link's memory
must have stayed flat. What is simulated of the days is their number of records, not the time between them. The short
version in the suite is tests/service/test_outbox.py. Exit 0: all of it held.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from running_bench import Bench, bench

from gateway.core.error import TransientError
from gateway.ipc import frame
from gateway.ledger import read_records, verify_directory
from gateway.services import hand
from provisioning.demo import start_broker

FLAT = 1.10
"""The most that link's memory may grow, over its most in the first fifth of the records."""
DRAIN_LIMIT_S = 1800.0


def memory_kib(pid: int) -> int:
    """Resident set, without what files lend."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


async def tell(home: Bench, word: frame.Frame) -> None:
    while True:
        try:
            await hand.tell(home.home.control_socket, word)
        except TransientError:
            await asyncio.sleep(0.2)  # the guard was killed and is not back yet
        else:
            return


async def kill(home: Bench, victim: str) -> None:
    pid = home.pid(victim)
    os.kill(pid, signal.SIGKILL)
    await home.until(lambda: home.running.pids().get(victim, pid) != pid, 60.0)


def at_the_centre(database: Path) -> list[tuple[int, bytes]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30.0) as db:
        return [(seq, bytes(raw)) for seq, raw in db.execute("SELECT seq, raw FROM ledger_records ORDER BY rowid")]


def count_at_the_centre(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30.0) as db:
        return int(db.execute("SELECT count(*) FROM ledger_records").fetchone()[0])


async def outage(home: Bench, records: int, kills: int, figures: list[tuple[int, int]]) -> int:
    """Write until there are so many records; returns how often somebody was killed."""
    dice = random.Random(records)
    at = sorted(dice.sample(range(records // 20, records - records // 20), kills))
    written, killed = len(list(read_records(home.home.ledger))), 0
    while written < records:
        await tell(home, frame.NotTonight(3600.0))
        await tell(home, frame.EndPause())
        written += 2
        if at and written >= at[0]:
            at.pop(0)
            await kill(home, "link" if killed % 2 else "guard")
            killed += 1
        if written % (records // 20) < 2:
            figures.append((written, memory_kib(home.pid("link"))))
            print(f"  {written:6} records, link {figures[-1][1] / 1024:5.1f} MiB", flush=True)
    return killed


async def soak(directory: Path, records: int, kills: int) -> bool:
    begun_s = time.monotonic()
    figures: list[tuple[int, int]] = []
    async with bench(directory) as home:
        database = next(home.home.directory.rglob("centre.sqlite"))
        broker = home.running.processes["broker"]
        broker.kill()
        await broker.wait()
        print(f"the broker is away; {records} records, {kills} kills")
        killed = await outage(home, records, kills, figures)
        outage_s = time.monotonic() - begun_s
        before = count_at_the_centre(database)
        home.running.processes["broker"] = await start_broker(home.home)
        print(f"the broker is back after {outage_s:.0f} s; the centre has {before}", flush=True)
        began_s = time.monotonic()
        killed += 1
        await asyncio.sleep(3.0)
        await kill(home, "link")
        while (there := count_at_the_centre(database)) < (here := len(list(read_records(home.home.ledger)))):
            if time.monotonic() - began_s > DRAIN_LIMIT_S:
                print(f"only {there} of {here} after {DRAIN_LIMIT_S:.0f} s")
                return False
            figures.append((here, memory_kib(home.pid("link"))))
            await asyncio.sleep(5.0)
        drained_s = time.monotonic() - began_s
        await asyncio.sleep(2.0)
        lines = [(stored.seq, stored.line) for stored in read_records(home.home.ledger)]
        got = at_the_centre(database)
        verify_directory(home.home.ledger)
        in_order = [seq for seq, _ in got] == sorted(seq for seq, _ in got)
        same = got == lines[: len(got)] and len(lines) - len(got) <= 1
        # A link that has just been started is small yet: what counts is the most it has, early and over all.
        early = max(kib for at, kib in figures if at <= records // 5)
        most = max(kib for _, kib in figures)
        print(f"records in the ledger {len(lines)}, at the centre {len(got)}, killed {killed} times")
        print(f"each once {len({seq for seq, _ in got}) == len(got)}, in order {in_order}, byte for byte {same}")
        print(f"link's memory {early / 1024:.1f} MiB at first, {most / 1024:.1f} MiB at most: {most / early:.3f}")
        print(f"outage {outage_s:.0f} s, drained in {drained_s:.0f} s ({(len(got) - before) / drained_s:.0f} a second)")
        return same and in_order and most <= FLAT * early


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests/soak/outbox.py", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--records", type=int, default=10_000, metavar="N")
    parser.add_argument("--kills", type=int, default=12, metavar="N", help="of guard and link in turn, in the outage")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tillsyn-soak-") as name:
        held = asyncio.run(soak(Path(name), options.records, options.kills))
    print("held" if held else "DID NOT HOLD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
