"""When nobody was wanted, from the ledger's pauses: the same as by going through all of them, at a steady cost.

Found by ten thousand pauses in one ledger: reading them took longer than a start may last, so the guard never came up.
Mutations that turn these red: a running pause that is not taken up in the next one; `_ended` on none; pauses that are
dropped at LOOK_BACK_S / 2; a list of all pauses that is gone through for each record.
"""

from __future__ import annotations

import random
import time
from math import inf

import pytest
from ledger_support import a_record

from gateway.agreement.missed import LOOK_BACK_S, Quiet
from gateway.ledger import Record, RecordKind
from gateway.services.occasion_book import OccasionBook

NOW_UNIX_S = 1_795_000_000.0


def paused(unix_s: float, *, until_unix_s: float | None = None, why: str = "local") -> Record:
    return a_record(RecordKind.PAUSED, time_lo=unix_s, time_hi=unix_s + 2, why=why, until_unix_s=until_unix_s)


def by_going_through_all(records: list[Record]) -> list[Quiet]:
    """The plain way: every pause is looked at for every record."""
    pauses: list[Quiet] = []
    for record in records:
        if record.why == "local":
            until_unix_s = inf if record.until_unix_s is None else record.until_unix_s
            running = [each for each in pauses if each.last_unix_s > record.time_lo]
            begun_unix_s = min([record.time_lo, *(each.first_unix_s for each in running)])
            pauses = [*(each for each in pauses if each not in running), Quiet(begun_unix_s, until_unix_s)]
        else:
            pauses = [Quiet(each.first_unix_s, min(each.last_unix_s, record.time_lo)) for each in pauses]
    return pauses


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_same_as_going_through_all_pauses(seed: int):
    dice = random.Random(seed)
    now_unix_s, records, book = NOW_UNIX_S, [], OccasionBook()
    for _ in range(60):
        now_unix_s += dice.choice((0.0, 1.0, 600.0, 20_000.0, 86_400.0))
        length_s = dice.choice((None, 0.0, 300.0, 3600.0, 50_000.0))
        until_unix_s = None if length_s is None else now_unix_s + length_s
        records.append(paused(now_unix_s, until_unix_s=until_unix_s, why=dice.choice(("local", "local", "ended"))))
        book.note(records[-1])
        wanted = [each for each in by_going_through_all(records) if each.last_unix_s > now_unix_s - LOOK_BACK_S]
        assert [each for each in book.quiet if each.last_unix_s > now_unix_s - LOOK_BACK_S] == wanted


def test_what_nobody_asks_for_any_more_is_let_go():
    book = OccasionBook()
    for day in range(100):
        book.note(paused(NOW_UNIX_S + day * 86_400, until_unix_s=NOW_UNIX_S + day * 86_400 + 600))
    assert len(book.quiet) < 20


@pytest.mark.slow
def test_twenty_thousand_pauses_are_read_in_a_moment():
    records = []
    for number in range(20_000):
        unix_s = NOW_UNIX_S + number
        records.append(paused(unix_s, until_unix_s=unix_s + 3600, why="ended" if number % 2 else "local"))
    book, began_s = OccasionBook(), time.process_time()
    for record in records:
        book.note(record)
    assert len(book.quiet) == 10_000
    assert time.process_time() - began_s < 2.0  # 100 s where each record goes through all before it
