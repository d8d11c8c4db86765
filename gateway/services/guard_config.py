"""Orders for the link, where to find the broker: verified and recorded here, carried out by `tillsyn-link`.

As with the tunnel the order is on the disk and in the ledger before the link hears of it, and is given again until the
link has it. What became of it, kept or left for the old one, is recorded once.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import GuardConfig
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import TakeConfig
from gateway.ipc import frame
from gateway.ledger import RecordKind
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.message import Accepted, LinkSettings
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies

ORDERED: Final = "config"
KEPT: Final = "config-kept"
LEFT: Final = "config-left"
"""`why` of the `setup` records: a steward's order, and what became of it."""


def order_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "link-order.json"


@dataclass(slots=True)
class ConfigSide:
    core: Core
    link: LinkSide
    records: Records
    replies: Replies
    settled: int = 1
    """The newest version of which the ledger says what became of it; 1, the enrolment's, needs no word."""

    def take(self, order: TakeConfig, correlation: bytes) -> None:
        """Persist, record, answer, hand over: the answer goes out by the broker that is left. Raises RefusedError."""
        config = self.core.config
        self.core.demand_changeable()
        stored = msgspec.json.encode(order.settings)
        version = order.settings.version
        if not order.is_new and stored != self._stored():
            raise RefusedError(RefusalCode.STALE_VERSION, "another order of this version is in force")
        if order.is_new:
            try:
                replace_durably(Disk(), order_path(config), stored)
            except OSError as exc:
                raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
            digest = hashlib.sha256(stored).hexdigest()
            self.records.append(
                RecordKind.SETUP, who=order.who, role=order.role, why=ORDERED, version=version, digest_of=digest
            )
            self.core.gate.config_version = version
        self.replies.reply(Accepted(config.gateway, order.re, version), correlation)
        self.link.tell(frame.LinkOrdered(stored))

    def hear(self, said: frame.LinkSettingsAre) -> None:
        """Give the link what it lacks; record what became of an order."""
        ordered = self.core.gate.config_version
        if said.high_water < ordered:
            stored = self._stored()
            if stored is not None and _version(stored) == ordered:
                self.link.tell(frame.LinkOrdered(stored))
            return
        if said.on_trial or self.settled >= ordered:
            return
        word = KEPT if said.version == ordered else LEFT
        with contextlib.suppress(RefusedError):
            self.records.append(RecordKind.SETUP, why=word, version=ordered)
            self.settled = ordered

    def _stored(self) -> bytes | None:
        try:
            return order_path(self.core.config).read_bytes()
        except OSError:
            return None


def _version(stored: bytes) -> int | None:
    try:
        return msgspec.json.decode(stored, type=LinkSettings).version
    except msgspec.MsgspecError:
        return None
