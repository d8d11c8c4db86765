"""What the guard keeps: the ledger with its words, the agreement, and the past attempts, read back at each start.

The ledger is the authority. The agreement's file is taken only if the ledger's newest `agreement` record has its
digest: a changed or older file means no agreement, hence no permission.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.agreement import Agreement, Attempt, LocalState, parse_agreement
from gateway.agreement.missed import LOOK_BACK_S
from gateway.check.machine import Facts, Why
from gateway.config import GuardConfig
from gateway.core.error import ConfigError, IntegrityError, LedgerUnwritableError
from gateway.core.interval_clock import IntervalClock
from gateway.core.refusal import RefusedError
from gateway.ledger import (
    LIFTED,
    Checkpoint,
    Ledger,
    NoteSigner,
    Record,
    RecordKind,
    StoredRecord,
    read_records,
    unclosed_check,
)
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.envelope import TrustStore, make_trust
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.services.cosigned import Cosigned
from gateway.services.occasion_book import OccasionBook
from gateway.services.standing import Standing

BUILD_UNIX_S: Final = 1_793_491_200.0
"""Start of the clock's floor when the ledger says nothing later: 2026-11-01T00:00:00Z, before this version was made."""
BROKEN_BEFORE_S: Final = 5.0
"""An attempt that ended by a fault before this much live picture may be repeated; see gateway.agreement.attempt."""
MAX_SIGNED: Final = 256
SIGNS: Final = frozenset({RecordKind.LIVE, RecordKind.HEARTBEAT})
HISTORY_S: Final = LOOK_BACK_S + 24 * 3600.0
"""Attempts older than this can't matter to any occasion that may still be missed (the longest spans 20 h)."""


def software_version() -> str:
    try:
        return version("tillsyn-gateway")
    except PackageNotFoundError:
        return "0"


@dataclass(slots=True)
class Chronicle:
    """The open ledger, and the words every record needs.

    `ledger` is None while the stored one can't be believed: nothing is recorded then, and nothing may open.
    """

    ledger: Ledger | None
    boot: str
    sw: str
    book: OccasionBook = field(default_factory=OccasionBook)
    standing: Standing = field(default_factory=Standing)
    cosigned: Cosigned | None = None
    _signed: dict[int, bytes] = field(default_factory=dict)
    """Root by size, of the newest checkpoints that this ledger has signed."""
    _forgotten_size: int = 0
    """Of the newest checkpoint that is no longer in `_signed`."""

    def append(self, kind: RecordKind, boottime_s: float, clock: IntervalClock, **fields: Any) -> bytes:
        """Write one record durably; the line as it stands in the file. Raises LedgerUnwritableError.

        Gives b"" where there is no ledger. For an opening that is an error, whatever the gate may have said.
        """
        if self.ledger is None:
            if kind is RecordKind.OPENED:
                raise LedgerUnwritableError("there is no ledger")
            return b""
        interval = clock.interval(boottime_s)
        record = Record(
            boot=self.boot,
            boottime=round(boottime_s, 6),
            time_lo=round(interval.lo_unix_s, 3),
            time_hi=None if interval.hi_unix_s == float("inf") else round(interval.hi_unix_s, 3),
            kind=kind,
            sw=self.sw,
            **fields,
        )
        appended = self.ledger.append(record)
        self.book.note(record)
        self.standing.note(appended.seq, record)
        return appended.line

    def append_closed(
        self,
        check: Facts | Record,
        boottime_s: float,
        clock: IntervalClock,
        *,
        why: Why,
        watched_s: float,
        frames: int | None = None,
        view: str | None = None,
    ) -> bytes:
        """Write the one `closed` record of a check: of a running one, or of one whose `opened` record was found.

        Raises LedgerUnwritableError.
        """
        return self.append(
            RecordKind.CLOSED,
            boottime_s,
            clock,
            check=check.check,
            who=check.who,
            line=check.line,
            occasion=check.occasion,
            attempt=check.attempt,
            why=why.value,
            watched_s=round(watched_s, 3),
            frames=frames,
            view=view,
        )

    @property
    def size(self) -> int:
        return 0 if self.ledger is None else self.ledger.size

    @property
    def recovered_tail(self) -> bool:
        return self.ledger is not None and self.ledger.recovered_tail_bytes > 0

    def checkpoint(self) -> bytes:
        """The signed checkpoint of all records; b"" where there is no ledger. Raises LedgerUnwritableError."""
        if self.ledger is None:
            return b""
        for each in self.ledger.signed if not self._signed else ():
            self._note_signed(each)
        note = self.ledger.checkpoint()
        self._note_signed(self.ledger.latest_checkpoint)
        return note

    def _note_signed(self, checkpoint: Checkpoint) -> None:
        self._signed[checkpoint.size] = checkpoint.root
        if len(self._signed) > MAX_SIGNED:
            self._forgotten_size = next(iter(self._signed))
            del self._signed[self._forgotten_size]

    def agrees_with(self, witnessed: Checkpoint) -> bool:
        """Whether this ledger can be the one that was witnessed: it has signed that checkpoint itself.

        One that is older than the `MAX_SIGNED` newest is taken for granted here: the next start compares it with every
        record.
        """
        if witnessed.size in self._signed:
            return self._signed[witnessed.size] == witnessed.root
        return witnessed.size <= self._forgotten_size

    def last_checkpoint(self) -> bytes:
        """The checkpoint that is stored; b"" where the records since then make it worth less than the next one."""
        if self.ledger is None or self.ledger.checkpoint_size != self.ledger.size:
            return b""
        return self.ledger.checkpoint()

    def close(self) -> None:
        if self.ledger is not None:
            self.ledger.close()


