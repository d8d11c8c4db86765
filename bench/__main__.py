"""`python -m bench`: measure, and print a table, or with --json one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import clip, cut, envelope, first_frame, ledger, neck, streaming, view
from bench.result import Result, table

TOPICS = ("first-frame", "streaming", "cut", "envelope", "ledger", "view", "neck")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"some of {', '.join(TOPICS)}; all by default")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="one short round of each: does it run at all?")
    options = parser.parse_args()
    if unknown := set(options.topics) - set(TOPICS):
        parser.error(f"no such topic: {', '.join(sorted(unknown))}")
    topics = options.topics or TOPICS
    began_s, load = time.monotonic(), os.getloadavg()
    try:
        results = [*_pictures(topics, quick=options.quick), *_numbers(topics, quick=options.quick)]
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("bench: stopped", file=sys.stderr)
        return 130
    machine = _machine(load, time.monotonic() - began_s)
    if options.json:
        print(json.dumps({"machine": machine, "quick": options.quick, "results": [each.json() for each in results]}))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()))
        print("median [least, most] of ours, the same of what is beside it, and the ratio of the medians")
        print(table(results))
    return 0


def _numbers(topics: Sequence[str], *, quick: bool) -> list[Result]:
    """What needs no processes."""
    results: list[Result] = []
    if "envelope" in topics:
        _say("envelope")
        results += envelope.measure(rounds=3 if quick else 15, seconds=0.02 if quick else 0.1)
    if "ledger" in topics:
        _say("ledger")
        results += ledger.measure(rounds=20 if quick else 400)
    if "view" in topics:
        _say("view")
        results += view.measure_view(rounds=3 if quick else 15, seconds=0.05 if quick else 0.3)
    if "neck" in topics:
        _say("neck")
        with tempfile.TemporaryDirectory(prefix="tillsyn-bench-") as name:
            results += neck.measure_profile(Path(name) / "profile")
            results += asyncio.run(neck.measure_eye(Path(name), rounds=1 if quick else 5))
    return results


def _pictures(topics: Sequence[str], *, quick: bool) -> list[Result]:
    """What needs a running system."""
    if not {"first-frame", "streaming", "cut"} & set(topics):
        return []

    async def measure() -> list[Result]:
        task = asyncio.current_task()
        assert task is not None
        # Ended from outside, it must still end what it started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        results: list[Result] = []
        if "first-frame" in topics:
            _say("first frame")
            results += await first_frame.measure(directory / "first-frame", film, rounds=1 if quick else 7)
        if "streaming" in topics:
            _say("streaming")
            results += await streaming.measure(
                directory / "streaming", film, rounds=1 if quick else 2, seconds=3.0 if quick else 15.0
            )
        if "cut" in topics:
            _say("cut")
            results += await cut.measure(directory / "cut", film, rounds=1 if quick else 3)
        return results

    with tempfile.TemporaryDirectory(prefix="tillsyn-bench-") as name:
        directory = Path(name)
        _say("clip")
        # Longer than anybody streams it: a film that begins anew is another measurement.
        film = clip.make(directory, duration_s=8 if quick else 24)
        return asyncio.run(measure())


def _machine(load: tuple[float, float, float], lasted_s: float) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "aiortc": version("aiortc"),
        "load_before": round(load[0], 2),
        "load_after": round(os.getloadavg()[0], 2),
        "lasted_s": round(lasted_s),
    }


def _say(topic: str) -> None:
    print(f"bench: {topic} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
