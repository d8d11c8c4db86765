"""What a planner sees of all homes: what is agreed, whether the home has confirmed it, what comes next.

Mutations that turn it red: take what was accepted last for what was sent last in `centre.api.plan._overview`; leave
`is_ahead` out of `centre.plan.standing`; keep a refused agreement in `centre.store.command`; count a pause that is over
in `centre.plan.pauses_left`; leave `account.sees` out of `_overview`.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from protocol_support import AGREEMENT
from test_centre_app import ORIGIN, FakeBroker, make_state

from centre.app import make_app
from centre.plan import standing
from centre.state import CentreState
from centre.store import SentAgreement
from gateway.protocol import strict_json
from gateway.protocol.message import ClockFact, Hello

NOW_S = datetime(2026, 12, 24, 12, 30, tzinfo=UTC).timestamp()
PAUSES = [
    {"from": "2026-12-30T12:00", "until": "2026-12-31T12:00"},
    {"from": "2026-12-24T12:00", "until": "2026-12-26T12:00"},
    {"from": "2026-12-20T12:00", "until": "2026-12-21T12:00"},
]


def _sent(state: CentreState, version: int, answer: str | None, *, at_s: float) -> None:
    text = copy.deepcopy(AGREEMENT) | {"gateway": "gw-a", "install_epoch": 1, "version": version, "pauses": PAUSES}
    correlation = version.to_bytes(2, "big")
    state.store.put_command(
        correlation, command_sha256="0", gateway="gw-a", kind="agreement.put", who="pl", jti=f"j-{version}",
        now_unix_s=at_s, agreement=SentAgreement(1, "a-1", version, strict_json.dumps(text).decode()),
    )  # fmt: skip
    if answer is not None:
        assert state.store.answer_command(
            correlation, gateway="gw-a", jti=f"j-{version}", answer=answer, now_unix_s=at_s
        )


def _holds(state: CentreState, version: int | None, *, at_s: float) -> None:
    clock = ClockFact("attested", at_s - 1, at_s + 1)
    hello = Hello("gw-a", 1, "b-1", "0.1", clock, None if version is None else "a-1", version, [])
    assert state.store.take_hello(hello, now_unix_s=at_s)


def _row(state: CentreState) -> Any:
    async def ask() -> Any:
        transport = httpx.ASGITransport(app=make_app(replace(state, clock=lambda: NOW_S)))
        headers = {"Authorization": "Bearer token-of-op-2"}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as client:
            rows = (await client.get("/api/v1/plan")).json()
            return next((row for row in rows if row["gateway"] == "gw-a"), None)

    return asyncio.run(ask())


def test_an_agreement_is_confirmed_by_the_homes_own_word_and_by_nothing_else(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    said: list[tuple[str, int | None]] = []

    def say() -> None:
        row = _row(state)
        assert row["confirmed"] == (row["standing"] == "confirmed")
        said.append((row["standing"], row["sent_version"]))

    _holds(state, None, at_s=NOW_S - 600)
    say()
    _sent(state, 3, None, at_s=NOW_S - 500)
    say()
    _holds(state, 3, at_s=NOW_S - 400)
    say()
    _sent(state, 4, "stale-version", at_s=NOW_S - 300)
    say()
    _sent(state, 5, "accepted", at_s=NOW_S - 200)
    say()
    _holds(state, 5, at_s=NOW_S - 100)
    say()
    _holds(state, 9, at_s=NOW_S - 50)
    say()
    assert said == [
        ("none", None),
        ("waiting", 3),
        ("confirmed", 3),
        ("confirmed", 3),
        ("waiting", 5),
        ("confirmed", 5),
        ("other", 5),
    ]
    state.store.close()


@pytest.mark.parametrize(("held", "word"), [((None, None), "none"), (("a-1", 4), "other")])
def test_what_was_never_sent_here_is_said_to_be_another_one(held: tuple[str | None, int | None], word: str) -> None:
    assert standing(None, held) == word


def test_the_next_occasions_and_the_pauses_that_are_not_over_are_there(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    _sent(state, 3, "accepted", at_s=NOW_S - 500)
    row = _row(state)
    assert row["pauses_left"] == [
        {"first": "2026-12-24T12:00", "last": "2026-12-26T12:00", "is_now": True},
        {"first": "2026-12-30T12:00", "last": "2026-12-31T12:00", "is_now": False},
    ]
    starts = [one["start_unix_s"] for one in row["next"]]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[0] >= NOW_S
    assert row["next"][0]["is_paused"]
    assert row["groups"] == ["g-1"]
    state.store.close()


def test_homes_of_other_groups_are_not_in_it(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    account = replace(state.accounts["op-2"], groups=frozenset({"g-9"}))
    elsewhere = replace(state, accounts={"op-2": account})
    assert _row(elsewhere) is None
    assert _row(state) is not None
    state.store.close()
