"""What the witness says back, and what follows from it: a higher floor of the clock, and payloads that may go.

A cosignature counts only under the witness's key of the configuration, and for a checkpoint that this ledger's key
signed; it is kept on the disk before anything follows from it. One that covers more records than there are here means
that this ledger was cut: the guard ends, and its next start finds the kept note and raises the integrity alarm.
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


@dataclass(slots=True)
class WitnessSide:
    core: Core
    records: Records
    replies: Replies
    _key: CosignerKey | None = field(init=False)
    _checkpoint_due_s: float = field(init=False)
    _erase_due_s: float = field(init=False)

    def __post_init__(self) -> None:
        witness = self.core.config.witness
        self._key = None if witness is None else read_witness_key(witness)
        self._checkpoint_due_s = self._erase_due_s = self.core.now() + CHECKPOINT_EVERY_S

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

    def work(self, now_s: float) -> None:
        """Sign hourly what no checkpoint covers, and once a day let old payloads go. Only between checks."""
        if not isinstance(self.core.state, machine.Parked) or self.core.chronicle.ledger is None:
            return
        if now_s >= self._checkpoint_due_s:
            self._checkpoint_due_s = now_s + CHECKPOINT_EVERY_S
            with contextlib.suppress(LedgerUnwritableError):
                # Also where nothing is new: what was said of the last one may have been lost on its way.
                self.records.checkpoint()
        if now_s >= self._erase_due_s and not self._soon(now_s):
            self._erase_due_s = now_s + ERASE_EVERY_S
            with contextlib.suppress(RefusedError, LedgerUnwritableError):
                self._erase(now_s)

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
