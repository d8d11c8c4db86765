"""`python -m bench.view_cost`: instructions that a second of view signals takes, and what that may be on a Pi 4.

Counted by valgrind, as the difference of two runs, so that start and imports fall out; x86_64 instructions with what
numpy uses under valgrind. The share of a Pi 4 is an **estimate**: a Cortex-A72 at 1.5 GHz, twice the instructions
(half as wide vectors) at one instruction a cycle, both assumed on the careful side. Nothing was run on a Pi.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

PI4_HZ: Final = 1.5e9
"""Source: Raspberry Pi 4 Model B datasheet; later boards run at 1.8 GHz."""
MORE_INSTRUCTIONS: Final = 2.0
PER_CYCLE: Final = 1.0
AIM: Final = 0.02
FEW, MANY = 5, 45


def main() -> int:
    if len(sys.argv) == 2:
        from bench.view import one_second

        work = one_second()
        for _ in range(int(sys.argv[1])):
            work()
        return 0
    few, many = (_instructions(rounds) for rounds in (FEW, MANY))
    each = (many - few) / (MANY - FEW)
    share = each * MORE_INSTRUCTIONS / PER_CYCLE / PI4_HZ
    print(f"instructions for a second of signals: {each / 1e6:.2f} million (x86_64, counted)")
    print(f"share of one Pi 4 core, estimated: {share * 100:.2f} % (aim below {AIM * 100:g} %)")
    return 0 if share < AIM else 1


def _instructions(rounds: int) -> int:
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", "bench.view_cost", str(rounds)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr[-500:]
    return int(found[1])


if __name__ == "__main__":
    sys.exit(main())
