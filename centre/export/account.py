"""A ledger as facts for readers: its looks, its refusals, what else happened, and how far it can be believed.

It promises that nothing is taken from a ledger that does not verify, unless that was asked for, and then `fault` says
in words what is wrong; that an agreement is taken only if it is byte for byte the one the ledger recorded last; and
that what looks like a personal number is withheld, wherever it stands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from centre.export.moment import Period
from gateway.agreement import Agreement, parse_agreement
from gateway.core.error import IntegrityError
from gateway.core.interval_clock import MAX_RADIUS_S
from gateway.core.refusal import RefusedError
from gateway.ledger import (
    LIFTED,
    Finding,
    LedgerRefusedError,
    Record,
    RecordKind,
    StoredRecord,
    VerifyReport,
    parse_line,
    read_records,
    verify_directory,
)
from gateway.ledger.verify import read_public_key

ORIGIN_PREFIX: Final = "tillsyn/"
UNKNOWN_GATEWAY: Final = "unknown"
BROKEN_BEFORE_S: Final = 5.0
"""Source: docs/protocol.md, "Budget": an attempt that a fault ended before this much picture is no look."""
WILLED: Final = frozenset({"operator-closed", "time-up", "resident-stopped"})
"""Endings without a verdict that are no faults. Source: docs/protocol.md, "Budget"."""
VERDICTS: Final = frozenset({"seen", "not-seen", "unsure"})
CLOCK_WIDE_S: Final = 2 * MAX_RADIUS_S
"""A time that is known to less than this is called uncertain."""
HEARTBEAT_EVERY_S: Final = 10.0
"""Source: docs/glossary.md, "heartbeat"."""
WITHHELD: Final = "***"
_LATEST_UNIX_S: Final = datetime(2101, 1, 1, tzinfo=UTC).timestamp()
_PERSONAL_NUMBER = re.compile(
    r"(?<![0-9A-Za-z])(?:18|19|20)?[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]|6[1-9]|[78][0-9]|9[01])"
    r"[-+]?[0-9]{4}(?![0-9A-Za-z])"
)
"""Also co-ordination numbers, whose day is raised by 60. Without the check digit: rather one too many."""


def shown(identifier: str | None) -> str:
    """An identifier as it may be shown; one with a personal number in it is withheld whole."""
    if identifier is None:
        return ""
    return WITHHELD if _PERSONAL_NUMBER.search(identifier) else identifier


class AgreementRefusedError(IntegrityError):
    """The agreement's file is not the agreement of this ledger, or holds what must not be exported."""


@dataclass(frozen=True, slots=True)
class Look:
    """One opening of the camera, from the records that are left of it.

    `first` is the `opened` record, or the earliest one left when that was erased (`opening_erased`).
    """

    leaf_hash: bytes
    """Of `first`; names the look for ever."""
    first: Record
    last_seen: Record
    """The last sign that it ran; `first` if there is no other."""
    closed: Record | None
    verdict: str | None
    longest_silence_s: float
    """Between two signs of the same boot while it ran, its end included unless that was written at a later start."""
    went_live: bool
    """Was a picture shown, however short?"""

    @property
    def opening_erased(self) -> bool:
        return self.first.kind is not RecordKind.OPENED

    @property
    def who(self) -> str:
        return shown(self.first.who)

    @property
    def why(self) -> str | None:
        return None if self.closed is None else self.closed.why

    @property
    def watched_s(self) -> float | None:
        """Seconds of live picture; None if the look was never closed."""
        return None if self.closed is None else self.closed.watched_s

    @property
    def recovered(self) -> bool:
        return self.why == "recovered"

    @property
    def outcome(self) -> str:
        """`seen`, `not-seen`, `unsure`; else `no-verdict`, `broken` (no look at all) or `unclosed`."""
        if self.verdict is not None:
            return self.verdict
        if self.closed is None:
            return "unclosed"
        if self.why not in WILLED and (self.watched_s or 0.0) < BROKEN_BEFORE_S:
            return "broken"
        return "no-verdict"

    @property
    def ended(self) -> tuple[float, float | None] | None:
        """Unix seconds between which it ended; None while nobody knows that it did."""
        if self.closed is None:
            return None
        if self.recovered:
            # The record was written at the next start; what is known is the last sign, and when the next was due.
            hi_s = self.last_seen.time_hi
            return self.last_seen.time_lo, None if hi_s is None else hi_s + HEARTBEAT_EVERY_S
        return self.closed.time_lo, self.closed.time_hi


