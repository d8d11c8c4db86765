"""What the homes say: from an MQTT message to a row, an answer to a waiting request, and news to the pages.

A message is acknowledged after its row is committed. One that doesn't verify is counted as an alarm, dropped and
acknowledged, so that it doesn't come back for ever. Only a store that can't write ends the loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import zlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from centre.handover import agreement_at, begin, tell
from centre.missed import closed_unix_s, reason_of
from centre.outcome import outcome_of
from centre.port import BrokerPort
from centre.state import CentreState, Home
from centre.store import LedgerRow
from centre.witness import BREAKS_THE_LOG, Log, Ruling, parse_submission
from gateway.core.error import TransientError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.edge.broker_paho import BrokerDown, BrokerUp, Incoming
from gateway.ledger import NoteError, parse_line
from gateway.ledger.record import Occasion as LedgerOccasion
from gateway.protocol import strict_json
from gateway.protocol.envelope import sign, split, verify
from gateway.protocol.message import (
    KINDS,
    Accepted,
    Challenged,
    Closed,
    DeviceReturned,
    Health,
    Hello,
    Id,
    LogLines,
    MissedCheck,
    Opened,
    Refused,
    Returning,
    Signal,
    TimeAsk,
    TimeStatement,
    UpdateReport,
    Word,
)
from gateway.protocol.topic import ROOT, Branch, parse, topic

_HEARD: Final = (Branch.REPLY, Branch.LEDGER, Branch.SIGNAL, Branch.LOG, Branch.HEALTH, Branch.STATUS, Branch.ASK)
_ONE_WORKER: Final = frozenset({Branch.LOG, Branch.ASK})


def subscriptions(*, shares: bool) -> tuple[str, ...]:
    """What a worker hears. With `shares` it is one of several.

    A reply is waited for in one worker, and which one the broker can't know; evidence must not be lost with a worker
    that dies holding it; a status is retained, and shared subscriptions get nothing retained; a view signal is about
    now. A broker that shares out in turn goes on giving a dead worker its share for as long as its session lasts: with
    an even number of homes the same ones' Hellos were lost each time. All these every worker hears, and the store knows
    what it has already. Time asks, which a home repeats until one is answered, and counts of log lines go to one of
    them. Source: MQTT 5.0, 4.8.2; Mosquitto 2.0.11 was seen to give an absent session its turn.
    """
    shared = _ONE_WORKER if shares else frozenset()
    return tuple(f"{'$share/centre/' if branch in shared else ''}{ROOT}/+/{branch.value}" for branch in _HEARD)


TIME_RADIUS_S: Final = 1.0
"""What the centre promises of its own clock; it is to run NTP or better."""
COSIGNED_LIFE_S: Final = 3600
WANTED_LIFE_S: Final = 60
MAX_LEDGER_LINE_BYTES: Final = 4096
MAX_NOTE_BYTES: Final = 8192
HANDED_OVER: Final = frozenset({"missed-check", "handover"})
"""Kinds of ledger records by which a home itself says that somebody must act."""
_ASK_QUEUE_LENGTH: Final = 256
_CRC: Final = re.compile(rb"[0-9a-f]{8} \Z")
_UNKNOWN_HOME: Final = "unknown"

_log = logging.getLogger(__name__)


class _StatusFact(msgspec.Struct, frozen=True):
    online: bool
    tunnel: Word | None = None


class _LedgerBody(msgspec.Struct, frozen=True):
    """The fields that the console lists, of a record that has more."""

    kind: Word | None = None
    who: Id | None = None
    why: Word | None = None
    check: Id | None = None
    time_lo: Annotated[float, Meta(ge=0)] | None = None
    watched_s: Annotated[float, Meta(ge=0)] | None = None
    frames: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    line: Id | None = None
    occasion: LedgerOccasion | None = None


class _LedgerLine(msgspec.Struct, frozen=True):
    seq: Annotated[int, Meta(ge=0, le=2**53)]
    body: _LedgerBody | None = None


def parse_ledger_line(untrusted: bytes) -> LedgerRow:
    """Read a line `<8 hex crc> <json>` with its newline as far as the console needs it; raises RefusedError(malformed).

    The tree over the lines is the witness's to check; here a line is bounded, whole and has a number.
    """
    line = _parse_line(untrusted)
    body = line.body or _LedgerBody()
    return LedgerRow(
        seq=line.seq,
        raw=untrusted,
        kind=body.kind,
        who=body.who,
        why=body.why,
        check=body.check,
        time_lo_unix_s=body.time_lo,
        watched_s=body.watched_s,
        frames=body.frames,
    )


def _parse_line(untrusted: bytes) -> _LedgerLine:
    if len(untrusted) > MAX_LEDGER_LINE_BYTES or not untrusted.endswith(b"\n"):
        raise RefusedError(RefusalCode.MALFORMED, "ledger line")
    crc, content = untrusted[:9], untrusted[9:-1]
    if not _CRC.match(crc) or int(crc[:8], 16) != zlib.crc32(content):
        raise RefusedError(RefusalCode.MALFORMED, "CRC of a ledger line")
    value = strict_json.loads(content, max_bytes=MAX_LEDGER_LINE_BYTES)
    try:
        return msgspec.convert(value, _LedgerLine, strict=True)
    except msgspec.ValidationError as exc:
        raise RefusedError(RefusalCode.MALFORMED, "ledger line's schema") from exc


class Intake:
    """Takes every message of the broker, one after another. One for the process."""

    def __init__(self, state: CentreState, broker: BrokerPort) -> None:
        self._state = state
        self._broker = broker
        self._asks: asyncio.Queue[TimeAsk] = asyncio.Queue(_ASK_QUEUE_LENGTH)
        self._first_missing: dict[tuple[str, int], int] = {}
        self.dropped_asks = 0

    async def run(self) -> None:
        """Take messages until cancelled. Raises SQLAlchemyError when the store can't write: end the process then."""
        while True:
            match await self._broker.next_event():
                case Incoming() as incoming:
                    await self._take(incoming)
                case BrokerUp():
                    _log.info("broker: connected")
                    self._say_what_is_witnessed()
                case BrokerDown(why):
                    _log.warning("broker: down (%s)", why)

    def _say_what_is_witnessed(self) -> None:
        state = self._state
        if state.cosigner is None:
            _log.warning("witness: no witness_key_path in the configuration; checkpoints are checked, not cosigned")
        else:
            _log.info("witness: %s", state.cosigner.public)
        unwitnessed = len(state.homes) - len(state.logs)
        if unwitnessed:
            _log.warning("witness: %d homes have no ledger_vkey in the configuration; not witnessed", unwitnessed)

    async def answer_time(self) -> None:
        """Answer the homes' time asks until cancelled; the clock is read last, right before the statement goes out."""
        state = self._state
        while True:
            ask = await self._asks.get()
            statement = TimeStatement(ask.gateway, ask.nonce, state.clock(), TIME_RADIUS_S)
            published = self._broker.publish(
                topic(ask.gateway, Branch.TIME), sign(statement, state.issuing_key), expiry_s=5
            )
            try:
                await published
            except TransientError:
                continue  # the home asks again, and an old answer would be void

    async def _take(self, incoming: Incoming) -> None:
        place = parse(incoming.topic)
        home = self._state.homes.get(place[0]) if place is not None else None
        try:
            if place is None or home is None:
                raise RefusedError(RefusalCode.WRONG_DEVICE)
            await self._take_from(home, place[1], incoming)
        except RefusedError as exc:
            _log.warning("dropped a message of %s: %s", home.gateway if home else _UNKNOWN_HOME, exc.code)
            await self._alarm(home, exc.code)
        incoming.ack()

    async def _take_from(self, home: Home, branch: Branch, incoming: Incoming) -> None:
        match branch:
            case Branch.REPLY:
                await self._take_reply(home, incoming)
            case Branch.HEALTH:
                await self._take_health(home, incoming.payload)
            case Branch.STATUS:
                await self._take_status(home, incoming.payload)
            case Branch.ASK:
                self._take_ask(home, incoming.payload)
            case Branch.LEDGER:
                await self._take_ledger(home, incoming.payload)
            case Branch.SIGNAL:
                await self._take_signal(home, incoming.payload)
            case Branch.LOG:
                await self._take_log(home, incoming.payload)
            case Branch.COMMAND | Branch.TIME | Branch.RELAY | Branch.WITNESS | Branch.WANTED:
                raise RefusedError(RefusalCode.MALFORMED, "a branch that only we write")

    async def _take_reply(self, home: Home, incoming: Incoming) -> None:
        kind = KINDS[split(incoming.payload).kind]
        if kind not in (
            Challenged,
            Opened,
            Closed,
            MissedCheck,
            Accepted,
            Refused,
            Returning,
            DeviceReturned,
            UpdateReport,
        ):
            raise RefusedError(RefusalCode.MALFORMED, "not a reply")
        message = verify(incoming.payload, {home.device_key.kid: home.device_key}, kind)
        match message:
            case Closed():
                self._demand_own(home, message.gateway)
                await self._take_closed(home, message, incoming.payload)
            case MissedCheck():
                self._demand_own(home, message.gateway)
                await self._take_missed(home, message)
            case UpdateReport():
                self._demand_own(home, message.gateway)
                await self._take_update(home, message)
            case DeviceReturned():
                self._demand_own(home, message.gateway)
                await self._take_last_word(home, message, incoming.payload)
            case Challenged() | Opened() | Accepted() | Refused() | Returning():
                self._demand_own(home, message.gateway)
                await self._take_answer(home, message, incoming)

    async def _take_closed(self, home: Home, closed: Closed, jws: bytes) -> None:
        state, now_unix_s = self._state, self._state.clock()
        agreement = None
        if closed.next == "recheck":
            agreement = await asyncio.to_thread(agreement_at, state.store, home.gateway, home.install_epoch, now_unix_s)
        is_new = await asyncio.to_thread(
            state.store.put_outcome,
            closed,
            closed_jws=jws.decode("ascii"),
            now_unix_s=now_unix_s,
            install_epoch=home.install_epoch,
            outcome=outcome_of(closed),
            closed_unix_s=closed_unix_s(closed, agreement, heard_unix_s=now_unix_s),
        )
        # Both also when the row was known: we may have died right after it was written, and pages are not shared.
        if closed.next == "handover":
            await self._hand_over(home, closed.line, closed.occasion, "not-seen")
        if is_new and closed.why == "seal-broken":
            await self._count(home.gateway, closed.why, always=True)
        state.events.send("closed", msgspec.to_builtins(closed))
        state.events.send("home", {"gateway": closed.gateway})

    async def _take_update(self, home: Home, report: UpdateReport) -> None:
        state = self._state
        is_new = await asyncio.to_thread(state.store.put_update_report, report, now_unix_s=state.clock())
        if is_new and report.phase == "stale":
            _log.warning("%s: no valid update statement for 14 days", home.gateway)
            await self._count(home.gateway, "update-stale")
        elif is_new and report.phase != "downloading":
            state.events.send("update", {"gateway": home.gateway, "phase": report.phase, "why": report.why})

    async def _take_last_word(self, home: Home, said: DeviceReturned, jws: bytes) -> None:
        state = self._state
        if said.install_epoch != home.install_epoch:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "another installation")
        is_new = await asyncio.to_thread(
            state.store.attest_return, said, jws=jws.decode("ascii"), now_unix_s=state.clock()
        )
        if is_new:
            _log.info("%s: has said its last word and is erased", home.gateway)
            state.events.send("home", {"gateway": home.gateway})

    async def _take_signal(self, home: Home, payload: bytes) -> None:
        """Who looks has it from the home itself, faster; this one is for everybody else's list."""
        signal = verify(payload, {home.device_key.kid: home.device_key}, Signal)
        self._demand_own(home, signal.gateway)
        await asyncio.to_thread(self._state.store.put_signal, signal, now_unix_s=self._state.clock())
        self._state.events.send("signal", msgspec.to_builtins(signal))

    async def _take_missed(self, home: Home, missed: MissedCheck) -> None:
        """The home's own alarm. It begins the hand-over, or joins the one that the centre began for that occasion."""
        state = self._state
        reason = await asyncio.to_thread(
            reason_of, state.store, missed, install_epoch=home.install_epoch, now_unix_s=state.clock()
        )
        await self._hand_over(home, missed.line, missed.occasion, reason)
        await asyncio.to_thread(
            state.store.put_missed, missed, install_epoch=home.install_epoch, now_unix_s=state.clock()
        )
        state.events.send("home", {"gateway": home.gateway})

    async def _take_answer(
        self, home: Home, message: Challenged | Opened | Accepted | Refused | Returning, incoming: Incoming
    ) -> None:
        state, store, now_unix_s = self._state, self._state.store, self._state.clock()
        correlation = incoming.correlation
        if not await asyncio.to_thread(store.is_asked, correlation, gateway=home.gateway, jti=message.re):
            # Signed by the home and yet no answer to anything: an old one played again, or a home that misbehaves.
            raise RefusedError(RefusalCode.NONCE_UNKNOWN, "nobody asked")
        answer = message.code if isinstance(message, Refused) else message.KIND
        is_first = await asyncio.to_thread(
            store.answer_command,
            correlation,
            gateway=home.gateway,
            jti=message.re,
            answer=answer,
            now_unix_s=now_unix_s,
        )
        if is_first and isinstance(message, Refused):
            await asyncio.to_thread(
                store.put_refusal, home.gateway, code=message.code, re=message.re, now_unix_s=now_unix_s
            )
        if is_first and message.re.startswith("offer-"):
            code = message.code if isinstance(message, Refused) else None
            await asyncio.to_thread(store.note_offer_answer, home.gateway, message.re, code, now_unix_s=now_unix_s)
        if is_first and isinstance(message, Returning):
            await asyncio.to_thread(store.answer_return, message, now_unix_s=now_unix_s)
            state.events.send("home", {"gateway": home.gateway})
        if is_first and isinstance(message, Challenged):
            await asyncio.to_thread(store.take_challenged, message, now_unix_s=now_unix_s)
            state.events.send("home", {"gateway": home.gateway})
        state.exchange.resolve(home.gateway, correlation=correlation, jti=message.re, reply=incoming.payload)

    async def _take_health(self, home: Home, payload: bytes) -> None:
        """Two kinds on one branch: what holds for checks, and how the device is."""
        if split(payload).kind != Health.KIND:
            await self._take_hello(home, payload)
            return
        health = verify(payload, {home.device_key.kid: home.device_key}, Health)
        self._demand_own(home, health.gateway)
        await asyncio.to_thread(self._state.store.put_health, health, now_unix_s=self._state.clock())

    async def _take_log(self, home: Home, payload: bytes) -> None:
        log = verify(payload, {home.device_key.kid: home.device_key}, LogLines)
        self._demand_own(home, log.gateway)
        await asyncio.to_thread(self._state.store.put_log, log, now_unix_s=self._state.clock())

    async def _take_hello(self, home: Home, payload: bytes) -> None:
        state = self._state
        hello = verify(payload, {home.device_key.kid: home.device_key}, Hello)
        self._demand_own(home, hello.gateway)
        if hello.install_epoch != home.install_epoch:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "another installation")
        if await asyncio.to_thread(state.store.take_hello, hello, now_unix_s=state.clock()):
            state.events.send("home", {"gateway": home.gateway})
        if (home.gateway, home.install_epoch) not in self._first_missing:
            # We have just begun, maybe from a backup: what we lack the home has long been told that we have.
            await self._say_what_is_wanted(home.gateway, home.install_epoch)

    async def _hand_over(self, home: Home, line: str, occasion: str, reason: str) -> None:
        handover = await asyncio.to_thread(
            begin,
            self._state.store,
            gateway=home.gateway,
            install_epoch=home.install_epoch,
            line=line,
            occasion=occasion,
            reason=reason,
            now_unix_s=self._state.clock(),
        )
        if handover is not None:
            tell(self._state, handover, home.gateway)

    async def _take_status(self, home: Home, payload: bytes) -> None:
        status = _parse_status(payload)
        await asyncio.to_thread(
            self._state.store.set_online,
            home.gateway,
            online=status.online,
            tunnel=status.tunnel,
            now_unix_s=self._state.clock(),
        )
        self._state.events.send("home", {"gateway": home.gateway})

    def _take_ask(self, home: Home, payload: bytes) -> None:
        ask = verify(payload, {home.device_key.kid: home.device_key}, TimeAsk)
        self._demand_own(home, ask.gateway)
        try:
            self._asks.put_nowait(ask)
        except asyncio.QueueFull:
            self.dropped_asks += 1  # the home asks again; an answer that waited longer than its limit is void

    async def _take_ledger(self, home: Home, payload: bytes) -> None:
        state, log = self._state, self._state.logs.get(home.gateway)
        if payload.startswith((b"tillsyn/", b"old ")):
            if log is not None:
                await self._witness(log, payload)
                return
            note = _note(payload)
            digest = hashlib.sha256(payload).hexdigest()
            await asyncio.to_thread(
                state.store.put_checkpoint, home.gateway, note, note_sha256=digest, now_unix_s=state.clock()
            )
            return
        row = parse_ledger_line(payload)
        if log is not None:
            try:
                parse_line(payload)  # what the witness reckons with is exactly what the home's own ledger would take
            except ValueError as exc:
                raise RefusedError(RefusalCode.MALFORMED, "ledger line") from exc
        is_agreed = await asyncio.to_thread(state.store.put_ledger_row, home.gateway, row)
        await self._say_what_is_wanted(home.gateway, home.install_epoch)
        if not is_agreed:
            raise RefusedError(RefusalCode.INTEGRITY_ALARM, "two ledger lines under one number")
        if row.kind in HANDED_OVER:
            body = _parse_line(payload).body or _LedgerBody()
            # One that doesn't say which occasion is somebody's task all the same.
            reason = body.why or ("missed-check" if row.kind == "missed-check" else "not-seen")
            await self._hand_over(home, body.line or "unknown", body.occasion or f"record-{row.seq}", reason)
        state.events.send("home", {"gateway": home.gateway})

    async def _say_what_is_wanted(self, gateway: str, install_epoch: int) -> None:
        """Tell the home which of its records we lack: until then it keeps them, and sends them again."""
        known = self._first_missing.get((gateway, install_epoch), 0)
        missing = await asyncio.to_thread(self._state.store.first_missing, gateway, known=known)
        self._first_missing[gateway, install_epoch] = missing
        # One that is lost is said again after the next record, and the home sends one until it has heard.
        said = self._broker.publish(
            topic(gateway, Branch.WANTED), strict_json.dumps({"seq": missing}), expiry_s=WANTED_LIFE_S
        )
        said.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _witness(self, log: Log, payload: bytes) -> None:
        """A checkpoint alone, or with a proof as for any other witness. What is not consistent is alarmed."""
        state, witness = self._state, self._state.witness
        try:
            if payload.startswith(b"old "):
                submission = parse_submission(payload)
                result = await asyncio.to_thread(witness.submit, log, submission, now_unix_s=state.clock())
            else:
                result = await asyncio.to_thread(witness.take, log, payload, now_unix_s=state.clock())
        except NoteError as exc:
            raise RefusedError(RefusalCode.BAD_SIGNATURE, str(exc)) from exc
        if result.newest is not None:
            # Whatever the ruling: a home whose card was put back, or copied, learns only from this that its ledger is
            # not the one we know. One that is lost is said again after the home's next checkpoint, within the hour.
            said = self._broker.publish(topic(log.gateway, Branch.WITNESS), result.newest, expiry_s=COSIGNED_LIFE_S)
            said.add_done_callback(lambda done: done.cancelled() or done.exception())
        if result.ruling in (Ruling.CONSISTENT, Ruling.REPEATED):
            return
        if result.ruling in BREAKS_THE_LOG:
            _log.error("%s: disabled: %s; %d records were witnessed", log.gateway, result.ruling, result.known_size)
            state.events.send("home", {"gateway": log.gateway})
        else:
            _log.warning("%s: checkpoint not taken: %s", log.gateway, result.ruling)
            if result.ruling is Ruling.GAP:
                await self._say_what_is_wanted(log.gateway, log.install_epoch)
        await self._count(log.gateway, result.ruling.value)

    async def _alarm(self, home: Home | None, code: RefusalCode) -> None:
        # The name in a topic of no home of ours is a stranger's text and goes nowhere.
        await self._count(home.gateway if home else _UNKNOWN_HOME, code.value)

    async def _count(self, gateway: str, code: str, *, always: bool = False) -> None:
        state = self._state
        count = await asyncio.to_thread(state.store.count_alarm, gateway, code, now_unix_s=state.clock())
        # At 1, 10, 100, … only: a flood must not push the news of real checks out of the pages' queues.
        if always or str(count).strip("0") == "1":
            state.events.send("alarm", {"gateway": gateway, "code": code, "count": count})

    @staticmethod
    def _demand_own(home: Home, gateway: str) -> None:
        if gateway != home.gateway:
            raise RefusedError(RefusalCode.WRONG_DEVICE)


def _parse_status(untrusted: bytes) -> _StatusFact:
    """Read the retained connection hint. Unsigned, so it is shown and nothing hangs on it. Raises RefusedError."""
    try:
        return msgspec.convert(strict_json.loads(untrusted, max_bytes=512), _StatusFact, strict=True)
    except msgspec.ValidationError as exc:
        raise RefusedError(RefusalCode.MALFORMED, "status") from exc


def _note(untrusted: bytes) -> str:
    if len(untrusted) > MAX_NOTE_BYTES or b"\0" in untrusted:  # PostgreSQL's text can't hold a NUL
        raise RefusedError(RefusalCode.MALFORMED, "checkpoint too long, or no text")
    try:
        return untrusted.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RefusedError(RefusalCode.MALFORMED, "checkpoint is no text") from exc
