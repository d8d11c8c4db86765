"""What is to be done, most urgent first. Pure: rows in, items out.

An occasion is in the queue from when its home announces it until there is an outcome: the resident was seen, the check
was paused, or somebody has the hand-over that came of it. It does not go because its time went by, because its home
fell silent, or because the home left it out of its list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from centre.fault import URGENCY
from centre.running import is_running

SOON_S: Final = 3600.0
"""How long before its window an agreed check stands in the queue."""
Occasion = tuple[str, int, str, str]
"""(gateway, install_epoch, line, occasion)."""
RANKS: Final = (
    "handover-late",
    "overdue",
    "handover",
    "fault-now",
    "recheck",
    "due",
    "running",
    "fault",
    "soon",
    "taken",
)


_PLACE: Final = {rank: place for place, rank in enumerate(RANKS)}


class Item(msgspec.Struct, frozen=True, omit_defaults=False):
    """One thing to be done. `by_unix_s` is when it must have been done, `opens_unix_s` when it can begin."""

    id: str
    kind: str
    """`check`, `handover` or `fault`."""
    word: str
    """For a check `overdue recheck due running soon`; for a hand-over its state; for a fault its code."""
    rank: str
    gateway: str
    line: str | None = None
    occasion: str | None = None
    attempt: int | None = None
    max_s: int | None = None
    opens_unix_s: float | None = None
    by_unix_s: float | None = None
    claimed_by: str | None = None
    since_unix_s: float | None = None


def queue(
    homes: Iterable[tuple[str, int, Sequence[Mapping[str, Any]], float | None]],
    *,
    announced: Iterable[tuple[str, int, str, str, int, float]],
    seen: set[Occasion],
    handovers: Iterable[Mapping[str, Any]],
    handed_over: set[Occasion],
    claims: Mapping[Occasion, str],
    faults: Iterable[Mapping[str, Any]],
    now_unix_s: float,
) -> list[Item]:
    """All items in order. `homes` are (gateway, install_epoch, due list, when that was heard); `handed_over` have a
    hand-over.
    """
    items: dict[Occasion, Item] = {}
    epochs: dict[str, int] = {}
    settled: set[Occasion] = set()
    for gateway, install_epoch, due, heard_unix_s in homes:
        epochs[gateway] = install_epoch
        for one in due:
            occasion = (gateway, install_epoch, one["line"], one["occasion"])
            item = _check(occasion, one, claims.get(occasion), now_unix_s, heard_unix_s)
            if item is None:
                settled.add(occasion)
            else:
                items[occasion] = item
    for gateway, install_epoch, line, name, attempt, closes_unix_s in announced:
        occasion = (gateway, install_epoch, line, name)
        if occasion in items or occasion in settled or epochs.get(gateway) != install_epoch:
            continue
        left_out = {"status": "missed", "attempt": attempt, "closes_unix_s": closes_unix_s}
        item = _check(occasion, left_out, claims.get(occasion), now_unix_s)
        if item is not None:
            items[occasion] = item
    found = [item for occasion, item in items.items() if occasion not in seen and occasion not in handed_over]
    found = [item for item in found if item.rank != "soon" or (item.opens_unix_s or 0.0) <= now_unix_s + SOON_S]
    found += [_handover(row, now_unix_s) for row in handovers]
    found += [_fault(row) for row in faults]
    return sorted(found, key=lambda item: (_PLACE[item.rank], item.by_unix_s or 0.0, item.id))


def _check(
    occasion: Occasion,
    one: Mapping[str, Any],
    claimed_by: str | None,
    now_unix_s: float,
    heard_unix_s: float | None = None,
) -> Item | None:
    status, closes, opens = one["status"], one.get("closes_unix_s") or 0.0, one.get("opens_unix_s") or 0.0
    match status:
        case _ if is_running(one, heard_unix_s, now_unix_s=now_unix_s):
            word = "running"
        case "soon" | "due" | "recheck" if 0 < closes < now_unix_s:
            word = "overdue"
        case "missed":
            word = "overdue" if closes < now_unix_s else "due"
        case "soon" if opens <= now_unix_s:
            word = "due"
        case "recheck" if opens > now_unix_s:
            word = "recheck"
        case "soon" | "due" | "recheck":
            word = status
        case _:
            return None  # done or paused: an outcome
    return Item(
        id=f"{occasion[0]} {occasion[2]} {occasion[3]}",
        kind="check",
        word=word,
        rank=word,
        gateway=occasion[0],
        line=occasion[2],
        occasion=occasion[3],
        attempt=max(0, one["attempt"]),
        max_s=one.get("max_s"),
        opens_unix_s=opens or None,
        by_unix_s=closes or None,
        claimed_by=claimed_by,
    )


def _handover(row: Mapping[str, Any], now_unix_s: float) -> Item:
    is_late = row["by_unix_s"] < now_unix_s
    rank = "handover-late" if is_late else "handover" if row["state"] == "open" else "taken"
    return Item(
        id=row["id"],
        kind="handover",
        word=row["state"],
        rank=rank,
        gateway=row["gateway"],
        line=row["line"],
        occasion=row["occasion"],
        by_unix_s=row["by_unix_s"],
        claimed_by=row["acknowledged_by"],
        since_unix_s=row["created_unix_s"],
    )


def _fault(row: Mapping[str, Any]) -> Item:
    rank = "fault-now" if URGENCY.get(row["code"]) == "now" else "fault"
    return Item(
        id=f"{row['gateway']} {row['code']}",
        kind="fault",
        word=row["code"],
        rank="taken" if row["taken_by"] else rank,
        gateway=row["gateway"],
        claimed_by=row["taken_by"],
        since_unix_s=row["since_unix_s"],
    )
