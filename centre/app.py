"""The console's HTTP side: login, the page, and the API that the page and programs use.

The centre can't open a camera. It gives an operator's key a grant for one shift, carries what that key signed to the
home, and hands back what the home's key signed; the page verifies the latter itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from centre import handover
from centre.answer import TooLargeError, answer, body_of, error
from centre.boundary import Boundary
from centre.catalogue import LANGUAGES
from centre.config import MAX_GRANT_HOMES
from centre.est import Desk, enrolment_routes
from centre.exchange import NoAnswerError
from centre.login import LoginPort, TokenLogin
from centre.relay import ice_servers
from centre.relay_api import relay_endpoint
from centre.session import COOKIE, SESSION_LIFE_S, RateLimit, Session, log_in, session_of
from centre.state import CentreState, Home
from centre.store import AskedOpening, SentAgreement
from centre.words import COOKIE as LANGUAGE_COOKIE
from centre.words import in_words, language_of, words_for_browser
from gateway.agreement import AGREEMENT_MAX_BYTES
from gateway.core.error import TransientError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol import strict_json
from gateway.protocol.envelope import MAX_ENVELOPE_BYTES, sign, split, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import (
    KINDS,
    ROLE_FOR,
    AgreementPut,
    AgreementWithdraw,
    Challenge,
    Close,
    Confirmation,
    Grant,
    Lease,
    Message,
    Open,
    audience,
)

GRANT_LIFE_S: Final = 8 * 3600
_GRANT_SLACK_S: Final = 60.0
"""A grant begins this long before now: the home's whole clock interval must lie after its beginning."""
LEASE_EVERY_S: Final = 5
MAX_LOG_ROWS: Final = 200
_LANGUAGE_LIFE_S: Final = 365 * 24 * 3600
_HERE: Final = Path(__file__).parent

Endpoint = Callable[[CentreState, Session, Request], Awaitable[Response]]


def make_app(state: CentreState, desk: Desk | None = None) -> Starlette:
    """The whole console; `desk` is the enrolment service, where this centre has one.

    It starts nothing by itself: the broker's intake runs beside it (`centre.service`).
    """
    templates = Jinja2Templates(directory=_HERE / "templates")
    limit = RateLimit()
    way: LoginPort = TokenLogin(state.accounts)

    async def console(request: Request) -> Response:
        session = await session_of(state, request)
        if session is None:
            return templates.TemplateResponse(request, "login.html", in_words(request, wrong=False), status_code=401)
        return templates.TemplateResponse(request, "console.html", in_words(request, who=session.account.who))

    async def login(request: Request) -> Response:
        account = await way.finish(request.query_params)
        if account is None:
            return templates.TemplateResponse(request, "login.html", in_words(request, wrong=True), status_code=401)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            COOKIE,
            await log_in(state, account),
            max_age=SESSION_LIFE_S,
            httponly=True,
            samesite="strict",
            secure=f"https://{request.headers['host'].lower()}" in state.origins,
        )
        return response

    def route(path: str, endpoint: Endpoint, method: str = "GET") -> Route:
        @wraps(endpoint)
        async def guarded(request: Request) -> Response:
            session = await session_of(state, request)
            if session is None:
                return error(
                    401, "not-logged-in", "You are not logged in, or the login has ended. Use your login link."
                )
            return await endpoint(state, session, request)

        return Route(path, guarded, methods=[method])

    async def commands(state: CentreState, session: Session, request: Request) -> Response:
        if not limit.allows(session.session_sha256 or session.account.who, now_s=asyncio.get_running_loop().time()):
            return error(429, "rate-limited", "Too many requests from this login. Wait a second, then try again.")
        return await _command(state, session, request)

    routes = [
        Route("/", console),
        Route("/login", login),
        Route("/words.json", _words),
        Route("/language/{code}", _language),
        route("/logout", _log_out, "POST"),
        route("/api/v1/config", _config),
        route("/api/v1/grants", _grant, "POST"),
        route("/api/v1/homes", _homes),
        route("/api/v1/homes/{gateway}/commands", commands, "POST"),
        route("/api/v1/homes/{gateway}/relay", relay_endpoint, "POST"),
        route("/api/v1/homes/{gateway}/ledger", _ledger),
        route("/api/v1/homes/{gateway}/checkpoint", _checkpoint),
        route("/api/v1/handovers", handover.handovers),
        route("/api/v1/handovers/{handover}/acknowledge", handover.acknowledge, "POST"),
        route("/api/v1/handovers/{handover}/done", handover.finish, "POST"),
        route("/api/v1/events", _events),
        *(enrolment_routes(route, desk) if desk is not None else ()),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Boundary, state=state)],
        exception_handlers={HTTPException: _http_error, TooLargeError: _too_large},
    )


