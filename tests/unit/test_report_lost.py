"""A check whose `check.closed` never came: the broker lost it after its PUBACK, or the guard died in the check.

Its `closed` record comes in any case (docs/adr/0095). Under a checkpoint that was witnessed it is signed as the report
would be, and says the same of the occasion. Mutations tried, each red: `_enter_outcomes` out; `lines_size` out of
`unreported`; verdicts not read, here and in centre/witness.py; `asked` not asked for, or without openings whose answer
was lost; the grace out; in `put_outcome` the update out, or the row put a second time; `count_alarm` out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import test_handover_life
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_support import QuickDisk, a_record
from test_handover_life import END_S, LINE, OCCASION, START_S, Night

from centre.missed import GRACE_S
from gateway.ledger import Ledger, NoteSigner, RecordKind
from gateway.protocol.message import Closed, Open, Opened

pytestmark = pytest.mark.slow

AFTER_S = START_S + 60
RECHECK_END_S = AFTER_S + 80 + 15 * 60 + 30 * 60


class Check:
    """A check of gw-a by its ledger."""

    def __init__(self, night: Night, folder: Path) -> None:
        self.night, self.path = night, folder / "ledger"
        self.signer = NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate())
        homes = night.world.state.homes
        homes["gw-a"] = dataclasses.replace(homes["gw-a"], ledger_key=self.signer.verifier)  # type: ignore[index]

    async def open(self, *, is_heard: bool = True) -> None:
        await self.night.order(
            lambda jti: Open("gw-a/1", jti, "A" * 22, "a-1", 4, LINE, OCCASION, 1, "v=0"),
            (lambda jti: Opened("gw-a", jti, "c-1", "v=0", 60, 5.0, 9.0)) if is_heard else None,
        )

    async def record(
        self, why: str, *, verdict: str | None = None, watched_s: float = 20.0, signer: NoteSigner | None = None,
        signed: bool = True, line: str = LINE,
    ) -> None:  # fmt: skip
        """What the home writes of it, and how that comes to the centre."""
        same = {"check": "c-1", "line": line, "occasion": OCCASION, "attempt": 1, "who": "op-1"}
        records = [a_record(RecordKind.OPENED, time_lo=AFTER_S, time_hi=AFTER_S + 1, **same)]
        if verdict is not None:
            records.append(a_record(RecordKind.VERDICT, time_lo=AFTER_S + 79, check="c-1", why=verdict, who="op-1"))
        records.append(
            a_record(RecordKind.CLOSED, time_lo=AFTER_S + 80, why=why, watched_s=watched_s, frames=9, **same)
        )
        with Ledger.open(self.path, signer or self.signer, disk=QuickDisk()) as ledger:
            payloads = [ledger.append(each).line for each in records]
            if signed:
                payloads.append(ledger.checkpoint())
        for payload in payloads:
            self.night.world.broker.deliver("tillsyn/v1/gw-a/ledger", payload)
        await self.night.world.settle()

    async def report(self, why: str) -> None:
        self.night.home.say("reply", Closed("gw-a", "c-1", why, "op-1", LINE, OCCASION, 1, 20.0, 9, True, 3))
        await self.night.world.settle()

    async def outcomes(self) -> list[tuple[str, str, bool]]:
        """(check, why, is it signed by itself) of the API that a municipal system reads."""
        rows = self.night.store.outcomes_after(0, limit=10)
        return [(row["check"], row["why"], row["closed_jws"] != "") for row in rows]


def play(folder: Path, act: Callable[[Check], Awaitable[None]]) -> None:
    async def within(night: Night) -> None:
        await night.agree()
        night.clock.unix_s = AFTER_S
        check = Check(night, folder)
        await act(check)

    test_handover_life.play(folder, within)


@pytest.mark.parametrize("is_heard", [True, False], ids=["opened", "its answer lost too"])
@pytest.mark.parametrize("why", ["seen", "lease-lapsed"])
def test_a_resident_who_was_seen_is_seen_though_no_report_came(tmp_path: Path, why: str, is_heard: bool):
    async def act(check: Check) -> None:
        await check.open(is_heard=is_heard)
        await check.record(why, verdict="seen")
        assert check.night.store.seen_since(0.0) == {("gw-a", 1, LINE, OCCASION)}
        assert await check.night.look(END_S + GRACE_S) == []
        assert await check.night.look(RECHECK_END_S + GRACE_S) == [], "nor is a re-check waited for"
        assert await check.outcomes() == [("c-1", why, False)]

    play(tmp_path, act)


def test_a_recheck_is_waited_for_and_missed_in_its_turn(tmp_path: Path):
    async def act(check: Check) -> None:
        await check.open()
        await check.record("not-seen", verdict="not-seen")
        assert await check.night.look(END_S + GRACE_S) == []
        (one,) = await check.night.look(RECHECK_END_S + GRACE_S)
        assert one["reason"] == "recheck-missed"

    play(tmp_path, act)


def test_a_check_in_which_the_guard_died_is_not_called_unclosed(tmp_path: Path):
    async def act(check: Check) -> None:
        await check.open()
        await check.record("recovered", watched_s=1.0)
        (one,) = await check.night.look(END_S + GRACE_S)
        assert one["reason"] == "check-broken"
        assert await check.outcomes() == [("c-1", "recovered", False)]

    play(tmp_path, act)


@pytest.mark.parametrize("forged", ["no checkpoint", "another key", "a check that nobody asked for"])
def test_what_the_home_did_not_sign_settles_nothing(tmp_path: Path, forged: str):
    async def act(check: Check) -> None:
        await check.open()
        if forged == "no checkpoint":
            await check.record("seen", signed=False)
        elif forged == "another key":
            await check.record("seen", signer=NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate()))
        else:
            await check.record("seen", line="preview")
        assert [one["reason"] for one in await check.night.look(END_S + GRACE_S)] == ["unclosed"]
        assert await check.outcomes() == []

    play(tmp_path, act)


def test_a_report_that_comes_after_all_takes_the_rows_place(tmp_path: Path):
    async def act(check: Check) -> None:
        await check.open()
        await check.record("seen", verdict="seen")
        await check.night.look(END_S + GRACE_S)
        for _ in range(2):
            await check.report("seen")
            assert await check.outcomes() == [("c-1", "seen", True)]
        assert await check.night.look(END_S + 7200) == []

    play(tmp_path, act)


def test_a_report_that_is_on_its_way_is_waited_for(tmp_path: Path):
    async def act(check: Check) -> None:
        await check.open()
        await check.record("seen")
        await check.night.look(AFTER_S + 80 + GRACE_S - 1)
        assert await check.outcomes() == []
        await check.report("seen")
        await check.night.look(END_S + GRACE_S)
        assert await check.outcomes() == [("c-1", "seen", True)]

    play(tmp_path, act)


def test_a_broken_seal_is_an_alarm_also_without_its_report(tmp_path: Path):
    async def act(check: Check) -> None:
        await check.open()
        await check.record("seal-broken", watched_s=1.0)
        await check.night.look(END_S + GRACE_S)
        assert check.night.store.alarm_counts()["gw-a", "seal-broken"] == 1

    play(tmp_path, act)
