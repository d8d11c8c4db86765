"""A start reads the ledger once, keeps little of it, and knows the same as one that looks at all of it together.

Mutations that turn these red: a running check that is not let go when it closes; a verdict of the running check not
kept; `recent` cut at HISTORY_S / 2; `recent` never cut.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from ledger_support import a_record

from gateway.ledger import Record, RecordKind, StoredRecord, unclosed_check
from gateway.services.guard_state import BUILD_UNIX_S, HISTORY_S, _verdicts, attempts, remember

NO_CONFIG: Any = None
"""Asked for only where an agreement was recorded."""


def stored(seq: int, kind: RecordKind, unix_s: float, **fields: Any) -> StoredRecord:
    record: Record = a_record(kind, time_lo=unix_s, boottime=unix_s - BUILD_UNIX_S, **fields)
    return StoredRecord(seq, record, b"\0" * 32, b"")


def a_life(seed: int) -> list[StoredRecord]:
    """Checks over weeks: with and without signs of life, verdicts and endings; the last perhaps cut off."""
    dice = random.Random(seed)
    unix_s, records = BUILD_UNIX_S + 100.0, []

    def say(kind: RecordKind, **fields: Any) -> None:
        records.append(stored(len(records), kind, unix_s, **fields))

    for number in range(30):
        unix_s += dice.choice((900.0, 43_200.0, 200_000.0))
        say(RecordKind.BOOT, why="start")
        words = {"check": f"c-{number}", "line": "night-1", "occasion": f"o-{number}", "attempt": 1}
        say(RecordKind.OPENED, who="op-1", **words)
        for _ in range(dice.randrange(4)):
            unix_s += 10.0
            say(dice.choice((RecordKind.LIVE, RecordKind.HEARTBEAT)), **words)
        if dice.random() < 0.6:
            say(RecordKind.VERDICT, who="op-1", check=words["check"], why=dice.choice(("seen", "not-seen")))
        if dice.random() < 0.7:
            say(RecordKind.CLOSED, why="lease-lapsed", watched_s=9.0, **words)
    return records


@pytest.mark.parametrize("seed", range(40))
def test_it_knows_the_same_as_one_that_looks_at_all_of_it(seed: int):
    records = a_life(seed)
    past = remember(NO_CONFIG, iter(records))
    assert past.floor_unix_s == max(each.body.time_lo for each in records if each.body is not None)
    assert past.history == attempts(records, past.floor_unix_s - HISTORY_S)
    unclosed = unclosed_check(records)
    assert past.unclosed == (None if unclosed is None else unclosed.opened)
    assert past.last_seen == (None if unclosed is None else unclosed.last_seen)
    verdict = None if unclosed is None else _verdicts(records).get(unclosed.opened.check or "")
    assert past.unclosed_verdict == verdict


@pytest.mark.slow
def test_ten_thousand_records_take_no_more_memory_than_a_few():
    def of(number: int) -> Iterator[StoredRecord]:
        for seq in range(number):
            kind = (RecordKind.OPENED, RecordKind.HEARTBEAT, RecordKind.CLOSED, RecordKind.REFUSED)[seq % 4]
            words = {"check": f"c-{seq // 4}", "line": "night-1", "occasion": f"o-{seq}", "attempt": 1}
            yield stored(seq, kind, BUILD_UNIX_S + seq * 3600.0, why="seen", **words)

    tracemalloc.start()
    try:
        remember(NO_CONFIG, of(10_000))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_500_000  # 15 MB where all of it is kept
