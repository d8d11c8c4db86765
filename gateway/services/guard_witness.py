"""What the witness says back, and what follows from it: a higher floor of the clock, and payloads that may go.

A cosignature counts only under the witness's key of the configuration, and for a checkpoint that this ledger's key
signed; it is kept on the disk before anything follows from it. One that covers more records than there are here means
that this ledger was cut: the guard ends, and its next start finds the kept note and raises the integrity alarm.

An older card that was put back is whole in itself, and so is a copy of one. What tells them is the record of this very
start: no honest witness cosigns it on a ledger that it knows to be longer, or other. So with a witness nothing opens
before it has (`Core.unwitnessed`).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Final

from gateway.check import machine
from gateway.check.machine import Why
from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.ledger import CosignerKey, NoteError
from gateway.services.cosigned import DAY_S, Cosigned, read_witness_key, store_cosigned, verify_cosigned
from gateway.services.guard_core import Core
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies
from gateway.services.guard_state import cosigned_path

LOG = logging.getLogger("tillsyn.guard")

CHECKPOINT_EVERY_S: Final = 3600.0
ERASE_EVERY_S: Final = 86_400.0
MAX_AHEAD_S: Final = 120.0
"""A witness whose clock is further ahead of an attested one contradicts it, and raises no floor."""
ASK_EVERY_S: Final = 15.0
"""How often the witness is asked about this start while it has not answered."""
UNWITNESSED_LIMIT_S: Final = 300.0
"""A witness that has not cosigned a start by then is worth a warning; an outbox may be long."""


@dataclass(slots=True)
class WitnessSide:
    core: Core
    records: Records
    replies: Replies
    _key: CosignerKey | None = field(init=False)
    _checkpoint_due_s: float = field(init=False)
    _erase_due_s: float = field(init=False)
    _start_size: int = field(init=False)
    _ask_due_s: float = 0.0
    _warn_due_s: float = field(init=False)

    def __post_init__(self) -> None:
        witness = self.core.config.witness
        self._key = None if witness is None else read_witness_key(witness)
        self._checkpoint_due_s = self._erase_due_s = self.core.now() + CHECKPOINT_EVERY_S
        self._start_size = self.core.chronicle.size
        self._warn_due_s = self.core.now() + UNWITNESSED_LIMIT_S
        self.core.unwitnessed = self._key is not None and self.core.chronicle.ledger is not None

    def hear(self, untrusted_note: bytes) -> None:
        """Take a cosigned checkpoint if it is ours and newer than the kept one."""
        chronicle = self.core.chronicle
        if self._key is None or chronicle.ledger is None:
            return
        try:
            heard = verify_cosigned(untrusted_note, chronicle.ledger.verifier, self._key)
        except NoteError as exc:
            self.replies.refuse(RefusedError(RefusalCode.BAD_SIGNATURE, f"cosignature: {exc}"), b"")
            return
        self._take(heard)

    def _take(self, heard: Cosigned) -> None:
        core, kept = self.core, self.core.chronicle.cosigned
        now_s = core.now()
        interval = core.gate.clock.interval(now_s)
        if kept is not None and (heard.checkpoint.size, heard.unix_s) <= (kept.checkpoint.size, kept.unix_s):
            return
        if heard.unix_s > interval.hi_unix_s + MAX_AHEAD_S:
            LOG.warning("the witness's clock contradicts the attested one")
            return
        if kept is not None:
            heard = kept.followed_by(heard, keep_days=core.config.retention_days)
        try:
            store_cosigned(cosigned_path(core.config), heard)
        except OSError as exc:
            LOG.error("cosignature not kept: %s", exc)
            return
        core.chronicle.cosigned = heard
        core.gate.clock = core.gate.clock.with_floor(heard.unix_s, boottime_s=now_s)
        if not core.chronicle.agrees_with(heard.checkpoint):
            LOG.error("integrity alarm: the witness has seen another ledger, or more of this one")
            core.dispatch(machine.Fault(Why.LEDGER_UNWRITABLE))
        elif core.unwitnessed and heard.checkpoint.size >= self._start_size:
            core.unwitnessed = False
            core.hello_due_s = 0.0

    def work(self, now_s: float) -> None:
        """Sign hourly what no checkpoint covers, and once a day let old payloads go. Only between checks."""
        if not isinstance(self.core.state, machine.Parked) or self.core.chronicle.ledger is None:
            return
        if self.core.unwitnessed:
            self._ask_about_start(now_s)
        if now_s >= self._checkpoint_due_s:
            self._checkpoint_due_s = now_s + CHECKPOINT_EVERY_S
            with contextlib.suppress(LedgerUnwritableError):
                # Also where nothing is new: what was said of the last one may have been lost on its way.
                self.records.checkpoint()
        if now_s >= self._erase_due_s and not self._soon(now_s):
            self._erase_due_s = now_s + ERASE_EVERY_S
            with contextlib.suppress(RefusedError, LedgerUnwritableError):
                self._erase(now_s)

    def _ask_about_start(self, now_s: float) -> None:
        # Records since then would keep the start's checkpoint from going out before the hour is over.
        if now_s >= self._ask_due_s and self.records.link.up and self.records.link.is_fed:
            self._ask_due_s = now_s + ASK_EVERY_S
            with contextlib.suppress(LedgerUnwritableError):
                self.records.checkpoint()
        if now_s >= self._warn_due_s:
            self._warn_due_s = now_s + CHECKPOINT_EVERY_S
            LOG.warning("the witness has not cosigned this start; nothing opens")

    def _soon(self, now_s: float) -> bool:
        return any(item.status in ("due", "recheck") for item in self.core.gate.due(now_s=now_s))

    def _erase(self, now_s: float) -> None:
        chronicle = self.core.chronicle
        if chronicle.cosigned is None or chronicle.ledger is None:
            return
        now_unix_s = self.core.gate.clock.interval(now_s).lo_unix_s
        before_seq = chronicle.cosigned.size_before(now_unix_s - self.core.config.retention_days * DAY_S)
        if before_seq <= chronicle.ledger.erased:
            return
        for kind, fields in chronicle.standing.restatements(before_seq, now_unix_s):
            self.records.append(kind, **fields)
        self.records.checkpoint()
        erased = chronicle.ledger.erase(before_seq)
        LOG.info("retention: %d payloads erased, below record %d", erased, before_seq)