@dataclass(frozen=True, slots=True)
class Refusals:
    """One record of refusals: `count` of one code."""

    leaf_hash: bytes
    record: Record

    @property
    def code(self) -> str:
        return self.record.why or "malformed"

    @property
    def count(self) -> int:
        return 1 if self.record.count is None else self.record.count


@dataclass(frozen=True, slots=True)
class Account:
    """One ledger. `report` is None exactly if it doesn't verify, and `fault` then says why."""

    gateway: str
    looks: tuple[Look, ...]
    refusals: tuple[Refusals, ...]
    events: tuple[Record, ...]
    """Every other record that still has its body."""
    size: int
    erased: int
    report: VerifyReport | None
    fault: LedgerRefusedError | None

    def within(self, period: Period) -> Account:
        """The same with only what began in the period; what is erased has no time and stays counted."""
        return Account(
            self.gateway,
            tuple(look for look in self.looks if period.holds(look.first.time_lo)),
            tuple(each for each in self.refusals if period.holds(each.record.time_lo)),
            tuple(record for record in self.events if period.holds(record.time_lo)),
            self.size,
            self.erased,
            self.report,
            self.fault,
        )

    @property
    def withdrawn(self) -> bool:
        """Did the resident stop, with no fresh consent since?"""
        words = [e for e in self.events if e.kind in (RecordKind.WITHDRAWN, RecordKind.CONSENT)]
        kinds = [e.kind for e in words if e.why != LIFTED]
        return bool(kinds) and kinds[-1] is RecordKind.WITHDRAWN

    @property
    def paused_until_unix_s(self) -> float | None:
        """End of the resident's own pause; infinite without one; None if there is no pause."""
        pauses = [e for e in self.events if e.kind is RecordKind.PAUSED]
        if not pauses or pauses[-1].why != "local":
            return None
        return float("inf") if pauses[-1].until_unix_s is None else pauses[-1].until_unix_s


def read_account(path: Path, *, unverified: bool = False) -> Account:
    """Verify the ledger in directory `path` and read it. Changes nothing.

    Raises LedgerRefusedError if it does not verify. With `unverified` the records up to the first one that is wrong
    are given, under `fault`.
    """
    report, fault = None, None
    try:
        report = verify_directory(path)
    except LedgerRefusedError as error:
        if not unverified:
            raise
        fault = error
    gathering = _Gathering()
    try:
        gathering.take_from(path, size=None if report is None else report.size)
    except LedgerRefusedError as error:
        fault = fault or error
        if not unverified:
            raise
    return Account(
        gateway_of(path),
        tuple(each.look() for each in gathering.looks.values()),
        tuple(gathering.refusals),
        tuple(gathering.events),
        gathering.size,
        gathering.erased,
        report if fault is None else None,
        fault,
    )


def account_of_lines(gateway: str, lines: Iterable[bytes]) -> Account:
    """The account of raw ledger lines as a centre received them, in order. Under `fault`: nothing here was verified
    against the ledger's signed checkpoints, and lines may be missing.
    """
    gathering = _Gathering()
    for raw in lines:
        try:
            line = parse_line(raw)
        except ValueError:
            gathering.erased += 1  # kept as it came from a home whose ledger key the centre does not know
            continue
        gathering.take(StoredRecord(line.seq, line.record(), line.leaf_hash(), raw))
    return Account(
        gateway,
        tuple(each.look() for each in gathering.looks.values()),
        tuple(gathering.refusals),
        tuple(gathering.events),
        gathering.size,
        gathering.erased,
        None,
        LedgerRefusedError(Finding.UNREADABLE, "as received by the centre; verify the home's own ledger"),
    )


def gateway_of(path: Path) -> str:
    """The gateway by its ledger's key name, or `unknown`."""
    try:
        name = read_public_key(path).name
    except LedgerRefusedError:
        return UNKNOWN_GATEWAY
    return shown(name.removeprefix(ORIGIN_PREFIX))


