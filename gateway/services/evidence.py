"""Which item of the outbox goes to the broker next, and when one may leave the outbox for good.

A broker that acknowledges has taken a message for its own queue, no more: a queue that is full, or one that dies with
its process, loses what was acknowledged. So a record of the ledger stays here until the centre says by `wanted` that it
has it. At most `WINDOW` records are out without that word; what gets none is sent again.

`wanted` is unsigned, and whoever forges it can do this much: let records be sent again, once more or later; and make
the outbox drop those that he was given himself. The ledger still has them. So a centre that lacks a record which has
left the outbox gets it all the same: it says a number below what is here, and the outbox goes back to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.edge.outbox_sqlite import Item, Outbox
from gateway.protocol import strict_json

LOG = logging.getLogger("tillsyn.link")

WINDOW: Final = 64
AGAIN_AFTER_S: Final = 10.0
MAX_AGAIN_AFTER_S: Final = 600.0
DOUBT_S: Final = 10.0
"""A number below what the centre has confirmed counts when no other has come for so long: two workers of the centre may
speak in the wrong order."""
REWIND_EVERY_S: Final = 3600.0
"""Going back costs a write for each record, and whoever forges `wanted` may ask for it."""
_MAX_BYTES: Final = 64


class _Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: Annotated[int, Meta(ge=0, le=2**53)]


def parse_wanted(untrusted: bytes) -> int:
    """The number of the first record that the centre lacks. Raises RefusedError(malformed)."""
    try:
        return msgspec.convert(strict_json.loads(untrusted, max_bytes=_MAX_BYTES), _Wanted, strict=True).seq
    except msgspec.ValidationError as exc:
        raise RefusedError(RefusalCode.MALFORMED, "wanted") from exc


@dataclass(slots=True)
class Evidence:
    """The order of sending. Times are BOOTTIME, and given; `refetch` asks the guard for records from a number on."""

    outbox: Outbox
    refetch: Callable[[int], None]
    _sent_id: int = 0
    """The item up to which this round has come."""
    _sent_end: int = field(init=False)
    """One more than the highest record that went out since the link began, or went back."""
    _handed_id: int | None = None
    _again_after_s: float = AGAIN_AFTER_S
    _again_due_s: float | None = None
    _doubt: int | None = None
    _doubt_due_s: float = 0.0
    _rewind_from_s: float = 0.0

    def __post_init__(self) -> None:
        self._sent_end = self.outbox.first_seq

    def next(self, now_s: float) -> Item | None:
        """The item to send now; `sent` when the broker has taken it. None: nothing before `due_s`, or something new."""
        if self._doubt is not None and now_s >= self._doubt_due_s:
            self._go_back(self._doubt, now_s)
        if self._again_due_s is not None and now_s >= self._again_due_s:
            self._begin_round(min(2 * self._again_after_s, MAX_AGAIN_AFTER_S))
        item = self.outbox.after(self._sent_id)
        self._handed_id = None
        if item is None:
            return None
        if self._must_wait(item):
            # A report of a check that has closed, or was missed, waits for no record.
            return self.outbox.first_unnumbered()
        self._handed_id = item.id
        return item

    def sent(self, item: Item, now_s: float) -> None:
        """The broker has taken it, and had somebody to give it to."""
        if item.seq is None:
            self.outbox.done(item)
        else:
            self._sent_end = max(self._sent_end, item.seq + 1)
            if self._again_due_s is None:
                self._again_due_s = now_s + self._again_after_s
        if item.id == self._handed_id:
            self._sent_id = item.id
        self._handed_id = None

    def connected(self) -> None:
        """A new connection: what was out without the centre's word goes again."""
        self._begin_round(AGAIN_AFTER_S)

    def hear(self, wanted: int, now_s: float) -> None:
        """The centre has every record below `wanted`, and not that one; or so somebody says."""
        outbox, first = self.outbox, self.outbox.first_seq
        if wanted > outbox.next_seq and not outbox.is_full:
            # More than was ever put here. After a lost outbox the guard gives them all again; then it holds.
            LOG.warning("wanted: record %d, and the outbox ends before %d", wanted, outbox.next_seq)
            return
        if wanted < first:
            if self._doubt is None:
                self._doubt_due_s = max(now_s + DOUBT_S, self._rewind_from_s)
            self._doubt = wanted
            return
        self._doubt = None
        end = min(wanted, self._sent_end)
        if end <= first:
            return
        outbox.confirm(end)
        self._again_after_s = AGAIN_AFTER_S
        self._again_due_s = None if end == self._sent_end else now_s + AGAIN_AFTER_S

    def due_s(self) -> float | None:
        """When `next` may have something without anything having happened."""
        doubt_due_s = self._doubt_due_s if self._doubt is not None else None
        return min((each for each in (self._again_due_s, doubt_due_s) if each is not None), default=None)

    def _must_wait(self, item: Item) -> bool:
        first = self.outbox.first_seq
        if item.seq is not None:
            return item.seq >= first + WINDOW
        # A checkpoint that overtakes its records is a gap to the witness.
        return item.branch == "ledger" and first < self._sent_end

    def _go_back(self, to: int, now_s: float) -> None:
        LOG.warning("the centre lacks record %d, which it had said it has: from there on once more", to)
        self._doubt, self._rewind_from_s = None, now_s + REWIND_EVERY_S
        self.outbox.rewind(to)
        self._sent_end = to
        self._begin_round(AGAIN_AFTER_S)
        self.refetch(to)

    def _begin_round(self, again_after_s: float) -> None:
        self._sent_id, self._handed_id = 0, None
        self._again_due_s, self._again_after_s = None, again_after_s