def load_roots(path: Path) -> dict[str, VerifyingKey]:
    """The root keys, by kid. Raises ConfigError."""
    try:
        keys = [VerifyingKey.from_jwk(jwk) for jwk in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError, RefusedError) as exc:
        raise ConfigError(f"{path}: not a list of root keys ({exc})") from exc
    return {key.kid: key for key in keys}


def provisioned_trust(config: GuardConfig) -> TrustStore:
    """The first trust statement. Raises ConfigError when it is not these roots': nobody could be believed then."""
    roots = load_roots(Path(config.roots))
    try:
        return make_trust(Path(config.trust).read_bytes(), roots)
    except (OSError, RefusedError) as exc:
        raise ConfigError(f"{config.trust}: not a trust statement of these roots ({exc})") from exc


def load_trust(config: GuardConfig, high_water: int) -> TrustStore:
    """The provisioned trust statement, and every later one in turn, each verified under the roots of the one before.

    Raises ConfigError as `provisioned_trust` does. Raises IntegrityError when the chain is broken, or ends below the
    version that the ledger has seen in force.
    """
    trust = provisioned_trust(config)
    try:
        for statement in _trust_statements(config):
            later = make_trust(statement, trust.roots)
            if later.version <= trust.version or later.epoch < trust.epoch:
                raise IntegrityError("trust: the stored statements are not in order")
            trust = later
    except RefusedError as exc:
        raise IntegrityError(f"trust: a stored statement is not signed by the roots before it ({exc})") from exc
    if trust.version < high_water:
        raise IntegrityError(f"trust: version {trust.version} is stored, but {high_water} was in force")
    return trust


def trust_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "trust-statements"


def store_trust(config: GuardConfig, stored: bytes) -> str:
    """Keep a further trust statement durably; the digest of all in hex. Raises OSError.

    The whole file is replaced: after a cut there is the old set or the new one, complete. The record follows.
    """
    earlier = _trust_statements(config)
    # It may be there from a try that failed in its last step; twice in the file, the next start would not take it.
    content = b"".join(each + b"\n" for each in (earlier if stored in earlier else [*earlier, stored]))
    replace_durably(Disk(), trust_path(config), content)
    return hashlib.sha256(content).hexdigest()


