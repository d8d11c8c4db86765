"""Verified commands, obeyed: what the gate allowed becomes state, records and events of the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

from gateway.check import machine
from gateway.check.machine import Why
from gateway.core.error import LedgerUnwritableError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import (
    AllowSetup,
    CloseCheck,
    EraseDevice,
    GiveVerdict,
    IssueChallenge,
    OpenCheck,
    Order,
    RenewLease,
    TakeAgreement,
    TakeConfig,
    TakeOffer,
    TakeReturn,
    TakeTrust,
    TakeTunnel,
    Withdraw,
)
from gateway.decision.nonce import LIFE_S as NONCE_LIFE_S
from gateway.ledger import RecordKind
from gateway.protocol.message import Accepted, Challenged, Verdict
from gateway.services.guard_config import ConfigSide
from gateway.services.guard_core import Core, Pending
from gateway.services.guard_eye import EyeSide
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies
from gateway.services.guard_report import Reports
from gateway.services.guard_return import ReturnSide
from gateway.services.guard_state import forget_agreements, store_agreement, store_trust
from gateway.services.guard_tunnel import TunnelSide
from gateway.services.guard_update import UpdateSide

_VERDICT_WHY: Final = {Verdict.SEEN: Why.SEEN, Verdict.NOT_SEEN: Why.NOT_SEEN, Verdict.UNSURE: Why.UNSURE}


@dataclass(slots=True)
class Commands:
    core: Core
    link: LinkSide
    records: Records
    replies: Replies
    reports: Reports
    eye: EyeSide
    tunnel: TunnelSide
    config: ConfigSide
    update: UpdateSide
    returning: ReturnSide
    allow_setup: Callable[[AllowSetup], None] = field(init=False)

    def hear(self, untrusted: bytes, correlation: bytes) -> None:
        try:
            order = self.core.gate.receive(untrusted, now_s=self.core.now())
        except RefusedError as refused:
            self.replies.refuse(refused, correlation)
            return
        try:
            self._obey(order, correlation)
        except RefusedError as refused:
            refused.re = getattr(order, "re", None)
            self.replies.refuse(refused, correlation)

    def _obey(self, order: Order, correlation: bytes) -> None:  # noqa: C901 - one table, read as one
        match order:
            case IssueChallenge():
                self._challenge(order, correlation)
            case OpenCheck():
                self._open(order, correlation)
            case RenewLease(_, counter):
                self.core.dispatch(machine.LeaseRenewed(counter))
            case GiveVerdict():
                self._verdict(order, correlation)
            case CloseCheck(re, check, _, seal_broken):
                if self.core.gate.current is not None and self.core.gate.current.check == check:
                    self.core.dispatch(machine.Ended(Why.SEAL_BROKEN if seal_broken else Why.OPERATOR_CLOSED))
                self.replies.reply(Accepted(self.core.config.gateway, re), correlation)
            case TakeAgreement():
                self._take_agreement(order, correlation)
            case TakeTrust():
                self._take_trust(order, correlation)
            case TakeTunnel():
                self.tunnel.take(order, correlation)
            case TakeConfig():
                self.config.take(order, correlation)
            case AllowSetup(re):
                self.allow_setup(order)
                self.replies.reply(Accepted(self.core.config.gateway, re), correlation)
            case TakeReturn():
                self.returning.take(order, correlation)
            case EraseDevice():
                self.returning.erase(order, correlation)
            case TakeOffer():
                self.update.take(order, correlation)
            case Withdraw(re, who, role):
                self.withdraw(who=who, role=role, why="signed")
                self.replies.reply(Accepted(self.core.config.gateway, re), correlation)
            case _:
                assert_never(order)

    def _challenge(self, order: IssueChallenge, correlation: bytes) -> None:
        agreement = self.core.gate.agreement
        if agreement is None:
            raise RefusedError(RefusalCode.NOT_AGREED, "no agreement yet")
        if order.prepare_eye and self.core.obstacle is None:
            self.core.spawn(self.eye.prepare(), "prepare eye")
        reply = Challenged(
            gateway=self.core.config.gateway,
            re=order.re,
            nonce=order.nonce,
            life_s=NONCE_LIFE_S,
            clock=self.reports.clock_fact(),
            agreement=agreement.agreement,
            version=agreement.version,
            due=self.reports.due_facts(),
        )
        self.replies.reply(reply, correlation)

    def _open(self, order: OpenCheck, correlation: bytes) -> None:
        if not isinstance(self.core.state, machine.Parked):
            raise RefusedError(RefusalCode.BUSY)
        if not self.link.up:
            raise RefusedError(RefusalCode.BUSY, "no link")
        if self.core.hindrance is not None:
            raise RefusedError(self.core.hindrance)
        if self.core.unwitnessed:
            raise RefusedError(RefusalCode.BUSY, "the witness has not cosigned this start")
        if not self.core.mount.parked:
            raise RefusedError(RefusalCode.NOT_PARKED)
        interval = self.core.gate.clock.interval(self.core.now())
        self.core.pending = Pending(order, correlation, interval.lo_unix_s)
        self.core.gate.current = order.facts
        self.core.dispatch(machine.Accepted(order.facts))

    def _verdict(self, order: GiveVerdict, correlation: bytes) -> None:
        assert self.core.pending is not None  # the gate knows a current check
        state = self.core.state
        if not isinstance(state, machine.Opening | machine.Watching) or order.counter <= state.last_counter:
            # The machine would not act on it, so it must not be recorded as given either.
            raise RefusedError(RefusalCode.STALE_VERSION, "counter not above the last one")
        self.records.append(
            RecordKind.VERDICT, who=order.who, role=order.role, check=order.check, why=_VERDICT_WHY[order.verdict].value
        )
        self.core.pending.verdict = order.verdict
        self.replies.reply(Accepted(self.core.config.gateway, order.re), correlation)
        self.core.dispatch(machine.Ended(_VERDICT_WHY[order.verdict], order.counter))

    def _take_agreement(self, order: TakeAgreement, correlation: bytes) -> None:
        self.core.demand_changeable()
        try:
            digest = store_agreement(self.core.config, order.stored)
        except OSError as exc:
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
        self.records.append(
            RecordKind.AGREEMENT,
            who=order.who,
            role=order.role,
            version=order.agreement.version,
            digest_of=digest,
        )
        if self.core.gate.lifts_withdrawal(order.agreement):
            self.records.append(
                RecordKind.CONSENT, who=order.who, role=order.role, version=order.agreement.version, why="fresh"
            )
        self.core.gate.take_agreement(order.agreement)
        forget_agreements(self.core.config, keep=digest)
        self.replies.reply(Accepted(self.core.config.gateway, order.re, order.agreement.version), correlation)
        self.core.hello_due_s = 0.0

    def _take_trust(self, order: TakeTrust, correlation: bytes) -> None:
        # A device that goes back must still know whom to believe: who erases it signs under the keys of that day.
        if (obstacle := self.core.gate.obstacle) is not None and obstacle is not RefusalCode.RETURNED:
            raise RefusedError(obstacle)
        try:
            digest = store_trust(self.core.config, order.stored)
        except OSError as exc:
            raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
        self.records.append(RecordKind.TRUST, version=order.trust.version, digest_of=digest)
        self.core.gate.take_trust(order.trust)
        if self.core.pending is not None and self.core.pending.order.epoch < order.trust.epoch:
            self.core.dispatch(machine.Fault(Why.REVOKED))
        self.replies.reply(Accepted(self.core.config.gateway, order.re, order.trust.version), correlation)

    def withdraw(self, *, why: str, who: str | None = None, role: str | None = None) -> None:
        """First the camera, then the state, then the record: nothing that fails may leave it on."""
        self.core.dispatch(machine.Fault(Why.RESIDENT_STOPPED))
        digest = self.core.gate.take_withdrawal(now_s=self.core.now())
        self.core.hello_due_s = 0.0
        self.records.append(RecordKind.WITHDRAWN, who=who, role=role, why=why, digest_of=digest)
        with contextlib.suppress(LedgerUnwritableError):
            # The record is durable, and the resident is to hear so; the next checkpoint covers it.
            self.records.checkpoint()
