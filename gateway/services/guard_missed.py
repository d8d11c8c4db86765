"""The check that can't be forgotten: the device itself says when an agreed occasion has ended without one.

Recorded durably, then reported signed and through the outbox, so that a centre that was away hears of it too. What
ended while the power was off is found at the next start. The centre asks the same question of its own accord
(centre/missed.py); the occasion's name makes the two one.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Final

from gateway.agreement.missed import MissedOccasion, missed
from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusedError
from gateway.ledger import RecordKind
from gateway.protocol.envelope import sign
from gateway.protocol.message import MissedCheck
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records

LOG = logging.getLogger("tillsyn.guard")

LOOK_EVERY_S: Final = 15.0


@dataclass(slots=True)
class MissedChecks:
    core: Core
    link: LinkSide
    records: Records
    _due_s: float = 0.0

    def look(self, now_s: float) -> None:
        """Record and report what has ended unseen. Does nothing while the ledger can't be believed."""
        agreement, chronicle = self.core.gate.agreement, self.core.chronicle
        if now_s < self._due_s or agreement is None or chronicle.ledger is None:
            return
        self._due_s = now_s + LOOK_EVERY_S
        found = missed(
            agreement,
            since_unix_s=chronicle.book.agreed_unix_s,
            now_unix_s=self.core.gate.clock.interval(now_s).lo_unix_s,
            history=self.core.gate.history,
            quiet=chronicle.book.quiet,
            told=chronicle.book.told,
        )
        for item in found:
            self._tell(item)
        if found:
            self.core.hello_due_s = 0.0
            with contextlib.suppress(LedgerUnwritableError):
                self.records.checkpoint()

    def _tell(self, item: MissedOccasion) -> None:
        LOG.warning("missed: %s %s: %s", item.line_id, item.occasion_id, item.why)
        # Told also where it can't be recorded; then the guard ends, and says it again after its restart.
        with contextlib.suppress(RefusedError):
            self.records.append(
                RecordKind.MISSED_CHECK,
                line=item.line_id,
                occasion=item.occasion_id,
                attempt=item.attempts,
                why=item.why,
                until_unix_s=round(item.ended_unix_s, 3),
            )
        report = MissedCheck(
            gateway=self.core.config.gateway,
            line=item.line_id,
            occasion=item.occasion_id,
            why=item.why,
            attempts=item.attempts,
            ended_unix_s=round(item.ended_unix_s, 3),
            ledger_size=self.core.chronicle.size,
        )
        self.link.publish(Branch.REPLY, sign(report, self.core.device_key), evidential=True)
