"""What the services logged at WARNING and above, signed and told to the centre: counted events, seldom, no free text.

The guard counts its own and what link and eye say they counted; whose it is, it knows by the channel. While there is
no broker the counts stand; they are bounded, whoever logs however much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.core.log_digest import LogDigest, Service
from gateway.ipc import frame
from gateway.protocol.envelope import sign
from gateway.protocol.message import LogLine, LogLines
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide

EVERY_S: Final = 30.0
"""At most one message in this time: 32 kinds of events, about 3 KB."""


@dataclass(slots=True)
class Logs:
    core: Core
    link: LinkSide
    digest: LogDigest = field(default_factory=lambda: LogDigest("guard"))
    _due_s: float = 0.0

    def hear(self, service: Service, counted: frame.Logged) -> None:
        self.digest.count(service, counted.level, counted.event, counted.count)

    def flush(self, now_s: float) -> None:
        if not self.link.up or now_s < self._due_s:
            return
        counted, left_out = self.digest.drain()
        if not counted:
            return
        self._due_s = now_s + EVERY_S
        lines = [LogLine(each.service, each.level, each.event, each.count) for each in counted]
        message = LogLines(self.core.config.gateway, self.core.chronicle.boot, lines, left_out)
        self.link.publish(Branch.LOG, sign(message, self.core.device_key))
