"""Many homes on one real broker connection, without cameras: they verify commands, reckon what is due by the device's
own agreement code, sign what they answer, and remember what they were asked to do.

A centre can't tell them from homes, but for the picture: an opened check of theirs has no stream. For the picture there
is the whole bench home.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.agreement import (
    Agreement,
    Attempt,
    LocalState,
    due,
    encode_agreement,
    next_step,
    occasion_at,
    parse_agreement,
)
from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.edge.broker_paho import Broker, BrokerAddress, BrokerDown, BrokerUp, Incoming
from gateway.protocol.envelope import TrustStore, sign, verify_command
from gateway.protocol.key import SigningKey, b64url_encode
from gateway.protocol.message import (
    Accepted,
    AgreementPut,
    Challenge,
    Challenged,
    ClockFact,
    Close,
    Closed,
    ConfigPut,
    DeviceErase,
    DeviceReturn,
    DeviceReturned,
    DueFact,
    Hello,
    LinkSettings,
    Message,
    Open,
    Opened,
    Refused,
    Returning,
    TimeAsk,
    Verdict,
    VerdictGiven,
)
from gateway.protocol.return_code import return_code

FLEET = "gw-fleet"
"""The one certificate; the broker's access list lets it speak for every home of the fleet."""

RETURN_NONCE = "d" * 21 + "A"
"""Its part of a return's short code."""


