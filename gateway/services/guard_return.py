"""The lent device goes back: what the guard does when a steward has ordered it, and what holds from then on.

A running check is ended first, because ending one needs no permission. Then the order is on the disk, and only then it
counts: the resident's consent is closed for good, nothing opens, and no command but one that closes is obeyed, also
after a restart. The order stands in a file of its own beside the ledger, and in the ledger: either alone suffices, so
that neither a ledger that can't be believed nor a file that was lost arms the home again.

Erased is only what somebody holds in the hand: the physical act at the device, the short code that it then shows, and a
second person's signed word with that code. That too is on the disk before it counts. Then the device says its last
word, waits until the witness has cosigned all of it, and leaves the mark on which root erases it
(`gateway.services.erase`). Whatever cuts in between, the next start goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from gateway.check import machine
from gateway.check.machine import Why
from gateway.config import GuardConfig
from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import EraseDevice, Returned, TakeReturn
from gateway.ipc import frame
from gateway.ledger import RecordKind
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.envelope import sign
from gateway.protocol.message import Accepted, DeviceReturned, Returning
from gateway.protocol.return_code import return_code
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies
from gateway.services.guard_witness import ASK_EVERY_S

LOG = logging.getLogger("tillsyn.guard")

ORDERED: Final = "ordered"
"""`why` of the `returned` record; its version is the order's."""
ERASING: Final = "erasing"
"""`why` of the `returned` record of the second person's word."""
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
    second: str | None = None
    """Who confirmed that it is to be erased; None while nobody has."""
    second_role: str | None = None


def mark_path(config: GuardConfig) -> Path:
    """Appears when the device may be erased; root waits for it, and goes on with it at each start."""
    return Path(config.state_dir) / "erase-now"


def return_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "returned.json"


def store_return(config: GuardConfig, stored: StoredOrder) -> None:
    """Raises OSError."""
    replace_durably(Disk(), return_path(config), msgspec.json.encode(stored))


