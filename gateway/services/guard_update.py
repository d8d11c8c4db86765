"""The guard's side of `tillsyn-upkeep`: offers are verified and recorded here, and what may disturb is decided here.

Upkeep has RAUC and the slots, but no agreement and no clock: it begins nothing and restarts nothing that this side does
not allow at that moment. What it reports is recorded and signed here, and reaches the centre through the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, assert_never

import msgspec

from gateway.agreement import occasions_between
from gateway.check import machine
from gateway.config import GuardConfig
from gateway.core.error import LedgerUnwritableError
from gateway.core.interval_clock import ClockState, Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import TakeOffer
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect
from gateway.ledger import RecordKind
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.envelope import sign, to_message, verify
from gateway.protocol.message import Accepted, UpdateOffer, UpdateReport
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core, close_fds
from gateway.services.guard_eye import EyeSide
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies
from gateway.services.guard_report import Reports
from gateway.update.offer import Device, in_time, is_stale, version_key
from gateway.update.quiet import INSTALL_S, RESTART_S, Span, may_disturb

LOG = logging.getLogger("tillsyn.guard")

LOOK_EVERY_S: Final = 1.0
AGAIN_S: Final = 1.0
SPANS_EVERY_S: Final = 60.0
STALE_AGAIN_S: Final = 86_400.0
AROUND_S: Final = 2 * 86_400.0
"""Occasions so far around now are looked at; none reaches further."""
TEST_EVERY_S: Final = 60.0
TEST_LIMIT_S: Final = 45.0
"""An eye that has not said within this that it is ready has failed its test. Less than from one test to the next."""
OFFERED: Final = "offer"
"""`why` of the record that an offer leaves; its version is the statement's number."""


def offer_path(config: GuardConfig) -> Path:
    return Path(config.state_dir) / "update-offer.jws"