def _trust_statements(config: GuardConfig) -> list[bytes]:
    try:
        return trust_path(config).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise IntegrityError(f"{trust_path(config).name}: {exc.strerror}") from exc


def load_device_key(path: Path) -> SigningKey:
    try:
        return SigningKey.from_pem(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: not a P-256 private key") from exc


def load_ledger_key(path: Path, gateway: str) -> NoteSigner:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: not a private key") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return NoteSigner(f"tillsyn/{gateway}", key)


def agreement_path(config: GuardConfig, digest: str) -> Path:
    return Path(config.state_dir) / f"agreement-{digest}.json"


def cosigned_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "cosigned.json"


def ledger_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "ledger"


def any_agreement(config: GuardConfig) -> bool:
    """Whether an agreement was ever put in force here and is still kept."""
    return any(Path(config.state_dir).glob("agreement*"))


def store_agreement(config: GuardConfig, stored: bytes) -> str:
    """Keep an agreement durably; its digest in hex. Raises OSError.

    The ledger's record follows and puts it in force. A cut in between leaves the older agreement in force beside a file
    that no record names; the centre, which got no answer, sends the new one again.
    """
    digest = hashlib.sha256(stored).hexdigest()
    replace_durably(Disk(), agreement_path(config, digest), stored)
    return digest


def forget_agreements(config: GuardConfig, *, keep: str) -> None:
    """Remove the files of agreements that are no longer in force; one that stays behind does no harm."""
    for path in Path(config.state_dir).glob("agreement-*.json"):
        if path != agreement_path(config, keep):
            with contextlib.suppress(OSError):
                path.unlink()


@dataclass(slots=True)
class Versions:
    """The highest number of everything that only ever rises; 1 is what the enrolment gave."""

    agreement: int = 0
    trust: int = 0
    tunnel: int = 1
    config: int = 1
    config_settled: int = 1
    """The newest version of the broker's address of which the ledger says what became of it."""
    update_statement: int = 0

    def note(self, record: Record) -> None:
        version = record.version or 0
        match record.kind, record.why:
            case RecordKind.AGREEMENT, _:
                self.agreement = max(self.agreement, version)
            case RecordKind.TRUST, _:
                self.trust = max(self.trust, version)
            case RecordKind.SETUP, "tunnel":
                self.tunnel = max(self.tunnel, version)
            case RecordKind.SETUP, "config":
                self.config = max(self.config, version)
            case RecordKind.SETUP, "config-kept" | "config-left":
                self.config_settled = max(self.config_settled, version)
            case RecordKind.UPDATE, "offer":
                self.update_statement = max(self.update_statement, version)
            case _:
                pass


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the ledger and the files say at a start."""

    agreement: Agreement | None
    history: list[Attempt]
    local: LocalState
    floor_unix_s: float
    unclosed: Record | None
    last_seen: Record | None
    book: OccasionBook = field(default_factory=OccasionBook)
    standing: Standing = field(default_factory=Standing)
    versions: Versions = field(default_factory=Versions)
    begun_unix_s: float | None = None
    """Of the oldest record that has its payload still, and was written while the clock knew the time."""
    moved: bool = False
    """The camera was taken down, and no agreement was signed since."""
    withdrawn_unix_s: float | None = None
    withdrawn_consents: frozenset[str] = frozenset()
    unclosed_verdict: str | None = None
    """What was signed about the check that was never closed."""
    setup: list[StoredRecord] = field(default_factory=list)
    """All that was said of set-up."""

    @classmethod
    def nothing(cls) -> Remembered:
        """What is left when the past can't be believed: no permission for anything."""
        return cls(None, [], LocalState(withdrawn=True, paused_until_unix_s=None), BUILD_UNIX_S, None, None)


def close_recovered(
    chronicle: Chronicle,
    opened: Record,
    last_seen: Record,
    boottime_s: float,
    clock: IntervalClock,
    *,
    verdict: str | None = None,
) -> Attempt:
    """Write the `closed` record that a cut prevented; its length is known to HEARTBEAT_EVERY_S, from below.

    A verdict that was given before the cut counts: who was seen is not looked at again.
    """
    watched_s = max(0.0, last_seen.boottime - opened.boottime) if last_seen.boot == opened.boot else 0.0
    chronicle.append_closed(opened, boottime_s, clock, why=Why.RECOVERED, watched_s=watched_s)
    return Attempt(
        opened.line or "",
        opened.occasion or "",
        opened.attempt or 1,
        opened.time_lo,
        clock.interval(boottime_s).lo_unix_s,
        outcome_of(verdict or Why.RECOVERED, watched_s),
    )


def remember(config: GuardConfig, records: Iterable[StoredRecord]) -> Remembered:
    """Walk the ledger once, and keep of it what a start still needs: a ledger of years fits into the memory of a day.

    Raises IntegrityError when the agreement's file is not the one that was recorded last.
    """
    checks = _Checks()
    digest: str | None = None
    versions = Versions()
    begun_unix_s: float | None = None
    moved = False
    withdrawn_unix_s: float | None = None
    withdrawn_consents: frozenset[str] = frozenset()
    paused_until_unix_s: float | None = None
    book, standing = OccasionBook(), Standing()
    for stored in records:
        record = stored.body
        if record is None:
            continue
        if begun_unix_s is None and record.time_hi is not None:
            begun_unix_s = record.time_lo
        checks.note(stored, record)
        book.note(record)
        standing.note(stored.seq, record)
        versions.note(record)
        match record.kind:
            case RecordKind.AGREEMENT:
                digest = record.digest_of
                moved = False
            case RecordKind.TAMPER if record.why == "moved":
                moved = True
            case RecordKind.WITHDRAWN if record.why == LIFTED:
                withdrawn_consents |= {record.digest_of} if record.digest_of is not None else set()
            case RecordKind.WITHDRAWN:
                withdrawn_unix_s = record.time_lo if record.since_unix_s is None else record.since_unix_s
                withdrawn_consents |= {record.digest_of} if record.digest_of is not None else set()
            case RecordKind.CONSENT:
                withdrawn_unix_s = None
            case RecordKind.PAUSED if record.why == "local":
                # Without an end it was made while no time was known: it lasts until the clock knows it again.
                paused_until_unix_s = float("inf") if record.until_unix_s is None else record.until_unix_s
            case RecordKind.PAUSED:
                paused_until_unix_s = None
            case _:
                pass
    unclosed = unclosed_check(checks.running)
    verdicts = _verdicts(checks.running)
    return Remembered(
        agreement=_load_agreement(config, digest),
        history=attempts(checks.recent, checks.floor_unix_s - HISTORY_S),
        local=LocalState(withdrawn=withdrawn_unix_s is not None, paused_until_unix_s=paused_until_unix_s),
        floor_unix_s=checks.floor_unix_s,
        unclosed=None if unclosed is None else unclosed.opened,
        last_seen=None if unclosed is None else unclosed.last_seen,
        book=book,
        standing=standing,
        versions=versions,
        begun_unix_s=begun_unix_s,
        moved=moved,
        withdrawn_unix_s=withdrawn_unix_s,
        withdrawn_consents=withdrawn_consents,
        unclosed_verdict=None if unclosed is None else verdicts.get(unclosed.opened.check or ""),
        setup=checks.setup,
    )


@dataclass(slots=True)
class _Checks:
    """What a walk keeps: the checks that may still matter, the one that may still run, and set-up."""

    floor_unix_s: float = BUILD_UNIX_S
    recent: deque[StoredRecord] = field(default_factory=deque)
    running: list[StoredRecord] = field(default_factory=list)
    """The check that was opened last, while it isn't closed: its opening, its verdicts, its newest sign of life."""
    setup: list[StoredRecord] = field(default_factory=list)

    def note(self, stored: StoredRecord, record: Record) -> None:
        self.floor_unix_s = max(self.floor_unix_s, record.time_lo)
        if record.kind in (RecordKind.OPENED, RecordKind.CLOSED, RecordKind.VERDICT):
            self.recent.append(stored)
        while self.recent and _time_lo(self.recent[0]) < self.floor_unix_s - HISTORY_S:
            self.recent.popleft()
        if record.kind is RecordKind.SETUP:
            self.setup.append(stored)
        if record.kind is RecordKind.OPENED:
            self.running = [stored]
        elif self.running and _check(self.running[0]) == record.check:
            if record.kind is RecordKind.CLOSED:
                self.running = []
            elif record.kind in SIGNS:
                self.running = [*(each for each in self.running if _kind(each) not in SIGNS), stored]
            else:
                self.running.append(stored)


def _time_lo(stored: StoredRecord) -> float:
    return -inf if stored.body is None else stored.body.time_lo


def _check(stored: StoredRecord) -> str | None:
    return None if stored.body is None else stored.body.check


def _kind(stored: StoredRecord) -> RecordKind | None:
    return None if stored.body is None else stored.body.kind


def _verdicts(records: Iterable[StoredRecord]) -> dict[str, str]:
    """Check id to the word of its verdict, whatever ended it in the end."""
    return {
        stored.body.check: stored.body.why
        for stored in records
        if stored.body is not None
        and stored.body.kind is RecordKind.VERDICT
        and stored.body.check is not None
        and stored.body.why is not None
    }


def attempts(records: Collection[StoredRecord], since_unix_s: float) -> list[Attempt]:
    """The attempts in the ledger; one that was never closed counts as running until its recovery record is written."""
    found: dict[str, Attempt] = {}
    verdicts = _verdicts(records)
    for stored in records:
        record = stored.body
        if record is None or record.check is None or record.time_lo < since_unix_s:
            continue
        if record.kind is RecordKind.OPENED:
            assert record.line is not None
            assert record.occasion is not None
            assert record.attempt is not None
            found[record.check] = Attempt(record.line, record.occasion, record.attempt, record.time_lo, None, "open")
        elif record.kind is RecordKind.CLOSED and record.check in found:
            opened = found[record.check]
            found[record.check] = Attempt(
                opened.line_id,
                opened.occasion_id,
                opened.attempt,
                opened.opened_unix_s,
                record.time_lo,
                outcome_of(verdicts.get(record.check, record.why or ""), record.watched_s or 0.0),
            )
    return list(found.values())


def outcome_of(why: str, watched_s: float) -> Any:
    """What a closing means for the budget: a verdict, or a look without one, or no look at all."""
    match why:
        case Why.SEEN:
            return "seen"
        case Why.NOT_SEEN:
            return "not_seen"
        case Why.UNSURE:
            return "unsure"
        case Why.OPERATOR_CLOSED | Why.TIME_UP | Why.RESIDENT_STOPPED:
            # Somebody's will or the agreement ended it, no fault: it was a look, however short.
            return "unsure"
        case _:
            return "broken" if watched_s < BROKEN_BEFORE_S else "unsure"


def _load_agreement(config: GuardConfig, digest: str | None) -> Agreement | None:
    if digest is None:
        return None
    path = agreement_path(config, digest)
    try:
        stored = path.read_bytes()
    except OSError as exc:
        raise IntegrityError(f"{path.name}: {exc.strerror}, but the ledger has a record of it") from exc
    if hashlib.sha256(stored).hexdigest() != digest:
        raise IntegrityError(f"{path.name}: not the agreement that the ledger recorded last")
    try:
        return parse_agreement(stored)
    except RefusedError as exc:
        raise IntegrityError(f"{path.name}: {exc}") from exc


def read_ledger(config: GuardConfig) -> Iterable[StoredRecord]:
    """Its records one by one, as they are asked for."""
    return read_records(ledger_path(config))