async def _http_error(_request: Request, exc: Exception) -> Response:
    status = cast(HTTPException, exc).status_code
    words = {404: "There is nothing at this address.", 405: "This address does not take such a request."}
    return error(status, f"http-{status}", words.get(status, "The request could not be taken."))


async def _too_large(_request: Request, _exc: Exception) -> Response:
    return error(413, "too-large", "The request is larger than the centre takes.")


async def _words(request: Request) -> Response:
    language = language_of(request)
    return answer({"language": language, "words": words_for_browser(language)})


async def _language(request: Request) -> Response:
    code = request.path_params["code"]
    if code not in LANGUAGES:
        raise HTTPException(404)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(LANGUAGE_COOKIE, code, max_age=_LANGUAGE_LIFE_S, httponly=True, samesite="lax")
    return response


async def _log_out(state: CentreState, session: Session, _request: Request) -> Response:
    if session.session_sha256 is not None:
        await asyncio.to_thread(state.store.end_session, session.session_sha256)
    response = answer({"logged_out": True})
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


async def _config(state: CentreState, session: Session, _request: Request) -> Response:
    return answer(
        {
            "who": session.account.who,
            "roles": session.account.roles,
            "ice_policy": state.ice.policy,
            "ice_servers": ice_servers(state.ice, None),
            "lease_every_s": LEASE_EVERY_S,
            "now_unix_s": state.clock(),
            "witness": None if state.cosigner is None else str(state.cosigner.public),
        }
    )


async def _grant(state: CentreState, session: Session, request: Request) -> Response:
    account = session.account
    try:
        untrusted = strict_json.loads(await body_of(request, max_bytes=2048))
        if not isinstance(untrusted, dict) or set(untrusted) != {"jwk"}:
            raise RefusedError(RefusalCode.MALFORMED, "fields")
        key = VerifyingKey.from_jwk(untrusted["jwk"])
    except RefusedError:
        return error(400, "malformed", 'Send {"jwk": {"kty", "crv", "x", "y"}} with a public P-256 key.')
    now_unix_s = state.clock()
    disabled = await asyncio.to_thread(state.store.disabled, state.installations)
    fits_by_name = len(state.homes) <= MAX_GRANT_HOMES
    grant = Grant(
        sub=account.who,
        name_ref=account.who,
        roles=list(account.roles),
        cnf=Confirmation(key.jwk()),
        epoch=state.grant_epoch,
        nbf=now_unix_s - _GRANT_SLACK_S,
        exp=now_unix_s + GRANT_LIFE_S,
        # A grant by groups can't leave one home out; that no command is forwarded to it holds there as well.
        homes=sorted(set(state.homes) - set(disabled)) if fits_by_name else [],
        groups=[] if fits_by_name else sorted({group for home in state.homes.values() for group in home.groups}),
    )
    envelope = sign(grant, state.issuing_key)
    digest = hashlib.sha256(envelope).hexdigest()
    await asyncio.to_thread(state.store.put_grant, grant, grant_sha256=digest, kid=key.kid)
    return answer(
        {
            "grant": envelope.decode("ascii"),
            "kid": key.kid,
            "exp_unix_s": grant.exp,
            "who": account.who,
            "roles": account.roles,
        }
    )


