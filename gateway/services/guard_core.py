"""What all parts of the guard share: what it was built from, the check's state, and how an event reaches the machine.

The parts stand beside one another in `guard_*.py` and know only those they are given. Everything that a part wants of
the check goes through `dispatch`; everything that runs on its own goes through `spawn`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gateway.check import machine
from gateway.config import GuardConfig
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision import Gate, OpenCheck
from gateway.edge.lamp_gpiozero import GpiozeroLamp
from gateway.edge.mount_port import MountPort
from gateway.ipc.channel import Channel
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Verdict
from gateway.services.guard_state import Chronicle


@dataclass(frozen=True, slots=True)
class OpenPreview:
    """The installer's preview, where a check has an `OpenCheck`."""

    re: str
    facts: machine.Facts
    role: str
    offer: str
    softened: bool
    epoch: int = 2**31
    """No grant stands behind it, so no trust statement revokes it; see guard_setup for what bounds it."""


@dataclass(slots=True)
class Pending:
    """What the accepted opening still needs while it runs."""

    order: OpenCheck | OpenPreview
    correlation: bytes
    opened_unix_s: float
    verdict: Verdict | None = None
    carrier: Channel[Any] | None = None
    """Who carries the picture and hears the answer instead of the link: the installer's wizard, for its preview."""


@dataclass(slots=True)
class Core:
    """The facts and the two ways on. `dispatch` and `group` are set before anything runs."""

    config: GuardConfig
    gate: Gate
    chronicle: Chronicle
    device_key: SigningKey
    mount: MountPort
    lamp: GpiozeroLamp
    now: Callable[[], float]
    """BOOTTIME in seconds."""
    state: machine.State = field(default_factory=machine.Parked)
    pending: Pending | None = None
    hello_due_s: float = 0.0
    """When the centre is told next what holds here; 0 is at once."""
    hindrance: RefusalCode | None = None
    """Why nothing may open just now; it goes by itself, other than the gate's obstacle."""
    unwitnessed: bool = False
    """The witness has not cosigned this start yet: an older card that was put back looks whole until it does."""
    group: asyncio.TaskGroup | None = None
    on_closed: Callable[[Pending | None, machine.RecordClosed], None] = lambda _pending, _closed: None
    """Told of each check and preview that has ended, after its record."""
    dispatch: Callable[[machine.Event], None] = field(init=False)

    @property
    def obstacle(self) -> RefusalCode | None:
        """Why nothing can open, whatever is asked; None when something could."""
        if self.gate.obstacle is not None or not self.gate.moved:
            return self.gate.obstacle or self.hindrance or (RefusalCode.BUSY if self.unwitnessed else None)
        return RefusalCode.WITHDRAWN

    def later(self, event: machine.Event) -> None:
        """Dispatch after the running step has been applied: the machine is not re-entered in the middle."""
        asyncio.get_running_loop().call_soon(self.dispatch, event)

    def demand_changeable(self) -> None:
        """Raise RefusedError in a check, and while something stands in the way: what the ledger can't hold, or can't be
        believed about, must not change.
        """
        if self.gate.current is not None:
            raise RefusedError(RefusalCode.BUSY, "a check is running")
        if self.gate.obstacle is not None:
            raise RefusedError(self.gate.obstacle)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self.group is not None
        self.group.create_task(work, name=name)


def close_fds(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
