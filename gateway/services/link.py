"""The link: MQTT, ICE, the home's way out. Holds no device node, no signing key, and no picture it could read.

Unit: tillsyn-link. It carries bytes between the broker and the guard, and sealed datagrams between the operator and the
eye. What has evidential value waits in the outbox, on disk and in order: a record of the ledger until the centre says
that it has it, anything else until the broker has acknowledged it. The link tells the guard which record of the ledger
the outbox wants next, so that nothing is missed whoever of the two was away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

from gateway.config import LinkConfig
from gateway.core.boottime import boottime_s
from gateway.core.error import LedgerUnwritableError, TransientError
from gateway.core.log_digest import LogDigest
from gateway.core.refusal import RefusedError
from gateway.edge.broker_paho import Broker, BrokerDown, BrokerUp, Incoming
from gateway.edge.certificate_der import not_after
from gateway.edge.ice_aioice import carry
from gateway.edge.log_systemd import start_logging
from gateway.edge.outbox_sqlite import Outbox, OutboxFullError
from gateway.edge.service_systemd import feed_watchdog, harden, run_until_signal
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError, connect
from gateway.protocol.message import LinkSettings
from gateway.protocol.topic import TO_GATEWAY, Branch, parse, topic
from gateway.services.evidence import Evidence, parse_wanted
from gateway.services.link_address import Address, Answered, Ordered, provisioned
from gateway.services.link_way import WayOut, broker_addresses

LOG = logging.getLogger("tillsyn.link")

BEAT_S: Final = 1.0
SILENT_S: Final = 4.0
"""A broker that owes an acknowledgement for longer is as good as gone, long before TCP or keep-alive say so."""
MAX_COMMANDS_WAITING: Final = 64
EVIDENCE_RETRY_S: Final = 1.0
HEALTH_EVERY_S: Final = 60.0
GUARD_RETRY_S: Final = 0.2
MOVE_AFTER_S: Final = 3.0
"""So long, at most, what the old broker has not acknowledged yet holds up the move to a new one."""


@dataclass(slots=True)
class Link:
    """The running service."""

    config: LinkConfig
    broker: Broker
    outbox: Outbox
    way: WayOut
    address: Address
    _guard: Channel[frame.ToLink] | None = None
    _media: asyncio.Task[None] | None = None
    _evidence_waits: asyncio.Event = field(default_factory=asyncio.Event)
    _owed: dict[int, float] = field(default_factory=dict)
    _owes_nothing: asyncio.Event = field(default_factory=asyncio.Event)
    _up: bool = False
    _connected: bool = False
    _group: asyncio.TaskGroup | None = None
    _flooded: int = 0
    _outbox_was_full: bool = False
    digest: LogDigest = field(default_factory=lambda: LogDigest("link"))
    _health_due_s: float = 0.0
    _moving: asyncio.Task[None] | None = None
    _evidence: Evidence = field(init=False)

    def __post_init__(self) -> None:
        self._evidence = Evidence(self.outbox, lambda seq: self._tell(frame.OutboxWants(seq)))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self.broker.run(), name="broker")
            group.create_task(self._from_broker(), name="from broker")
            group.create_task(self._to_guard(), name="guard")
            group.create_task(self._beat(), name="beat")
            group.create_task(self._send_evidence(), name="evidence")
            group.create_task(feed_watchdog(), name="watchdog")
            group.create_task(self.way.return_to_tunnel(self.broker, busy=lambda: self._media is not None), name="way")

    async def _from_broker(self) -> None:
        while True:
            event = await self.broker.next_event()
            match event:
                case BrokerUp(by_fallback):
                    LOG.info("broker up")
                    self.way.note_up(by_fallback=by_fallback)
                    self._connected = True
                    self._owed.clear()
                    self._owes_nothing.set()
                    status = topic(self.config.gateway, Branch.STATUS)
                    self.broker.publish(
                        status, json.dumps({"online": True, "tunnel": self.way.word}).encode(), retain=True
                    )
                    self._evidence.connected()
                    self._evidence_waits.set()
                    self._note_broker()
                case BrokerDown(why):
                    LOG.warning("broker down: %s", why)
                    self._connected = False
                    self._note_broker()
                case Incoming():
                    self._incoming(event)
                case _:
                    assert_never(event)

    def _incoming(self, event: Incoming) -> None:
        event.ack()
        named = parse(event.topic)
        # A retained command is somebody's old one, whoever put it there.
        if event.retain or named is None or named[0] != self.config.gateway or len(event.payload) > 16 * 1024:
            LOG.warning("dropped a message on %s", "a retained topic" if event.retain else "a topic")
            return
        if self._guard is not None and self._guard.waiting > MAX_COMMANDS_WAITING:
            # A flood. Opening commands are worth nothing late, and state commands are sent again.
            self._flooded += 1
            if self._flooded % 1000 == 1:
                LOG.warning("commands come faster than the guard can refuse them: %d dropped", self._flooded)
        elif named[1] is Branch.COMMAND:
            self._tell(frame.CommandArrived(event.payload, event.correlation[:64]))
        elif named[1] is Branch.TIME:
            self._tell(frame.TimeArrived(event.payload))
        elif named[1] is Branch.RELAY:
            self.way.take_credentials(event.payload)
        elif named[1] is Branch.WITNESS:
            self._tell(frame.CosignedArrived(event.payload))
        elif named[1] is Branch.WANTED:
            self._hear_wanted(event.payload)

    def _hear_wanted(self, untrusted: bytes) -> None:
        try:
            wanted = parse_wanted(untrusted)
        except RefusedError as exc:
            LOG.warning("dropped a word of what is wanted: %s", exc.code)
            return
        self._evidence.hear(wanted, boottime_s())
        self._evidence_waits.set()
        self._take_up_room()

    async def _to_guard(self) -> None:
        while True:
            try:
                channel: Channel[frame.ToLink] = Channel(await connect(self.config.guard_socket), frame.ToLink)
            except ChannelLostError:
                await asyncio.sleep(GUARD_RETRY_S)
                continue
            self._guard = channel
            try:
                channel.send(frame.OutboxWants(self.outbox.next_seq))
                channel.send(frame.BrokerChanged(self._up))
                self._say_address()
                while True:
                    got, fds = await channel.receive()
                    self._obey(got, fds)
            except ChannelLostError as exc:
                LOG.warning("guard lost: %s", exc)
            finally:
                channel.close()
                self._guard = None
                self._end_media()
            await asyncio.sleep(GUARD_RETRY_S)

    def _obey(self, got: frame.ToLink, fds: list[int]) -> None:
        match got:
            case frame.Beat():
                pass
            case frame.Publish():
                self._publish(got)
            case frame.LinkOrdered(settings):
                self._take_address(settings)
            case frame.CentreAnswered():
                self._centre_answered()
            case frame.MediaOpened() if len(fds) == 1:
                self._end_media()
                self._media = self._spawn(carry(socket.socket(fileno=fds[0]), self.way.ice()), "media")
            case frame.MediaOpened():
                raise ChannelLostError("media without its socket")
            case frame.MediaShut():
                self._end_media()
            case _:
                assert_never(got)

    def _publish(self, order: frame.Publish) -> None:
        if not order.evidential:
            self._send(order.branch, order.payload, correlation=order.correlation, retain=order.retain)
            return
        if order.seq is None:
            self.outbox.put(order.branch, order.payload, slot=order.slot)
        elif order.seq > self.outbox.next_seq:
            # It overtook what we asked for; the guard gives it again in its turn.
            self._tell(frame.OutboxWants(self.outbox.next_seq))
        else:
            try:
                self.outbox.put_record(order.seq, order.branch, order.payload)
            except OutboxFullError:
                self._outbox_was_full = True
        self._evidence_waits.set()

    def _send(
        self,
        branch: str,
        payload: bytes,
        *,
        correlation: bytes = b"",
        retain: bool = False,
        demand_listener: bool = False,
    ) -> asyncio.Future[None]:
        done = self.broker.publish(
            topic(self.config.gateway, Branch(branch)),
            payload,
            correlation=correlation,
            retain=retain,
            demand_listener=demand_listener,
        )
        if not done.done():
            number = id(done)
            self._owed[number] = boottime_s()
            self._owes_nothing.clear()
            done.add_done_callback(lambda _: self._settle(number))
        return done

    def _settle(self, number: int) -> None:
        self._owed.pop(number, None)
        if not self._owed:
            self._owes_nothing.set()
        self._note_broker()

    def _take_address(self, untrusted: bytes) -> None:
        try:
            settings = msgspec.json.decode(untrusted, type=LinkSettings)
            must_move = self.address.take(Ordered(settings))
        except (msgspec.MsgspecError, LedgerUnwritableError) as exc:
            LOG.error("address of the broker not taken: %s", exc)  # the guard gives it again in the next connection
            return
        self._say_address()
        if must_move:
            self._move()

    def _centre_answered(self) -> None:
        # What the old broker still brought while we leave it says nothing of the new one.
        if not self._connected or self._moving is not None:
            return
        try:
            self.address.take(Answered(self.way.by_fallback))
        except LedgerUnwritableError as exc:
            LOG.error("address of the broker: %s", exc)
            return
        self._say_address()

    def _look_at_address(self) -> None:
        if self._media is not None or self._moving is not None:
            return
        try:
            must_move = self.address.look()
        except LedgerUnwritableError as exc:
            LOG.error("address of the broker: %s", exc)
            return
        if must_move:
            self._say_address()
            self._move()

    def _say_address(self) -> None:
        state = self.address.state
        self._tell(frame.LinkSettingsAre(state.current.version, state.trial is not None, state.high_water))

    def _move(self) -> None:
        if self._moving is None:
            self._moving = self._spawn(self._leave_for_current(), "move to another broker")

    async def _leave_for_current(self) -> None:
        """To whatever is current by then, once the old broker has what it was given."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MOVE_AFTER_S):
                    await self._owes_nothing.wait()
            settings = self.address.state.current
            self.way.use(settings)
            self.broker.move_to(*broker_addresses(self.config, settings))
            self._connected = False
        finally:
            self._moving = None

    async def _send_evidence(self) -> None:
        """One at a time, each until the broker has taken it; which one is `Evidence`'s to say."""
        while True:
            item = self._evidence.next(boottime_s()) if self._connected else None
            if item is None:
                self._evidence_waits.clear()
                due_s = self._evidence.due_s() if self._connected else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if due_s is None else max(due_s - boottime_s(), 0.0)):
                        await self._evidence_waits.wait()
                continue
            try:
                # An acknowledgement counts only where somebody got it: the centre, or its session.
                await self._send(item.branch, item.payload, demand_listener=True)
            except TransientError:
                await asyncio.sleep(EVIDENCE_RETRY_S)
                continue
            self._evidence.sent(item, boottime_s())
            self._take_up_room()

    def _take_up_room(self) -> None:
        if self._outbox_was_full and not self.outbox.is_full:
            self._outbox_was_full = False
            self._tell(frame.OutboxWants(self.outbox.next_seq))

    async def _beat(self) -> None:
        while True:
            self._tell(frame.Beat())
            self._note_broker()
            self._look_at_address()
            self._say_health()
            await asyncio.sleep(BEAT_S)

    def _say_health(self) -> None:
        if self._guard is None:
            return
        for each in self.digest.drain()[0]:
            self._tell(frame.Logged(each.level, each.event, each.count))
        if boottime_s() < self._health_due_s:
            return
        self._health_due_s = boottime_s() + HEALTH_EVERY_S
        self._tell(
            frame.LinkHealth(self.outbox.size, self.outbox.dropped, certificate_days(self.config.cert), self.way.word)
        )

    def _note_broker(self) -> None:
        silent = any(boottime_s() - since_s > SILENT_S for since_s in self._owed.values())
        up = self._connected and not silent
        if silent and self._connected and self.way.settings.fallback is not None:
            # Perhaps only this way is dead. The next connection is tried by both.
            self.broker.hang_up()
        if up is not self._up:
            self._up = up
            self._tell(frame.BrokerChanged(up))

    def _end_media(self) -> None:
        if self._media is not None:
            self._media.cancel()
            self._media = None

    def _tell(self, word: frame.Frame) -> None:
        if self._guard is not None:
            with contextlib.suppress(ChannelLostError):
                self._guard.send(word)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None
        return self._group.create_task(work, name=name)


def certificate_days(path: str) -> int | None:
    """Whole days until our client certificate ends, by the system's clock: for a report, nothing is decided by it."""
    try:
        return (not_after(Path(path).read_bytes()) - datetime.now(UTC)).days
    except (OSError, ValueError):
        return None


def main(config: LinkConfig) -> None:
    """Run until SIGTERM. Raises ConfigError for unusable TLS files."""
    harden()
    digest = LogDigest("link")
    start_logging("link", digest)
    outbox = Outbox(Path(config.outbox))
    known = Address(outbox, provisioned(config))
    way = WayOut(config, known.state.current)
    address, fallback = broker_addresses(config, known.state.current)
    broker = Broker(
        address,
        client_id=config.gateway,
        subscriptions=[topic(config.gateway, branch) for branch in sorted(TO_GATEWAY)],
        will=(topic(config.gateway, Branch.STATUS), json.dumps({"online": False}).encode()),
        fallback=fallback,
        spread_s=config.spread_s,
    )
    try:
        run_until_signal(Link(config, broker, outbox, way, known, digest=digest).run())
    finally:
        outbox.close()
