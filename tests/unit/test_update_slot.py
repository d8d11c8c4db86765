"""The slot selection: whatever ends a try, and wherever the power is cut, a slot boots that was healthy once.

Mutations tried, each turns a test here red:
  edge/slots_tryboot.py, `replace_on_fat`: leave out `disk.fsync(fd)`             -> the cuts
  edge/slots_tryboot.py, `replace_on_fat`: leave out `sync_directory`             -> the cuts of a commit
  edge/slots_tryboot.py, `_new_file`: O_TRUNC instead of O_EXCL (name used again) -> the cut in a rename, twice
  edge/slots_tryboot.py, `_keep`: the book before autoboot.txt                    -> the cut commit is completed
  update/slot.py, `chosen`: `primary=slot` also for the slot that does not run    -> an installed update is only tried
  update/slot.py, `at_boot`: leave out `and selection.tried`                      -> a cut before the try loses nothing
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.core.error import IntegrityError
from gateway.edge.slots_tryboot import ATTEMPTS, AUTOBOOT, BOOK, SelectionFaultError, SlotSelection, boot_facts
from gateway.ledger.disk import Disk
from gateway.services import slots as command
from gateway.update import slot as rules
from gateway.update.slot import Note, Selection, Slot

A, B = Slot.A, Slot.B
GARBAGE = b"\xff" * 8


class PowerCut(BaseException):
    """The machine is off; no `except OSError` may see this."""


class FatDisk(Disk):
    """A FAT partition over a real directory, with what a power cut may leave of it.

    Names lead to contents ("clusters"). `live` is what the running system sees, `kept` what is on the medium. Contents
    get there by fsync; names by the directory's fsync, or any time before it. `cut_at` counts the steps after which
    the power may go; a rename over a name is two steps, as vfat does it on a mount with dirsync.
    """

    def __init__(self, files: dict[str, bytes], *, cut_at: int, names_kept: bool, links: dict[str, int] | None = None):
        self.clusters: dict[int, bytes] = {}
        self.names: dict[str, int] = {}
        for name, content in files.items():
            cluster = (links or {}).get(name, len(self.clusters) + 100)
            self.clusters[cluster] = content
            self.names[name] = cluster
        self.kept_clusters = dict(self.clusters)
        self.kept_names = dict(self.names)
        self.cut_at, self.names_kept = cut_at, names_kept
        self.steps = 0
        self.open_files: dict[int, str | None] = {}
        self.freed: set[int] = set()

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.cut_at:
            raise PowerCut

    def open(self, path: Path, flags: int) -> int:
        fd = os.open("/dev/null", os.O_RDONLY)
        if flags & os.O_DIRECTORY:
            self.open_files[fd] = None
            return fd
        name = path.name
        if flags & os.O_EXCL and name in self.names:
            os.close(fd)
            raise FileExistsError(name)
        if name in self.names and flags & os.O_TRUNC:
            # The clusters are free again, whoever else has a name for them.
            self.kept_clusters[self.names[name]] = self.clusters[self.names[name]] = GARBAGE
        for cluster in self.freed:
            # A new file may be given what an old one left.
            self.kept_clusters[cluster] = self.clusters[cluster] = GARBAGE
        self.freed.clear()
        self.names[name] = max(self.clusters, default=0) + 1
        self.clusters[self.names[name]] = b""
        self.kept_clusters[self.names[name]] = GARBAGE
        if self.names_kept:
            self.kept_names[name] = self.names[name]
        self.open_files[fd] = name
        self.step()
        return fd

    def write(self, fd: int, content: bytes) -> int:
        half = content[: max(1, len(content) // 2)]
        self.clusters[self.names[self.open_files[fd]]] += half
        self.step()
        return len(half)

    def fsync(self, fd: int) -> None:
        name = self.open_files[fd]
        if name is None:
            self.kept_names = dict(self.names)
        else:
            self.kept_clusters[self.names[name]] = self.clusters[self.names[name]]
        self.step()

    def rename(self, old: Path, new: Path) -> None:
        before = self.names.get(new.name)
        self.names[new.name] = self.names[old.name]
        if self.names_kept:
            self.kept_names = dict(self.names)
        self.step()
        del self.names[old.name]
        if before is not None:
            self.freed.add(before)
        if self.names_kept:
            self.kept_names = dict(self.names)
        self.step()

    def unlink(self, path: Path) -> None:
        raise AssertionError("a left-over may share its content with a good name: nothing is removed")

    def close(self, fd: int) -> None:
        del self.open_files[fd]
        os.close(fd)

    def after_the_cut(self) -> tuple[dict[str, bytes], dict[str, int]]:
        return {name: self.kept_clusters[cluster] for name, cluster in self.kept_names.items()}, dict(self.kept_names)


class Card(SlotSelection):
    """The selection on a FatDisk; reading sees the running system's view."""

    def __init__(self, disk: FatDisk, *, booted: Slot, by_try: bool) -> None:
        super().__init__(Path("/select"), booted=booted, by_try=by_try, disk=disk)
        self.fat = disk

    def _text(self, name: str, *, missing: str | None = None) -> str:
        if name in self.fat.names:
            return self.fat.clusters[self.fat.names[name]].decode(errors="replace")
        if missing is None:
            raise IntegrityError(f"{name} is missing")
        return missing


