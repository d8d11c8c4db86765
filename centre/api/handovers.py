"""The queue, and hand-overs: taking one on, arriving, saying what came of it. Faults that somebody sees to."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import lru_cache
from typing import Any, Final

import msgspec
from starlette.responses import Response

from centre import queue as queue_room
from centre.answer import answer, error
from centre.api import answers
from centre.api.endpoint import Call, Endpoint, Query, number
from centre.fault import URGENCY
from centre.handover import news
from centre.role import ANSWERS_HANDOVERS, ANYBODY, AT_THE_DESK, CentreRole
from centre.state import CentreState
from gateway.protocol.message import Word

NEWEST: Final = 200
LOOK_BACK_S: Final = 36 * 3600.0
"""A night and its day after: so long an occasion without an outcome stays in the queue, whoever forgot it. By then it
has long had a hand-over, which stays for ever."""
_ALL = Query("all", 0, 0, 1, "1 gives the newest of all, done ones too.")
_LIMIT = Query("limit", 60, 1, 2000, "How many items at most.")


class OutcomeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    outcome: Word


class FaultBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: Word


async def queue(call: Call) -> Response:
    state, limit = call.state, number(call.request, _LIMIT)
    now_unix_s = state.clock()
    items, handovers = await state.desk_cache.get(lambda: read_queue(state, now_unix_s))
    mine = {home.gateway for home in list(state.homes.values()) if call.session.account.sees(home)}
    shown = [item for item in items if item.gateway in mine]
    return answer(
        {
            "now_unix_s": now_unix_s,
            "items": shown[:limit],
            "counts": Counter(item.rank for item in shown),
            "handovers": [_facts(row) for row in handovers if row["gateway"] in mine],
        }
    )


@lru_cache(maxsize=10_000)
def _due(due_json: str) -> list[dict[str, Any]]:
    """A home's list, read once for as long as the home says the same. Not to be changed."""
    due: list[dict[str, Any]] = msgspec.json.decode(due_json)
    return due


def read_queue(state: CentreState, now_unix_s: float) -> tuple[list[queue_room.Item], list[dict[str, Any]]]:
    """Everything in the queue, of all homes, and the hand-overs that are not done. Blocking."""
    store, since_unix_s = state.store, now_unix_s - LOOK_BACK_S
    epochs = state.installations
    handovers = store.handovers()
    items = queue_room.queue(
        [
            (gateway, epochs[gateway], _due(due_json), heard_unix_s)
            for gateway, due_json, heard_unix_s in store.due_lists()
            if gateway in epochs
        ],
        announced=store.announced(since_unix_s=since_unix_s),
        seen=store.seen_since(since_unix_s),
        handovers=handovers,
        handed_over=store.handed_over(since_unix_s),
        claims=store.claims(now_unix_s=now_unix_s),
        faults=[row for row in store.faults() if row["gateway"] in state.homes],
        now_unix_s=now_unix_s,
    )
    return items, handovers


async def handovers(call: Call) -> Response:
    newest = NEWEST if number(call.request, _ALL) else None
    rows = await asyncio.to_thread(call.state.store.handovers, newest=newest)
    return answer([_facts(row) for row in rows if _may_see(call, row)])


def _may_see(call: Call, row: dict[str, Any]) -> bool:
    account, home = call.session.account, call.state.homes.get(row["gateway"])
    return account.answers(row["unit"]) and (account.groups is None or (home is not None and account.sees(home)))


async def _mine(call: Call) -> dict[str, Any] | None:
    row = await asyncio.to_thread(call.state.store.handover, call.request.path_params["handover"])
    return row if row is not None and _may_see(call, row) else None


async def history(call: Call) -> Response:
    row = await _mine(call)
    if row is None:
        return _unknown()
    return answer(await asyncio.to_thread(call.state.store.handover_events, row["id"]))


async def deliveries(call: Call) -> Response:
    row = await _mine(call)
    if row is None:
        return _unknown()
    return answer(await asyncio.to_thread(call.state.store.deliveries, row["id"]))


async def acknowledge(call: Call) -> Response:
    """Take it on. The first person counts; the same person may repeat."""
    if await _mine(call) is None:
        return _unknown()
    state, handover, who = call.state, call.request.path_params["handover"], call.who
    await asyncio.to_thread(state.store.acknowledge_handover, handover, who=who, now_unix_s=state.clock())
    row = await _after(call)
    if row["acknowledged_by"] != who:
        return error(409, "already-acknowledged", f"{row['acknowledged_by']} has acknowledged this hand-over already.")
    return answer(_facts(row))


