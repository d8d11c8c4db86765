"""Records whose content still holds: the newest agreement and trust, withdrawn consents, a pause, a return.

Retention takes the payloads of old records away, from the oldest on. What still holds is written down again first, as
a record that says so (`why` is `restated` or `lifted`, `since_unix_s` is the first one's time): so what a start reads
from the ledger is the same before and after, high-water marks included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from gateway.ledger import LIFTED, RESTATED, Record, RecordKind


@dataclass(slots=True)
class Standing:
    """Fed with every record and its number."""

    _agreement: tuple[int, Record] | None = None
    _trust: tuple[int, Record] | None = None
    _paused: tuple[int, Record] | None = None
    _returned: tuple[int, Record] | None = None
    _setup: dict[str | None, tuple[int, Record]] = field(default_factory=dict)
    """By what was set up: its version is a high-water mark."""
    _withdrawn: dict[str | None, tuple[int, Record]] = field(default_factory=dict)
    """By the digest of the consent that was withdrawn; none of them ever comes back."""
    _lifted: set[str | None] = field(default_factory=set)

    def note(self, seq: int, record: Record) -> None:
        match record.kind:
            case RecordKind.AGREEMENT:
                self._agreement = (seq, record)
            case RecordKind.TRUST:
                self._trust = (seq, record)
            case RecordKind.SETUP:
                self._setup[record.why] = (seq, record)
            case RecordKind.WITHDRAWN:
                self._withdrawn[record.digest_of] = (seq, record)
                if record.why == LIFTED:
                    self._lifted.add(record.digest_of)
                else:
                    self._lifted.discard(record.digest_of)
            case RecordKind.CONSENT:
                self._lifted |= set(self._withdrawn)
            case RecordKind.RETURNED:
                self._returned = (seq, record)
            case RecordKind.PAUSED:
                self._paused = None if record.why == "ended" else (seq, record)
            case _:
                pass

    @property
    def returned_version(self) -> int:
        """Of the newest order by which this device goes back; 0 where there is none."""
        return 0 if self._returned is None else self._returned[1].version or 1

    def restatements(self, before_seq: int, now_unix_s: float) -> list[tuple[RecordKind, dict[str, Any]]]:
        """The records to write before the payloads below `before_seq` go."""
        standing = [(self._agreement, RESTATED), (self._trust, RESTATED), (self._returned, RESTATED)]
        standing += [
            (known, LIFTED if digest in self._lifted else RESTATED) for digest, known in self._withdrawn.items()
        ]
        if self._paused is not None and (self._paused[1].until_unix_s or inf) > now_unix_s:
            standing.append((self._paused, self._paused[1].why or RESTATED))
        old = [_restated(known[1], why) for known, why in standing if known is not None and known[0] < before_seq]
        return old + self._set_up(before_seq)

    def _set_up(self, before_seq: int) -> list[tuple[RecordKind, dict[str, Any]]]:
        """All or none, in their order: the newest of begun, allowed, entered and done says whether set-up is open."""
        known = sorted(self._setup.values(), key=lambda each: each[0])
        if not known or known[0][0] >= before_seq:
            return []
        return [_restated(record, record.why or RESTATED) for _, record in known]


def _restated(record: Record, why: str) -> tuple[RecordKind, dict[str, Any]]:
    begun_unix_s = record.time_lo
    if record.kind is RecordKind.AGREEMENT and record.time_hi is not None:
        begun_unix_s = record.time_hi  # nobody is asked for a check before it was certainly agreed
    return record.kind, {
        "who": record.who,
        "role": record.role,
        "why": why,
        "version": record.version,
        "digest_of": record.digest_of,
        "until_unix_s": record.until_unix_s,
        "since_unix_s": begun_unix_s if record.since_unix_s is None else record.since_unix_s,
    }
