"""A lent device goes back, at the centre: what is kept and compared, what is missed, and what is not expected any more.

Mutations, each tried and red: `put_return_order` out of the command's way; the version out of `answer_return`;
`_demand_own` and the installation out of the last word; the first last word not staying; everybody in `return.close`;
RETURN_S as zero, and as for ever; `_of_returned` out of `look`; `gateway not in returned` out of `missed.look`; a
closing that the device's word does not hinder; the code shown after the last word.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_centre_app import NOW_UNIX_S, ORIGIN, FakeBroker, FakeHome, Published, command, make_state

from centre import fault, missed
from centre.app import make_app
from centre.intake import Intake
from centre.state import Account, CentreState
from gateway.protocol.key import SigningKey
from gateway.protocol.message import (
    ClockFact,
    DeviceReturn,
    DeviceReturned,
    DueFact,
    Hello,
    Returning,
    Role,
)
from gateway.protocol.return_code import return_code

NONCE, DEVICE_NONCE = "n" * 21 + "A", "d" * 21 + "A"
DAY_S = 86_400.0


@dataclass
class World:
    broker: FakeBroker
    state: CentreState
    home: FakeHome
    clients: dict[str, httpx.AsyncClient]
    now_unix_s: list[float]

    async def settle(self) -> None:
        await asyncio.wait_for(self.broker.idle.wait(), 5)

    async def order(self, version: int = 1) -> SigningKey:
        """The steward's order by the API; the home answers it."""
        key = SigningKey.generate()
        granted = (await self.clients["st-1"].post("/api/v1/grants", json={"jwk": key.verifying.jwk()})).json()

        def answer(published: Published) -> None:
            if published.topic.endswith("/command"):
                asked: Any = self.home.take(published)
                reply = Returning("gw-a", 1, asked.jti, asked.version, DEVICE_NONCE, 9)
                self.home.say("reply", reply, correlation=published.correlation)

        self.broker.on_publish = answer
        body = command(key, granted["grant"], DeviceReturn("gw-a/1", f"j-{version}", version, NONCE))
        response = await self.clients["st-1"].post(
            "/api/v1/homes/gw-a/commands", content=body, headers={"Content-Type": "text/plain"}
        )
        assert response.status_code == 200, response.text
        return key

    async def shown(self, who: str = "st-1") -> dict[str, Any]:
        (row,) = (await self.clients[who].get("/api/v1/returns")).json()
        assert isinstance(row, dict)
        return row

    def faults(self, *, later_s: float = 0.0) -> set[str]:
        fault.look(self.state, now_unix_s=NOW_UNIX_S + later_s)
        return {row["code"] for row in self.state.store.faults() if row["gateway"] == "gw-a"}


@contextlib.asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    broker, now = FakeBroker(), [NOW_UNIX_S]
    state, homes = make_state(folder, broker, answer_limit_s=0.5)
    roles = {"st-1": Role.STEWARD, "in-1": Role.INSTALLER, "op-9": Role.OPERATOR}
    accounts = {
        who: Account(who, (role,), hashlib.sha256(f"t-{who}".encode()).hexdigest()) for who, role in roles.items()
    }
    state = replace(state, accounts=accounts, clock=lambda: now[0])
    task = asyncio.create_task(Intake(state, broker).run())
    transport = httpx.ASGITransport(app=make_app(state))
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            who: await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers={"Authorization": f"Bearer t-{who}"})
            )
            for who in roles
        }
        try:
            yield World(broker, state, homes["gw-a"], clients, now)
            assert not task.done(), "the intake died"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            state.store.close()