def read_agreement(path: Path, account: Account) -> Agreement:
    """The agreement in file `path`, if it is the one that the ledger recorded last.

    Raises AgreementRefusedError if it is not, if the ledger does not say (never recorded, or erased), or if its
    resident_ref looks like a personal number.
    """
    try:
        content = path.read_bytes()
        agreement = parse_agreement(content)
    except (OSError, RefusedError) as error:
        raise AgreementRefusedError(f"{path.name}: not an agreement ({error})") from error
    if shown(agreement.resident_ref) != agreement.resident_ref:
        raise AgreementRefusedError(f"{path.name}: resident_ref looks like a personal number")
    if agreement.gateway != account.gateway:
        raise AgreementRefusedError(f"{path.name}: this agreement is of another home than the ledger")
    recorded = [event.digest_of for event in account.events if event.kind is RecordKind.AGREEMENT]
    if not recorded or recorded[-1] != hashlib.sha256(content).hexdigest():
        raise AgreementRefusedError(f"{path.name}: not the agreement that the ledger recorded last")
    return agreement


def clock_uncertain(record: Record) -> bool:
    return record.time_hi is None or record.time_hi - record.time_lo > CLOCK_WIDE_S


@dataclass(slots=True)
class _OpenLook:
    leaf_hash: bytes
    first: Record
    last_seen: Record
    closed: Record | None = None
    verdict: str | None = None
    longest_silence_s: float = 0.0
    went_live: bool = False

    def see(self, record: Record) -> None:
        if record.kind is RecordKind.VERDICT:
            self.verdict = record.why if record.why in VERDICTS else self.verdict
            return
        self.went_live |= record.kind is RecordKind.LIVE or (record.watched_s or 0.0) > 0.0
        if record.boot == self.last_seen.boot and not (record.kind is RecordKind.CLOSED and record.why == "recovered"):
            self.longest_silence_s = max(self.longest_silence_s, record.boottime - self.last_seen.boottime)
        if record.kind is RecordKind.CLOSED:
            self.closed = record
            self.verdict = record.why if record.why in VERDICTS else self.verdict
        else:
            self.last_seen = record

    def look(self) -> Look:
        silence_s = round(self.longest_silence_s, 3)
        return Look(self.leaf_hash, self.first, self.last_seen, self.closed, self.verdict, silence_s, self.went_live)


_OF_A_LOOK: Final = frozenset(
    {RecordKind.OPENED, RecordKind.LIVE, RecordKind.HEARTBEAT, RecordKind.VERDICT, RecordKind.CLOSED}
)


@dataclass(slots=True)
class _Gathering:
    looks: dict[str, _OpenLook] = field(default_factory=dict)
    refusals: list[Refusals] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    size: int = 0
    erased: int = 0

    def take_from(self, path: Path, *, size: int | None) -> None:
        """All records, or the first `size`: what a writer at work beside us has added since was not verified."""
        for stored in read_records(path):
            if size is not None and stored.seq >= size:
                return
            self.take(stored)

    def take(self, stored: StoredRecord) -> None:
        self.size += 1
        record = stored.body
        if record is None:
            self.erased += 1
            return
        if max(record.time_lo, record.time_hi or 0.0) > _LATEST_UNIX_S:
            raise LedgerRefusedError(Finding.EDITED, f"record {stored.seq}: its time is beyond the year 2100")
        if record.kind is RecordKind.REFUSED:
            self.refusals.append(Refusals(stored.leaf_hash, record))
        elif record.kind in _OF_A_LOOK and record.check is not None:
            known = self.looks.get(record.check)
            # Two openings of one name can't be; in a ledger that doesn't verify the second must not hide the first.
            if known is None or record.kind is RecordKind.OPENED:
                key = record.check if known is None else f"{record.check}/{stored.seq}"
                self.looks[key] = known = _OpenLook(stored.leaf_hash, record, record)
                if record.kind is RecordKind.OPENED:
                    return
            known.see(record)
        else:
            self.events.append(record)


def by_time(looks: Iterable[Look]) -> list[Look]:
    return sorted(looks, key=lambda look: look.first.time_lo)
