"""One target in one process under Atheris: `tests/fuzz --worker NAME`. Started by the driver; writes its figures to a
file, because libFuzzer ends the process by itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from random import Random

STRUCTURED = 0.5
"""Share of changes that keep the form; the others are libFuzzer's own."""
INPUT_TIMEOUT_S = 20
RSS_LIMIT_MB = 1024
FIGURES_EVERY_S = 0.5
SLACK = 8.0
"""Instrumented code may take this many times the limit; what was slowest at each door is timed again without."""
WARM_SHARE = 0.25
"""Memory is compared with what it was after this share of the time."""


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def work(name: str, *, seconds: float, folder: Path) -> None:
    """Fuzz one target and never return. `folder` holds corpus/, seeds/, found/, slow/ and figures.json."""
    import atheris

    with atheris.instrument_imports(include=["gateway", "centre.intake"], enable_loader_override=False):
        from fuzz_limit import Doors
        from fuzz_target import TARGETS

    target, doors = TARGETS[name], Doors(slack=SLACK)
    for part in ("corpus", "seeds", "found", "slow"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    seeds = target.seeds()
    for number, seed in enumerate(seeds):
        (folder / "seeds" / f"{number:05d}").write_bytes(seed[: target.max_bytes])

    executions, began_s, written_s, warm_mb = 0, time.monotonic(), 0.0, 0.0

    def write(now_s: float) -> None:
        nonlocal written_s, warm_mb
        written_s, mb = now_s, rss_mb()
        if not warm_mb and now_s - began_s >= WARM_SHARE * seconds:
            warm_mb = mb
        figures = {
            "executions": executions,
            "seconds": now_s - began_s,
            "most_bytes": doors.most_bytes,
            "rss_mb": mb,
            "growth_mb": mb - warm_mb if warm_mb else 0.0,
            "doors": doors.accepted,
        }
        partial = folder / "figures.partial"
        partial.write_text(json.dumps(figures))
        partial.replace(folder / "figures.json")

    def one_input(data: bytes) -> None:
        nonlocal executions
        executions += 1
        before = dict(doors.slowest_s)
        target.run(data, doors)
        if doors.slowest_s != before:
            for number, (door, cost_s) in enumerate(doors.slowest_s.items()):
                if cost_s != before.get(door):
                    (folder / "slow" / str(number)).write_bytes(data)
        now_s = time.monotonic()
        if now_s - written_s >= FIGURES_EVERY_S:
            write(now_s)

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        random = Random(seed)
        made = target.change(data, random) if random.random() < STRUCTURED else None
        if made is None or len(made) > max_bytes:
            made = atheris.Mutate(data, max_bytes)
        return made

    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={target.max_bytes}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-artifact_prefix={folder}/found/",
        "-print_final_stats=1",
        "-verbosity=1",
        str(folder / "corpus"),
        str(folder / "seeds"),
    ]
    write(began_s)
    atheris.Setup(arguments, one_input, custom_mutator=mutate)
    atheris.Fuzz()


def replay(name: str, paths: list[Path]) -> None:
    """Run kept inputs without a fuzzer; what is raised is what was found. Prints the slowest call as JSON."""
    from fuzz_limit import Doors
    from fuzz_target import TARGETS

    doors = Doors(sample_every=1)
    for path in paths:
        TARGETS[name].run(path.read_bytes(), doors)
    door, cost_s = max(doors.slowest_s.items(), key=lambda item: item[1], default=("", 0.0))
    print(json.dumps({"slowest_s": cost_s, "slowest_door": door, "most_bytes": doors.most_bytes}))
