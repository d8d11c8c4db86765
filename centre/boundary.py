"""What every request passes before any route sees it, and what every answer carries.

A page that the operator has open elsewhere must not be able to speak in the operator's name, nor a name that an
attacker made point to this machine (DNS rebinding): the Host must be ours, and a request that changes something must
come from our own origin. SameSite=Strict on the cookie says the same a second time. What was tried in the name of
a session stands in the audit log; what comes without one writes nothing anywhere.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from centre.answer import ErrorResponse, error
from centre.session import RateLimit, session_of
from centre.state import CentreState

_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_BODY_TYPES: Final = frozenset({"application/json", "text/plain"})
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; script-src 'self'; style-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), display-capture=(), geolocation=()",
}


class Boundary:
    """ASGI middleware; the innermost application is never called for a request that is refused here."""

    def __init__(self, app: ASGIApp, state: CentreState) -> None:
        self._app = app
        self._state = state
        self._limit = RateLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_static = scope["path"].startswith("/static/")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["Cache-Control"] = "no-cache" if is_static else "no-store"
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None and refusal.code == "wrong-origin":
            await self._audit(Request(scope), refusal)
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _audit(self, request: Request, refusal: ErrorResponse) -> None:
        session, state = await session_of(self._state, request), self._state
        if session is None:
            return
        # As often as a session may ask for anything: whoever has a cookie must not be able to fill the log with it.
        if self._limit.allows(session.account.who, now_s=asyncio.get_running_loop().time()):
            await asyncio.to_thread(
                state.store.audit,
                who=session.account.who,
                what="boundary",
                gateway=None,
                status=refusal.status_code,
                code=refusal.code,
                now_unix_s=state.clock(),
            )

    def _refusal(self, method: str, headers: Headers) -> ErrorResponse | None:
        if headers.get("host", "").lower() not in self._state.hosts:
            return error(421, "wrong-host", "This address is not the centre's. Use the address that it printed.")
        if method in _SAFE_METHODS:
            return None
        origin = headers.get("origin")
        # A browser sends Origin with every POST; without one it is a program, which must show its token each time.
        is_program = origin is None and headers.get("authorization", "").lower().startswith("bearer ")
        if not is_program and origin not in self._state.origins:
            return error(
                403, "wrong-origin", "This request did not come from the console's own page. Reload the console."
            )
        body_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body_type not in _BODY_TYPES:
            return error(415, "wrong-type", "Send JSON or plain text.")
        return None
