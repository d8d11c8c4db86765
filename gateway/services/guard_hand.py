"""The resident's hand: pause, stop, resume and state, on the control socket. Works without any network."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

from gateway.check import machine
from gateway.check.machine import Why
from gateway.core.refusal import RefusedError
from gateway.decision.gate import NOT_TONIGHT_S
from gateway.ipc import frame
from gateway.ipc.channel import Channel, ChannelLostError
from gateway.ledger import RecordKind
from gateway.services.guard_command import Commands
from gateway.services.guard_core import Core, close_fds
from gateway.services.guard_record import Records

LOG = logging.getLogger("tillsyn.guard")

MAX_HANDS: Final = 4
HAND_LIMIT_S: Final = 5.0


@dataclass(slots=True)
class Hands:
    core: Core
    records: Records
    commands: Commands
    on_act: Callable[[], bool] = field(init=False)
    """The physical act that set-up wants; whether it was waited for."""
    _count: int = 0
    _paused_by_act: bool = False

    async def accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            if self._count >= MAX_HANDS:
                sock.close()
                continue
            self.core.spawn(self._serve(Channel(sock, frame.ToGuardFromHand)), "hand")

    async def _serve(self, channel: Channel[frame.ToGuardFromHand]) -> None:
        self._count += 1
        try:
            async with asyncio.timeout(HAND_LIMIT_S):
                got, fds = await channel.receive()
                close_fds(fds)
                self.obey(got)
                channel.send(self._local_facts())
        except (ChannelLostError, TimeoutError) as exc:
            LOG.info("hand: %s", exc)
        except RefusedError as refused:
            # What was asked holds in this process; it could not be written down, so the guard ends and starts anew.
            LOG.error("hand: %s", refused)
        finally:
            self._count -= 1
            channel.close()

    def obey(self, got: frame.ToGuardFromHand) -> None:
        """Do what the resident said, by command or by button. What can't be recorded holds, and raises RefusedError."""
        match got:
            case frame.AskState():
                pass
            case frame.StopForGood():
                self.commands.withdraw(why="local")
            case frame.NotTonight(duration_s):
                self._paused_by_act = False
                self.core.dispatch(machine.Fault(Why.RESIDENT_STOPPED))
                until_unix_s = self.core.gate.take_pause(duration_s, now_s=self.core.now())
                self.core.hello_due_s = 0.0
                self.records.append(RecordKind.PAUSED, why="local", until_unix_s=until_unix_s)
            case frame.SetupAct():
                self.on_act()
            case frame.EndPause():
                self.core.gate.end_pause()
                self.core.hello_due_s = 0.0
                self.records.append(RecordKind.PAUSED, why="ended")
            case _:
                assert_never(got)

    def act_at_button(self) -> None:
        """The button was held while power came. With set-up waiting for it that is all it means.

        Else it may have been the resident, who wanted no camera: then it is *not tonight* as well.
        """
        if not self.on_act():
            was_paused = self.core.gate.local.paused_until_unix_s is not None
            self.obey(frame.NotTonight(NOT_TONIGHT_S))
            self._paused_by_act = not was_paused

    def resume_after_act(self) -> None:
        """The act was set-up's after all: what it has paused, and nothing else, goes on."""
        if self._paused_by_act:
            self._paused_by_act = False
            self.obey(frame.EndPause())

    def _local_facts(self) -> frame.LocalFacts:
        until_unix_s = self.core.gate.local.paused_until_unix_s
        interval = self.core.gate.clock.interval(self.core.now())
        agreement = self.core.gate.agreement
        return frame.LocalFacts(
            withdrawn=self.core.gate.local.withdrawn,
            paused=until_unix_s is not None and interval.lo_unix_s < until_unix_s,
            paused_until_unix_s=None if until_unix_s is None or until_unix_s == float("inf") else until_unix_s,
            checking=not isinstance(self.core.state, machine.Parked | machine.Disabled),
            parked=self.core.mount.parked,
            clock=self.core.gate.clock.state(self.core.now()).value,
            agreement=None if agreement is None else agreement.agreement,
            version=None if agreement is None else agreement.version,
            obstacle=None if self.core.obstacle is None else self.core.obstacle.value,
        )