async def arrive(call: Call) -> Response:
    """Somebody is at the home. Only of one that somebody has acknowledged; the first arrival counts."""
    if await _mine(call) is None:
        return _unknown()
    state, handover, who = call.state, call.request.path_params["handover"], call.who
    await asyncio.to_thread(state.store.arrive_handover, handover, who=who, now_unix_s=state.clock())
    row = await _after(call)
    if row["state"] == "open":
        return error(409, "not-acknowledged", "Nobody has acknowledged this hand-over. Acknowledge it first.")
    if row["arrived_by"] != who:
        return error(409, "already-arrived", "Somebody has arrived already, or this hand-over is done.")
    return answer(_facts(row))


async def finish(call: Call) -> Response:
    """What came of it. Only of one that somebody has acknowledged."""
    if await _mine(call) is None:
        return _unknown()
    state, handover, who, outcome = call.state, call.request.path_params["handover"], call.who, call.body.outcome
    is_done = await asyncio.to_thread(
        state.store.finish_handover, handover, who=who, outcome=outcome, now_unix_s=state.clock()
    )
    row = await _after(call)
    if not is_done and row["state"] == "open":
        return error(409, "not-acknowledged", "Nobody has acknowledged this hand-over. Acknowledge it first.")
    if (row["done_by"], row["outcome"]) != (who, outcome):
        return error(409, "already-done", f"{row['done_by']} has finished this hand-over: {row['outcome']}.")
    return answer(_facts(row))


async def _after(call: Call) -> dict[str, Any]:
    row = await asyncio.to_thread(call.state.store.handover, call.request.path_params["handover"])
    assert row is not None, "hand-overs are never deleted"
    call.state.events.send("handover", news(row))
    return row


def _unknown() -> Response:
    return error(404, "unknown-handover", "There is no such hand-over. Go back to the list.")


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "install_epoch"}


# Faults


async def faults(call: Call) -> Response:
    account, homes = call.session.account, call.state.homes
    rows = await asyncio.to_thread(call.state.store.faults)
    return answer([row for row in rows if row["gateway"] in homes and account.sees(homes[row["gateway"]])])


async def take_fault(call: Call) -> Response:
    if call.body.code not in URGENCY:
        return error(400, "malformed", "There is no such kind of fault.")
    one, state = call.the_home, call.state
    done = await asyncio.to_thread(
        state.store.take_fault, one.gateway, call.body.code, who=call.who, now_unix_s=state.clock()
    )
    if not done:
        return error(404, "no-fault", "This fault is over. Reload this page.")
    state.events.send("fault", {"gateway": one.gateway, "code": call.body.code})
    return answer({"done": True})


ENDPOINTS: Final = (
    Endpoint("queue", "GET", "/queue", queue, "What is to be done, most urgent first.", answers.QueueFacts,
             roles=AT_THE_DESK, query=(_LIMIT,)),
    Endpoint("handovers", "GET", "/handovers", handovers, "Hand-overs that somebody must still act on.",
             list[answers.HandoverFacts], roles=ANYBODY, query=(_ALL,)),
    Endpoint("handover.history", "GET", "/handovers/{handover}/history", history, "What happened to a hand-over.",
             list[answers.Happened], roles=ANYBODY),
    Endpoint("handover.deliveries", "GET", "/handovers/{handover}/deliveries", deliveries,
             "Who was told of a hand-over, by which channel.", list[answers.DeliveryFacts], roles=ANYBODY),
    Endpoint("handover.acknowledge", "POST", "/handovers/{handover}/acknowledge", acknowledge, "I take it on.",
             answers.HandoverFacts, roles=ANSWERS_HANDOVERS, errors=(409,), is_limited=False),
    Endpoint("handover.arrive", "POST", "/handovers/{handover}/arrive", arrive, "I am at the home.",
             answers.HandoverFacts, roles=ANSWERS_HANDOVERS, errors=(409,), is_limited=False),
    Endpoint("handover.done", "POST", "/handovers/{handover}/done", finish, "What came of it.",
             answers.HandoverFacts, roles=ANSWERS_HANDOVERS, body=OutcomeBody, errors=(409,),
             is_limited=False),
    Endpoint("faults", "GET", "/faults", faults, "What is not in order at the homes.", list[answers.FaultFacts],
             roles=AT_THE_DESK),
    Endpoint("fault.take", "POST", "/homes/{gateway}/faults/take", take_fault, "I see to this fault.", answers.Done,
             roles=frozenset({CentreRole.OPERATOR, CentreRole.STEWARD, CentreRole.INSTALLER}), body=FaultBody),
)  # fmt: skip
