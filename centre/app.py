"""The console's HTTP side: logging in, the pages, and the API under /api/v1 (`centre.api`).

The centre can't open a camera. It gives an operator's key a grant for one shift, carries what that key signed to the
home, and hands back what the home's key signed; the page verifies the latter itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from centre import oidc, passkey
from centre.answer import TooLargeError, answer, body_of, error
from centre.api import checks, endpoint, fleet, handovers, openapi, operation, people, plan, returns
from centre.boundary import Boundary
from centre.est import Desk, enrolment_routes
from centre.login import LoginRefusedError, by_token
from centre.session import COOKIE, SESSION_LIFE_S, RateLimit, Session, log_in, session_of
from centre.state import Account, CentreState
from centre.words import COOKIE as LANGUAGE_COOKIE
from centre.words import in_words, language_of, words_for_browser
from gateway.core.catalogue import LANGUAGES

ENDPOINTS: Final = (
    *checks.ENDPOINTS,
    *handovers.ENDPOINTS,
    *plan.ENDPOINTS,
    *people.ENDPOINTS,
    *operation.ENDPOINTS,
    *fleet.ENDPOINTS,
    *returns.ENDPOINTS,
)
OIDC_COOKIE: Final = "tillsyn_oidc"
_LANGUAGE_LIFE_S: Final = 365 * 24 * 3600
_HERE: Final = Path(__file__).parent
_DOCUMENT: Final = msgspec.json.encode(openapi.document(ENDPOINTS))


class _PasskeyAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    login: str
    credential: str


def make_app(state: CentreState, desk: Desk | None = None) -> Starlette:
    """The whole console; `desk` is the enrolment service, where this centre has one.

    It starts nothing by itself: the broker's intake runs beside it (`centre.service`).
    """
    login = _LoginPages(state)
    limit = RateLimit()
    routes = [
        Route("/", login.console),
        Route("/login", login.token),
        Route("/login/passkey/begin", login.begin_passkey, methods=["POST"]),
        Route("/login/passkey", login.finish_passkey, methods=["POST"]),
        Route("/login/oidc", login.begin_oidc),
        Route("/login/oidc/back", login.finish_oidc),
        Route("/logout", login.log_out, methods=["POST"]),
        Route("/words.json", _words),
        Route("/language/{code}", _language),
        Route("/api/v1/openapi.json", _openapi),
        *(endpoint.route(state, each, limit) for each in ENDPOINTS),
        *(enrolment_routes(_as_endpoint(state, limit), desk) if desk is not None else ()),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Boundary, state=state)],
        exception_handlers={HTTPException: _http_error, TooLargeError: _too_large},
    )


def _as_endpoint(state: CentreState, limit: RateLimit) -> Callable[..., Route]:
    """Route what only some centres have, behind everything that the API's endpoints stand behind."""

    def route(
        path: str, run: Callable[[CentreState, Session, Request], Awaitable[Response]], method: str = "GET"
    ) -> Route:
        async def called(call: endpoint.Call) -> Response:
            return await run(call.state, call.session, call.request)

        below = path.removeprefix(endpoint.PREFIX)
        row = endpoint.Endpoint(run.__name__.strip("_"), method, below, called, "", dict, is_of_home=False)
        return endpoint.route(state, row, limit)

    return route