async def _homes(state: CentreState, _session: Session, _request: Request) -> Response:
    known = await asyncio.to_thread(state.store.home_states)
    disabled = await asyncio.to_thread(state.store.disabled, state.installations)
    witnessed = await asyncio.to_thread(state.store.witnessed)
    return answer(
        [
            _home_facts(home, known[home.gateway])
            | {
                "disabled": disabled.get(home.gateway),
                "witnessed": _witness_facts(home, witnessed.get((home.gateway, home.install_epoch))),
            }
            for home in state.homes.values()
        ]
    )


def _witness_facts(home: Home, newest: dict[str, Any] | None) -> dict[str, Any] | None:
    """None: the home's ledger key is not known here, so nothing of it is witnessed yet."""
    if home.ledger_key is None:
        return None
    if newest is None:
        return {"size": 0, "at_unix_s": None, "is_cosigned": False}
    return {name: newest[name] for name in ("size", "at_unix_s", "is_cosigned")}


async def _checkpoint(state: CentreState, _session: Session, request: Request) -> Response:
    """The newest witnessed checkpoint as a note, for `tillsyn ledger verify` beside a copy of the ledger."""
    home = state.homes.get(request.path_params["gateway"])
    if home is None:
        return error(404, "unknown-home", "The centre knows no such home. Go back to the list.")
    newest = (await asyncio.to_thread(state.store.witnessed)).get((home.gateway, home.install_epoch))
    if newest is None:
        return error(404, "not-witnessed", "No checkpoint of this home has been witnessed yet.")
    return Response(newest["note"], media_type="text/plain; charset=utf-8")


def _home_facts(home: Home, known: dict[str, Any]) -> dict[str, Any]:
    clock = None
    if known["clock_state"] is not None:
        clock = {
            "state": known["clock_state"],
            "lo_unix_s": known["clock_lo_unix_s"],
            "hi_unix_s": known["clock_hi_unix_s"],
        }
    return {
        "gateway": home.gateway,
        "install_epoch": home.install_epoch,
        "audience": audience(home.gateway, home.install_epoch),
        "device_jwk": home.device_key.jwk(),
        "online": known["online"],
        "tunnel": known["tunnel"],
        "heard_unix_s": known["heard_unix_s"],
        "sw": known["sw"],
        "clock": clock,
        "agreement": known["agreement"],
        "version": known["version"],
        "due": known["due"],
        "last": known["last"],
    }


class _BadCommandError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


def _read_command(state: CentreState, session: Session, untrusted: bytes) -> Message:
    """A command of this session's account; raises _BadCommandError.

    The home checks all of this again and more. Here it keeps one account from using another's grant, and rubbish off
    the broker. The command's audience is left to the home, whose refusal is signed.
    """
    malformed = _BadCommandError(400, "malformed", "The command is not <grant>~<command>, signed. Reload the console.")
    try:
        untrusted_grant, untrusted_command = untrusted.split(b"~")
        issuer = state.issuing_key.verifying
        grant = verify(untrusted_grant, {issuer.kid: issuer}, Grant)
        kind = KINDS[split(untrusted_command).kind]
        if kind not in ROLE_FOR or kind is Lease:
            raise malformed
        person = VerifyingKey.from_jwk(grant.cnf.jwk)
        command = verify(untrusted_command, {person.kid: person}, kind)
    except ValueError as exc:
        raise malformed from exc
    except RefusedError as exc:
        if exc.code is RefusalCode.MALFORMED:
            raise malformed from exc
        raise _BadCommandError(
            403, exc.code.value, "The signature is not one that this centre gave a grant for. Reload the console."
        ) from exc
    if grant.name_ref != session.account.who:
        raise _BadCommandError(403, "other-account", "This grant belongs to another account. Log in again.")
    if grant.exp <= state.clock() and kind not in (Close, AgreementWithdraw):
        raise _BadCommandError(403, "grant-expired", "Your shift's grant has ended. Reload the console for a new one.")
    return command