def _stored(order: TakeReturn) -> StoredOrder:
    returned = order.returned
    return StoredOrder(
        returned.version,
        returned.who or "",
        order.role,
        returned.kid or "",
        returned.nonce or "",
        returned.device_nonce or "",
    )


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
    link: LinkSide
    records: Records
    replies: Replies
    stored: StoredOrder | None
    """The file's content at the start, or since."""
    has_acted: Callable[[], bool] = field(init=False)
    """Whether somebody did the physical act a short while ago."""
    forget_act: Callable[[], None] = field(init=False)
    _covers: int = field(init=False)
    """How many records the witness must have cosigned before the next step."""
    _said: bool = False
    _outbox_empty_since_said: bool = False
    _ask_due_s: float = 0.0

    def __post_init__(self) -> None:
        self._covers = self.core.chronicle.size

    def take(self, order: TakeReturn, correlation: bytes) -> None:
        """Raises RefusedError(ledger-unwritable) when the order could not be kept; a check is closed all the same."""
        core, returned = self.core, order.returned
        core.dispatch(machine.Fault(Why.RETURNED))
        if order.is_new and self.stored is not None and self.stored.second is not None:
            raise RefusedError(RefusalCode.BUSY, "it is being erased already")
        if order.is_new:
            try:
                self._keep(_stored(order))
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
        self._covers = self.core.chronicle.size

    def _keep(self, stored: StoredOrder) -> None:
        store_return(self.core.config, stored)
        self.stored = stored

    @property
    def code(self) -> str | None:
        """What is to be compared, for whoever stands at the device; None without a fresh physical act."""
        returned = self.core.gate.returned
        if returned is None or returned.kid is None or returned.nonce is None or returned.device_nonce is None:
            return None
        if not self.has_acted():
            return None
        return return_code(
            audience=self.core.gate.identity.audience,
            version=returned.version,
            steward_kid=returned.kid,
            nonce=returned.nonce,
            device_kid=self.core.device_key.verifying.kid,
            device_nonce=returned.device_nonce,
        )

    def erase(self, order: EraseDevice, correlation: bytes) -> None:
        """A second person has compared the codes. Raises RefusedError; nothing is erased then.

        A wrong code voids the act: whoever guesses must hold the button again for each guess.
        """
        stored = self.stored
        assert stored is not None  # the gate answers for no order that can't be read
        if stored.second is None:
            code = self.code
            if code is None:
                raise RefusedError(RefusalCode.NOT_AGREED, "nobody did the physical act at the device")
            if not self._is_cosigned():
                raise RefusedError(RefusalCode.BUSY, "the witness has not cosigned the return")
            if order.code != code:
                self.forget_act()
                raise RefusedError(RefusalCode.NONCE_UNKNOWN, "another short code")
            try:
                self._keep(msgspec.structs.replace(stored, second=order.who, second_role=order.role))
            except OSError as exc:
                raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
            LOG.warning("this device is erased as soon as the centre has its last word")
        self._say_last_word()
        self.replies.reply(Accepted(self.core.config.gateway, order.re, stored.version), correlation)

    def _say_last_word(self) -> None:
        core, stored = self.core, self.stored
        assert stored is not None
        assert stored.second is not None
        with contextlib.suppress(RefusedError, LedgerUnwritableError):
            if not self._said:
                self.records.append(
                    RecordKind.RETURNED,
                    who=stored.second,
                    role=stored.second_role,
                    why=ERASING,
                    version=stored.version,
                )
            statement = sign(self._statement(stored, stored.second), core.device_key)
            # Before the checkpoint, and in the same order out of the outbox: who cosigns that one has this one.
            self.link.publish(Branch.REPLY, statement, evidential=True)
            if not self._said:
                self.records.checkpoint()
                self._covers = core.chronicle.size
                self._outbox_empty_since_said = False
        self._said = True

    def _statement(self, stored: StoredOrder, second: str) -> DeviceReturned:
        core = self.core
        interval = core.gate.clock.interval(core.now())
        cosigned = core.chronicle.cosigned
        return DeviceReturned(
            gateway=core.config.gateway,
            install_epoch=core.config.install_epoch,
            version=stored.version,
            who=stored.who,
            second=second,
            ledger_size=core.chronicle.size,
            time_lo=round(interval.lo_unix_s, 3),
            time_hi=None if interval.hi_unix_s == float("inf") else round(interval.hi_unix_s, 3),
            cosigned_size=None if cosigned is None else cosigned.checkpoint.size,
            cosigned_root=None if cosigned is None else cosigned.checkpoint.root.hex(),
        )

    def hear_link(self, of_link: frame.LinkHealth) -> None:
        """Without a witness an outbox that has nothing left says that the centre has the last word."""
        self._outbox_empty_since_said = of_link.outbox_items == 0

    def work(self, now_s: float) -> None:
        """Between a second person's word and the mark. Raises OSError when the mark can't be made: a new start then."""
        stored, core = self.stored, self.core
        if stored is None or stored.second is None or not self.link.up:
            return
        if not self._said:  # after a start
            self._say_last_word()
        if self._is_cosigned() if self._is_witnessed else self._outbox_empty_since_said:
            if not mark_path(core.config).exists():
                LOG.warning("the centre has all of it: this device is to be erased now")
                replace_durably(Disk(), mark_path(core.config), b"")
            return
        if now_s >= self._ask_due_s and self.link.is_fed:
            self._ask_due_s = now_s + ASK_EVERY_S
            with contextlib.suppress(LedgerUnwritableError):
                self.records.checkpoint()

    @property
    def _is_witnessed(self) -> bool:
        """Somebody cosigns here, and there is a ledger that could be."""
        return self.core.config.witness is not None and self.core.chronicle.ledger is not None

    def _is_cosigned(self) -> bool:
        chronicle = self.core.chronicle
        if not self._is_witnessed:
            return True
        return chronicle.cosigned is not None and chronicle.cosigned.checkpoint.size >= self._covers