class _LoginPages:
    """Every way in, and the page behind it."""

    def __init__(self, state: CentreState) -> None:
        self._state = state
        self._templates = Jinja2Templates(directory=_HERE / "templates")

    def _refused(self, request: Request, problem: str | None) -> Response:
        context = in_words(request, problem=problem, has_oidc=self._state.oidc is not None)
        return self._templates.TemplateResponse(request, "login.html", context, status_code=401)

    async def console(self, request: Request) -> Response:
        session = await session_of(self._state, request)
        if session is None:
            return self._refused(request, None)
        context = in_words(request, who=session.account.who, roles=set(session.account.roles))
        return self._templates.TemplateResponse(request, "console.html", context)

    async def token(self, request: Request) -> Response:
        """With a token: in. Without one: the page that says how."""
        if "token" not in request.query_params:
            return self._refused(request, None)
        account = await asyncio.to_thread(by_token, self._state, request.query_params["token"])
        if account is None:
            await self._audit("unknown", "login.token", 401)
            return self._refused(request, "wrong-token")
        await self._audit(account.who, "login.token", 200)
        return await self._enter(RedirectResponse("/", status_code=303), request, account)

    async def begin_passkey(self, request: Request) -> Response:
        try:
            return answer(await asyncio.to_thread(passkey.begin_login, self._state, origin=_origin(request)))
        except LoginRefusedError as exc:
            return error(400, "passkey-refused", str(exc))

    async def finish_passkey(self, request: Request) -> Response:
        try:
            body = msgspec.json.decode(
                await body_of(request, max_bytes=2 * passkey.MAX_CREDENTIAL_CHARS), type=_PasskeyAnswer
            )
            account = await asyncio.to_thread(
                passkey.finish_login,
                self._state,
                origin=_origin(request),
                name=body.login,
                untrusted_credential=body.credential,
            )
        except msgspec.MsgspecError:
            return error(400, "malformed", 'Send {"login", "credential"}.')
        except LoginRefusedError as exc:
            await self._audit("unknown", "login.passkey", 401)
            return error(401, "passkey-refused", str(exc))
        await self._audit(account.who, "login.passkey", 200)
        return await self._enter(answer({"who": account.who}), request, account)

    async def begin_oidc(self, request: Request) -> Response:
        state = self._state
        if state.oidc is None:
            raise HTTPException(404)
        try:
            address, name = await oidc.begin(state, state.oidc, redirect_uri=self._back(request))
        except LoginRefusedError:
            return self._refused(request, "oidc")
        response = RedirectResponse(address, status_code=303)
        # Lax: the provider sends the browser back from another site.
        response.set_cookie(
            OIDC_COOKIE, name, max_age=300, path="/login/oidc", httponly=True, samesite="lax", secure=self._tls(request)
        )
        return response

    async def finish_oidc(self, request: Request) -> Response:
        state = self._state
        if state.oidc is None:
            raise HTTPException(404)
        query = request.query_params
        try:
            account = await oidc.finish(
                state,
                state.oidc,
                redirect_uri=self._back(request),
                cookie_name=request.cookies.get(OIDC_COOKIE, ""),
                untrusted_state=query.get("state", "")[:512],
                untrusted_code=query.get("code", "")[:4096],
            )
        except LoginRefusedError:
            await self._audit("unknown", "login.oidc", 401)
            return self._refused(request, "oidc")
        await self._audit(account.who, "login.oidc", 200)
        # Not a redirect: the cookie is SameSite=Strict, and this navigation began at the provider.
        page = self._templates.TemplateResponse(request, "entered.html", in_words(request))
        page.delete_cookie(OIDC_COOKIE, path="/login/oidc")
        return await self._enter(page, request, account)

    async def log_out(self, request: Request) -> Response:
        session = await session_of(self._state, request)
        if session is None:
            return error(401, "not-logged-in", "You are not logged in, or the login has ended. Log in again.")
        if session.session_sha256 is not None:
            await asyncio.to_thread(self._state.store.end_session, session.session_sha256)
        await self._audit(session.account.who, "logout", 200)
        response = answer({"logged_out": True})
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    async def _enter(self, response: Response, request: Request, account: Account) -> Response:
        response.set_cookie(
            COOKIE,
            await log_in(self._state, account),
            max_age=SESSION_LIFE_S,
            httponly=True,
            samesite="strict",
            secure=self._tls(request),
        )
        return response

    async def _audit(self, who: str, what: str, status: int) -> None:
        await asyncio.to_thread(
            self._state.store.audit,
            who=who,
            what=what,
            gateway=None,
            status=status,
            code=None,
            now_unix_s=self._state.clock(),
        )

    def _tls(self, request: Request) -> bool:
        return f"https://{request.headers['host'].lower()}" in self._state.origins

    def _back(self, request: Request) -> str:
        scheme = "https" if self._tls(request) else "http"
        return f"{scheme}://{request.headers['host'].lower()}/login/oidc/back"


def _origin(request: Request) -> str:
    """The page's, which `centre.boundary` has found to be ours."""
    return request.headers.get("origin", "")


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


async def _openapi(_request: Request) -> Response:
    return Response(_DOCUMENT, media_type="application/json")