def _opening(home: Home, command: Message) -> AskedOpening | None:
    if not isinstance(command, Open):
        return None
    return AskedOpening(home.install_epoch, command.line, command.occasion, command.attempt)


def _agreement(home: Home, command: Message) -> SentAgreement | None:
    """What of an `agreement.put` is needed once the home has accepted it; nothing of one that it can only refuse."""
    if not isinstance(command, AgreementPut):
        return None
    name, version = command.agreement.get("agreement"), command.agreement.get("version")
    text = strict_json.dumps(command.agreement).decode()
    if not isinstance(name, str) or len(name) > 64 or type(version) is not int or len(text) > AGREEMENT_MAX_BYTES:
        return None
    return SentAgreement(home.install_epoch, name, version, text)


async def _command(state: CentreState, session: Session, request: Request) -> Response:
    home = state.homes.get(request.path_params["gateway"])
    if home is None:
        return error(404, "unknown-home", "The centre knows no such home. Go back to the list.")
    untrusted = await body_of(request, max_bytes=MAX_ENVELOPE_BYTES)
    try:
        command = _read_command(state, session, untrusted)
    except _BadCommandError as exc:
        return error(exc.status, exc.code, exc.message)
    # Closing and withdrawing are never refused: whatever is wrong with its log, the camera may always be closed.
    if not isinstance(command, Close | AgreementWithdraw):
        disabled = await asyncio.to_thread(state.store.disabled, {home.gateway: home.install_epoch})
        if disabled:
            return error(
                409,
                "home-disabled",
                "This home's log does not fit what the centre has witnessed, so nothing is sent to it until it has "
                "been installed anew. Report it now, and make the check as a visit.",
            )
    jti = str(cast(Any, command).jti)
    correlation = secrets.token_bytes(16)
    await asyncio.to_thread(
        state.store.put_command,
        correlation,
        command_sha256=hashlib.sha256(untrusted).hexdigest(),
        gateway=home.gateway,
        kind=command.KIND,
        who=session.account.who,
        jti=jti,
        now_unix_s=state.clock(),
        opening=_opening(home, command),
        agreement=_agreement(home, command),
    )
    try:
        reply = await state.exchange.ask(
            home.gateway,
            jti=jti,
            untrusted_command=untrusted,
            correlation=correlation,
            may_repeat=isinstance(command, Challenge | Close | AgreementWithdraw),
        )
    except NoAnswerError:
        return error(
            504,
            "no-answer",
            "The home did not answer within 12 seconds. Try again once; if it stays silent, follow the routine for a "
            "home that can't be reached.",
        )
    except TransientError:
        return error(
            503, "broker-down", "The centre has no connection to the homes just now. It keeps trying; try again soon."
        )
    return answer({"reply": reply.decode("ascii")})


async def _ledger(state: CentreState, _session: Session, request: Request) -> Response:
    gateway = request.path_params["gateway"]
    if gateway not in state.homes:
        return error(404, "unknown-home", "The centre knows no such home. Go back to the list.")
    try:
        after = int(request.query_params.get("after", "-1"))
        newest = request.query_params.get("newest")
        newest_count = None if newest is None else int(newest)
    except ValueError:
        return error(400, "malformed", "`after` and `newest` are whole numbers.")
    if not -1 <= after <= 2**53 or (newest_count is not None and not 1 <= newest_count <= MAX_LOG_ROWS):
        return error(400, "malformed", f"`after` is a ledger number, `newest` is 1 to {MAX_LOG_ROWS}.")
    return answer(await asyncio.to_thread(state.store.ledger_rows, gateway, after=after, newest=newest_count))


async def _events(state: CentreState, _session: Session, _request: Request) -> Response:
    if state.events.is_full:
        return error(503, "too-many-pages", "Too many console pages are open. Close one, then reload.")
    return StreamingResponse(state.events.listen(), media_type="text/event-stream")
