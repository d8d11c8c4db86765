"""A record leaves the outbox only when the centre has said that it has it; what is lost on the way goes again.

Mutations that turn these red (gateway/services/evidence.py unless said):
* `outbox.done(item)` for records in `sent` as well (the acknowledgement as proof) → test_what_the_broker_loses...,
  test_a_record_leaves_only_by_the_centres_word
* `end = wanted` in `hear` → test_a_forged_word_drops_nothing_that_was_not_given_to_the_broker
* no check against `next_seq` in `hear` → test_a_word_of_more_than_there_is_changes_nothing
* no `is_full` there → test_a_lost_outbox_of_a_long_ledger_comes_to_its_end
* `wanted < first` ignored → test_a_restored_centre_gets_what_it_lost
* `DOUBT_S` 0 → test_two_workers_in_the_wrong_order_cost_nothing
* no `REWIND_EVERY_S` → test_going_back_is_rationed
* no `first + WINDOW` → test_the_window_bounds_what_is_out
* nothing from `first_unnumbered` → test_a_report_waits_for_no_record
* checkpoints as other items → test_a_checkpoint_follows_its_records
* the interval not doubled, or not set back → test_it_is_sent_again_after_ten_seconds_then_less_often
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.core.refusal import RefusedError
from gateway.edge.outbox_sqlite import Item, Outbox, OutboxFullError
from gateway.services.evidence import REWIND_EVERY_S, WINDOW, Evidence, parse_wanted


def line(seq: int) -> bytes:
    return b"line %d" % seq


@dataclass
class Home:
    """Outbox, evidence and the guard's ledger behind them; `gone` is what the broker took, in order."""

    folder: Path
    size: int = 0
    max_items: int = 20_000
    now_s: float = 1000.0
    gone: list[Item] = field(default_factory=list)
    refetched: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.folder / "outbox.sqlite", max_items=self.max_items)
        self.outbox._db.execute("PRAGMA synchronous=OFF")  # the disk is another test's
        self.evidence = Evidence(self.outbox, self.refetch)
        self.feed()

    def refetch(self, seq: int) -> None:
        self.refetched.append(seq)
        self.feed()

    def feed(self, more: int = 0) -> None:
        """What the guard does: all that the outbox lacks, in order, as far as there is room."""
        self.size += more
        try:
            for seq in range(self.outbox.next_seq, self.size):
                self.outbox.put_record(seq, "ledger", line(seq))
        except OutboxFullError:
            return

    def send(self, limit: int = 1000) -> list[Item]:
        taken = []
        while len(taken) < limit and (item := self.evidence.next(self.now_s)) is not None:
            self.evidence.sent(item, self.now_s)
            taken.append(item)
        self.gone += taken
        return taken

    def hear(self, wanted: int) -> None:
        self.evidence.hear(wanted, self.now_s)

    def numbers(self) -> list[int | None]:
        return [item.seq for item in self.send()]


def test_a_record_leaves_only_by_the_centres_word(tmp_path: Path):
    home = Home(tmp_path, size=3)
    assert home.numbers() == [0, 1, 2]
    assert home.outbox.size == 3
    home.hear(2)
    assert (home.outbox.size, home.outbox.first_seq) == (1, 2)
    home.hear(3)
    assert (home.outbox.size, home.outbox.first_seq) == (0, 3)
    assert home.evidence.due_s() is None


def test_the_window_bounds_what_is_out(tmp_path: Path):
    home = Home(tmp_path, size=200)
    assert home.numbers() == list(range(WINDOW))
    home.hear(10)
    assert home.numbers() == list(range(WINDOW, WINDOW + 10))


def test_it_is_sent_again_after_ten_seconds_then_less_often(tmp_path: Path):
    home = Home(tmp_path, size=2)
    waits = []
    assert home.numbers() == [0, 1]
    for _ in range(9):
        due_s = home.evidence.due_s()
        assert due_s is not None
        waits.append(due_s - home.now_s)
        home.now_s = due_s - 0.1
        assert home.numbers() == []
        home.now_s = due_s
        assert home.numbers() == [0, 1]
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    home.hear(1)
    due_s = home.evidence.due_s()
    assert due_s is not None
    assert due_s - home.now_s == 10
    home.now_s = due_s
    assert home.numbers() == [1]
    due_s = home.evidence.due_s()
    assert due_s is not None
    assert due_s - home.now_s == 20, "it begins anew after a word that brings something"


def test_a_new_connection_sends_what_was_out_at_once(tmp_path: Path):
    home = Home(tmp_path, size=2)
    home.send()
    home.evidence.connected()
    assert home.numbers() == [0, 1]


def test_what_the_broker_did_not_take_is_handed_out_again(tmp_path: Path):
    home = Home(tmp_path, size=2)
    first = home.evidence.next(home.now_s)
    assert home.evidence.next(home.now_s) == first


def test_an_acknowledgement_of_the_connection_before_does_not_skip_the_others(tmp_path: Path):
    home = Home(tmp_path, size=5)
    home.send(3)
    late = home.evidence.next(home.now_s)
    assert late is not None
    home.evidence.connected()
    home.evidence.sent(late, home.now_s)
    assert home.numbers() == [0, 1, 2, 3, 4]


def test_a_report_waits_for_no_record(tmp_path: Path):
    home = Home(tmp_path, size=100)
    home.outbox.put("reply", b"closed")
    assert [item.payload for item in home.send()][-1] == b"closed"
    home.outbox.put("reply", b"missed")
    assert [item.payload for item in home.send()] == [b"missed"]
    home.hear(WINDOW)
    assert home.numbers() == list(range(WINDOW, 100))


