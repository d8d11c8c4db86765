"""How the running guard writes into its ledger: durable first, then to the link, and what follows when it can't.

A record that can't be made durable disables the guard; which error the caller sees says whether somebody waits for an
answer (`append`) or a check runs (`append_facts`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from gateway.check import machine
from gateway.check.machine import Facts, Why
from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.ledger import RecordKind
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide

LOG = logging.getLogger("tillsyn.guard")


@dataclass(slots=True)
class Records:
    core: Core
    link: LinkSide

    def append(self, kind: RecordKind, **fields: Any) -> None:
        """Append outside a check; raises RefusedError(ledger-unwritable), and the guard is then disabled."""
        try:
            line = self.core.chronicle.append(kind, self.core.now(), self.core.gate.clock, **fields)
        except LedgerUnwritableError as exc:
            LOG.error("ledger: %s", exc)
            self.core.later(machine.Fault(Why.LEDGER_UNWRITABLE))
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE) from exc
        if line:
            self.link.publish_record(line)

    def append_facts(self, kind: RecordKind, facts: Facts, **fields: Any) -> None:
        """Append a record of a check; raises LedgerUnwritableError."""
        line = self.core.chronicle.append(
            kind,
            self.core.now(),
            self.core.gate.clock,
            check=facts.check,
            who=facts.who,
            line=facts.line,
            occasion=facts.occasion,
            attempt=facts.attempt,
            **fields,
        )
        self.link.publish_record(line)

    def append_closed(self, ended: machine.RecordClosed) -> None:
        """Raises LedgerUnwritableError."""
        core = self.core
        line = core.chronicle.append_closed(
            ended.facts,
            core.now(),
            core.gate.clock,
            why=ended.why,
            watched_s=ended.watched_s,
            frames=ended.frames,
            view=ended.view,
        )
        self.link.publish_record(line)

    def append_quietly(self, kind: RecordKind, facts: Facts, **fields: Any) -> None:
        try:
            self.append_facts(kind, facts, **fields)
        except LedgerUnwritableError as exc:
            LOG.error("%s: %s", kind.value, exc)
            self.core.later(machine.Fault(Why.LEDGER_UNWRITABLE))

    def checkpoint(self) -> None:
        if note := self.core.chronicle.checkpoint():
            self.link.publish(Branch.LEDGER, note, evidential=True, slot="checkpoint")
