"""The guard's side of the link: one at a time; what goes out through it, and what its outbox still lacks.

Nothing here waits for anybody. What has evidential value and finds no link is kept in order for the next one; of the
ledger the outbox gets whatever it says it wants, from the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.check import machine
from gateway.check.machine import Why
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger import RecordFeed
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core, close_fds
from gateway.services.guard_state import ledger_path

LOG = logging.getLogger("tillsyn.guard")

MAX_UNSENT: Final = 200
FEED_RECORDS: Final = 64
FEED_RECORDS_IN_CHECK: Final = 4


@dataclass(slots=True)
class LinkSide:
    """The link's channel, when there is one."""

    core: Core
    on_frame: Callable[[frame.ToGuardFromLink], None] = field(init=False)
    _feed: RecordFeed = field(init=False)
    channel: Channel[frame.ToGuardFromLink] | None = None
    broker_up: bool = False
    accepted: int = 0
    """How many links there have been; more than one is a restart."""
    _wanted: int | None = None
    """The record that the link's outbox wants next; None until it has said so."""
    _unsent: deque[frame.Publish] = field(default_factory=lambda: deque(maxlen=MAX_UNSENT))

    def __post_init__(self) -> None:
        self._feed = RecordFeed(ledger_path(self.core.config))

    @property
    def up(self) -> bool:
        """What is published now reaches the broker, as far as anybody knows."""
        return self.channel is not None and self.broker_up

    @property
    def is_fed(self) -> bool:
        """The link's outbox has every record that there is: what is published now does not overtake one."""
        return self._wanted is not None and self._wanted >= self.core.chronicle.size

    def want(self, seq: int) -> None:
        """The outbox lacks everything from record `seq` on."""
        self._wanted = seq
        self.feed_outbox()

    async def accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            # One link at a time. A second one replaces the first: it is the restarted one, or something is wrong.
            if self.channel is not None:
                self.channel.close()
                self.broker_up = False  # what the old one said
                self.core.dispatch(machine.Fault(Why.LINK_LOST))
            channel: Channel[frame.ToGuardFromLink] = Channel(sock, frame.ToGuardFromLink)
            self.channel = channel
            self.accepted += 1
            self._wanted = None
            self.core.spawn(self._serve(channel), "link")
            with contextlib.suppress(ChannelLostError):
                while self._unsent:
                    channel.send(self._unsent[0])
                    self._unsent.popleft()

    async def _serve(self, channel: Channel[frame.ToGuardFromLink]) -> None:
        try:
            while True:
                got, fds = await channel.receive()
                close_fds(fds)
                self.on_frame(got)
        except ChannelLostError as exc:
            LOG.warning("link lost: %s", exc)
        finally:
            channel.close()
        # Not when cancelled: then the group takes no new task, and `_make_safe` has the last word.
        if self.channel is channel:
            self.channel = None
            self.broker_up = False
            self.core.dispatch(machine.Fault(Why.LINK_LOST))

    def publish_record(self, line: bytes) -> None:
        """Give the newest record to the link, if it has all those before it; else it comes in its turn."""
        seq = self.core.chronicle.size - 1
        if self.channel is None or self._wanted is None or self._wanted != seq:
            return
        with contextlib.suppress(ChannelLostError):
            self.channel.send(frame.Publish(Branch.LEDGER.value, line, evidential=True, seq=seq))
            self._wanted = seq + 1

    def feed_outbox(self) -> None:
        """Give the link what its outbox lacks, a portion at a time, from the ledger's files."""
        wanted = self._wanted
        if self.channel is None or wanted is None or wanted >= self.core.chronicle.size:
            return
        if self.channel.waiting > FEED_RECORDS:
            return
        # In a check nothing may hold up the beats: then a few records at a time, and the rest when it is over.
        limit = FEED_RECORDS if isinstance(self.core.state, machine.Parked) else FEED_RECORDS_IN_CHECK
        for stored in self._feed.portion(wanted, limit):
            try:
                self.channel.send(frame.Publish(Branch.LEDGER.value, stored.line, evidential=True, seq=stored.seq))
            except ChannelLostError:
                return
            self._wanted = stored.seq + 1
        if self._wanted == self.core.chronicle.size and (note := self.core.chronicle.last_checkpoint()):
            self.publish(Branch.LEDGER, note, evidential=True, slot="checkpoint")

    def publish(
        self,
        branch: Branch,
        payload: bytes,
        *,
        correlation: bytes = b"",
        evidential: bool = False,
        slot: str | None = None,
    ) -> None:
        order = frame.Publish(branch.value, payload, correlation, evidential, slot=slot)
        if self.channel is not None:
            try:
                self.channel.send(order)
            except ChannelLostError:
                LOG.info("the link went while it was told something")
            else:
                return
        if evidential:
            # Waits for the next link, in order. Beyond the bound the ledger still has it.
            self._unsent.append(order)

    def tell(self, word: frame.Frame) -> None:
        if self.channel is not None:
            with contextlib.suppress(ChannelLostError):
                self.channel.send(word)
