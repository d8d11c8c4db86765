"""Who did what, and the passkeys of one's own account."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from starlette.responses import Response

from centre import passkey
from centre.answer import answer, error
from centre.api import answers
from centre.api.endpoint import Call, Endpoint, Query, number
from centre.login import LoginRefusedError
from centre.role import ANYBODY, CentreRole

_AFTER = Query("after", 0, 0, 2**53, "Only rows above this number.")


class PasskeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `navigator.credentials.create` gave, as JSON text (PublicKeyCredential.toJSON)."""

    login: str
    credential: str


class PasskeyIdBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    credential_id: str


async def audit(call: Call) -> Response:
    rows = await asyncio.to_thread(call.state.store.audit_rows, after=number(call.request, _AFTER), limit=500)
    return answer(rows)


async def passkeys(call: Call) -> Response:
    rows = await asyncio.to_thread(call.state.store.passkeys, call.who)
    return answer([{name: row[name] for name in ("credential_id", "created_unix_s", "used_unix_s")} for row in rows])


def _origin(call: Call) -> str:
    """The page's, which `centre.boundary` has found to be ours; a program has none, and no use for a passkey."""
    return call.request.headers.get("origin", "")


async def begin_passkey(call: Call) -> Response:
    try:
        return answer(await asyncio.to_thread(passkey.begin_registration, call.state, call.who, origin=_origin(call)))
    except LoginRefusedError as exc:
        return error(400, "passkey-refused", str(exc))


async def finish_passkey(call: Call) -> Response:
    body: Any = call.body
    try:
        await asyncio.to_thread(
            passkey.finish_registration,
            call.state,
            call.who,
            origin=_origin(call),
            name=body.login,
            untrusted_credential=body.credential,
        )
    except LoginRefusedError as exc:
        return error(400, "passkey-refused", str(exc))
    return answer({"done": True})


async def remove_passkey(call: Call) -> Response:
    done = await asyncio.to_thread(call.state.store.remove_passkey, call.body.credential_id, who=call.who)
    return answer({"done": done})


ENDPOINTS: Final = (
    Endpoint("audit", "GET", "/audit", audit, "Who changed or read what, and what was refused; oldest first.",
             list[answers.AuditFacts], roles=frozenset({CentreRole.AUDITOR}), query=(_AFTER,), reads_records=True),
    Endpoint("passkeys", "GET", "/passkeys", passkeys, "My passkeys.", list[answers.PasskeyFacts], roles=ANYBODY),
    Endpoint("passkey.begin", "POST", "/passkeys/begin", begin_passkey, "Begin to register a passkey.",
             answers.BrowserOptions, roles=ANYBODY),
    Endpoint("passkey.finish", "POST", "/passkeys", finish_passkey, "Register a passkey.", answers.Done,
             roles=ANYBODY, body=PasskeyBody),
    Endpoint("passkey.remove", "POST", "/passkeys/remove", remove_passkey, "Remove a passkey.", answers.Done,
             roles=ANYBODY, body=PasskeyIdBody),
)  # fmt: skip
