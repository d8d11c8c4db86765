"""Wall time at the guard: asked of the centre, compared with the board's own clock, recorded when its state changes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.core.interval_clock import ClockState
from gateway.core.refusal import RefusedError
from gateway.edge.clock_sysfs import read_unix_s
from gateway.ipc import frame
from gateway.ledger import RecordKind
from gateway.protocol.envelope import sign
from gateway.protocol.message import TimeAsk
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide
from gateway.services.guard_record import Records
from gateway.services.guard_reply import Replies

TIME_EVERY_S: Final = 3600.0
TIME_RETRY_S: Final = 10.0
TIME_AGAIN_S: Final = 60.0
"""After a statement that did not help: too slow, or contradicted."""
COMPARE_EVERY_S: Final = 60.0


@dataclass(slots=True)
class TimeKeeping:
    core: Core
    link: LinkSide
    records: Records
    replies: Replies
    _due_s: float = 0.0
    _compare_due_s: float = 0.0

    def ask_soon(self) -> None:
        self._due_s = 0.0

    def hear(self, untrusted: bytes) -> None:
        before = self.core.gate.clock.state(self.core.now())
        paused_until_unix_s = self.core.gate.local.paused_until_unix_s
        try:
            self.core.gate.hear_time(untrusted, now_s=self.core.now())
        except RefusedError as refused:
            self.replies.refuse(refused, b"")
            return
        self.link.tell(frame.CentreAnswered())
        self._note(before)
        if self.core.gate.local.paused_until_unix_s != paused_until_unix_s:
            # A pause without an end has got one; written down, it doesn't begin anew at each start.
            with contextlib.suppress(RefusedError):
                self.records.append(
                    RecordKind.PAUSED, why="local", until_unix_s=self.core.gate.local.paused_until_unix_s
                )
        trusted = self.core.gate.clock.state(self.core.now()) in (ClockState.ATTESTED, ClockState.CROSS_CHECKED)
        self._due_s = self.core.now() + (TIME_EVERY_S if trusted else TIME_AGAIN_S)
        self.core.hello_due_s = 0.0

    def compare(self, now_s: float) -> None:
        """Ask the board's own clock, where there is one, whether the centre may be right."""
        if self.core.config.rtc is None or now_s < self._compare_due_s:
            return
        self._compare_due_s = now_s + COMPARE_EVERY_S
        before = self.core.gate.clock.state(now_s)
        floor_unix_s = self.core.gate.clock.interval(now_s).lo_unix_s
        unix_s = read_unix_s(Path(self.core.config.rtc), floor_unix_s=floor_unix_s)
        self.core.gate.clock = self.core.gate.clock.with_independent(unix_s, boottime_s=now_s)
        self._note(before)

    def _note(self, before: ClockState) -> None:
        after = self.core.gate.clock.state(self.core.now())
        if after is not before:
            with contextlib.suppress(RefusedError):
                self.records.append(RecordKind.CLOCK, why=after.value)
            self.core.hello_due_s = 0.0

    def ask(self, now_s: float) -> None:
        if not self.link.up or now_s < self._due_s:
            return
        self._due_s = now_s + TIME_RETRY_S
        nonce = self.core.gate.ask_time(now_s=now_s)
        self.link.publish(Branch.ASK, sign(TimeAsk(self.core.config.gateway, nonce), self.core.device_key))
