"""One endpoint as data: who may ask, what it takes, what it answers. Routing, refusing, auditing and the OpenAPI
document (`centre.api.openapi`) all come from the same rows, so that none of them can forget one.

Order for each request: session, role, home (of the account's own groups), the body's closed schema, then the endpoint.
What changes something, and what is refused, is in the audit log before the answer goes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from centre.answer import body_of, error
from centre.role import ANYBODY, CentreRole
from centre.session import RateLimit, Session, session_of
from centre.state import CentreState, Home
from gateway.core.refusal import RefusedError
from gateway.protocol import strict_json

PREFIX: Final = "/api/v1"
MAX_BODY_BYTES: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One request that passed everything above; `body` is of the endpoint's type, or the bytes of a text."""

    state: CentreState
    session: Session
    request: Request
    body: Any = None
    home: Home | None = None

    @property
    def who(self) -> str:
        return self.session.account.who

    @property
    def the_home(self) -> Home:
        """Of an endpoint with {gateway} in its path."""
        assert self.home is not None
        return self.home


@dataclass(frozen=True, slots=True)
class Query:
    """One whole number in the query."""

    name: str
    default: int
    least: int
    most: int
    summary: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`answers` is the struct (or list of it) of a 200; `errors` are the statuses beside 400, 401, 403, 404 and 429."""

    name: str
    method: str
    path: str
    run: Callable[[Call], Awaitable[Response]]
    summary: str
    answers: Any
    roles: frozenset[CentreRole] = ANYBODY
    body: Any = None
    is_text: bool = False
    max_bytes: int = MAX_BODY_BYTES
    query: tuple[Query, ...] = ()
    errors: tuple[int, ...] = ()
    media_type: str = "application/json"
    is_limited: bool = True
    """False: never told to wait. Taking on what must not wait costs nobody else anything."""
    is_of_home: bool = True
    """A {gateway} in its path is a home of this centre; False: it may be one that is being enrolled."""
    reads_records: bool = False
    """A GET that shows somebody's record: it goes into the audit log too."""

    @property
    def is_audited(self) -> bool:
        return self.method != "GET" or self.reads_records


_NOT_IN_THE_QUEUE: Final = frozenset({"grant", "relay", "command", "plan.meaning"})
"""What is asked often and changes nothing that stands in the queue, which is not reckoned anew for it. What a command
changes its home says, and that is news; the claim that comes with an opening says so itself.
"""


class BadQueryError(Exception):
    """A number in the query is none, or out of range."""


def number(request: Request, query: Query) -> int:
    """Raises BadQueryError."""
    text = request.query_params.get(query.name)
    if text is None:
        return query.default
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 20:
        raise BadQueryError(f"`{query.name}` is a whole number.")
    if not query.least <= int(text) <= query.most:
        raise BadQueryError(f"`{query.name}` is {query.least} to {query.most}.")
    return int(text)


def route(state: CentreState, endpoint: Endpoint, limit: RateLimit) -> Route:
    """The endpoint behind everything that every request has to pass."""

    @wraps(endpoint.run)
    async def guarded(request: Request) -> Response:
        session = await session_of(state, request)
        if session is None:
            return error(401, "not-logged-in", "You are not logged in, or the login has ended. Log in again.")
        response = await _admit(state, session, request, endpoint, limit)
        if endpoint.method != "GET" and endpoint.name not in _NOT_IN_THE_QUEUE:
            state.desk_cache.forget()
        if endpoint.is_audited or response.status_code in (403, 404, 409):
            await asyncio.to_thread(
                state.store.audit,
                who=session.account.who,
                what=endpoint.name,
                gateway=_known(state, request.path_params.get("gateway")),
                status=response.status_code,
                code=getattr(response, "code", None),
                now_unix_s=state.clock(),
            )
        return response

    return Route(f"{PREFIX}{endpoint.path}", guarded, methods=[endpoint.method])


def _known(state: CentreState, gateway: str | None) -> str | None:
    """A home's name; a stranger's text goes into no log."""
    return gateway if gateway in state.homes else None


async def _admit(
    state: CentreState, session: Session, request: Request, endpoint: Endpoint, limit: RateLimit
) -> Response:
    if endpoint.method != "GET" and endpoint.is_limited:
        key = f"{endpoint.name} {session.session_sha256 or session.account.who}"
        if not limit.allows(key, now_s=asyncio.get_running_loop().time()):
            return error(429, "rate-limited", "Too many requests from this login. Wait a second, then try again.")
    if not endpoint.roles & set(session.account.roles):
        return error(403, "wrong-role", "Your account may not do this. Ask a colleague with the right role.")
    home = None
    if endpoint.is_of_home and "gateway" in request.path_params:
        home = state.homes.get(request.path_params["gateway"])
        if home is None or not session.account.sees(home):
            # The same words for a home that is not there and one that is another's: names can't be tried out.
            return error(404, "unknown-home", "The centre knows no such home. Go back to the list.")
    try:
        for query in endpoint.query:
            number(request, query)
    except BadQueryError as exc:
        return error(400, "malformed", str(exc))
    body: Any = None
    if endpoint.body is not None or endpoint.is_text:
        body = await body_of(request, max_bytes=endpoint.max_bytes)
    if endpoint.body is not None:
        try:
            body = msgspec.convert(strict_json.loads(body, max_bytes=endpoint.max_bytes), endpoint.body, strict=True)
        except RefusedError:
            return error(400, "malformed", "Send JSON.")
        except msgspec.ValidationError as exc:
            return error(400, "malformed", f"The request does not fit its schema: {_where(exc)}.")
    return await endpoint.run(Call(state, session, request, body, home))


def _where(exc: msgspec.ValidationError) -> str:
    """Msgspec's words without what was sent: they go back to the page."""
    return str(exc)[:200]
