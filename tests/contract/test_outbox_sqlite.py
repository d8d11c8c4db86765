"""What must reach the centre is kept in order, once, over kills, and only what may be dropped is dropped.

Mutations that turn these red: `synchronous=OFF` does not (a kill loses nothing either way; the power-cut lane is for
that); `seq <= expected` in `put_record`; no `next_seq` fact; dropping by age alone.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.edge.outbox_sqlite import Outbox, OutboxFullError


def _drain(outbox: Outbox) -> list[tuple[int | None, bytes]]:
    taken = []
    while (item := outbox.oldest()) is not None:
        taken.append((item.seq, item.payload))
        outbox.done(item)
    return taken


def test_items_leave_in_the_order_in_which_they_came(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put_record(0, "ledger", b"r0")
    outbox.put("reply", b"closed")
    outbox.put_record(1, "ledger", b"r1")
    assert _drain(outbox) == [(0, b"r0"), (None, b"closed"), (1, b"r1")]
    assert outbox.size == 0


def test_a_record_is_taken_once_even_after_it_has_gone(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put_record(0, "ledger", b"r0")
    _drain(outbox)
    outbox.close()
    again = Outbox(tmp_path / "outbox.sqlite")
    assert again.next_seq == 1
    again.put_record(0, "ledger", b"r0")
    assert again.size == 0


def test_a_gap_between_records_is_our_own_mistake(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    with pytest.raises(ValueError, match="gap"):
        outbox.put_record(1, "ledger", b"r1")


def test_a_newer_checkpoint_takes_the_older_ones_place_at_the_end(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put("ledger", b"checkpoint 1", slot="checkpoint")
    outbox.put_record(0, "ledger", b"r0")
    outbox.put("ledger", b"checkpoint 2", slot="checkpoint")
    assert _drain(outbox) == [(0, b"r0"), (None, b"checkpoint 2")]


def test_a_full_outbox_drops_what_has_no_number_first_and_no_record_ever(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite", max_items=3)
    outbox.put("log", b"old words")
    outbox.put_record(0, "ledger", b"r0")
    outbox.put_record(1, "ledger", b"r1")
    outbox.put_record(2, "ledger", b"r2")
    assert outbox.dropped == 1
    with pytest.raises(OutboxFullError):
        outbox.put_record(3, "ledger", b"r3")
    outbox.put("log", b"new words")
    assert [seq for seq, _ in _drain(outbox)] == [0, 1, 2]
    outbox.put_record(3, "ledger", b"r3")
    assert outbox.next_seq == 4


_WRITER = """
import sys
from pathlib import Path
from gateway.edge.outbox_sqlite import Outbox
outbox = Outbox(Path(sys.argv[1]))
seq = outbox.next_seq
while True:
    outbox.put_record(seq, "ledger", b"%d" % seq)
    print(seq, flush=True)
    seq += 1
    if seq % 3 == 0:
        item = outbox.oldest()
        print("sent", item.seq, flush=True)
        outbox.done(item)
"""


def test_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path):
    path = tmp_path / "outbox.sqlite"
    chance = random.Random(7)
    put: list[int] = []
    sent: list[int] = []
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert writer.stdout is not None
        for _ in range(chance.randint(3, 40)):
            line = writer.stdout.readline().split()
            (sent if line[0] == "sent" else put).append(int(line[-1]))
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines():
            words = line.split()
            (sent if words[0] == "sent" else put).append(int(words[-1]))
        writer.wait()
    rest = [seq for seq, _ in _drain(Outbox(path))]
    # What was acknowledged to the writer is there; a kill between commit and print may have kept one more.
    assert set(put) <= set(sent) | set(rest)
    assert put == sorted(set(put))
    assert rest == list(range(rest[0], rest[0] + len(rest)))
    # An item that was sent but not yet marked may be sent again: the centre knows it by its number.
    assert all(seq in sent or seq in rest for seq in range(rest[-1] + 1))
