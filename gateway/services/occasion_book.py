"""What the ledger's records say about occasions: which were told, when nobody was wanted, since when one is agreed.

Fed with every record, at the start with those that are stored and then with each one as it is written, so that a
running guard and a restarted one know the same. A record costs the same whatever there were before it: a start reads
them all, and somebody may press a button a thousand times.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Final

from gateway.agreement.missed import LOOK_BACK_S, Quiet
from gateway.agreement.occasion import SPAN_MAX_S
from gateway.ledger import LIFTED, Record, RecordKind

PAUSES_KEPT_S: Final = LOOK_BACK_S + SPAN_MAX_S + 86_400
"""A pause that was over so long before is asked for by nobody."""


@dataclass(slots=True)
class OccasionBook:
    told: set[tuple[str, str]] = field(default_factory=set)
    """(line, occasion) of each that was recorded as missed or handed over."""
    agreed_unix_s: float = inf
    """Since when, at the latest, the agreement in force is; infinite while no time was known since it came."""
    _now_unix_s: float = -inf
    """No record before this one came later."""
    _pause: Quiet | None = None
    """The newest one, which may still run; those before it are over."""
    _over: deque[Quiet] = field(default_factory=deque)
    _withdrawals: list[Quiet] = field(default_factory=list)
    _agreed: bool = False

    @property
    def quiet(self) -> list[Quiet]:
        newest = [] if self._pause is None else [self._pause]
        return [*self._over, *newest, *self._withdrawals]

    def note(self, record: Record) -> None:
        # The record before this one may have come while no time was known; this one did not come before it.
        if self.agreed_unix_s == inf and self._agreed and record.time_hi is not None:
            self.agreed_unix_s = record.time_lo
        now_unix_s = self._now_unix_s = max(self._now_unix_s, record.time_lo)
        begun_unix_s = record.time_lo if record.since_unix_s is None else record.since_unix_s
        match record.kind:
            case RecordKind.MISSED_CHECK | RecordKind.HANDOVER if record.line is not None and record.occasion:
                self.told.add((record.line, record.occasion))
            case RecordKind.AGREEMENT:
                self._agreed = True
                known = record.since_unix_s if record.since_unix_s is not None else record.time_hi
                self.agreed_unix_s = inf if known is None else known
            case RecordKind.PAUSED if record.why == "local":
                until_unix_s = inf if record.until_unix_s is None else record.until_unix_s
                # A pause that had no end has got one, or a longer one was asked for: one pause, from its beginning.
                if self._pause is not None and self._pause.last_unix_s > now_unix_s:
                    begun_unix_s = min(begun_unix_s, self._pause.first_unix_s)
                elif self._pause is not None:
                    self._over.append(self._pause)
                self._pause = Quiet(begun_unix_s, until_unix_s)
                while self._over and self._over[0].last_unix_s < now_unix_s - PAUSES_KEPT_S:
                    self._over.popleft()
            case RecordKind.PAUSED if self._pause is not None:
                (self._pause,) = _ended([self._pause], now_unix_s)
            case RecordKind.WITHDRAWN if record.why != LIFTED:
                if not any(each.last_unix_s == inf for each in self._withdrawals):
                    self._withdrawals.append(Quiet(begun_unix_s, inf))
            case RecordKind.CONSENT:
                self._withdrawals = _ended(self._withdrawals, begun_unix_s)
            case _:
                pass


def _ended(quiet: list[Quiet], at_unix_s: float) -> list[Quiet]:
    return [Quiet(each.first_unix_s, min(each.last_unix_s, at_unix_s)) for each in quiet]
