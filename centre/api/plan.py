"""Agreements: what one means, which are in force, drafts from a municipal system, trust statements.

Nothing here puts an agreement in force: a planner's own key signs it in the browser, and it goes by `commands`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from functools import lru_cache
from typing import Any, Final

import msgspec
from starlette.responses import Response

from centre import plan
from centre.answer import answer, error
from centre.api import answers
from centre.api.checks import forward
from centre.api.endpoint import Call, Endpoint
from centre.role import PLANNER, CentreRole
from centre.state import CentreState
from gateway.agreement import Agreement, parse_agreement
from gateway.core.refusal import RefusedError
from gateway.protocol import strict_json
from gateway.protocol.envelope import MAX_ENVELOPE_BYTES, split
from gateway.protocol.key import b64url_decode, b64url_encode
from gateway.protocol.message import TrustPut

_PLANS: Final = frozenset({CentreRole.PLANNER, CentreRole.SYSTEM})
NEXT: Final = 3
"""Occasions of each home in the overview."""
_READS: Final = _PLANS | {CentreRole.OPERATOR, CentreRole.AUDITOR}
MAX_DRAFTS: Final = 5000


class AgreementBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agreement as in docs/protocol.md; what is wrong with it is said in the answer."""

    agreement: dict[str, Any]


async def meaning(call: Call) -> Response:
    return answer(await asyncio.to_thread(plan.meaning, call.body.agreement, now_unix_s=call.state.clock()))


async def agreements(call: Call) -> Response:
    one = call.the_home
    rows = await asyncio.to_thread(call.state.store.all_agreements, one.gateway, one.install_epoch)
    return answer(
        [
            {
                "gateway": row["gateway"],
                "agreement": row["agreement"],
                "version": row["version"],
                "sent_unix_s": row["sent_unix_s"],
                "accepted_unix_s": row["accepted_unix_s"],
                "content": json.loads(row["agreement_json"]),
            }
            for row in rows
        ]
    )


async def overview(call: Call) -> Response:
    return answer(await asyncio.to_thread(_overview, call.state, call))


def _overview(state: CentreState, call: Call) -> list[dict[str, Any]]:
    now_unix_s = state.clock()
    newest, sent = state.store.newest_agreements(), state.store.last_sent()
    drafts = {row["gateway"]: row["id"] for row in state.store.drafts()}
    held = state.store.held_agreements()
    rows = []
    for home in list(state.homes.values()):
        if home.gateway not in held or not call.session.account.sees(home):
            continue
        row, last = newest.get((home.gateway, home.install_epoch)), sent.get((home.gateway, home.install_epoch))
        agreement = None if row is None else _parsed(row["agreement_json"])
        name, version = held[home.gateway]
        standing = plan.standing(last, held[home.gateway])
        rows.append(
            {
                "gateway": home.gateway,
                "agreement": name,
                "version": version,
                "groups": sorted(home.groups),
                "confirmed": standing == "confirmed",
                "standing": standing,
                "sent_version": None if last is None else last["version"],
                "next": [] if row is None else _next(row["agreement_json"], now_unix_s),
                "pauses_left": [] if agreement is None else plan.pauses_left(agreement, now_unix_s=now_unix_s),
                "lines": 0 if agreement is None else len(agreement.lines),
                "pauses": 0 if agreement is None else len(agreement.pauses),
                "is_paused": agreement is not None and plan.is_paused(agreement, now_unix_s),
                "consent_ends": None if agreement is None else plan.consent_ends(agreement),
                "valid_until": None if agreement is None else agreement.valid.last.isoformat(),
                "draft": drafts.get(home.gateway),
            }
        )
    return rows


