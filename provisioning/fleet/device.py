"""A gateway that is played: the real protocol, judgement of offers and update machine; no camera, no RAUC.

What RAUC, the reboot and the gate would say is dealt out beforehand (`fate`), and the hours between are left out: the
machine is given the times it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusedError
from gateway.protocol.envelope import TrustStore, sign, verify
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Accepted, Message, Refused, UpdateOffer, UpdateReport
from gateway.update import machine
from gateway.update.gate import Facts, Reach
from gateway.update.offer import Device, judge

Fate = Literal["good", "falls-back", "silent"]
WELL: Final = Facts(
    parked=True, guard_well=True, ledger_verifies=True, eye_well=True, reach=Reach(broker=True, tunnel=True), restarts=1
)


@dataclass(slots=True)
class PlayedGateway:
    gateway: str
    trust: TrustStore
    compatible: str
    fate: Fate = "good"
    running: str = "0.1.0"
    key: SigningKey = field(default_factory=SigningKey.generate)
    state: machine.AnyState = field(default_factory=machine.Idle)
    offers: int = 0
    """How often it was given one."""

    def take(self, untrusted: bytes, *, unix_s: float) -> list[Message]:
        """What it says to a command: the answer first, then report after report until the update has ended."""
        self.offers += 1
        re = "unread"
        try:
            offer = verify(untrusted, self.trust.releases, UpdateOffer)
            re = f"offer-{offer.statement}"
            if offer.statement == self.state.statement:
                return [Accepted(self.gateway, re, offer.statement)]
            device = Device(self.compatible, self.running, "all", self.state.statement, self.state.floor)
            is_newer = judge(offer, device, Interval(unix_s - 1.0, unix_s + 1.0))
        except RefusedError as refused:
            return [Refused(self.gateway, re, refused.code.value)]
        said: list[Message] = [Accepted(self.gateway, re, offer.statement)]
        for event, now_s in self._life(offer, is_newer):
            if self.fate == "silent" and isinstance(self.state, machine.Rebooting):
                break
            self.state, effects = machine.step(self.state, event, now_s=now_s)
            said += [self._report(effect) for effect in effects if isinstance(effect, machine.Report)]
        if isinstance(self.state, machine.Idle) and self.state.phase == "good":
            self.running = offer.version
        return said

    def _life(self, offer: UpdateOffer, is_newer: bool) -> list[tuple[machine.Event, float]]:
        """What happens to it, with BOOTTIME."""
        look = machine.Looked("b1", True, True, False, WELL)
        life: list[tuple[machine.Event, float]] = [
            (machine.Taken(offer, is_newer), 10.0),
            (look, 15.0),
            (machine.Progressed(50), 200.0),
            (machine.Finished(), 400.0),
            (look, 405.0),
        ]
        if self.fate == "falls-back":
            return [*life, (machine.Booted("b2", by_try=False, running=self.running, reason="fell-back"), 30.0)]
        life.append((machine.Booted("b2", by_try=True, running=offer.version), 30.0))
        return life + [(machine.Looked("b2", True, True, False, WELL), 30.0 + 5.0 * n) for n in range(1, 130)]

    def _report(self, effect: machine.Report) -> UpdateReport:
        offer = effect.offer
        return UpdateReport(
            self.gateway,
            offer.statement,
            offer.version,
            self.running,
            effect.phase,
            effect.why,
            effect.percent,
            offer.manifest_sha256,
        )

    def sign(self, message: Message) -> bytes:
        return sign(message, self.key)