def test_a_checkpoint_follows_its_records(tmp_path: Path):
    home = Home(tmp_path, size=2)
    home.outbox.put("ledger", b"checkpoint of 2", slot="checkpoint")
    home.feed(1)
    assert home.numbers() == [0, 1]
    home.hear(1)
    assert home.numbers() == []
    home.hear(2)
    assert [item.payload for item in home.send()] == [b"checkpoint of 2", line(2)]


def test_a_word_of_more_than_there_is_changes_nothing(tmp_path: Path):
    home = Home(tmp_path, size=5)
    home.send()
    for forged in (6, 10_000, 2**53):
        home.hear(forged)
    assert home.outbox.first_seq == 0


def test_a_forged_word_drops_nothing_that_was_not_given_to_the_broker(tmp_path: Path):
    home = Home(tmp_path, size=200)
    home.send(10)
    home.hear(200)
    assert home.outbox.first_seq == 10
    # The centre lacks them all; whoever dropped them, it says so at the next record that it gets.
    home.hear(0)
    home.now_s += 10
    assert home.numbers() == list(range(WINDOW))
    assert home.refetched == [0]


def test_a_restored_centre_gets_what_it_lost(tmp_path: Path):
    home = Home(tmp_path, size=30)
    home.send()
    home.hear(30)
    assert home.outbox.size == 0
    home.hear(12)
    assert home.numbers() == []
    home.now_s += 10
    assert home.numbers() == list(range(12, 30))
    assert [item.payload for item in home.gone[-18:]] == [line(seq) for seq in range(12, 30)]
    home.hear(30)
    assert home.outbox.size == 0


def test_two_workers_in_the_wrong_order_cost_nothing(tmp_path: Path):
    home = Home(tmp_path, size=3)
    home.send()
    home.hear(3)
    home.hear(2)
    home.now_s += 1
    home.feed(1)
    home.send()
    home.hear(4)
    home.now_s += 100
    assert home.numbers() == []
    assert home.refetched == []


def test_going_back_is_rationed(tmp_path: Path):
    home = Home(tmp_path, size=3)
    home.send()
    for _ in range(50):
        home.hear(3)
        home.hear(0)
        home.now_s += 60
        home.send()
    assert len(home.refetched) == 1
    home.now_s += REWIND_EVERY_S
    home.send()
    assert len(home.refetched) == 2


def test_a_lost_outbox_of_a_long_ledger_comes_to_its_end(tmp_path: Path):
    home = Home(tmp_path, size=1000, max_items=100)
    while home.outbox.next_seq < 1000 or home.outbox.size:
        assert home.send(), "it goes on"
        home.hear(1000)  # the centre has had them all, all the time
        home.feed()
    assert home.outbox.first_seq == 1000


@pytest.mark.parametrize(
    "untrusted",
    [b"", b"7", b"{}", b'{"seq":-1}', b'{"seq":1.0}', b'{"seq":"1"}', b'{"seq":true}', b'{"seq":9007199254740993}',
     b'{"seq":1,"seq":2}', b'{"seq":1,"a":0}', b'{"seq":1' + b" " * 64 + b"}", b"\xff"],
)  # fmt: skip
def test_another_word_is_refused(untrusted: bytes):
    with pytest.raises(RefusedError):
        parse_wanted(untrusted)


def test_the_word_is_read():
    assert parse_wanted(b'{"seq":17}') == 17


@dataclass
class Centre:
    """Keeps lines under their numbers, and says after each which is the first it lacks."""

    kept: dict[int, bytes] = field(default_factory=dict)

    def take(self, item: Item) -> int:
        assert item.seq is not None
        assert self.kept.setdefault(item.seq, item.payload) == item.payload
        return self.wanted()

    def wanted(self) -> int:
        seq = 0
        while seq in self.kept:
            seq += 1
        return seq


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_what_the_broker_loses_doubles_and_mixes_up_arrives_all_the_same(tmp_path: Path, seed: int):
    """Records and words are lost, doubled and reordered; link dies; the centre is restored from a copy, once."""
    dice = random.Random(seed)
    home, centre = Home(tmp_path, size=20), Centre()
    to_centre: list[Item] = []
    to_home: list[int] = []
    restored = False
    steps = 0
    while not (restored and home.size >= 400 and len(centre.kept) == home.size and home.outbox.size == 0):
        steps += 1
        assert steps < 20_000, f"{len(centre.kept)} of {home.size}"
        is_bad = steps < 600
        if home.size < 400 and dice.random() < 0.5:
            home.feed(dice.randrange(6))
        for item in home.send(dice.randrange(20)):
            copies = dice.choices((0, 1, 2), (3, 6, 1) if is_bad else (0, 1, 0))[0]
            to_centre += [item] * copies
        if is_bad and dice.random() < 0.3:
            dice.shuffle(to_centre)
        for _ in range(min(len(to_centre), dice.randrange(30))):
            word = centre.take(to_centre.pop(0))
            to_home += [word] * dice.choices((0, 1, 2), (3, 6, 1) if is_bad else (0, 1, 0))[0]
        if is_bad and dice.random() < 0.3:
            dice.shuffle(to_home)
        while to_home:
            home.hear(to_home.pop(0))
        if is_bad and dice.random() < 0.02:
            home.outbox.close()
            home.__post_init__()  # link was killed and is back
        if not restored and len(centre.kept) > 200:
            restored = True
            centre.kept = {seq: raw for seq, raw in centre.kept.items() if seq < 120}
        home.now_s += dice.choice((0.1, 1.0, 5.0, 30.0))
        if steps % 50 == 0:
            to_home.append(centre.wanted())  # the hourly checkpoint shows a gap
    assert centre.kept == {seq: line(seq) for seq in range(home.size)}