@dataclass(slots=True)
class UpdateSide:
    core: Core
    link: LinkSide
    records: Records
    replies: Replies
    reports: Reports
    eye: EyeSide
    begun_unix_s: float | None = None
    """When this device began, as far as the ledger knows: who never heard a statement is late from then on."""
    _channel: Channel[frame.ToGuardFromUpkeep] | None = None
    _offer: UpdateOffer | None = None
    _looked_s: float = float("-inf")
    _spans: tuple[Span, ...] | None = None
    _spans_due_s: float = float("-inf")
    _spans_of: object = None
    _tested_s: float | None = None
    _eye_was_well: bool = False
    """By the last test that has ended."""
    _stale_told_s: float | None = None

    def __post_init__(self) -> None:
        self._offer = self._stored()

    def take(self, order: TakeOffer, correlation: bytes) -> None:
        """Persist, record, hand over. Raises RefusedError."""
        core = self.core
        if core.gate.obstacle is not None:
            raise RefusedError(core.gate.obstacle)
        if not order.is_new and (self._offer is None or self._offer != order.offer):
            raise RefusedError(RefusalCode.STALE_VERSION, "another statement of this number is in force")
        if order.is_new:
            try:
                replace_durably(Disk(), offer_path(core.config), order.stored)
            except OSError as exc:
                raise RefusedError(RefusalCode.LEDGER_UNWRITABLE, str(exc)) from exc
            digest = hashlib.sha256(order.stored).hexdigest()
            self.records.append(RecordKind.UPDATE, why=OFFERED, version=order.offer.statement, digest_of=digest)
            core.gate.statement = order.offer.statement
            self._offer = order.offer
            self._stale_told_s = None
        self._order()
        self.replies.reply(Accepted(core.config.gateway, order.re, order.offer.statement), correlation)

    async def keep_connected(self) -> None:
        """Be there for upkeep, which listens; until cancelled."""
        path = self.core.config.upkeep_socket
        while path is not None:
            with contextlib.suppress(ChannelLostError):
                await self._serve(Channel(await connect(path), frame.ToGuardFromUpkeep))
            await asyncio.sleep(AGAIN_S)

    async def _serve(self, channel: Channel[frame.ToGuardFromUpkeep]) -> None:
        self._channel = channel
        try:
            while True:
                got, fds = await channel.receive()
                close_fds(fds)
                self._hear(got)
        except ChannelLostError as exc:
            LOG.info("upkeep: %s", exc)
        finally:
            channel.close()
            self._channel = None
            self.core.gate.device = None

    def _hear(self, got: frame.ToGuardFromUpkeep) -> None:
        match got:
            case frame.Beat():
                pass
            case frame.UpkeepIs():
                ring = self.core.config.release_ring
                self.core.gate.device = Device(got.compatible, got.running, ring, self.core.gate.statement, got.floor)
                if self._offer is not None and self._offer.statement > got.statement:
                    self._order()
            case frame.TryEye():
                self._test_eye()
            case frame.UpdateSaid():
                self._report(got)
            case _:
                assert_never(got)

    def look(self, now_s: float) -> None:
        """Say what is allowed just now; and whether no statement has come for too long."""
        if self.core.config.upkeep_socket is None or now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        interval = self.core.gate.clock.interval(now_s)
        self._tell_stale(interval, now_s)
        if self._channel is None:
            return
        offer = self._offer
        timely = None if offer is None else in_time(offer, interval)
        gate = self.core.gate
        well = gate.obstacle is None
        self._tell(
            frame.UpkeepMay(
                install=timely is True and self._may(interval, now_s, INSTALL_S),
                restart=self._may(interval, now_s, RESTART_S),
                is_over=timely is False,
                parked=self.core.mount.parked,
                guard_well=well,
                ledger_verifies=self.core.chronicle.ledger is not None and well,
                eye_well=self._is_eye_well(now_s),
                broker=self.link.broker_up,
                tunnel=self.reports.tunnel_up,
                restarts=self.link.accepted,
            )
        )

    def _may(self, interval: Interval, now_s: float, takes_s: float) -> bool:
        busy = self.core.gate.current is not None or not isinstance(self.core.state, machine.Parked)
        return may_disturb(self._occasions(interval, now_s), interval, takes_s=takes_s, busy=busy)

    def _occasions(self, interval: Interval, now_s: float) -> tuple[Span, ...] | None:
        agreement = self.core.gate.agreement
        if agreement is None:
            return None
        if interval.hi_unix_s == float("inf"):
            return ()  # nothing is allowed then anyway
        if self._spans_of is not agreement or now_s >= self._spans_due_s:
            # Without a look at pauses and consent: an occasion that turns out to be none costs an hour of waiting.
            begin = datetime.fromtimestamp(max(0.0, interval.lo_unix_s - AROUND_S), UTC)
            end = datetime.fromtimestamp(interval.hi_unix_s + AROUND_S, UTC)
            self._spans = tuple(
                Span(float(occasion.start_unix_s), float(occasion.recheck_end_unix_s))
                for occasion in occasions_between(agreement, begin, end)
            )
            self._spans_of, self._spans_due_s = agreement, now_s + SPANS_EVERY_S
        return self._spans

    def _test_eye(self) -> None:
        now_s = self.core.now()
        if not isinstance(self.core.state, machine.Parked) or self.core.gate.current is not None:
            return
        if self._tested_s is not None and now_s - self._tested_s < TEST_EVERY_S:
            return
        self._tested_s = now_s
        self.core.spawn(self.eye.prepare(), "eye's self-test")

    def _is_eye_well(self, now_s: float) -> bool:
        """A test that is under way says nothing yet: between two that were good the eye is well."""
        if self._tested_s is None:
            return False
        if self.eye.is_ready or (self.eye.ready_s or float("-inf")) >= self._tested_s:
            self._eye_was_well = True
        elif now_s - self._tested_s > TEST_LIMIT_S:
            self._eye_was_well = False
        return self._eye_was_well

    def _order(self) -> None:
        device, offer = self.core.gate.device, self._offer
        if device is None or offer is None:
            return
        is_newer = version_key(offer.version) > version_key(device.running)
        self._tell(frame.UpdateOrdered(msgspec.json.encode(offer), is_newer))

    def _report(self, said: frame.UpdateSaid) -> None:
        device = self.core.gate.device
        try:
            report = to_message(
                {
                    "gateway": self.core.config.gateway,
                    "statement": said.statement,
                    "version": said.version,
                    "running": said.version if device is None else device.running,
                    "phase": said.phase,
                    "why": said.why,
                    "percent": said.percent,
                    "manifest_sha256": said.manifest_sha256,
                },
                UpdateReport,
            )
        except RefusedError as exc:
            LOG.warning("upkeep said what is no report: %s", exc)
            return
        if said.percent is None:
            word = said.phase if said.why is None else f"{said.phase}-{said.why}"[:40]
            with contextlib.suppress(RefusedError):
                self.records.append(RecordKind.UPDATE, why=word, version=said.statement, digest_of=said.manifest_sha256)
        self._publish(report)

    def _tell_stale(self, interval: Interval, now_s: float) -> None:
        since_unix_s = self._offer.stated if self._offer is not None else self.begun_unix_s
        if since_unix_s is None or not is_stale(since_unix_s, interval):
            return
        if self._stale_told_s is not None and now_s - self._stale_told_s < STALE_AGAIN_S:
            return
        if self.core.gate.clock.state(now_s) is ClockState.FLOOR:
            return  # the next attestation is near, and the newest statement may come with it
        self._stale_told_s = now_s
        LOG.warning("no valid update statement for 14 days")
        device, statement = self.core.gate.device, self.core.gate.statement
        version = "0.0.0" if self._offer is None else self._offer.version
        running = version if device is None else device.running
        with contextlib.suppress(RefusedError, LedgerUnwritableError):
            self.records.append(RecordKind.UPDATE, why="stale", version=statement)
        self._publish(UpdateReport(self.core.config.gateway, statement, version, running, "stale"))

    def _publish(self, report: UpdateReport) -> None:
        self.link.publish(Branch.REPLY, sign(report, self.core.device_key), evidential=True)

    def _tell(self, word: frame.Frame) -> None:
        if self._channel is not None:
            with contextlib.suppress(ChannelLostError):
                self._channel.send(word)

    def _stored(self) -> UpdateOffer | None:
        """The newest offer, if the keys that are trusted today signed it; else the centre gives one again."""
        try:
            offer = verify(offer_path(self.core.config).read_bytes(), self.core.gate.trust.releases, UpdateOffer)
        except (OSError, RefusedError):
            return None
        if offer.statement < self.core.gate.statement:
            return None
        # Retention takes the record's payload in the end; what the release role signed still says how far we were.
        self.core.gate.statement = offer.statement
        return offer
