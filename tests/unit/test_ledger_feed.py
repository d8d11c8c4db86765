"""Feeding the outbox: each record once, in order, at a cost that does not grow with the ledger.

Mutations tried: `first != self._next or` out of `RecordFeed.portion` (reads on where it stood):
test_a_feed_begins_anywhere red; the inode's comparison out: test_a_rewritten_segment_is_found_anew red; `portion` by
`islice(read_records(path), …)`, as it was: test_a_portion_costs_its_own_length red.
"""

from __future__ import annotations

import sys

import pytest
from ledger_support import QuickDisk, a_ledger, a_record, new_signer

from gateway.ledger import Ledger, LedgerRefusedError, RecordFeed, RecordKind, read_records


def drained(feed, first, limit):
    found = []
    while portion := feed.portion(first + len(found), limit):
        found += portion
    return found


def calls(act):
    """How many Python functions `act()` calls, which no other work of the machine changes, and what it gives."""
    count = 0

    def note(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        result = act()
    finally:
        sys.setprofile(None)
    return count, result


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 7, 64, 1000])
def test_a_feed_gives_what_reading_gives(tmp_path, limit):
    path = a_ledger(tmp_path / "ledger", new_signer(), 100, segment_bytes=4096)
    assert drained(RecordFeed(path), 0, limit) == list(read_records(path))


def test_a_feed_begins_anywhere(tmp_path):
    path = a_ledger(tmp_path / "ledger", new_signer(), 100, segment_bytes=4096)
    everything, feed = list(read_records(path)), RecordFeed(path)
    for first in (99, 0, 50, 51, 13, 100, 98):
        assert feed.portion(first, 5) == everything[first : first + 5]
    with pytest.raises(LedgerRefusedError):
        feed.portion(101, 1)


def test_a_feed_follows_the_writer(tmp_path):
    feed, seen = RecordFeed(tmp_path / "ledger"), []
    with Ledger.open(tmp_path / "ledger", new_signer(), segment_bytes=2048, disk=QuickDisk()) as ledger:
        for number in range(40):
            ledger.append(a_record(attempt=number))
            seen += feed.portion(len(seen), 64)
            assert len(seen) == number + 1
    assert seen == list(read_records(tmp_path / "ledger"))


def test_a_rewritten_segment_is_found_anew(tmp_path):
    signer, path = new_signer(), tmp_path / "ledger"
    a_ledger(path, signer, 60, segment_bytes=4096)
    feed = RecordFeed(path)
    assert len(feed.portion(0, 3)) == 3
    with Ledger.open(path, signer, segment_bytes=4096, disk=QuickDisk()) as ledger:
        ledger.erase(30)
    rest = drained(feed, 3, 7)
    assert [stored.seq for stored in rest] == list(range(3, 60))
    assert [stored.seq for stored in rest if stored.body is None] == list(range(3, 30))


def test_an_edited_line_is_refused(tmp_path):
    path = a_ledger(tmp_path / "ledger", new_signer(), 20)
    segment = path / "segments" / "000000.log"
    segment.write_bytes(segment.read_bytes().replace(b'"attempt":7', b'"attempt":8'))
    feed = RecordFeed(path)
    assert len(feed.portion(0, 7)) == 7
    with pytest.raises(LedgerRefusedError, match="000000"):
        feed.portion(7, 5)


@pytest.mark.slow
def test_a_portion_costs_its_own_length(tmp_path):
    path = tmp_path / "ledger"
    with Ledger.open(path, new_signer(), disk=QuickDisk()) as ledger:
        for _ in range(1500):
            ledger.append(a_record(kind=RecordKind.HEARTBEAT))
    reading, records = calls(lambda: list(read_records(path)))
    in_portions, again = calls(lambda: drained(RecordFeed(path), 0, 8))
    assert again == records
    # 188 portions; from the beginning each time they cost about 94 readings.
    assert in_portions < 4 * reading
