"""What the guard tells the centre without being asked: what holds here, and what is due."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.edge.bench_world import BenchWorld
from gateway.edge.board_sysfs import Board
from gateway.ipc import frame
from gateway.protocol.envelope import sign
from gateway.protocol.message import ClockFact, DueFact, Health, Hello
from gateway.protocol.topic import Branch
from gateway.services.guard_core import Core
from gateway.services.guard_link import LinkSide

HELLO_EVERY_S: Final = 300.0
HEALTH_EVERY_S: Final = 300.0


@dataclass(slots=True)
class Reports:
    core: Core
    link: LinkSide
    _board: Board = field(init=False)
    _of_link: frame.LinkHealth | None = None
    _health_due_s: float = 0.0

    def __post_init__(self) -> None:
        config = self.core.config
        sysfs = Path("/sys") if config.world is None else BenchWorld(config.world).sysfs
        self._board = Board(sysfs, Path(config.state_dir))

    @property
    def tunnel_up(self) -> bool:
        return self._of_link is not None and self._of_link.tunnel == "up"

    def hear_link(self, of_link: frame.LinkHealth) -> None:
        self._of_link = of_link

    def say_health(self, now_s: float) -> None:
        if not self.link.up or now_s < self._health_due_s:
            return
        self._health_due_s = now_s + HEALTH_EVERY_S
        chronicle, of_link = self.core.chronicle, self._of_link
        health = Health(
            gateway=self.core.config.gateway,
            boot=chronicle.boot,
            uptime_s=round(now_s, 1),
            sw=chronicle.sw,
            clock=self.clock_fact(),
            ledger_size=chronicle.size,
            cosigned_size=None if chronicle.cosigned is None else chronicle.cosigned.checkpoint.size,
            slot=self._board.slot(),
            temperature_c=self._board.temperature_c(),
            throttled=self._board.throttled(),
            disk_free_bytes=self._board.disk_free_bytes(),
            outbox_items=None if of_link is None else of_link.outbox_items,
            outbox_dropped=None if of_link is None else of_link.outbox_dropped,
            certificate_days=None if of_link is None else of_link.certificate_days,
            tunnel=None if of_link is None else of_link.tunnel,
        )
        self.link.publish(Branch.HEALTH, sign(health, self.core.device_key))

    def say_hello(self, now_s: float) -> None:
        if not self.link.up or now_s < self.core.hello_due_s:
            return
        self.core.hello_due_s = now_s + HELLO_EVERY_S
        agreement = self.core.gate.agreement
        hello = Hello(
            gateway=self.core.config.gateway,
            install_epoch=self.core.config.install_epoch,
            boot=self.core.chronicle.boot,
            sw=self.core.chronicle.sw,
            clock=self.clock_fact(),
            agreement=None if agreement is None else agreement.agreement,
            version=None if agreement is None else agreement.version,
            due=self.due_facts(),
            obstacle=None if self.core.obstacle is None else self.core.obstacle.value,
        )
        self.link.publish(Branch.HEALTH, sign(hello, self.core.device_key))

    def clock_fact(self) -> ClockFact:
        now_s = self.core.now()
        interval = self.core.gate.clock.interval(now_s)
        hi_unix_s = None if interval.hi_unix_s == float("inf") else interval.hi_unix_s
        return ClockFact(self.core.gate.clock.state(now_s).value, interval.lo_unix_s, hi_unix_s)

    def due_facts(self) -> list[DueFact]:
        facts = []
        for item in self.core.gate.due(now_s=self.core.now())[:24]:
            occasion = item.occasion
            facts.append(
                DueFact(
                    line=item.line_id,
                    occasion=occasion.occasion_id,
                    status=item.status,
                    attempt=item.attempt or 0,
                    opens_unix_s=item.opens_unix_s if item.opens_unix_s is not None else occasion.start_unix_s,
                    closes_unix_s=item.closes_unix_s if item.closes_unix_s is not None else occasion.end_unix_s,
                    max_s=occasion.max_s,
                )
            )
        return facts