def play(folder: Path, act: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with a_world(folder) as world:
            await act(world)

    asyncio.run(run())


def last_word(**changes: Any) -> DeviceReturned:
    values: dict[str, Any] = {"gateway": "gw-a", "install_epoch": 1, "version": 1, "who": "st-1", "second": "in-1",
                              "ledger_size": 12, "time_lo": NOW_UNIX_S, "cosigned_size": 10,
                              "cosigned_root": "ab" * 32}  # fmt: skip
    return DeviceReturned(**(values | changes))


def hello(**changes: Any) -> Hello:
    due = DueFact("night-1", "2026-11-24T23:30", "due", 1, NOW_UNIX_S - 60, NOW_UNIX_S + 1800, 60)
    return Hello("gw-a", 1, "b-1", "0", ClockFact("attested", NOW_UNIX_S, NOW_UNIX_S + 1), "a-1", 4, [due], **changes)


def test_both_ends_show_the_same_code_until_the_device_has_said_its_last_word(tmp_path):
    async def act(world: World) -> None:
        key = await world.order()
        code = return_code(audience="gw-a/1", version=1, steward_kid=key.verifying.kid, nonce=NONCE,
                           device_kid=world.home.key.verifying.kid, device_nonce=DEVICE_NONCE)  # fmt: skip
        row = await world.shown("in-1")
        assert (row["code"], row["ordered_by"], row["version"]) == (code, "st-1", 1)
        assert (row["statement"], row["second"]) == (None, None)
        assert (await world.clients["op-9"].get("/api/v1/returns")).status_code == 403
        jws = world.home.say("reply", last_word())
        world.home.say("reply", last_word(second="in-2"))
        await world.settle()
        row = await world.shown()
        assert (row["code"], row["second"], row["statement"]) == (None, "in-1", jws.decode())
        text = (await world.clients["st-1"].get("/api/v1/homes/gw-a/return/protocol.txt?english=1")).text
        for word in ("gw-a", "st-1", "in-1", "12", "10"):
            assert word in text
        assert "not confirmed" not in text
        paper = await world.clients["st-1"].get("/api/v1/homes/gw-a/return/protocol.pdf")
        assert paper.content.startswith(b"%PDF")

    play(tmp_path, act)


@pytest.mark.parametrize("flaw", ["key", "name", "installation"])
def test_only_the_devices_own_last_word_counts(tmp_path, flaw):
    async def act(world: World) -> None:
        await world.order()
        changes: dict[str, Any] = {"name": {"gateway": "gw-b"}, "installation": {"install_epoch": 2}}.get(flaw, {})
        world.home.say("reply", last_word(**changes), key=SigningKey.generate() if flaw == "key" else None)
        await world.settle()
        assert [row["statement_jws"] for row in world.state.store.returns()] == [None]

    play(tmp_path, act)


def test_an_answer_to_an_earlier_order_gives_no_code_for_the_later_one(tmp_path):
    async def act(world: World) -> None:
        await world.order(2)
        world.state.store.answer_return(Returning("gw-a", 1, "j", 1, "o" * 21 + "A", 9), now_unix_s=NOW_UNIX_S)
        (row,) = world.state.store.returns()
        assert (row["version"], row["device_nonce"]) == (2, DEVICE_NONCE)

    play(tmp_path, act)


def test_closed_without_the_device_it_is_missed_after_a_day_until_its_own_word_comes(tmp_path):
    async def act(world: World) -> None:
        path, why = "/api/v1/homes/gw-a/return/close", {"why": "lost"}
        for who in ("in-1", "op-9"):
            assert (await world.clients[who].post(path, json=why)).status_code == 403
        assert (await world.clients["st-1"].post(path, json={"why": "x"})).status_code == 400
        assert (await world.clients["st-1"].post(path, json=why)).status_code == 200
        assert (await world.clients["st-1"].post(path, json=why)).status_code == 409
        assert world.faults(later_s=DAY_S - 60) == set()
        assert world.faults(later_s=DAY_S + 60) == {"return-unconfirmed"}
        text = (await world.clients["st-1"].get("/api/v1/homes/gw-a/return/protocol.txt?english=1")).text
        assert "destroy its card" in text
        assert "the device is lost" in text
        world.home.say("reply", last_word())
        await world.settle()
        assert world.faults(later_s=2 * DAY_S) == set()

    play(tmp_path, act)


def test_what_the_device_has_confirmed_nobody_closes_without_it(tmp_path):
    async def act(world: World) -> None:
        world.home.say("reply", last_word())
        await world.settle()
        response = await world.clients["st-1"].post("/api/v1/homes/gw-a/return/close", json={"why": "lost"})
        assert response.status_code == 409

    play(tmp_path, act)


@pytest.mark.parametrize("is_back", [False, True])
def test_of_a_device_that_goes_back_no_check_and_no_word_is_expected(tmp_path, is_back):
    async def act(world: World) -> None:
        world.home.say("health", hello())
        await world.settle()
        if is_back:
            await world.order()
        assert ("home-silent" in world.faults(later_s=3600.0)) is not is_back
        begun = missed.look(world.state.store, {"gw-a": 1}, now_unix_s=NOW_UNIX_S + 7200.0)
        assert bool(begun) is not is_back

    play(tmp_path, act)
