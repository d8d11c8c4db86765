"""The slot selection on its FAT partition, as Raspberry Pi's firmware and our stand-in for it in QEMU read it.

Every file is replaced whole: a new name, its content fsynced, a rename, the directory fsynced. On FAT a rename over an
existing name is two writes. A power cut between them leaves two names for one content; truncating or removing the
left-over name would then free what the good name stands on. So a left-over is never touched and its name never used
again. All of it holds on a mount with `dirsync` only: without it the good name leads to clusters that are free already,
until the file's inode is written back, which no fsync of the directory does. Source: fs/fat/namei_vfat.c, vfat_rename
and vfat_sync_ipos.

Two files say what is so: `autoboot.txt`, which the firmware reads, and `slots.txt`, our book. The firmware's is written
first when an update is committed: if the book is then behind, `at_boot` sees that and completes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from gateway.core.error import HardwareFaultError, IntegrityError
from gateway.ledger.disk import Disk, fill, sync_directory
from gateway.update import slot as rules
from gateway.update.slot import Note, Selection, Slot

AUTOBOOT: Final = "autoboot.txt"
BOOK: Final = "slots.txt"
ATTEMPTS: Final = "attempts"
FALLBACK: Final = "fallback"
"""Written by the initial RAM disk when it leaves a slot that is never healthy."""
MAX_LEFT_OVERS: Final = 1000


class SelectionFaultError(HardwareFaultError):
    """The selection can't be written, or nobody can tell which slot runs."""


class SlotSelection:
    """The selection in `directory`, where the partition is mounted."""

    def __init__(self, directory: Path, *, booted: Slot, by_try: bool, disk: Disk | None = None) -> None:
        self._directory = directory
        self._disk = disk or Disk()
        self.booted = booted
        self.by_try = by_try

    def read(self) -> Selection:
        """Raises IntegrityError when a file isn't what we wrote."""
        primary = rules.parse_autoboot(self._text(AUTOBOOT))
        return rules.parse_book(primary, self._text(BOOK, missing=""))

    def choose(self, slot: Slot) -> None:
        """RAUC's set-primary: `slot` waits for a try, unless it is the one that runs."""
        self._keep(rules.chosen(self.read(), slot, booted=self.booted))

    def judge(self, slot: Slot, *, good: bool) -> None:
        """RAUC's set-state. Good, for the slot that runs, also makes it primary and its attempts forgotten."""
        self._keep(rules.judged(self.read(), slot, good=good, booted=self.booted))
        if good and slot is self.booted:
            self._replace(ATTEMPTS, f"{slot} 0\n")

    def note_boot(self) -> Note | None:
        """Once in each boot: bring the books up to date. Returns what there is to tell."""
        selection, note = rules.at_boot(self.read(), booted=self.booted, by_try=self.by_try, gave_way=self._gave_way())
        self._keep(selection)
        if note is Note.GAVE_WAY:
            self._replace(FALLBACK, "")
        return note

    def begin_try(self) -> Slot:
        """Keep that the pending slot is about to be tried; only then may the firmware be asked. Returns the slot."""
        selection = rules.trying(self.read())
        self._keep(selection)
        assert selection.pending is not None
        return selection.pending

    def _gave_way(self) -> Slot | None:
        words = dict(word.split("=", 1) for word in self._text(FALLBACK, missing="").split() if "=" in word)
        try:
            return Slot(words["from"]) if "from" in words else None
        except ValueError as exc:
            raise IntegrityError("fallback is not what was written") from exc

    def _keep(self, selection: Selection) -> None:
        old = self.read()
        if selection.primary is not old.primary:
            self._replace(AUTOBOOT, rules.render_autoboot(selection.primary))
        if rules.render_book(selection) != rules.render_book(old):
            self._replace(BOOK, rules.render_book(selection))

    def _text(self, name: str, *, missing: str | None = None) -> str:
        try:
            return (self._directory / name).read_text()
        except FileNotFoundError:
            if missing is None:
                raise IntegrityError(f"{name} is missing") from None
            return missing
        except (OSError, UnicodeDecodeError) as exc:
            raise IntegrityError(f"{name} can't be read") from exc

    def _replace(self, name: str, content: str) -> None:
        try:
            replace_on_fat(self._disk, self._directory / name, content.encode())
        except OSError as exc:
            raise SelectionFaultError(f"{name} can't be written: {exc.strerror}") from exc


def replace_on_fat(disk: Disk, path: Path, content: bytes) -> None:
    """Give `path` new content, whole. Raises OSError; SelectionFaultError when there is no name left for it."""
    partial, fd = _new_file(disk, path.parent)
    fill(disk, fd, content)
    disk.rename(partial, path)
    sync_directory(disk, path.parent)


def _new_file(disk: Disk, directory: Path) -> tuple[Path, int]:
    for number in range(MAX_LEFT_OVERS):
        path = directory / f"new-{number}.tmp"
        try:
            return path, disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            continue
    raise SelectionFaultError(f"{MAX_LEFT_OVERS} left-over files: this card is cut off too often")


def boot_facts(path: Path) -> tuple[Slot, bool]:
    """(slot, by a try) as the initial RAM disk wrote it. Raises SelectionFaultError."""
    try:
        fields = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
        return Slot(fields["slot"]), fields["try"] == "1"
    except (OSError, KeyError, ValueError) as exc:
        raise SelectionFaultError(f"{path}: does not say which slot runs") from exc