@dataclass
class SimulatedHome:
    """One home. `opened` is every opening that it took: (occasion, attempt, who).

    With `lapses_after_s` a check ends by itself after that, as a home's does whose operator never heard that it opened;
    leases are not renewed here.
    """

    gateway: str
    trust: TrustStore
    agreement: Agreement | None = None
    key: SigningKey = field(default_factory=SigningKey.generate)
    clock: Callable[[], float] = time.time
    obstacle: str | None = None
    is_silent: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    opened: list[tuple[str, int, str]] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    ordered: list[LinkSettings] = field(default_factory=list)
    nonces: set[str] = field(default_factory=set)
    running: tuple[str, Open, str, float] | None = None
    returned: tuple[DeviceReturn, str, str] | None = None
    paused_until_unix_s: float | None = None
    lapses_after_s: float | None = None
    on_opened: Callable[[str], None] = lambda _who: None

    @property
    def audience(self) -> str:
        return f"{self.gateway}/1"

    def interval(self) -> Interval:
        return Interval(self.clock() - 0.5, self.clock() + 0.5)

    def due(self) -> list[DueFact]:
        if self.agreement is None:
            return []
        local = LocalState(False, self.paused_until_unix_s)
        items = due(self.agreement, self.interval(), self.attempts, local)
        return [
            DueFact(
                item.line_id,
                item.occasion.occasion_id,
                item.status,
                0 if self.running is not None else item.attempt or 0,
                item.opens_unix_s or 0.0,
                item.closes_unix_s or 0.0,
                item.occasion.max_s,
            )
            for item in items[:24]
        ]

    def clock_fact(self) -> ClockFact:
        return ClockFact("attested", self.clock() - 0.5, self.clock() + 0.5)

    def hello(self) -> Hello:
        agreement = self.agreement
        return Hello(
            self.gateway,
            1,
            "b-1",
            "0.1-sim",
            self.clock_fact(),
            None if agreement is None else agreement.agreement,
            None if agreement is None else agreement.version,
            self.due(),
            self.obstacle,
        )

    def take(self, untrusted: bytes) -> list[Message]:
        """What it answers to a command, the reply first. Raises RefusedError."""
        verified = verify_command(
            untrusted, self.trust, audience=self.audience, gateway=self.gateway, groups=frozenset({"sim"})
        )
        command: Any = verified.command
        match command:
            case Challenge():
                nonce = b64url_encode(secrets.token_bytes(16))
                self.nonces.add(nonce)
                assert self.agreement is not None
                return [
                    Challenged(
                        self.gateway, command.jti, nonce, 30.0, self.clock_fact(), self.agreement.agreement,
                        self.agreement.version, self.due(),
                    )
                ]  # fmt: skip
            case Open():
                return [self._open(command, verified.who)]
            case VerdictGiven():
                if self.running is None or self.running[0] != command.check:
                    raise RefusedError(RefusalCode.NOT_AGREED)
                return [Accepted(self.gateway, command.jti), self._close(command.verdict)]
            case ConfigPut():
                self.ordered.append(command.settings)
                return [Accepted(self.gateway, command.jti, command.settings.version)]
            case Close():
                return [Accepted(self.gateway, command.jti)]
            case DeviceReturn():
                self.obstacle, self.returned = "returned", (command, verified.who, verified.kid)
                return [Returning(self.gateway, 1, command.jti, command.version, RETURN_NONCE, 9)]
            case DeviceErase():
                return self._erase(command, verified.who)
            case AgreementPut():
                self.agreement = parse_agreement(encode(command.agreement))
                return [Accepted(self.gateway, command.jti, self.agreement.version)]
        raise RefusedError(RefusalCode.MALFORMED)

    def _erase(self, command: DeviceErase, who: str) -> list[Message]:
        assert self.returned is not None
        order, ordered_by, kid = self.returned
        shown = return_code(
            audience=self.audience, version=order.version, steward_kid=kid, nonce=order.nonce,
            device_kid=self.key.verifying.kid, device_nonce=RETURN_NONCE,
        )  # fmt: skip
        if who == ordered_by or command.code != shown:
            raise RefusedError(RefusalCode.WRONG_ROLE)
        last_word = DeviceReturned(self.gateway, 1, order.version, ordered_by, who, 9, self.clock())
        return [Accepted(self.gateway, command.jti, order.version), last_word]

    def _open(self, command: Open, who: str) -> Message:
        if command.nonce not in self.nonces:
            raise RefusedError(RefusalCode.NONCE_UNKNOWN)
        self.nonces.discard(command.nonce)
        if self.running is not None:
            raise RefusedError(RefusalCode.BUSY)
        if self.obstacle is not None:
            raise RefusedError(RefusalCode(self.obstacle))
        now = next((one for one in self.due() if (one.line, one.occasion) == (command.line, command.occasion)), None)
        if now is None or now.attempt != command.attempt or now.status not in ("due", "recheck"):
            raise RefusedError(RefusalCode.BUDGET_SPENT)
        check = f"c-{secrets.token_hex(6)}"
        self.running = (check, command, who, self.clock())
        self.opened.append((command.occasion, command.attempt, who))
        self.on_opened(who)
        return Opened(self.gateway, command.jti, check, "v=0\r\n", 60, 5.0, 10.0)

    def lapse(self, check: str) -> Closed | None:
        """Close this check if it still runs: nobody has said anything for too long."""
        return self._close(None) if self.running is not None and self.running[0] == check else None

    def _close(self, verdict: Verdict | None) -> Closed:
        """With a verdict, or because the lease lapsed before anybody saw much."""
        assert self.running is not None
        assert self.agreement is not None
        check, command, who, opened_s = self.running
        self.running = None
        now_s = self.clock()
        outcome: Any = "broken" if verdict is None else verdict.value
        self.attempts.append(Attempt(command.line, command.occasion, command.attempt, opened_s, now_s, outcome))
        occasion = occasion_at(self.agreement, command.line, self.interval())
        step = None if occasion is None else next_step(self.agreement, occasion, self.attempts)
        next_word = "none" if verdict is Verdict.SEEN else "handover" if step is None else step.action
        why = "lease-lapsed" if verdict is None else verdict.value.replace("_", "-")
        closed = Closed(
            self.gateway, check, why, who, command.line, command.occasion, command.attempt,
            2.0 if verdict is None else max(6.0, now_s - opened_s), 150, True, len(self.attempts), next_word,
            None if step is None else step.opens_unix_s, verdict,
        )  # fmt: skip
        self.closed.append(closed)
        return closed


def encode(agreement: dict[str, Any]) -> bytes:
    from gateway.protocol import strict_json

    return strict_json.dumps(agreement)