def files(selection: Selection) -> dict[str, bytes]:
    return {
        AUTOBOOT: rules.render_autoboot(selection.primary).encode(),
        BOOK: rules.render_book(selection).encode(),
        ATTEMPTS: b"a 1\n",
    }


GOOD_A = frozenset({A})
ACTS: dict[str, tuple[Selection, Slot, bool, Callable[[SlotSelection], object]]] = {
    "install": (Selection(A, GOOD_A), A, False, lambda slots: slots.choose(B)),
    "mark bad": (Selection(A, frozenset({A, B})), A, False, lambda slots: slots.judge(B, good=False)),
    "begin the try": (Selection(A, GOOD_A, B), A, False, lambda slots: slots.begin_try()),
    "commit": (Selection(A, GOOD_A, B, True), B, True, lambda slots: slots.judge(B, good=True)),
    "healthy again": (Selection(A, GOOD_A), A, False, lambda slots: slots.judge(A, good=True)),
    "fallen back": (Selection(A, GOOD_A, B, True), A, False, lambda slots: slots.note_boot()),
    "book completed": (Selection(B, GOOD_A, B, True), B, False, lambda slots: slots.note_boot()),
}


def steps_of(act: str) -> int:
    selection, booted, by_try, do = ACTS[act]
    disk = FatDisk(files(selection), cut_at=0, names_kept=True)
    do(Card(disk, booted=booted, by_try=by_try))
    return disk.steps


def cuts(act: str) -> list[tuple[int, bool]]:
    return [(cut, kept) for cut in range(1, steps_of(act) + 1) for kept in (False, True)]


def cut_off(act: str, cut_at: int, names_kept: bool) -> FatDisk:
    selection, booted, by_try, do = ACTS[act]
    disk = FatDisk(files(selection), cut_at=cut_at, names_kept=names_kept)
    with pytest.raises(PowerCut):
        do(Card(disk, booted=booted, by_try=by_try))
    return disk


@pytest.mark.parametrize("act", ACTS)
def test_a_power_cut_at_any_step_leaves_a_slot_that_was_healthy(act):
    before, booted, by_try, do = ACTS[act]
    done = FatDisk(files(before), cut_at=0, names_kept=True)
    do(Card(done, booted=booted, by_try=by_try))
    after = Card(done, booted=booted, by_try=by_try).read()
    assert len(cuts(act)) >= 16
    for cut_at, names_kept in cuts(act):
        content, _ = cut_off(act, cut_at, names_kept).after_the_cut()
        primary = rules.parse_autoboot(content[AUTOBOOT].decode())
        book = rules.parse_book(primary, content[BOOK].decode())
        assert primary in {before.primary, after.primary}
        assert primary in before.good | after.good | {booted}
        assert (book.good, book.pending, book.tried) in {
            (before.good, before.pending, before.tried),
            (after.good, after.pending, after.tried),
        }


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_after_two_cuts_in_a_row_a_slot_still_boots_and_the_act_can_be_done(act):
    _, booted, by_try, do = ACTS[act]
    for first, names_kept in cuts(act):
        content, links = cut_off(act, first, names_kept).after_the_cut()
        for second in range(1, steps_of(act) + 1):
            disk = FatDisk(content, cut_at=second, names_kept=names_kept, links=links)
            with contextlib.suppress(PowerCut, ValueError):
                do(Card(disk, booted=booted, by_try=by_try))
            after, after_links = disk.after_the_cut()
            rules.parse_book(rules.parse_autoboot(after[AUTOBOOT].decode()), after[BOOK].decode())
        disk = FatDisk(after, cut_at=0, names_kept=True, links=after_links)
        with contextlib.suppress(ValueError):
            do(Card(disk, booted=booted, by_try=by_try))
        kept, _ = disk.after_the_cut()
        rules.parse_book(rules.parse_autoboot(kept[AUTOBOOT].decode()), kept[BOOK].decode())


