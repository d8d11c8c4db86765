"""What must reach the centre is kept in order, once, over kills, and only what may be dropped is dropped.

Mutations that turn these red: `synchronous=OFF` does not (a kill loses nothing either way; the power-cut lane is for
that); `seq <= expected` in `put_record`; no `next_seq` fact; dropping by age alone; `seq <= ?` in `confirm`; a `rewind`
that keeps what is here (the older ones come after the newer ones); checkpoints in `first_unnumbered`.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.edge.outbox_sqlite import Item, Outbox, OutboxFullError


def _gone(outbox: Outbox, item: Item) -> None:
    if item.seq is None:
        outbox.done(item)
    else:
        outbox.confirm(item.seq + 1)


def _drain(outbox: Outbox) -> list[tuple[int | None, bytes]]:
    taken = []
    while (item := outbox.after(0)) is not None:
        taken.append((item.seq, item.payload))
        _gone(outbox, item)
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


def test_it_can_be_looked_through_without_taking(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put_record(0, "ledger", b"r0")
    outbox.put("ledger", b"checkpoint", slot="checkpoint")
    outbox.put("reply", b"closed")
    outbox.put_record(1, "ledger", b"r1")
    seen = [b""]
    at = 0
    while (item := outbox.after(at)) is not None:
        at = item.id
        seen.append(item.payload)
    assert seen[1:] == [b"r0", b"checkpoint", b"closed", b"r1"]
    assert outbox.size == 4
    first = outbox.first_unnumbered()
    assert first is not None
    assert first.payload == b"closed"


def test_confirmed_records_go_and_nothing_else(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    assert outbox.first_seq == 0
    for seq in range(4):
        outbox.put_record(seq, "ledger", b"r%d" % seq)
    outbox.put("reply", b"closed")
    outbox.confirm(2)
    assert (outbox.first_seq, outbox.next_seq) == (2, 4)
    outbox.confirm(1)
    outbox.confirm(4)
    assert (outbox.first_seq, outbox.next_seq) == (4, 4)
    assert _drain(outbox) == [(None, b"closed")]


def test_what_has_gone_can_be_wanted_again_in_order(tmp_path: Path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    for seq in range(6):
        outbox.put_record(seq, "ledger", b"r%d" % seq)
    outbox.put("reply", b"closed")
    outbox.confirm(4)
    outbox.rewind(1)
    outbox.close()
    again = Outbox(tmp_path / "outbox.sqlite")
    assert (again.first_seq, again.next_seq) == (1, 1)
    for seq in range(1, 6):
        again.put_record(seq, "ledger", b"r%d" % seq)
    assert _drain(again) == [(None, b"closed"), *((seq, b"r%d" % seq) for seq in range(1, 6))]


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
        item = outbox.after(0)
        print("sent", item.seq, flush=True)
        outbox.confirm(item.seq + 1)
"""


@pytest.mark.slow
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
