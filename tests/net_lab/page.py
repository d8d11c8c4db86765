"""The table of a run, and the page that holds it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.net_lab.network import ROOT
from tests.net_lab.scenario import Outcome

PAGE = ROOT / "docs" / "network.md"
HEAD = "| network | what it is | way | first frame | pictures a second | longest gap | picture | ended | holds |"
BEGIN, END = "<!-- made by make net-lab -->", "<!-- end -->"
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \|.*$", re.MULTILINE)


def row(outcome: Outcome) -> str:
    one = outcome
    cells: tuple[str, ...]
    if one.first_frame_ms is None:
        cells = ("none", "-", "-", f"“{one.words}”" if one.words else "-")
    else:
        cells = (f"{one.first_frame_ms / 1000:.1f} s", f"{one.fps:.1f}", f"{one.longest_gap_ms:.0f} ms", one.size)
    way = {"up": "tunnel"}.get(one.way, one.way)
    holds = "yes" if one.holds else "**no**"
    return f"| `{one.scenario.name}` | {one.scenario.words} | {way} | {' | '.join(cells)} | {one.closed} | {holds} |"


def line(outcome: Outcome) -> str:
    return row(outcome).strip("| ").replace(" | ", "  ")


def table(outcomes: Sequence[Outcome]) -> str:
    return "\n".join([HEAD, "|---" * 9 + "|", *(row(one) for one in outcomes)])


def write(outcomes: Sequence[Outcome]) -> None:
    """Put these rows in place of the older ones of the same scenarios; the others stay."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {match[1]: match[0] for match in _ROW.finditer(old)}
    rows |= {one.scenario.name: row(one) for one in outcomes}
    body = "\n".join([HEAD, "|---" * 9 + "|", *rows.values()])
    PAGE.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}")
