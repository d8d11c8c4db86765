"""Rollouts: the plan is shown first, and only the plan that was shown can be begun; then pause, resume, approve, abort.

The offer itself was signed by the release role elsewhere. Whoever begins a rollout decides who gets it and when; what
it is and whether it holds, each home judges for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Any, Final

import msgspec
from starlette.responses import Response

from centre.answer import answer, error
from centre.api import answers
from centre.api.endpoint import Call, Endpoint
from centre.role import CentreRole
from centre.rollout import Criteria, Place, is_wanted, plan, read_offer, shown
from gateway.protocol.envelope import MAX_ENVELOPE_BYTES
from gateway.protocol.message import UpdateOffer

STEERS: Final = frozenset({CentreRole.STEWARD, CentreRole.RELEASE})
_READS: Final = STEERS | {CentreRole.AUDITOR}
ACTS: Final = ("pause", "resume", "approve", "abort")


class PlanBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    offer: str
    criteria: Criteria = Criteria()


class BeginBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    offer: str
    plan: str
    """As the plan that was shown named itself."""
    criteria: Criteria = Criteria()


async def show_plan(call: Call) -> Response:
    offer = read_offer(call.body.offer.encode())
    if offer is None:
        return error(400, "not-an-offer", "This is no update offer. Send the file that `tillsyn authority` signed.")
    if problem := call.body.criteria.problem():
        return error(400, "malformed", problem)
    name, places, known = await asyncio.to_thread(_planned, call, offer, call.body.criteria)
    rings = sum(1 for entry in shown(places) if entry["homes"])
    return answer(
        {
            "plan": name,
            "version": offer.version,
            "compatible": offer.compatible,
            "statement": offer.statement,
            "ring": offer.ring,
            "homes": len(places),
            "up_to_date": known - len(places),
            "rings": shown(places),
            "least_days": round(rings * call.body.criteria.soak_s / 86400.0, 2),
        }
    )


async def begin(call: Call) -> Response:
    offer = read_offer(call.body.offer.encode())
    if offer is None:
        return error(400, "not-an-offer", "This is no update offer. Send the file that `tillsyn authority` signed.")
    if problem := call.body.criteria.problem():
        return error(400, "malformed", problem)
    name, places, _ = await asyncio.to_thread(_planned, call, offer, call.body.criteria)
    if name != call.body.plan:
        return error(409, "plan-changed", "The homes have changed since the plan was shown. Look at it again.")
    if not places:
        return error(409, "nobody-to-update", "No home needs this version.")
    rollout = f"r-{secrets.token_hex(8)}"
    done = await asyncio.to_thread(
        call.state.store.put_rollout,
        rollout,
        offer_jws=call.body.offer.strip(),
        offer=offer,
        criteria=call.body.criteria,
        places=places,
        who=call.who,
        now_unix_s=call.state.clock(),
    )
    if not done:
        return error(409, "rollout-running", "Another rollout for these boards has not ended. Abort it first.")
    call.state.events.send("fleet", {"id": rollout, "status": "in-progress", "ring": 0})
    return answer({"id": rollout})


def _planned(call: Call, offer: UpdateOffer, criteria: Criteria) -> tuple[str, list[Place], int]:
    """(the plan's name, its places, all homes that this account sees)."""
    running = call.state.store.running_versions()
    seen = [home for home in list(call.state.homes.values()) if call.session.account.sees(home)]
    homes = {home.gateway: home.groups for home in seen if is_wanted(running.get(home.gateway), offer)}
    places = plan(homes, f"{offer.compatible}/{offer.version}", widest=offer.ring)
    content = msgspec.json.encode(
        [[(place.gateway, place.ring) for place in places], criteria, msgspec.to_builtins(offer)]
    )
    return hashlib.sha256(content).hexdigest(), places, len(seen)


async def rollouts(call: Call) -> Response:
    """An account of some groups sees no rollout that is of others' homes alone: its counts are theirs."""
    return answer(await asyncio.to_thread(_rollouts, call))


def _rollouts(call: Call) -> list[dict[str, Any]]:
    rows = call.state.store.rollouts()
    if call.session.account.groups is None:
        return rows
    return [row for row in rows if any(_sees(call, one) for one in call.state.store.executions(row["id"]))]


def _sees(call: Call, execution: dict[str, Any]) -> bool:
    home = call.state.homes.get(execution["gateway"])
    return home is not None and call.session.account.sees(home)


async def executions(call: Call) -> Response:
    rows = await asyncio.to_thread(call.state.store.executions, call.request.path_params["rollout"])
    return answer([row for row in rows if _sees(call, row)])


async def change(call: Call) -> Response:
    params: dict[str, Any] = call.request.path_params
    if params["act"] not in ACTS:
        return error(404, "unknown-act", "A rollout can be paused, resumed, approved and aborted.")
    store, account = call.state.store, call.session.account
    rows = await asyncio.to_thread(store.executions, params["rollout"])
    # What is stopped or let go on is stopped for every home in it: only for who has all of them.
    if not rows or (account.groups is not None and not all(_sees(call, row) for row in rows)):
        return error(404, "unknown-rollout", "There is no such rollout. Reload this page.")
    status = await asyncio.to_thread(
        store.change_rollout, params["rollout"], params["act"], who=call.who, now_unix_s=call.state.clock()
    )
    if status is None:
        return error(409, "not-now", "The rollout is not in a state for that. Reload this page.")
    call.state.events.send("fleet", {"id": params["rollout"], "status": status})
    return answer({"status": status})


async def history(call: Call) -> Response:
    return answer(await asyncio.to_thread(call.state.store.update_history, call.the_home.gateway))


ENDPOINTS: Final = (
    Endpoint("fleet.plan", "POST", "/fleet/plan", show_plan, "What a rollout of this offer would do, ring by ring.",
             answers.RolloutPlan, roles=STEERS, body=PlanBody, max_bytes=2 * MAX_ENVELOPE_BYTES),
    Endpoint("fleet.begin", "POST", "/fleet/rollouts", begin, "Begin the rollout whose plan was shown.",
             answers.RolloutBegun, roles=STEERS, body=BeginBody, max_bytes=2 * MAX_ENVELOPE_BYTES, errors=(409,)),
    Endpoint("fleet", "GET", "/fleet/rollouts", rollouts, "Every rollout, newest first, with its rings.",
             list[answers.RolloutFacts], roles=_READS),
    Endpoint("fleet.homes", "GET", "/fleet/rollouts/{rollout}/executions", executions,
             "Every home of a rollout: its ring, how far it is, and why no further.",
             list[answers.ExecutionFacts], roles=_READS),
    Endpoint("fleet.change", "POST", "/fleet/rollouts/{rollout}/{act}", change,
             "Pause, resume, approve the next ring, or abort.",
             answers.RolloutStatus, roles=STEERS, errors=(409,)),
    Endpoint("updates", "GET", "/homes/{gateway}/updates", history, "What a home has reported of its updates.",
             list[answers.UpdateLine], roles=_READS | {CentreRole.INSTALLER}),
)  # fmt: skip
