"""The lent device goes back: what the guard does when a steward has ordered it, and what holds from then on.

A running check is ended first, because ending one needs no permission. Then the order is on the disk, and only then it
counts: the resident's consent is closed for good, nothing opens, and no command but one that closes is obeyed, also
after a restart. The order stands in a file of its own beside the ledger, and in the ledger: either alone suffices, so
that neither a ledger that can't be believed nor a file that was lost arms the home again.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.check import machine
from gateway.check.machine import Why
from gateway.config import GuardConfig
from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import Returned, TakeReturn
from gateway.ledger import RecordKind
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.message import Returning
from gateway.services.guard_core import Core
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies

LOG = logging.getLogger("tillsyn.guard")

ORDERED: Final = "ordered"
"""`why` of the `returned` record; its version is the order's."""
WITHDRAWN_BY_RETURN: Final = "returned"
"""`why` of the `withdrawn` record that comes with it."""


class StoredOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content."""

    version: int
    who: str
    role: str
    kid: str
    nonce: str
    device_nonce: str


def return_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "returned.json"


def store_return(config: GuardConfig, order: TakeReturn) -> None:
    """Keep an order durably. Raises OSError."""
    returned = order.returned
    stored = StoredOrder(
        returned.version,
        returned.who or "",
        order.role,
        returned.kid or "",
        returned.nonce or "",
        returned.device_nonce or "",
    )
    replace_durably(Disk(), return_path(config), msgspec.json.encode(stored))


def load_return(config: GuardConfig, recorded_version: int) -> tuple[Returned | None, StoredOrder | None]:
    """The order in force at a start, and the file's content; `recorded_version` is the ledger's newest, 0 for none.

    A file that can't be read, or is older than the record, still says that this device was returned.
    """
    path = return_path(config)
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=StoredOrder, strict=True)
    except FileNotFoundError:
        return (Returned(recorded_version) if recorded_version else None), None
    except (OSError, msgspec.MsgspecError) as exc:
        LOG.error("%s: %s", path.name, exc)
        return Returned(recorded_version), None
    if stored.version < recorded_version:
        return Returned(recorded_version), None
    return Returned(stored.version, stored.who, stored.kid, stored.nonce, stored.device_nonce), stored


@dataclass(slots=True)
class ReturnSide:
    core: Core
    records: Records
    replies: Replies

    def take(self, order: TakeReturn, correlation: bytes) -> None:
        """Raises RefusedError(ledger-unwritable) when the order could not be kept; a check is closed all the same."""
        core, returned = self.core, order.returned
        core.dispatch(machine.Fault(Why.RETURNED))
        if order.is_new:
            try:
                store_return(core.config, order)
            except OSError as exc:
                raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
            LOG.warning("this device is returned: nothing opens any more")
            digest = core.gate.take_return(returned, now_s=core.now())
            core.hello_due_s = 0.0
            self._record(order, digest)
        assert returned.nonce is not None  # the gate answers no order that can't be read as a known one
        assert returned.device_nonce is not None
        self.replies.reply(
            Returning(
                core.config.gateway,
                core.config.install_epoch,
                order.re,
                returned.version,
                returned.device_nonce,
                core.chronicle.size,
            ),
            correlation,
        )

    def _record(self, order: TakeReturn, digest: str | None) -> None:
        """What can't be recorded holds by the file; the next start tries again to write it down."""
        who, role = order.returned.who, order.role
        with contextlib.suppress(RefusedError, LedgerUnwritableError):
            self.records.append(RecordKind.WITHDRAWN, who=who, role=role, why=WITHDRAWN_BY_RETURN, digest_of=digest)
            self.records.append(RecordKind.RETURNED, who=who, role=role, why=ORDERED, version=order.returned.version)
            self.records.checkpoint()
