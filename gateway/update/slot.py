"""Which of two slots boots, and how an update becomes the slot that boots: facts and rules, no I/O.

Only the slot that the firmware takes after a plain power-on counts as *primary*. An installed update is *pending*: it
is booted once, by a try that the firmware forgets at the next power-on, and becomes primary when it has been healthy.
So whatever ends the try — a panic, a hang, a power cut — the next boot is the old slot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from gateway.core.error import IntegrityError


class Slot(StrEnum):
    """The names that RAUC, the partition labels and the initial RAM disk use."""

    A = "a"
    B = "b"

    @property
    def other(self) -> Slot:
        return Slot.B if self is Slot.A else Slot.A


PARTITION: Final = {Slot.A: 2, Slot.B: 3}
"""Number of each slot's boot partition on the card; partition 1 is the selection itself."""
_AUTOBOOT: Final = re.compile(r"\[all\]\ntryboot_a_b=1\nboot_partition=([23])\n\[tryboot\]\nboot_partition=([23])\n\Z")


class Note(StrEnum):
    """What a boot told about the one before it."""

    FELL_BACK = "fell-back"
    """The update was tried and this is the old slot again."""
    COMMITTED = "committed"
    """The update had been made primary; only the book-keeping was cut short."""
    GAVE_WAY = "gave-way"
    """A committed slot failed again and again, and the initial RAM disk went back to the other one."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`good` are the slots that have been healthy; `pending` waits for a try, or with `tried` for that try's end."""

    primary: Slot
    good: frozenset[Slot] = frozenset()
    pending: Slot | None = None
    tried: bool = False


def parse_autoboot(text: str) -> Slot:
    """The primary slot. Raises IntegrityError for anything that we did not write."""
    found = _AUTOBOOT.match(text)
    slots = {str(number): slot for slot, number in PARTITION.items()}
    if found is None or found[1] == found[2]:
        raise IntegrityError("autoboot.txt is not what was written")
    return slots[found[1]]


def render_autoboot(primary: Slot) -> str:
    """What the firmware reads. Source: Raspberry Pi documentation, "autoboot.txt"."""
    return (
        f"[all]\ntryboot_a_b=1\nboot_partition={PARTITION[primary]}\n"
        f"[tryboot]\nboot_partition={PARTITION[primary.other]}\n"
    )


def parse_book(primary: Slot, text: str) -> Selection:
    """The rest of the selection; an empty text is a new card. Raises IntegrityError."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        good = frozenset(Slot(word) for word in fields.get("good", "").split())
        pending = Slot(fields["pending"]) if fields.get("pending") else None
    except ValueError as exc:
        raise IntegrityError("slots.txt is not what was written") from exc
    return Selection(primary, good, pending, fields.get("tried") == "yes")


def render_book(selection: Selection) -> str:
    """Lines that the initial RAM disk's shell can read as well."""
    good = " ".join(sorted(selection.good))
    return f"good={good}\npending={selection.pending or ''}\ntried={'yes' if selection.tried else 'no'}\n"


def chosen(selection: Selection, slot: Slot, *, booted: Slot) -> Selection:
    """RAUC installed into `slot`, or takes that back by naming the slot that runs."""
    if slot is booted:
        return replace(selection, primary=slot, pending=None, tried=False)
    return replace(selection, pending=slot, tried=False)


def judged(selection: Selection, slot: Slot, *, good: bool, booted: Slot) -> Selection:
    """`slot` is good or bad. Only a slot that runs can be found good; being good makes it primary."""
    if not good:
        pending = None if selection.pending is slot else selection.pending
        return replace(selection, good=selection.good - {slot}, pending=pending, tried=False)
    if slot is not booted:
        raise ValueError(f"slot {slot} does not run: nobody can know that it is good")
    pending = None if selection.pending is slot else selection.pending
    tried = selection.tried if pending is not None else False
    return Selection(slot, selection.good | {slot}, pending, tried)


def at_boot(
    selection: Selection, *, booted: Slot, by_try: bool, gave_way: Slot | None
) -> tuple[Selection, Note | None]:
    """What the books say after this boot, and what there is to tell. `gave_way`: a slot that was left for this one."""
    note: Note | None = None
    if gave_way is not None and gave_way is not booted:
        selection = replace(selection, good=selection.good - {gave_way})
        note = Note.GAVE_WAY
    if selection.pending is booted and not by_try and selection.primary is booted:
        return replace(selection, good=selection.good | {booted}, pending=None, tried=False), Note.COMMITTED
    if selection.pending is not None and selection.pending is not booted and selection.tried:
        lost = selection.pending
        return replace(selection, good=selection.good - {lost}, pending=None, tried=False), Note.FELL_BACK
    return selection, note


def trying(selection: Selection) -> Selection:
    """To be kept before the firmware is asked for a try. Raises ValueError when nothing waits for one."""
    if selection.pending is None:
        raise ValueError("no update waits for a try")
    return replace(selection, tried=True)