@dataclass
class Fleet:
    """The homes and their connection."""

    homes: dict[str, SimulatedHome]
    broker: Broker
    answers_after_s: float = 0.0

    async def say(self, home: SimulatedHome, branch: str, message: Message, correlation: bytes = b"") -> None:
        await self.broker.publish(
            f"tillsyn/v1/{home.gateway}/{branch}", sign(message, home.key), correlation=correlation
        )

    async def hello(self, *gateways: str) -> None:
        for gateway in gateways or self.homes:
            await self.say(self.homes[gateway], "health", self.homes[gateway].hello())

    async def status(self, gateway: str, *, online: bool) -> None:
        text = b'{"online":true}' if online else b'{"online":false}'
        await self.broker.publish(f"tillsyn/v1/{gateway}/status", text, retain=True)

    async def ask_time(self, gateway: str) -> None:
        home = self.homes[gateway]
        await self.say(home, "ask", TimeAsk(gateway, b64url_encode(secrets.token_bytes(16))))

    async def run(self, up: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                match await self.broker.next_event():
                    case BrokerUp():
                        up.set()
                    case BrokerDown():
                        pass
                    case Incoming() as incoming:
                        incoming.ack()
                        group.create_task(self._answer(incoming), name="answer")

    async def _answer(self, incoming: Incoming) -> None:
        home = self.homes.get(incoming.topic.split("/")[2])
        if home is None or home.is_silent:
            return
        if self.answers_after_s:
            await asyncio.sleep(self.answers_after_s)
        try:
            said = home.take(incoming.payload)
        except RefusedError as exc:
            said = [Refused(home.gateway, _jti(incoming.payload), exc.code.value)]
        await self.say(home, "reply", said[0], incoming.correlation)
        for more in said[1:]:
            await self.say(home, "reply", more)
        if len(said) > 1 or isinstance(said[0], Accepted):
            await self.hello(home.gateway)
        if isinstance(said[0], Opened) and home.lapses_after_s is not None:
            await asyncio.sleep(home.lapses_after_s)
            if (lapsed := home.lapse(said[0].check)) is not None:
                await self.say(home, "reply", lapsed)
                await self.hello(home.gateway)


def _jti(untrusted: bytes) -> str:
    import base64
    import json

    payload = untrusted.split(b"~")[-1].split(b".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + b"=="))["jti"])


@contextlib.asynccontextmanager
async def fleet(homes: dict[str, SimulatedHome], *, port: int, folder: Path) -> AsyncIterator[Fleet]:
    """Connected to the broker at `port` with the certificate `folder`/fleet.pem."""
    address = BrokerAddress(
        "127.0.0.1", port, folder / "ca.pem", folder / "fleet.pem", folder / "fleet.key", "localhost"
    )
    broker = Broker(address, client_id=FLEET, subscriptions=["tillsyn/v1/+/command"])
    running = Fleet(homes, broker)
    up = asyncio.Event()
    tasks = [asyncio.create_task(broker.run()), asyncio.create_task(running.run(up))]
    try:
        async with asyncio.timeout(20):
            await up.wait()
        yield running
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def an_agreement(
    gateway: str, *, start: str, zone: str = "UTC", window_min: int = 60, lines: int = 1, after_min: int = 1
) -> Agreement:
    """Daily from yesterday on, `lines` lines at the same time of day."""
    from datetime import UTC, datetime, timedelta

    today = datetime.now(UTC).date()
    value = {
        "agreement": f"a-{gateway}",
        "version": 1,
        "gateway": gateway,
        "install_epoch": 1,
        "timezone": zone,
        "valid": {"from": str(today - timedelta(days=2)), "until": str(today + timedelta(days=300))},
        "consent": {
            "resident": {"given": str(today - timedelta(days=3)), "how": "paper", "ref": "c-1"},
            "cohabitant": None,
        },
        "lines": [
            {
                "id": f"night-{number + 1}",
                "rrule": "FREQ=DAILY",
                "start": start,
                "window_min": window_min,
                "max_s": 60,
                "recheck": {"after_min": after_min, "times": 1},
            }
            for number in range(lines)
        ],
        "picture": {"mode": "clear"},
        "lamp": "dim",
        "if_not_seen": [{"do": "visit", "unit": "hv-sim", "within_min": 1}],
        "pauses": [],
        "resident_ref": f"r-{gateway}",
    }
    agreement = parse_agreement(encode(value))
    assert encode_agreement(agreement)
    return agreement
