"""The ledger as CSV for the unit manager: one row for each look, and refusals added up by day and code.

RFC 4180: commas, CRLF, quotes where needed, one header row; UTF-8, with a byte-order mark on request, because Excel
takes a file without one for its old code page. No cell can be read as a formula: one that would begin as such gets an
apostrophe before it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from centre.export import vocabulary
from centre.export.account import Account, Look, by_time, shown
from centre.export.moment import clock, offset
from centre.export.words import Words, later
from gateway.ledger import Record

BOM: Final = "\ufeff"
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Also the full-width forms, which some spreadsheets treat alike. Source: OWASP, "CSV Injection"."""
COLUMNS: Final = (
    later("home"),
    later("what"),
    later("date"),
    later("time"),
    later("time zone"),
    later("line"),
    later("occasion"),
    later("attempt"),
    later("seconds"),
    later("who"),
    later("role"),
    later("outcome"),
    later("why"),
    later("number"),
    later("clock"),
    later("check"),
    later("log verified"),
)


def safe(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.lstrip(" ").startswith(FORMULA_STARTS) else cell


def encode(rows: list[list[str]], *, bom: bool) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows([safe(cell) for cell in row] for row in rows)
    return ((BOM if bom else "") + buffer.getvalue()).encode()


def looks_and_refusals(account: Account, say: Words, zone: ZoneInfo) -> list[list[str]]:
    """Header and rows: what makes the rest doubtful first, then looks by time, then refusals."""
    verified = say("yes") if account.report is not None else say("NO")
    rows = [[say(name) for name in COLUMNS]]

    def add(what: str, when: Record | None = None, **cells: str) -> None:
        moment = _moment(when, zone, say) if when is not None else ["", "", ""]
        named = [cells.get(name, "") for name in _CELLS]
        rows.append([account.gateway, what, *moment, *named, verified])

    if account.fault is not None:
        add(say("NOT VERIFIED"), why=str(account.fault))
    if account.erased:
        add(say("erased records"), number=str(account.erased), why=say("erased after their time"))
    for look in by_time(account.looks):
        what = say("check, its opening erased") if look.opening_erased else say("check")
        add(what, look.first, **_look_cells(look, say))
    counted: Counter[tuple[str, str]] = Counter()
    for each in account.refusals:
        counted[_date(each.record, zone), each.code] += each.count
    for (day, code), number in sorted(counted.items()):
        cells = {"why": vocabulary.refusal(code, say), "number": str(number)}
        named = [cells.get(name, "") for name in _CELLS]
        rows.append([account.gateway, say("refusals"), day, "", "", *named, verified])
    return rows


_CELLS: Final = ("line", "occasion", "attempt", "seconds", "who", "role", "outcome", "why", "number", "clock", "check")


def _look_cells(look: Look, say: Words) -> dict[str, str]:
    return {
        "line": shown(look.first.line),
        "occasion": shown(look.first.occasion),
        "attempt": "" if look.first.attempt is None else str(look.first.attempt),
        "seconds": "" if look.watched_s is None else f"{look.watched_s:.1f}",
        "who": look.who,
        "role": shown(look.first.role),
        "outcome": vocabulary.outcome(look.outcome, say),
        "why": vocabulary.ending(look.why, say),
        "clock": vocabulary.certainty(look.first, say),
        "check": shown(look.first.check),
    }


def _moment(record: Record, zone: ZoneInfo, say: Words) -> list[str]:
    time = clock(zone, record.time_lo, say, seconds=True)
    return [_date(record, zone), time, offset(zone, record.time_lo)]


def _date(record: Record, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(record.time_lo, zone).date().isoformat()