def test_a_cut_commit_is_completed_at_the_next_boot():
    seen = set()
    for cut_at in range(1, steps_of("commit") + 1):
        content, links = cut_off("commit", cut_at, True).after_the_cut()
        primary = rules.parse_autoboot(content[AUTOBOOT].decode())
        disk = FatDisk(content, cut_at=0, names_kept=True, links=links)
        card = Card(disk, booted=primary, by_try=False)
        note = card.note_boot()
        selection = card.read()
        assert selection.pending is None
        assert primary in selection.good
        seen.add((primary, note))
    assert {(A, Note.FELL_BACK), (B, Note.COMMITTED), (B, None)} == seen


def test_an_installed_update_is_only_tried():
    after = rules.chosen(Selection(A, GOOD_A), B, booted=A)
    assert (after.primary, after.pending) == (A, B)


def test_a_cut_before_the_try_loses_nothing():
    waiting = Selection(A, GOOD_A, B)
    assert rules.at_boot(waiting, booted=A, by_try=False, gave_way=None) == (waiting, None)


def test_a_slot_that_gave_way_is_no_longer_good():
    selection, note = rules.at_boot(Selection(A, frozenset({A, B})), booted=A, by_try=False, gave_way=B)
    assert (selection.good, note) == (GOOD_A, Note.GAVE_WAY)


def test_nobody_can_call_a_slot_good_that_does_not_run():
    with pytest.raises(ValueError, match="does not run"):
        rules.judged(Selection(A, GOOD_A), B, good=True, booted=A)


@pytest.mark.parametrize("text", ["", "boot_partition=2", rules.render_autoboot(A)[:-1], rules.render_autoboot(A) * 2])
def test_an_autoboot_that_we_did_not_write_is_refused(text):
    with pytest.raises(IntegrityError):
        rules.parse_autoboot(text)


@pytest.fixture
def card(tmp_path):
    select = tmp_path / "select"
    select.mkdir()
    (select / AUTOBOOT).write_text(rules.render_autoboot(A))
    boot = tmp_path / "boot"
    boot.write_text("slot=a\ntry=0\nattempts=0\n")
    return select, boot


def tillsyn_slot(card, *words: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["slot", "--directory", str(card[0]), "--boot", str(card[1]), *words])
    return options.run(options)


def test_the_way_of_an_update_as_rauc_and_the_boot_walk_it(card, capsys):
    select, boot = card
    assert tillsyn_slot(card, "healthy") == 0
    assert tillsyn_slot(card, "set-state", "b", "bad") == 0
    assert tillsyn_slot(card, "set-primary", "b") == 0
    assert tillsyn_slot(card, "get-primary") == 0
    assert rules.parse_autoboot((select / AUTOBOOT).read_text()) is A
    assert tillsyn_slot(card, "try") == 0
    boot.write_text("slot=b\ntry=1\nattempts=0\n")
    assert tillsyn_slot(card, "boot") == 0
    assert tillsyn_slot(card, "set-state", "b", "good") == 0
    assert rules.parse_autoboot((select / AUTOBOOT).read_text()) is B
    assert (select / ATTEMPTS).read_text() == "b 0\n"
    assert tillsyn_slot(card, "get-state", "b") == 0
    assert capsys.readouterr().out.split() == ["b", "b", "good"]
    assert not list(select.glob("*.tmp"))


def test_a_try_without_an_update_is_refused(card):
    assert tillsyn_slot(card, "try") == 1


def test_an_unhealthy_try_ends_in_the_old_slot_and_is_told(card, capsys):
    tillsyn_slot(card, "set-primary", "b")
    tillsyn_slot(card, "try")
    capsys.readouterr()
    assert tillsyn_slot(card, "boot") == 0
    assert capsys.readouterr().out.strip() == "fell-back"
    assert tillsyn_slot(card, "get-primary") == 0
    assert capsys.readouterr().out.strip() == "a"


def test_without_word_of_the_initial_ram_disk_nothing_is_written(card):
    _, boot = card
    boot.write_text("nothing\n")
    with pytest.raises(SelectionFaultError):
        boot_facts(boot)


def test_whoever_mounts_the_selection_does_so_with_dirsync():
    """The model above is that of such a mount. What it is without one is seen on the image: `make image-test
    ONLY=selection`. Mutation: the word out of either program.
    """
    recipe = Path(__file__).parents[2] / "image-build"
    mounts = [
        line
        for path in (*(recipe / "root/usr/lib/tillsyn").iterdir(), recipe / "initrd/init")
        for line in path.read_text().splitlines()
        if "mount -t vfat" in line
    ]
    assert len(mounts) == 2
    for line in mounts:
        assert re.search(r"-o [a-z,]*\bdirsync\b", line), line
