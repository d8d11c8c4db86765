"""Answers and refusals: signed, bounded in number, and counted into few records under a flood."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Final

from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.ledger import RecordKind
from gateway.protocol.envelope import sign
from gateway.protocol.message import Message, Refused
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records

LOG = logging.getLogger("tillsyn.guard")

REFUSALS_EVERY_S: Final = 10.0
"""Refusals of one code are recorded one by one only this often; those in between are counted into one record."""
MAX_REPLIES_PER_S: Final = 50


@dataclass(slots=True)
class _Refusals:
    """Refusals of one code since the last record of it."""

    recorded_s: float
    count: int = 0


@dataclass(slots=True)
class Replies:
    core: Core
    link: LinkSide
    records: Records
    _left: int = MAX_REPLIES_PER_S
    _refusals: dict[RefusalCode, _Refusals] = field(default_factory=dict)

    def each_second(self, now_s: float) -> None:
        self._left = MAX_REPLIES_PER_S
        self._flush(now_s)

    def reply(self, message: Message, correlation: bytes) -> None:
        if correlation:
            self.link.publish(Branch.REPLY, sign(message, self.core.device_key), correlation=correlation)

    def refuse(self, refused: RefusedError, correlation: bytes) -> None:
        """Count, record compactly, answer with the code alone. Under a flood most get no answer at all."""
        LOG.info("refused: %s", refused)
        now_s = self.core.now()
        known = self._refusals.get(refused.code)
        if known is not None and now_s - known.recorded_s < REFUSALS_EVERY_S:
            known.count += 1
        else:
            self._refusals[refused.code] = _Refusals(now_s)
            with contextlib.suppress(RefusedError):
                self.records.append(RecordKind.REFUSED, who=refused.who, why=refused.code.value, count=1)
        if self._left > 0:
            self._left -= 1
            self.reply(Refused(self.core.config.gateway, refused.re or "unread", refused.code.value), correlation)

    def _flush(self, now_s: float) -> None:
        for code, known in list(self._refusals.items()):
            if now_s - known.recorded_s < REFUSALS_EVERY_S:
                continue
            del self._refusals[code]
            if known.count:
                with contextlib.suppress(RefusedError, LedgerUnwritableError):
                    self.records.append(RecordKind.REFUSED, why=code.value, count=known.count)
                    self.records.checkpoint()