def _next(agreement_json: str, now_unix_s: float) -> list[dict[str, Any]]:
    upcoming = _next_in_hour(agreement_json, int(now_unix_s // 3600))
    return [one for one in upcoming if one["start_unix_s"] >= now_unix_s][:NEXT]


@lru_cache(maxsize=10_000)
def _next_in_hour(agreement_json: str, hour: int) -> list[dict[str, Any]]:
    """Reckoned once an hour, for a page asks every ten seconds; with some that may have begun by then."""
    agreement = _parsed(agreement_json)
    if agreement is None:
        return []
    return plan.next_occasions(agreement, now_unix_s=hour * 3600.0, most=NEXT + len(agreement.lines))


@lru_cache(maxsize=10_000)
def _parsed(agreement_json: str) -> Agreement | None:
    try:
        return parse_agreement(agreement_json.encode())
    except RefusedError:
        return None


# Drafts


async def put_draft(call: Call) -> Response:
    one, state = call.the_home, call.state
    try:
        content = strict_json.dumps(call.body.agreement)
        agreement = parse_agreement(content)
    except RefusedError as exc:
        return error(400, "not-an-agreement", f"This is no agreement: {exc.detail or exc.code}."[:300])
    if (agreement.gateway, agreement.install_epoch) != (one.gateway, one.install_epoch):
        return error(400, "not-an-agreement", "This agreement is another home's, or another installation's.")
    draft = f"d-{b64url_encode(secrets.token_bytes(9))}"
    done = await asyncio.to_thread(
        state.store.put_draft,
        draft,
        gateway=one.gateway,
        agreement_json=content.decode(),
        who=call.who,
        now_unix_s=state.clock(),
        most=MAX_DRAFTS,
    )
    if not done:
        return error(409, "too-many-drafts", "Too many drafts wait for a signature.")
    row = await asyncio.to_thread(state.store.draft, draft)
    assert row is not None
    return answer(_draft(row))


async def drafts(call: Call) -> Response:
    rows = await asyncio.to_thread(call.state.store.drafts)
    homes, account = call.state.homes, call.session.account
    return answer([_draft(row) for row in rows if row["gateway"] in homes and account.sees(homes[row["gateway"]])])


async def end_draft(call: Call) -> Response:
    """It was signed and sent, or is not wanted."""
    draft = call.request.path_params["draft"]
    row = await asyncio.to_thread(call.state.store.draft, draft)
    homes, account = call.state.homes, call.session.account
    if row is None or row["gateway"] not in homes or not account.sees(homes[row["gateway"]]):
        return error(404, "unknown-draft", "There is no such draft. Reload this page.")
    done = await asyncio.to_thread(call.state.store.end_draft, draft, who=call.who, now_unix_s=call.state.clock())
    return answer({"done": done})


def _draft(row: dict[str, Any]) -> dict[str, Any]:
    facts = {name: row[name] for name in ("id", "gateway", "who", "at_unix_s", "state")}
    return facts | {"content": json.loads(row["agreement_json"])}


# Trust


async def put_trust(call: Call) -> Response:
    """Send a trust statement that the roots have signed elsewhere; only the home can say whether it holds."""
    version = _version_of(call.body)
    if version is None:
        return error(400, "malformed", "Send one signed trust.put statement, or two joined by ~.")
    # The home answers a statement under this name; source: docs/protocol.md, "Trust".
    return await forward(call.state, call.the_home, call.body, jti=f"trust-{version}", kind=TrustPut.KIND, who=call.who)


def _version_of(untrusted: bytes) -> int | None:
    """The version that a statement claims, unverified: the centre holds no root and sends it on as it is."""
    parts = untrusted.split(b"~")
    if not 1 <= len(parts) <= 2:
        return None
    try:
        if any(split(part).kind != TrustPut.KIND for part in parts):
            return None
        payload = strict_json.loads(b64url_decode(parts[0].split(b".")[1].decode("ascii")))
        return msgspec.convert(payload, TrustPut, strict=True).version
    except (RefusedError, ValueError, msgspec.ValidationError):
        return None


ENDPOINTS: Final = (
    Endpoint("plan.meaning", "POST", "/plan/meaning", meaning, "What an agreement means: the next occasions.",
             answers.PlanFacts, roles=_PLANS, body=AgreementBody),
    Endpoint("plan", "GET", "/plan", overview, "Every home's agreement, pauses and consent.", list[answers.PlanRow],
             roles=_READS),
    Endpoint("agreements", "GET", "/homes/{gateway}/agreements", agreements, "A home's agreements, newest first.",
             list[answers.AgreementFacts], roles=_READS),
    Endpoint("draft.put", "POST", "/homes/{gateway}/drafts", put_draft, "An agreement for a planner to sign.",
             answers.DraftFacts, roles=_PLANS, body=AgreementBody, errors=(409,)),
    Endpoint("drafts", "GET", "/drafts", drafts, "Agreements that wait for a planner's signature.",
             list[answers.DraftFacts], roles=_PLANS),
    Endpoint("draft.end", "POST", "/drafts/{draft}/end", end_draft, "Signed and sent, or not wanted.", answers.Done,
             roles=PLANNER),
    Endpoint("trust.put", "POST", "/homes/{gateway}/trust", put_trust, "Send a trust statement signed by the roots.",
             answers.ReplyFacts, roles=frozenset({CentreRole.STEWARD}), is_text=True, max_bytes=MAX_ENVELOPE_BYTES,
             errors=(503, 504)),
)  # fmt: skip
