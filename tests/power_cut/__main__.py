"""Cut the power of a virtual machine that writes the ledger: `.venv/bin/python tests/power_cut --cuts 50`.

Exit status: 0 nothing lost and nothing refused; 1 something was (or a mutation went unnoticed); 2 the lane itself
could not run.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from image import MUTATIONS, SetupError, build
from lane import Lane, Result
from machine import MachineError

PROVING_CUTS = 4
PROVING_POINTS = 60
SHOWN_FAULTS = 8


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "/var/tmp")) / "tillsyn-power-cut"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/power_cut", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--cuts", type=int, default=50, metavar="N", help="random cuts (default 50)")
    parser.add_argument("--points", type=int, default=300, metavar="N", help="enumerated points at most (default 300)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of everything that is random")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="what setup.sh filled")
    parser.add_argument("--fresh-every", type=int, default=25, metavar="N", help="cuts on one disk (default 25)")
    parser.add_argument("--window", type=float, default=4.0, metavar="S", help="longest time of writing (default 4 s)")
    parser.add_argument("--full-boots", action="store_true", help="boot for each cut; else a warm machine is taken up")
    parser.add_argument("--mutate", choices=sorted(MUTATIONS), help="break the ledger on purpose; must turn red")
    parser.add_argument("--prove", action="store_true", help="afterwards show that each mutation turns it red")
    return parser.parse_args()


def show(result: Result, title: str) -> None:
    print(f"\n{title}")
    for name, value in result.rows():
        print(f"  {name:<58} {value:>12}")
    for fault in result.faults[:SHOWN_FAULTS]:
        print(f"  ! {fault}")
    if len(result.faults) > SHOWN_FAULTS:
        print(f"  ! and {len(result.faults) - SHOWN_FAULTS} more")


def run(lane: Lane, cuts: int, points: int) -> tuple[Result, Result]:
    random_cuts = lane.random_cuts(cuts) if cuts else Result()
    if cuts:
        show(random_cuts, "Random cuts")
    enumerated = lane.enumerated(points) if points else Result()
    if points:
        show(enumerated, "Enumerated points (dm-log-writes)")
    return random_cuts, enumerated


def prove(options: argparse.Namespace, directory: Path) -> bool:
    """Every mutation must turn both halves red."""
    proven = True
    for name in MUTATIONS:
        guest = build(options.cache, directory / name, mutation=name)
        lane = Lane(guest, directory / name, options)
        for half, result in zip(("cuts", "points"), run(lane, PROVING_CUTS, PROVING_POINTS), strict=True):
            said = "unnoticed, although the ledger is broken" if result.good else "red, as it must be"
            print(f"\n{name}, {half}: {said}")
            proven = proven and not result.good
    return proven


def main() -> int:
    options = arguments()
    if os.geteuid() != 0:
        print("the power-cut lane mounts disk images: run it as root", file=sys.stderr)
        return 2
    started_s = time.monotonic()
    print(f"seed {options.seed}" + (f", mutation {options.mutate}" if options.mutate else ""), flush=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=options.cache if options.cache.is_dir() else None))
    try:
        guest = build(options.cache, directory / "guest", mutation=options.mutate)
        random_cuts, enumerated = run(Lane(guest, directory, options), options.cuts, options.points)
        good = random_cuts.good and enumerated.good
        if options.prove:
            good = prove(options, directory) and good
    except (SetupError, MachineError) as error:
        print(f"power_cut: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"\n{'green' if good else 'RED'} after {time.monotonic() - started_s:.0f} s (seed {options.seed})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
