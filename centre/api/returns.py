"""Lent devices that go back: how far each is, its protocol, and closing one that does not come back.

The two commands, `device.return` and `device.erase`, go the way of every other (`centre.api.checks.command`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from centre.answer import answer, error
from centre.api import answers
from centre.api.endpoint import Call, Endpoint, Query, number
from centre.export import paper, plain, returned
from centre.export.words import Words
from centre.role import CentreRole
from gateway.protocol.key import b64url_decode
from gateway.protocol.message import audience
from gateway.protocol.return_code import return_code
from gateway.protocol.strict_json import loads

_HANDLES: Final = frozenset({CentreRole.STEWARD, CentreRole.INSTALLER})
_READS: Final = _HANDLES | {CentreRole.AUDITOR}
_EPOCH = Query("install_epoch", 0, 0, 999_999_999, "Which installation; 0 is the newest that went back.")
_ENGLISH = Query("english", 0, 0, 1, "1: in English, else in Swedish.")


class CloseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    why: Annotated[str, Meta(pattern=r"^(lost|broken|destroyed)\Z")]
    """A pattern and not a Literal, whose error would send back what was sent."""


async def returns(call: Call) -> Response:
    return answer(await asyncio.to_thread(_returns, call))


def _returns(call: Call) -> list[dict[str, Any]]:
    homes, found = call.state.homes, []
    for row in call.state.store.returns():
        home = homes.get(row["gateway"])
        if home is None or not call.session.account.sees(home):
            continue
        kept = ("gateway", "install_epoch", "version", "ordered_by", "ordered_unix_s", "second", "attested_unix_s",
                "closed_by", "closed_why", "closed_unix_s")  # fmt: skip
        is_newest = home.install_epoch == row["install_epoch"]
        found.append(
            {name: row[name] for name in kept}
            | {"code": _code(row, home.device_key.kid) if is_newest else None, "statement": row["statement_jws"]}
        )
    return found


def _code(row: dict[str, Any], device_kid: str) -> str | None:
    """What the device shows too; None until it has answered, and once it has said its last word."""
    if row["device_nonce"] is None or row["statement_jws"] is not None:
        return None
    return return_code(
        audience=audience(row["gateway"], row["install_epoch"]),
        version=row["version"],
        steward_kid=row["steward_kid"],
        nonce=row["nonce"],
        device_kid=device_kid,
        device_nonce=row["device_nonce"],
    )


async def close(call: Call) -> Response:
    home = call.the_home
    done = await asyncio.to_thread(
        call.state.store.close_return,
        home.gateway,
        home.install_epoch,
        who=call.who,
        why=call.body.why,
        now_unix_s=call.state.clock(),
    )
    if not done:
        return error(409, "closed-already", "This device has confirmed its return, or was closed before.")
    call.state.events.send("home", {"gateway": home.gateway})
    return answer({"done": True})


async def protocol_text(call: Call) -> Response:
    document = await asyncio.to_thread(_document, call)
    if document is None:
        return _nothing()
    return Response(plain.render(document), media_type="text/plain; charset=utf-8")


async def protocol_pdf(call: Call) -> Response:
    document = await asyncio.to_thread(_document, call)
    if document is None:
        return _nothing()
    content = await asyncio.to_thread(paper.render, document, body_pt=paper.OFFICE_PT)
    return Response(content, media_type="application/pdf")


def _nothing() -> Response:
    return error(404, "not-returned", "Nobody has ordered this device back. Choose another installation.")


def _document(call: Call) -> Any:
    wanted = number(call.request, _EPOCH)
    for row in call.state.store.returns():
        if row["gateway"] == call.the_home.gateway and wanted in (0, row["install_epoch"]):
            jws = row["statement_jws"]
            # Verified when it came, under the key of that installation, which may be another than today's.
            statement = None if jws is None else loads(b64url_decode(jws.split(".")[1]))
            return returned.make(row, statement, Words("en" if number(call.request, _ENGLISH) else "sv"))
    return None


ENDPOINTS: Final = (
    Endpoint("returns", "GET", "/returns", returns, "Lent devices that go back, each with the short code to compare.",
             list[answers.ReturnFacts], roles=_READS, reads_records=True),
    Endpoint("return.close", "POST", "/homes/{gateway}/return/close", close,
             "Close a home whose device does not come back. It is missed until its card is known to be destroyed.",
             answers.Done, roles=frozenset({CentreRole.STEWARD}), body=CloseBody, errors=(409,)),
    Endpoint("return.text", "GET", "/homes/{gateway}/return/protocol.txt", protocol_text,
             "The protocol of a return, as text.", str, roles=_READS, query=(_EPOCH, _ENGLISH),
             media_type="text/plain", reads_records=True),
    Endpoint("return.pdf", "GET", "/homes/{gateway}/return/protocol.pdf", protocol_pdf,
             "The protocol of a return, as PDF, to be signed.", str, roles=_READS, query=(_EPOCH, _ENGLISH),
             media_type="application/pdf", reads_records=True),
)  # fmt: skip
