"""A hand-over's life: begun once for an occasion, acknowledged by one person, escalated until then, never dropped.

Mutations that turn it red, each tried: begin without looking whether there is one; finish an open one; let the second
acknowledgement win; count an escalation without moving its time; take an unsigned "paused" for a reason; keep an
agreement that the home refused; let anybody with a login acknowledge; escalate open ones only; leave
`escalates_unix_s` as it was when somebody acknowledges or arrives; let who acknowledges late have the agreement's time;
note a check that is the hand-over's own reason.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from protocol_support import AGREEMENT
from test_centre_app import FakeHome, Published, World, a_world, command, ledger_line

from centre.missed import GRACE_S, look_once
from centre.store import HANDOVERS, Store
from centre.store.handover import AGAIN_S, OUTCOME_S
from gateway.protocol.key import SigningKey
from gateway.protocol.message import (
    Accepted,
    AgreementPut,
    AgreementWithdraw,
    ClockFact,
    Closed,
    DueFact,
    Hello,
    Message,
    Open,
    Refused,
)

pytestmark = pytest.mark.slow

LINE, OCCASION = "night-1", "2026-11-23T23:30"
START_S = datetime(2026, 11, 23, 22, 30, tzinfo=UTC).timestamp()
END_S = START_S + AGREEMENT["lines"][0]["window_min"] * 60
WITHIN_S = AGREEMENT["if_not_seen"][0]["within_min"] * 60
LONGEST_S = max(step["within_min"] for step in AGREEMENT["if_not_seen"]) * 60
OP_2 = {"Authorization": "Bearer token-of-op-2"}


class Clock:
    """Moved by hand."""

    def __init__(self, unix_s: float) -> None:
        self.unix_s = unix_s

    def __call__(self) -> float:
        return self.unix_s


@dataclasses.dataclass
class Night:
    """The world around an occasion of gw-a."""

    world: World
    clock: Clock
    key: SigningKey = dataclasses.field(default_factory=SigningKey.generate)
    grant: str = ""
    sent: int = 0

    @property
    def store(self) -> Store:
        return self.world.state.store

    @property
    def home(self) -> FakeHome:
        return self.world.home

    async def begin(self) -> None:
        self.world.client.headers.update(OP_2)
        self.key, self.grant = await self.world.granted()

    async def order(self, make: Callable[[str], Message], answer: Callable[[str], Message] | None) -> None:
        """Send a command; the home answers as said, or is silent."""
        self.sent += 1
        jti = f"j-{self.sent}"

        def reply(published: Published) -> None:
            if answer is not None:
                self.home.say("reply", answer(jti), correlation=published.correlation)

        self.world.broker.on_publish = reply
        await self.world.send(command(self.key, self.grant, make(jti)))
        await self.world.settle()

    async def agree(self, *, accepted: bool | None = True, version: int = 4) -> None:
        text = copy.deepcopy(AGREEMENT) | {"gateway": "gw-a", "install_epoch": 1, "version": version}
        answers: dict[bool | None, Any] = {
            True: lambda jti: Accepted("gw-a", jti, version),
            False: lambda jti: Refused("gw-a", jti, "stale-version"),
            None: None,
        }
        await self.order(lambda jti: AgreementPut("gw-a/1", jti, text), answers[accepted])

    async def open(self, code: str) -> None:
        await self.order(
            lambda jti: Open("gw-a/1", jti, "A" * 22, "a-1", 4, LINE, OCCASION, 1, "v=0"),
            lambda jti: Refused("gw-a", jti, code),
        )

    async def hello(self, *due: DueFact, version: int | None = 4) -> None:
        clock = ClockFact("attested", self.clock() - 1, self.clock() + 1)
        self.home.say("health", Hello("gw-a", 1, "boot", "0.1", clock, "a-1", version, list(due)))
        await self.world.settle()

    async def closed(self, why: str, *, attempt: int = 1, step: str = "none", key: SigningKey | None = None) -> None:
        report = Closed("gw-a", f"c-{attempt}", why, "op-1", LINE, OCCASION, attempt, 20.0, 9, True, 9, next=step)
        self.home.say("reply", report, key=key)
        await self.world.settle()

    async def look(self, at_unix_s: float) -> list[dict[str, Any]]:
        """Move the clock, run the job, and ask the API."""
        self.clock.unix_s = at_unix_s
        await look_once(self.world.state)
        return await self.handovers()

    async def handovers(self, query: str = "") -> list[dict[str, Any]]:
        return list((await self.world.client.get(f"/api/v1/handovers{query}")).json())

    async def post(self, path: str, value: Any = None, who: dict[str, str] = OP_2) -> tuple[int, dict[str, Any]]:
        response = await self.world.client.post(
            f"/api/v1/handovers/{path}", json={} if value is None else value, headers=who
        )
        return response.status_code, response.json()


def play(folder: Path, act: Callable[[Night], Awaitable[None]], *, at_unix_s: float = START_S - 3600) -> None:
    clock = Clock(at_unix_s)

    async def run() -> None:
        async with a_world(folder, answer_limit_s=0.2) as world:
            object.__setattr__(world.state, "clock", clock)
            night = Night(world, clock)
            await night.begin()
            await act(night)

    asyncio.run(run())


def test_an_agreed_check_that_a_silent_home_does_not_report_is_handed_over_once(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        assert await night.look(START_S) == []
        assert await night.look(END_S + GRACE_S - 1) == []
        (one,) = await night.look(END_S + GRACE_S)
        assert (one["gateway"], one["line"], one["occasion"]) == ("gw-a", LINE, OCCASION)
        assert (one["reason"], one["state"], one["escalations"]) == ("missed-check", "open", 0)
        assert one["unit"] == "hv-centrum"
        assert [step["do"] for step in one["steps"]] == [step["do"] for step in AGREEMENT["if_not_seen"]]
        assert one["deadline_unix_s"] == one["created_unix_s"] + WITHIN_S
        for later_s in range(1, 4):
            assert len(await night.look(END_S + GRACE_S + later_s)) == 1
        # The next night is another occasion.
        assert len(await night.look(END_S + 86_400 + GRACE_S)) == 2

    play(tmp_path, act)


def test_a_check_in_which_the_resident_was_seen_begins_nothing(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = START_S + 60
        await night.closed("seen")
        assert await night.look(END_S + 7200) == []

    play(tmp_path, act)


@pytest.mark.parametrize("forged", ["another key", "a ledger line", "the status topic"])
def test_what_the_home_did_not_sign_keeps_nobody_from_being_sent(tmp_path: Path, forged: str):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = START_S + 60
        if forged == "another key":
            await night.closed("seen", key=SigningKey.generate())
        elif forged == "a ledger line":
            for seq, body in enumerate(({"kind": "closed", "why": "seen"}, {"kind": "paused", "why": "local"})):
                line = ledger_line(seq, body | {"line": LINE, "occasion": OCCASION, "check": "c-1"})
                night.world.broker.deliver("tillsyn/v1/gw-a/ledger", line)
        else:
            night.world.broker.deliver("tillsyn/v1/gw-a/status", b'{"online": true}')
        await night.world.settle()
        assert [one["reason"] for one in await night.look(END_S + GRACE_S)] == ["missed-check"]

    play(tmp_path, act)


def test_the_device_the_ledger_and_the_centre_begin_one_hand_over_between_them(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = START_S + 60
        await night.closed("not-seen", attempt=1, step="recheck")
        assert await night.handovers() == []
        night.clock.unix_s = START_S + 1200
        await night.closed("not-seen", attempt=2, step="handover")
        (one,) = await night.handovers()
        assert (one["reason"], one["created_unix_s"]) == ("not-seen", START_S + 1200)
        await night.closed("not-seen", attempt=2, step="handover")
        for seq, kind in enumerate(("handover", "missed-check")):
            line = ledger_line(seq, {"kind": kind, "why": "not-seen", "line": LINE, "occasion": OCCASION})
            night.world.broker.deliver("tillsyn/v1/gw-a/ledger", line)
        await night.world.settle()
        assert await night.look(END_S + 7200) == [one | {"escalations": 1, "escalates_unix_s": later(night, one)}]

    def later(night: Night, one: dict[str, Any]) -> float:
        passed = (night.clock() - one["deadline_unix_s"]) // WITHIN_S
        return float(one["deadline_unix_s"] + (passed + 1) * WITHIN_S)

    play(tmp_path, act)


def test_a_ledger_record_alone_begins_one_also_when_it_names_no_occasion(tmp_path: Path):
    async def act(night: Night) -> None:
        for seq, body in enumerate(
            ({"kind": "missed-check", "line": LINE, "occasion": OCCASION}, {"kind": "handover", "why": "not-seen"})
        ):
            for _ in range(2):
                night.world.broker.deliver("tillsyn/v1/gw-a/ledger", ledger_line(seq, body))
        await night.world.settle()
        found = {(one["line"], one["occasion"], one["reason"]) for one in await night.handovers()}
        assert found == {(LINE, OCCASION, "missed-check"), ("unknown", "record-1", "not-seen")}

    play(tmp_path, act)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("paused", []), ("no-consent", []), ("camera-fault", ["camera-fault"]), ("clock-untrusted", ["clock-untrusted"])],
)
def test_a_refusal_settles_it_or_names_the_reason(tmp_path: Path, code: str, expected: list[str]):
    async def act(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = START_S + 60
        await night.open(code)
        assert [one["reason"] for one in await night.look(END_S + GRACE_S)] == expected

    play(tmp_path, act)


def test_not_tonight_at_the_device_sends_nobody_unless_it_was_taken_back(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        due = DueFact(LINE, OCCASION, "paused", 1, 0.0, 0.0, 60)
        await night.hello(due)
        assert await night.look(END_S + GRACE_S) == []
        night.clock.unix_s = START_S + 86_400 - 60
        tomorrow = DueFact(LINE, "2026-11-24T23:30", "paused", 1, 0.0, 0.0, 60)
        await night.hello(tomorrow)
        night.clock.unix_s += 120
        await night.hello(DueFact(LINE, "2026-11-24T23:30", "due", 1, START_S + 86_400, END_S + 86_400, 60))
        assert [one["occasion"] for one in await night.look(END_S + 86_400 + GRACE_S)] == ["2026-11-24T23:30"]

    play(tmp_path, act)


def test_an_agreement_counts_once_the_home_has_accepted_it_also_when_its_answer_was_lost(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree(accepted=False)
        assert await night.look(END_S + GRACE_S) == []
        await night.agree(accepted=None)
        assert night.store.agreements("gw-a", 1) == []
        await night.hello()
        assert [row["version"] for row in night.store.agreements("gw-a", 1)] == [4]
        assert len(await night.look(END_S + 86_400 + GRACE_S)) == 1

    play(tmp_path, act)


def test_after_a_withdrawal_no_occasion_is_missed(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        await night.order(lambda jti: AgreementWithdraw("gw-a/1", jti), lambda jti: Accepted("gw-a", jti))
        assert await night.look(END_S + 2 * 86_400) == []

    play(tmp_path, act)


def test_a_home_whose_agreement_the_centre_never_saw_is_held_to_its_own_list(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.hello(DueFact(LINE, OCCASION, "soon", 1, START_S, END_S, 60), version=9)
        assert await night.look(END_S + GRACE_S - 1) == []
        (one,) = await night.look(END_S + GRACE_S + 1)
        assert (one["reason"], one["unit"], one["steps"]) == ("missed-check", None, [])

    play(tmp_path, act)


def test_a_centre_that_was_away_for_days_leaves_no_occasion_out(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        await night.look(START_S - 60)
        found = await night.look(END_S + 5 * 86_400 + GRACE_S)
        assert sorted(one["occasion"] for one in found) == [f"2026-11-{day}T23:30" for day in range(23, 29)]

    play(tmp_path, act)


def test_an_agreement_that_comes_while_the_job_runs_is_not_overtaken_by_it(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.look(START_S + 10)
        before = night.store.judged()["gw-a", 1]
        await night.agree()
        assert not night.store.put_judged("gw-a", 1, before=before, until_unix_s=9e9, look_unix_s=9e9)
        assert len(await night.look(END_S + GRACE_S)) == 1

    play(tmp_path, act)


def test_an_open_one_escalates_at_its_deadline_and_again_each_time_until_somebody_takes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def act(night: Night) -> None:
        await night.agree()
        (one,) = await night.look(END_S + GRACE_S)
        deadline_s = one["deadline_unix_s"]
        for at_s, expected in (
            (deadline_s - 1, 0),
            (deadline_s, 1),
            (deadline_s + WITHIN_S - 1, 1),
            (deadline_s + WITHIN_S, 2),
            (deadline_s + 2 * WITHIN_S + 9, 3),
        ):
            (one,) = await night.look(at_s)
            assert one["escalations"] == expected
        assert sum(": escalated (" in record.message for record in caplog.records) == 3

    play(tmp_path, act)


async def handed_over(night: Night) -> dict[str, Any]:
    await night.agree()
    (one,) = await night.look(END_S + GRACE_S)
    return one


async def escalations(night: Night, *times: float) -> list[int]:
    """How many there have been after a look at each of these times."""
    return [(await night.look(at_s))[0]["escalations"] for at_s in times]


def test_one_that_is_acknowledged_escalates_until_somebody_is_there(tmp_path: Path):
    async def act(night: Night) -> None:
        one = await handed_over(night)
        assert (await night.post(f"{one['id']}/acknowledge"))[0] == 200
        agreed_s = one["created_unix_s"] + LONGEST_S
        assert await escalations(night, agreed_s - 1, agreed_s, agreed_s + AGAIN_S - 1, agreed_s + AGAIN_S) == [
            0,
            1,
            1,
            2,
        ]
        (item,) = (await night.world.client.get("/api/v1/queue")).json()["items"]
        assert (item["rank"], item["by_unix_s"]) == ("handover-late", agreed_s)
        status, said = await night.post(f"{one['id']}/arrive")
        assert (status, said["by_unix_s"]) == (200, night.clock() + OUTCOME_S)
        assert await escalations(night, agreed_s + AGAIN_S + OUTCOME_S - 1) == [2]

    play(tmp_path, act)


def test_who_takes_it_on_after_the_agreed_time_gets_a_quarter_of_an_hour(tmp_path: Path):
    async def act(night: Night) -> None:
        one = await handed_over(night)
        late_s = one["created_unix_s"] + LONGEST_S + 60
        (before,) = await night.look(late_s)
        assert (await night.post(f"{one['id']}/acknowledge"))[0] == 200
        told = before["escalations"]
        assert await escalations(night, late_s + AGAIN_S - 1, late_s + AGAIN_S) == [told, told + 1]

    play(tmp_path, act)


def test_an_arrival_without_an_outcome_escalates_until_somebody_says_what_came_of_it(tmp_path: Path):
    async def act(night: Night) -> None:
        one = await handed_over(night)
        for action in ("acknowledge", "arrive"):
            assert (await night.post(f"{one['id']}/{action}"))[0] == 200
        arrived_s = night.clock()
        due_s = arrived_s + OUTCOME_S
        assert await escalations(night, due_s - 1, due_s, due_s + AGAIN_S) == [0, 1, 2]
        assert (await night.post(f"{one['id']}/done", {"outcome": "visited"}))[0] == 200
        assert await night.look(due_s + 9 * AGAIN_S) == []
        assert [row["escalations"] for row in await night.handovers("?all=1")] == [2]
        assert [event["what"] for event in night.store.handover_events(one["id"])] == [
            "created", "acknowledged", "arrived", "outcome-overdue", "outcome-overdue", "done",
        ]  # fmt: skip

    play(tmp_path, act)


def test_one_that_an_earlier_version_acknowledged_is_raised_again(tmp_path: Path):
    async def act(night: Night) -> None:
        one = await handed_over(night)
        assert (await night.post(f"{one['id']}/acknowledge"))[0] == 200
        with night.store._writing() as connection:
            connection.execute(
                sa.update(HANDOVERS).values(arrive_by_unix_s=None, escalates_unix_s=one["deadline_unix_s"])
            )
        assert await escalations(night, one["deadline_unix_s"]) == [1]

    play(tmp_path, act)


def test_it_moves_open_acknowledged_done_by_named_people_and_no_other_way(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        (one,) = await night.look(END_S + GRACE_S)
        path, op_1 = one["id"], {"Authorization": "Bearer token-of-op-1"}
        status, said = await night.post(f"{path}/done", {"outcome": "visited"})
        assert (status, said["error"]) == (409, "not-acknowledged")
        status, said = await night.post(f"{path}/acknowledge", who=op_1)
        assert (status, said["acknowledged_by"]) == (200, "op-1")
        assert (await night.post(f"{path}/acknowledge", who=op_1))[0] == 200
        status, said = await night.post(f"{path}/acknowledge")
        assert (status, said["error"]) == (409, "already-acknowledged")
        for wrong in ({}, {"outcome": "Two Words"}, {"outcome": 1}, {"outcome": "x", "more": 1}, []):
            assert (await night.post(f"{path}/done", wrong))[0] == 400
        assert [row["state"] for row in await night.handovers()] == ["acknowledged"]
        status, said = await night.post(f"{path}/done", {"outcome": "visited"})
        assert (status, said["state"], said["outcome"], said["done_by"]) == (200, "done", "visited", "op-2")
        assert (await night.post(f"{path}/done", {"outcome": "visited"}))[0] == 200
        assert (await night.post(f"{path}/done", {"outcome": "other"}))[0] == 409
        assert (await night.post(f"{path}/acknowledge"))[0] == 409
        for action in ("acknowledge", "done"):
            assert (await night.post(f"h-none/{action}", {"outcome": "x"}))[0] == 404
        assert await night.handovers() == []
        assert [row["state"] for row in await night.handovers("?all=1")] == ["done"]
        events = night.store.handover_events(path)
        assert [(event["what"], event["who"], event["word"]) for event in events] == [
            ("created", None, "missed-check"),
            ("acknowledged", "op-1", None),
            ("done", "op-2", "visited"),
        ]
        assert await night.look(END_S + 7200) == [], "and what is done does not begin again"

    play(tmp_path, act)


def test_only_an_operator_may_take_one_on(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        (one,) = await night.look(END_S + GRACE_S)
        account = night.world.state.accounts["op-1"]
        planner = dataclasses.replace(account, roles=(type(account.roles[0])("planner"),))
        night.world.state.accounts["op-1"] = planner  # type: ignore[index]
        for action in ("acknowledge", "done"):
            status, said = await night.post(
                f"{one['id']}/{action}", {"outcome": "x"}, {"Authorization": "Bearer token-of-op-1"}
            )
            assert (status, said["error"]) == (403, "wrong-role")
        assert [row["state"] for row in await night.handovers()] == ["open"]

    play(tmp_path, act)


def test_a_check_that_is_heard_of_late_is_told_and_takes_nothing_back(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        await night.look(END_S + GRACE_S)
        await night.closed("seen")
        (one,) = await night.handovers()
        assert (one["since"], one["state"]) == ("seen", "open")

    play(tmp_path, act)


def test_the_check_that_a_hand_over_came_of_is_no_news_to_it(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        line = ledger_line(0, {"kind": "handover", "why": "not-seen", "line": LINE, "occasion": OCCASION})
        night.world.broker.deliver("tillsyn/v1/gw-a/ledger", line)
        await night.world.settle()
        await night.closed("not-seen", attempt=2, step="handover")
        (one,) = await night.handovers()
        assert (one["reason"], one["since"]) == ("not-seen", None)
        await night.closed("seen", attempt=3)
        assert [row["since"] for row in await night.handovers()] == ["seen"], "this is"

    play(tmp_path, act)


def test_pages_hear_of_a_hand_over_and_of_each_change(tmp_path: Path):
    async def act(night: Night) -> None:
        await night.agree()
        stream = night.world.state.events.listen()
        await anext(stream)
        (one,) = await night.look(END_S + GRACE_S)
        await night.look(END_S + GRACE_S + WITHIN_S)
        await night.post(f"{one['id']}/acknowledge")
        heard = []
        while len(heard) < 3:
            name, data = (await anext(stream)).decode().strip().split("\n")
            if name == "event: handover":
                heard.append(json.loads(data.removeprefix("data: ")))
        await stream.aclose()
        assert [(event["state"], event["escalations"]) for event in heard] == [
            ("open", 0),
            ("open", 1),
            ("acknowledged", 1),
        ]

    play(tmp_path, act)


def test_nothing_in_the_centre_can_delete_a_hand_over():
    store = Path(__file__).parents[2] / "centre" / "store"
    source = "".join(path.read_text() for path in sorted(store.glob("*.py")))
    assert "sa.delete(HANDOVERS)" not in source
    assert "sa.delete(HANDOVER_EVENTS)" not in source
    assert source.count("sa.update(HANDOVERS)") == 4, "move, arrive, escalate, since: look at a fifth"
    unique = {
        tuple(column.name for column in constraint.columns)
        for constraint in HANDOVERS.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    }
    assert ("gateway", "install_epoch", "line", "occasion") in unique
