"""`make net-lab`: a check through each network, a table on standard output and in docs/network.md.

    python -m tests.net_lab [--only NAME[,NAME]] [--keep-docs]

Exit status 0 when every scenario holds, 1 when one does not, 2 when this machine can have no lab.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.net_lab import faults, first_frame, new_key, page, sealed
from tests.net_lab.network import obstacle, seclude
from tests.net_lab.scenario import SCENARIOS, Outcome, run


async def _sealed(folder: Path, *, blocked: bool) -> tuple[list[str], list[str]]:
    report = await sealed.run(folder, blocked=blocked)
    return report.lines, report.wrong


SHOWS = {
    "sealed": lambda folder: _sealed(folder, blocked=False),
    "sealed-fallback": lambda folder: _sealed(folder, blocked=True),
    "killed": faults.run,
    "new-key": new_key.run,
    "first-frame": first_frame.run,
}
"""What is tried beside the networks; `--only` takes these names too."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make net-lab", description=__doc__)
    parser.add_argument("--only", default="", help="names of scenarios, with commas; default all")
    parser.add_argument("--keep-docs", action="store_true", help="leave docs/network.md as it is")
    options = parser.parse_args()
    if (why := obstacle()) is not None:
        print(why, file=sys.stderr)
        return 2
    names = [name for name in options.only.split(",") if name]
    if unknown := set(names) - {one.name for one in SCENARIOS} - set(SHOWS):
        print(f"no such scenario: {', '.join(sorted(unknown))}. There are: "
              f"{', '.join([*(one.name for one in SCENARIOS), *SHOWS])}", file=sys.stderr)  # fmt: skip
        return 2
    seclude()
    shows = [name for name in SHOWS if not names or name in names]
    outcomes: list[Outcome] = []
    for scenario in SCENARIOS:
        if names and scenario.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="tillsyn-net-lab-") as folder:
            outcome = asyncio.run(run(scenario, Path(folder)))
        outcomes.append(outcome)
        print(page.line(outcome), flush=True)
        for words in outcome.wrong:
            print(f"    {words}", file=sys.stderr, flush=True)
    if outcomes:
        print("\n" + page.table(outcomes) + "\n")
        if not options.keep_docs:
            page.write(outcomes)
    broken = [outcome.scenario.name for outcome in outcomes if not outcome.holds]
    for name in shows:
        with tempfile.TemporaryDirectory(prefix="tillsyn-net-lab-") as folder:
            lines, wrong = asyncio.run(SHOWS[name](Path(folder)))
        print(f"{name}:", *lines, sep="\n  ", flush=True)
        broken += [name] if wrong else []
    print(f"does not hold: {', '.join(broken)}" if broken else "everything holds")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
