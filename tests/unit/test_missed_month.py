"""A month of nights in twelve homes, with everything going wrong: no agreed check may end with nobody knowing.

The real store, intake, jobs and API; homes that sign, operators who forget, staff who do not acknowledge, a centre that
is away for a day. Each home judges its own occasions as the device does and reports what was missed, once it is heard
again; the centre judges for itself, and the two are to come to one hand-over. Time is moved by hand. What should have
happened is written down by the simulation itself and compared at the end, so that the code under test is not its own
witness. `pytest -s` prints the table.

Mutations that turn it red, each tried: judge only the last six hours; skip a home that is offline; begin no hand-over
for a re-check that nobody made; settle a refusal for a fault; stop escalating after the first time. For the device's
half: let the home judge by an empty history; leave out `put_missed`; let the home's pauses count for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_support import a_record
from protocol_support import AGREEMENT
from test_centre_app import ORIGIN, FakeBroker, FakeHome, command

from centre.app import make_app
from centre.config import IceConfig
from centre.exchange import Exchange
from centre.intake import Intake
from centre.missed import GRACE_S, look_once, reconcile_once
from centre.state import Account, CentreState, Home
from centre.store import Store
from centre.witness import Cosigner
from gateway.agreement import Attempt, parse_agreement
from gateway.agreement.missed import Quiet, missed
from gateway.ledger import CompactTree, NoteSigner, sign_checkpoint
from gateway.ledger.record import FIRST_PREV, RecordKind, new_line
from gateway.protocol.envelope import TrustStore
from gateway.protocol.key import SigningKey
from gateway.protocol.message import (
    Accepted,
    AgreementPut,
    ClockFact,
    Closed,
    DueFact,
    Hello,
    Message,
    MissedCheck,
    Open,
    Opened,
    Refused,
    Role,
)
from gateway.services.guard_state import outcome_of as device_outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED: Final = 20261025
ZONE: Final = ZoneInfo("Europe/Stockholm")
FIRST: Final = date(2026, 10, 10)
NIGHTS: Final = 30
"""Over the night of 25 October, in which half past two comes twice."""
LINES: Final = {"night-1": (23, 30), "night-2": (2, 30)}
WINDOW_S, MAX_S, AFTER_S = 1800, 60, 900
NIGHT_STEP_S, DAY_STEP_S = 300, 1800
CENTRE_AWAY: Final = (date(2026, 10, 18), 26 * 3600)
SILENT_FOR_GOOD: Final = ("gw-sim-03", date(2026, 10, 20))
RESTORED: Final = ("gw-sim-02", date(2026, 10, 30))
WITNESSED: Final = ("gw-sim-01", "gw-sim-02")

WAYS: Final = {
    "seen": 62, "forgotten": 7, "seen at the re-check": 4, "never seen": 3, "re-check forgotten": 3, "camera fault": 4,
    "not tonight": 4, "refused: paused": 2, "broke off": 3, "unsure, then seen": 2, "reported hours later": 3,
    "began, never ended": 1,
}  # fmt: skip
CHECKED: Final = {"seen", "seen at the re-check", "unsure, then seen"}
REASONED: Final = {"not tonight", "refused: paused"}


@dataclass
class Occasion:
    """What the simulation knows of one agreed check."""

    gateway: str
    line: str
    name: str
    start_s: float
    way: str = ""


@dataclass
class SimHome(FakeHome):
    """A home that signs what it says, and keeps a real chained ledger if it is one that is witnessed."""

    signer: NoteSigner | None = None
    outages: list[tuple[float, float]] = field(default_factory=list)
    tree: CompactTree = field(default_factory=CompactTree)
    prev: str = FIRST_PREV
    checks: int = 0
    agreed_s: float = 0.0
    judged_s: float = 0.0
    history: list[Attempt] = field(default_factory=list)
    quiet: list[Quiet] = field(default_factory=list)
    told: set[tuple[str, str]] = field(default_factory=set)

    def facts(self) -> Home:
        ledger_key = None if self.signer is None else self.signer.verifier
        return Home(self.gateway, 1, self.key.verifying, frozenset({"g"}), ledger_key)

    def is_silent(self, unix_s: float) -> bool:
        return any(first <= unix_s < last for first, last in self.outages)

    def judge_itself(self, unix_s: float) -> None:
        """What the guard does every 15 s. A home that is cut off says it when it is back, as its outbox would."""
        agreement = parse_agreement(agreement_of(self.gateway))
        since_s = max(self.agreed_s, self.judged_s - 86_400)
        history = [attempt for attempt in self.history if attempt.opened_unix_s > since_s - 2 * 86_400]
        for item in missed(
            agreement, since_unix_s=since_s, now_unix_s=unix_s, history=history, quiet=self.quiet, told=self.told
        ):
            self.told.add((item.line_id, item.occasion_id))
            report = MissedCheck(
                self.gateway, item.line_id, item.occasion_id, item.why, item.attempts, item.ended_unix_s, self.tree.size
            )
            self.say("reply", report)
        self.judged_s = unix_s

    def record(self, kind: RecordKind, unix_s: float) -> None:
        if self.signer is None:
            return
        line = new_line(a_record(kind, time_lo=unix_s), seq=self.tree.size, prev=self.prev)
        self.prev = line.leaf_hash().hex()
        self.tree.append(line.leaf_hash())
        self.broker.deliver(f"tillsyn/v1/{self.gateway}/ledger", line.encode())

    def sign_ledger(self) -> None:
        if self.signer is not None:
            note = sign_checkpoint(self.signer, self.tree.size, self.tree.root())
            self.broker.deliver(f"tillsyn/v1/{self.gateway}/ledger", note)


def agreement_of(gateway: str) -> dict[str, Any]:
    lines = [
        {
            "id": name,
            "rrule": "FREQ=DAILY",
            "start": f"{hour:02}:{minute:02}",
            "window_min": WINDOW_S // 60,
            "max_s": MAX_S,
            "recheck": {"after_min": AFTER_S // 60, "times": 1},
        }
        for name, (hour, minute) in LINES.items()
        if name == "night-1" or int(gateway[-2:]) % 2
    ]
    steps = [{"do": "call-resident", "within_min": 15}, {"do": "visit", "unit": "hv-centrum", "within_min": 45}]
    fields = {
        "gateway": gateway,
        "install_epoch": 1,
        "timezone": ZONE.key,
        "valid": {"from": FIRST.isoformat(), "until": (FIRST + timedelta(days=NIGHTS - 1)).isoformat()},
        "consent": {"resident": {"given": "2026-10-01", "how": "signed", "ref": "c-1"}, "cohabitant": None},
        "lines": lines,
        "if_not_seen": steps,
    }
    return copy.deepcopy(AGREEMENT) | fields


class Month:
    """The world, what is to happen in it, and what did."""

    def __init__(self, folder: Path) -> None:
        self.dice = random.Random(SEED)
        self.broker = FakeBroker()
        self.now_s = datetime(FIRST.year, FIRST.month, FIRST.day, 12, tzinfo=ZONE).timestamp()
        issuing = SigningKey.generate()
        trust = TrustStore(1, 0, {}, {issuing.verifying.kid: issuing.verifying})
        self.homes: dict[str, SimHome] = {}
        for number in range(1, 13):
            name = f"gw-sim-{number:02}"
            signer = NoteSigner(f"tillsyn/{name}", Ed25519PrivateKey.generate()) if name in WITNESSED else None
            self.homes[name] = SimHome(name, self.broker, trust, signer=signer)
        store = Store(folder / "centre.sqlite")
        # What is durable is another test's promise; this one writes ten thousand times.
        store._engine.dispose()
        sa.event.listen(store._engine, "connect", lambda raw, _record: raw.execute("PRAGMA synchronous=OFF"))
        for home in self.homes.values():
            store.put_home(home.gateway, install_epoch=1, device_kid=home.key.verifying.kid)
        self.state = CentreState(
            accounts={
                "op-1": Account("op-1", (Role.OPERATOR, Role.PLANNER), hashlib.sha256(b"t").hexdigest()),
            },
            homes={name: home.facts() for name, home in self.homes.items()},
            issuing_key=issuing,
            grant_epoch=0,
            ice=IceConfig("all", []),
            origins=frozenset({ORIGIN}),
            store=store,
            exchange=Exchange(self.broker, answer_limit_s=1.0),
            clock=lambda: self.now_s,
            cosigner=Cosigner("sim", Ed25519PrivateKey.generate()),
        )
        self.intake = Intake(self.state, self.broker)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=make_app(self.state)),
            base_url=ORIGIN,
            headers={"Authorization": "Bearer t"},
        )
        self.key = SigningKey.generate()
        self.grant, self.granted_s, self.sent = "", 0.0, 0
        self.occasions: list[Occasion] = []
        self.plan: list[tuple[float, int, Callable[[], Any]]] = []
        self.ack_s: dict[str, float] = {}
        self.centre_away = (0.0, 0.0)

    # What is to happen

    def at(self, unix_s: float, act: Callable[[], Any]) -> None:
        self.plan.append((unix_s, len(self.plan), act))

    def make_plan(self) -> None:
        day, length_s = CENTRE_AWAY
        away_s = datetime(day.year, day.month, day.day, 20, tzinfo=ZONE).timestamp()
        self.centre_away = (away_s, away_s + length_s)
        for home in self.homes.values():
            for _ in range(2):
                night = FIRST + timedelta(days=self.dice.randrange(NIGHTS - 3))
                begin_s = datetime(night.year, night.month, night.day, 22, tzinfo=ZONE).timestamp()
                home.outages.append((begin_s, begin_s + self.dice.randrange(3, 60) * 3600))
            if home.gateway == SILENT_FOR_GOOD[0]:
                silent = SILENT_FOR_GOOD[1]
                begin_s = datetime(silent.year, silent.month, silent.day, tzinfo=ZONE).timestamp()
                home.outages.append((begin_s, begin_s + 1e9))
            if home.gateway == RESTORED[0]:
                home.outages.clear()
                back = RESTORED[1]
                self.at(datetime(back.year, back.month, back.day, 15, tzinfo=ZONE).timestamp(), self.restore(home))
            for night in range(NIGHTS):
                for line, (hour, minute) in LINES.items():
                    if line == "night-1" or int(home.gateway[-2:]) % 2:
                        self.plan_occasion(home, line, FIRST + timedelta(days=night), hour, minute)
        self.plan.sort(key=lambda planned: planned[:2])

    def plan_occasion(self, home: SimHome, line: str, day: date, hour: int, minute: int) -> None:
        start_s = datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZONE, fold=0).timestamp()
        if start_s < self.now_s:
            return
        name = f"{day.isoformat()}T{hour:02}:{minute:02}"
        one = Occasion(home.gateway, line, name, start_s)
        self.occasions.append(one)
        one.way = self.dice.choices(list(WAYS), list(WAYS.values()))[0]
        moment_s = start_s + self.dice.randrange(60, WINDOW_S - 120)
        report_s = moment_s + (4 * 3600 if one.way == "reported hours later" else 0)
        one.way = self.what_prevails(home, one, day, moment_s, report_s)
        match one.way:
            case "seen":
                self.at(moment_s, self.close(home, one, 1, "seen"))
            case "reported hours later":
                self.at(moment_s, lambda: home.history.append(Attempt(line, name, 1, moment_s, moment_s, "seen")))
                self.at(report_s, self.close(home, one, 1, "seen"))
            case "seen at the re-check" | "unsure, then seen" | "never seen" | "re-check forgotten":
                first = "unsure" if one.way.startswith("unsure") else "not-seen"
                again_s = moment_s + AFTER_S
                self.at(moment_s, self.close(home, one, 1, first, step="recheck", step_unix_s=again_s))
                if one.way == "never seen":
                    self.at(again_s + 60, self.close(home, one, 2, "not-seen", step="handover"))
                elif one.way != "re-check forgotten":
                    self.at(again_s + 60, self.close(home, one, 2, "seen"))
            case "broke off":
                self.at(moment_s, self.close(home, one, 1, "link-lost", watched_s=1.0))
            case "camera fault" | "refused: paused":
                code = "paused" if one.way.endswith("paused") else "camera-fault"
                self.at(moment_s, lambda: self.open(home, one, code))
            case "not tonight":
                home.quiet.append(Quiet(start_s - 600, start_s + WINDOW_S + 60))
                self.at(start_s - 600, lambda: self.hello(home, DueFact(line, name, "paused", 1, 0.0, 0.0, MAX_S)))
            case "began, never ended":
                self.at(moment_s, lambda: self.open(home, one, "check.opened"))

    def what_prevails(self, home: SimHome, one: Occasion, day: date, moment_s: float, report_s: float) -> str:
        """Whatever was planned, a home or a centre that is away has the last word."""
        if home.gateway == RESTORED[0] and day >= RESTORED[1]:
            return "home disabled"
        if any(home.is_silent(at) for at in (moment_s, moment_s + AFTER_S + 60)):
            return "home silent"
        if self.centre_away[0] <= one.start_s < self.centre_away[1]:
            return "centre away"
        if one.way != "seen" and any(home.is_silent(at) for at in (report_s, one.start_s - 600)):
            return "forgotten"
        return one.way

    # What happens

    def close(
        self, home: SimHome, one: Occasion, attempt: int, why: str, *, step: str = "none",
        step_unix_s: float | None = None, watched_s: float = 25.0,
    ) -> Callable[[], None]:  # fmt: skip
        def act() -> None:
            home.checks += 1
            if one.way != "reported hours later":
                ended = Attempt(one.line, one.name, attempt, self.now_s, self.now_s, device_outcome(why, watched_s))
                home.history.append(ended)
            if step == "handover":
                home.told.add((one.line, one.name))
            home.record(RecordKind.OPENED, self.now_s)
            home.record(RecordKind.CLOSED, self.now_s)
            home.sign_ledger()
            report = Closed(
                home.gateway, f"c-{home.checks}", why, "op-1", one.line, one.name, attempt, watched_s, 9, True,
                home.tree.size, next=step, next_unix_s=step_unix_s,
            )  # fmt: skip
            home.say("reply", report)

        return act

    def hello(self, home: SimHome, *due: DueFact) -> None:
        clock = ClockFact("attested", self.now_s - 1, self.now_s + 1)
        home.say("health", Hello(home.gateway, 1, "boot", "0.1", clock, "a-1", 4, list(due)))

    def restore(self, home: SimHome) -> Callable[[], None]:
        """The card is put back to an image of last week: other records under numbers that were witnessed."""

        def act() -> None:
            home.tree, home.prev = CompactTree(), FIRST_PREV
            home.record(RecordKind.BOOT, self.now_s)
            home.sign_ledger()

        return act

    async def order(self, gateway: str, make: Callable[[str], Message], answer: Callable[[str], Message]) -> None:
        if self.now_s - self.granted_s > 6 * 3600:
            granted = await self.client.post("/api/v1/grants", json={"jwk": self.key.verifying.jwk()})
            self.grant, self.granted_s = granted.json()["grant"], self.now_s
        self.sent += 1
        jti = f"j-{self.sent}"
        home = self.homes[gateway]
        self.broker.on_publish = lambda published: (
            home.say("reply", answer(jti), correlation=published.correlation) and None
        )
        body = command(self.key, self.grant, make(jti))
        response = await self.client.post(
            f"/api/v1/homes/{gateway}/commands", content=body, headers={"Content-Type": "text/plain"}
        )
        assert response.status_code == 200, response.text

    async def open(self, home: SimHome, one: Occasion, word: str) -> None:
        def answer(jti: str) -> Message:
            if word == "check.opened":
                home.history.append(Attempt(one.line, one.name, 1, self.now_s, self.now_s + 60, "broken"))
                return Opened(home.gateway, jti, f"c-x{self.sent}", "v=0", MAX_S, 5.0, 10.0)
            if word == "paused":
                home.quiet.append(Quiet(self.now_s, one.start_s + WINDOW_S + 60))
            return Refused(home.gateway, jti, word)

        await self.order(
            home.gateway,
            lambda jti: Open(f"{home.gateway}/1", jti, "A" * 22, "a-1", 4, one.line, one.name, 1, "v=0"),
            answer,
        )

    async def work_on_handovers(self) -> None:
        """Most take one on within minutes; some only when they have been told twice, or all night long."""
        for row in await asyncio.to_thread(self.state.store.handovers):
            name = row["id"]
            if row["state"] == "open":
                if name not in self.ack_s:
                    delay_s = self.dice.choices([120, 1800, 4 * 3600], [60, 25, 15])[0]
                    self.ack_s[name] = row["created_unix_s"] + delay_s
                if self.now_s >= self.ack_s[name]:
                    await self.client.post(f"/api/v1/handovers/{name}/acknowledge", json={})
            elif self.now_s >= row["acknowledged_unix_s"] + 2700:
                await self.client.post(f"/api/v1/handovers/{name}/done", json={"outcome": "visited"})

    async def play(self) -> None:
        self.make_plan()
        running = asyncio.create_task(self.intake.run())
        for name in self.homes:
            text = agreement_of(name)
            await self.order(
                name,
                lambda jti, n=name, t=text: AgreementPut(f"{n}/1", jti, t),
                lambda jti, n=name: Accepted(n, jti, 4),
            )
            self.homes[name].agreed_s = self.now_s
        self.client.headers["Origin"] = ORIGIN
        end_s = max(one.start_s for one in self.occasions) + 12 * 3600
        planned = 0
        while self.now_s < end_s:
            assert not running.done(), "the intake died"
            hour = datetime.fromtimestamp(self.now_s, ZONE).hour
            is_away = self.centre_away[0] <= self.now_s < self.centre_away[1]
            while planned < len(self.plan) and self.plan[planned][0] <= self.now_s and not is_away:
                result = self.plan[planned][2]()
                planned += 1
                if result is not None:
                    await result
                await self.broker.idle.wait()
            for home in self.homes.values():
                if not is_away and not home.is_silent(self.now_s):
                    home.judge_itself(self.now_s)
            await self.broker.idle.wait()
            if not is_away:
                await look_once(self.state)
                await self.work_on_handovers()
                if hour == 9:
                    await reconcile_once(self.state)
            self.now_s += NIGHT_STEP_S if hour >= 22 or hour < 7 else DAY_STEP_S
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await self.client.aclose()


def test_in_a_month_of_nights_no_agreed_check_ends_with_nobody_knowing(tmp_path: Path):
    month = Month(tmp_path)
    store = month.state.store
    asyncio.run(month.play())
    handovers = {(row["gateway"], row["line"], row["occasion"]): row for row in store.handovers(newest=10_000)}
    table: dict[str, Counter[str]] = {name: Counter() for name in month.homes}
    longest_s = dict.fromkeys(month.homes, 0.0)
    for one in month.occasions:
        row, handed = table[one.gateway], handovers.get((one.gateway, one.line, one.name))
        row["agreed"] += 1
        if one.way in CHECKED:
            assert handed is None, f"nobody was to be sent: {one}"
            row["checked"] += 1
        elif one.way in REASONED:
            assert handed is None, f"nobody was to be sent: {one}"
            row["refused with reason"] += 1
        else:
            assert handed is not None, f"nobody was told: {one}"
            assert handed["acknowledged_by"] == "op-1", one
            assert handed["state"] == "done", one
            # As soon as it could be known, or the centre was back.
            limit_s = one.start_s + 2 * WINDOW_S + AFTER_S + MAX_S + GRACE_S + NIGHT_STEP_S
            if month.centre_away[0] - 7200 <= one.start_s < month.centre_away[1]:
                limit_s = max(limit_s, month.centre_away[1] + DAY_STEP_S)
            assert one.start_s < handed["created_unix_s"] <= limit_s, one
            row["handed over"] += 1
            told = {event["what"] for event in store.handover_events(handed["id"])}
            row["told by the home"] += "told" in told
            if one.way == "reported hours later":
                assert "told" not in told, f"the home knew better: {one}"
            elif one.gateway != SILENT_FOR_GOOD[0] and not one.way.startswith("never seen"):
                assert "told" in told, f"the home itself said nothing: {one}"
            row["told again"] += handed["escalations"]
            longest_s[one.gateway] = max(
                longest_s[one.gateway], handed["acknowledged_unix_s"] - handed["created_unix_s"]
            )
            waited_s = handed["acknowledged_unix_s"] - handed["deadline_unix_s"]
            if waited_s > NIGHT_STEP_S + DAY_STEP_S:
                assert handed["escalations"] >= waited_s // DAY_STEP_S, f"somebody was told again and again: {one}"
    assert len(handovers) == sum(row["handed over"] for row in table.values()), (
        "and nothing was handed over without cause"
    )

    columns = ("agreed", "checked", "refused with reason", "handed over", "told by the home", "told again")
    print(
        "\n"
        + "home".ljust(12)
        + "".join(f"{name:>21}" for name in columns)
        + f"{'longest wait min':>21}{'left out':>10}"
    )
    for name, row in [*table.items(), ("all", sum(table.values(), Counter()))]:
        left_out = row["agreed"] - row["checked"] - row["refused with reason"] - row["handed over"]
        wait = max(longest_s.values()) if name == "all" else longest_s[name]
        print(
            name.ljust(12) + "".join(f"{row[column]:>21}" for column in columns) + f"{wait / 60:>21.0f}{left_out:>10}"
        )
        assert left_out == 0
    print("why: " + ", ".join(f"{why} {n}" for why, n in Counter(one.way for one in month.occasions).most_common()))
    print(
        "reasons: "
        + ", ".join(f"{why} {n}" for why, n in Counter(r["reason"] for r in handovers.values()).most_common())
    )

    witnessed, disabled = store.witnessed(), store.disabled(month.state.installations)
    assert set(disabled) == {RESTORED[0]}
    assert witnessed["gw-sim-01", 1]["size"] == month.homes["gw-sim-01"].tree.size
    assert (SILENT_FOR_GOOD[0], "home-silent") in store.alarm_counts()
    store.close()
