"""The pages: plain forms, one for the step that it is, and nothing for anybody who was not let in.

What every request passes first (`Boundary`): the Host must be the device's own name or the address that was dialled
(DNS rebinding), a POST must come from our own origin and carry the session's token (CSRF), bodies are bounded and in
time. Who has no session sees the page that asks for the code, whatever he asks for; nothing on it tells this device
from another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.boottime import boottime_s
from gateway.ipc import setup
from provisioning.factory.word import KEY_LENGTH, make_word
from provisioning.wizard import contact as door
from provisioning.wizard import machine, paper
from provisioning.wizard.evening import Evening
from provisioning.wizard.guard_client import GuardAwayError, GuardDeniesError
from provisioning.wizard.machine import ORDER, Consent, Step
from provisioning.wizard.words import (
    JOININGS,
    LINES,
    NOT_TRIED,
    PREVIEWS,
    REFUSALS,
    TROUBLES,
    UNMEASURED,
    decimal_in,
    language_for,
    languages,
    say_in,
    value_in,
)

SESSION: Final = "__Host-setup"
VISITOR: Final = "__Host-visitor"
LANGUAGE: Final = "__Host-language"
MAX_FORM_BYTES: Final = 32 * 1024
FORM_LIMIT_S: Final = 10.0
SESSION_LIFE_S: Final = 12 * 3600
_HERE: Final = Path(__file__).parent
_STATIC: Final = {
    "setup.css": "text/css; charset=utf-8",
    "preview.js": "text/javascript; charset=utf-8",
    "sign.js": "text/javascript; charset=utf-8",
    "wait.js": "text/javascript; charset=utf-8",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; media-src 'self' blob:; "
        "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: a form's Origin would be `null` then, and is what tells our own forms from others'.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}

Act = Callable[[Request, dict[str, str]], Awaitable[Response | None]]


class Boundary:
    """ASGI middleware; the application is never called for what is refused here."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = f"{host}.local"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        address, port = scope["server"]
        # The address that was dialled is ours: a name that somebody made point here is not it.
        dialled = f"[{address}]" if ":" in address else address
        names = {self._host, dialled}
        if host not in names | {f"{name}:{port}" for name in names}:
            return Response(status_code=421)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST" or headers.get("origin", "").lower() != f"https://{host}":
            return Response(status_code=403)
        return None


class Pages:
    """The routes of one evening."""

    def __init__(self, evening: Evening) -> None:
        self._evening = evening
        self._templates = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True)
        self._acts: dict[str, tuple[Step, Act]] = {
            "look": (Step.NETWORK, self._look),
            "join": (Step.NETWORK, self._join),
            "test": (Step.LINE, self._test),
            "go-on": (Step.LINE, self._go_on),
            "enrol": (Step.ENROL, self._enrol),
            "compare": (Step.COMPARE, self._compare),
            "informed": (Step.INFORM, self._informed),
            "consent": (Step.CONSENT, self._consent),
            "receipt": (Step.RECEIPT, self._receipt),
            "nudge": (Step.AIM, self._nudge),
            "aim": (Step.AIM, self._aim),
            "tick": (Step.AIM, self._tick),
            "preview-end": (Step.AIM, self._preview_end),
            "alarm": (Step.ALARM, self._alarm),
            "sign": (Step.PROTOCOL, self._sign),
            "send": (Step.PROTOCOL, self._send),
            "allow": (Step.DONE, self._allow),
        }

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/static/{name}", self._static),
                Route("/language/{code}", self._choose_language),
                Route("/enter", self._enter, methods=["POST"]),
                Route("/do/network", self._other_network, methods=["POST"]),
                Route("/do/{act}", self._do, methods=["POST"]),
                Route("/preview", self._preview, methods=["POST"]),
                Route("/preview/lease", self._lease, methods=["POST"]),
                Route("/paper/{name}.pdf", self._paper),
                Route("/{anything:path}", self._page),
            ],
            middleware=[Middleware(Boundary, host=self._evening.stub.host)],
            exception_handlers={_TooMuchError: _too_much},
        )

    # Who is asking

    def _session(self, request: Request) -> str | None:
        token = request.cookies.get(SESSION)
        return token if token is not None and door.knows(self._evening.contact, token) else None

    def _language(self, request: Request) -> str:
        chosen = request.cookies.get(LANGUAGE)
        return chosen if chosen in languages() else language_for(request.headers.get("accept-language", ""))

    # Pages

    async def _page(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return self._contact(request, is_wrong=False)
        if request.url.path != "/":
            return RedirectResponse("/", status_code=303)
        return self._render(request, session)

    def _contact(self, request: Request, *, is_wrong: bool) -> Response:
        visitor = request.cookies.get(VISITOR) or secrets.token_urlsafe(24)
        response = self._html(
            request, "contact.html", status=403 if is_wrong else 200, token=door.csrf(visitor), is_wrong=is_wrong
        )
        self._cookie(response, VISITOR, visitor, 3600)
        return response

    def _render(self, request: Request, session: str, *, status: int = 200, fault: str | None = None) -> Response:
        evening = self._evening
        evening.window.touch(boottime_s())
        evening.preview_addresses = (request.scope["server"][0],)
        step = evening.progress.step
        trouble, evening.trouble = fault or evening.trouble, None
        say = say_in(self._language(request))
        return self._html(
            request,
            "again.html" if evening.asks else f"{step}.html",
            status=status,
            token=door.csrf(session),
            evening=evening,
            progress=evening.progress,
            trouble=None if trouble is None else self._trouble(say, trouble),
            joined=None if evening.last_joining is None else say(JOININGS.get(evening.last_joining, "")),
            lines=[
                (
                    say(LINES[one.name][0]),
                    one,
                    None if one.is_good or one.value == NOT_TRIED else say(LINES[one.name][1]),
                    value_in(say, one.value or ""),
                    one.value not in UNMEASURED | {NOT_TRIED},
                )
                for one in evening.progress.line
            ],
            signed=evening.signed() if step in (Step.PROTOCOL, Step.DONE) else None,
            number=None if evening.asks else ORDER.index(step) + 1,
            of=len(ORDER),
            is_waiting=evening.is_waiting and trouble is None,
        )

    def _trouble(self, say: Callable[[str], str], word: str) -> str:
        known = {**REFUSALS, **PREVIEWS, **TROUBLES, **JOININGS}
        return say(known.get(word, REFUSALS["other"]))

    def _html(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        language = self._language(request)
        values |= {"_": say_in(language), "language": language, "languages": languages()}
        values["decimal"] = lambda number: decimal_in(language, number)
        page = self._templates.get_template(template).render(values)
        return Response(page, status, media_type="text/html; charset=utf-8")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        # The style is the contact page's too; the scripts belong to those who were let in.
        if name not in _STATIC or (name != "setup.css" and self._session(request) is None):
            return Response(status_code=404)
        return Response((_HERE / "static" / name).read_bytes(), media_type=_STATIC[name])

    async def _choose_language(self, request: Request) -> Response:
        response = RedirectResponse("/", status_code=303)
        code = request.path_params["code"]
        if code in languages():
            self._cookie(response, LANGUAGE, code, SESSION_LIFE_S)
        return response

    async def _enter(self, request: Request) -> Response:
        fields = await _form(request)
        visitor = request.cookies.get(VISITOR, "")
        if not visitor or not door.is_csrf(visitor, fields.get("token", "")):
            return Response(status_code=403)
        token = await self._evening.knock(fields.get("code", ""))
        if token is None:
            return self._contact(request, is_wrong=True)
        response = RedirectResponse("/", status_code=303)
        self._cookie(response, SESSION, token, SESSION_LIFE_S)
        return response

    def _cookie(self, response: Response, name: str, value: str, life_s: int) -> None:
        response.set_cookie(name, value, max_age=life_s, path="/", secure=True, httponly=True, samesite="strict")

    # Acts

    async def _other_network(self, request: Request) -> Response:
        return await self._acted(request, None, self._to_network)

    async def _do(self, request: Request) -> Response:
        known = self._acts.get(request.path_params["act"])
        if known is None:
            return Response(status_code=403)
        return await self._acted(request, *known)

    async def _acted(self, request: Request, step: Step | None, act: Act) -> Response:
        session = self._session(request)
        if session is None:
            return Response(status_code=403)
        fields = await _form(request)
        if not door.is_csrf(session, fields.get("token", "")):
            return Response(status_code=403)
        # A form of a step that is over, from the browser's back button for example, changes nothing.
        if step is None or self._evening.progress.step is step:
            response = await act(request, fields)
            if response is not None:
                return response
        return RedirectResponse("/", status_code=303)

    async def _to_network(self, _request: Request, _fields: dict[str, str]) -> None:
        await self._evening.apply(machine.OtherNetwork())

    async def _look(self, _request: Request, _fields: dict[str, str]) -> None:
        await self._evening.look_again()

    async def _join(self, request: Request, fields: dict[str, str]) -> Response | None:
        kind = fields.get("kind", "")
        ssid = fields.get("ssid", "") if kind == "wifi" else None
        password = fields.get("password", "")
        if kind not in ("wifi", "ethernet", "mobile") or ssid == "" or (ssid and len(ssid.encode()) > 32):
            return self._again(request)
        if password and not 8 <= len(password) <= 63:
            return self._again(request, "wrong-password")
        self._evening.join(kind, ssid, password or None)
        return None

    def _again(self, request: Request, word: str = "fields") -> Response:
        """The same page once more, saying what is missing; what was typed is lost, and nothing was kept."""
        session = self._session(request)
        assert session is not None
        return self._render(request, session, status=422, fault=word)

    async def _test(self, _request: Request, _fields: dict[str, str]) -> None:
        self._evening.test_line()

    async def _go_on(self, _request: Request, _fields: dict[str, str]) -> None:
        await self._evening.apply(machine.LineTaken())

    async def _enrol(self, _request: Request, fields: dict[str, str]) -> None:
        await self._evening.enrol(fields.get("code", ""))

    async def _compare(self, _request: Request, fields: dict[str, str]) -> None:
        if fields.get("same") in ("yes", "no"):
            await self._evening.compare(is_same=fields["same"] == "yes")

    async def _informed(self, request: Request, fields: dict[str, str]) -> Response | None:
        if fields.get("read") != "yes":
            return self._again(request)
        await self._evening.apply(machine.Informed())
        return None

    async def _consent(self, request: Request, fields: dict[str, str]) -> Response | None:
        resident = _consent_of(fields, "resident")
        lives_alone = fields.get("household") == "alone"
        cohabitant = None if lives_alone else _consent_of(fields, "cohabitant")
        if resident is None or (cohabitant is None and not lives_alone) or fields.get("household") not in _HOUSEHOLDS:
            return self._again(request)
        await self._evening.apply(machine.Consented(resident, cohabitant))
        return None

    async def _receipt(self, request: Request, fields: dict[str, str]) -> Response | None:
        loan = _paper_ref(fields.get("loan", ""))
        typed = [tag for tag in fields.get("keys", "").replace(",", " ").split() if tag]
        tags = [tag for tag in map(_paper_ref, typed) if tag is not None]
        if loan is None or len(tags) != len(typed) or len(tags) > 8:
            return self._again(request)
        await self._evening.apply(machine.Received(loan, tuple(tags)))
        return None

    async def _nudge(self, request: Request, fields: dict[str, str]) -> Response | None:
        by_deg = {"up": 2.0, "down": -2.0, "up-more": 8.0, "down-more": -8.0}.get(fields.get("way", ""))
        if by_deg is None:
            return self._again(request)
        await self._ask_guard(setup.Nudge(by_deg))
        if not self._is_script(request):
            return None
        # The page's script turns without loading the page anew: it is told here why nothing moved.
        trouble, self._evening.trouble = self._evening.trouble, None
        say = say_in(self._language(request))
        return JSONResponse({"message": "" if trouble is None else self._trouble(say, trouble)})

    async def _aim(self, _request: Request, _fields: dict[str, str]) -> Response | None:
        guard = self._evening.guard
        try:
            standing = await guard.standing()
            await guard.ask(setup.SaveAim(), setup.Done)
        except GuardDeniesError as exc:
            self._evening.trouble = exc.code
        except GuardAwayError:
            self._evening.trouble = "guard"
        else:
            await self._evening.apply(machine.Aimed(standing.position_deg, standing.is_measured))
            await self._evening.until_up()
        return None

    async def _tick(self, request: Request, fields: dict[str, str]) -> Response | None:
        ticks = tuple(name for name in machine.TICKS if fields.get(name) == "yes")
        if set(ticks) != set(machine.TICKS) or self._evening.progress.aim_deg is None:
            return self._again(request)
        if not await self._evening.until_up():
            return self._again(request, "not-up")
        await self._evening.apply(machine.Ticked(ticks))
        return None

    async def _preview_end(self, _request: Request, _fields: dict[str, str]) -> Response | None:
        return await self._ask_guard(setup.EndPreview())

    async def _ask_guard(self, word: Any) -> Response | None:
        try:
            await self._evening.guard.ask(word, setup.Done)
        except GuardDeniesError as exc:
            self._evening.trouble = exc.code
        except GuardAwayError:
            self._evening.trouble = "guard"
        return None

    async def _alarm(self, _request: Request, _fields: dict[str, str]) -> None:
        await self._evening.begin_alarm()

    async def _sign(self, _request: Request, _fields: dict[str, str]) -> None:
        await self._evening.sign()

    async def _send(self, _request: Request, _fields: dict[str, str]) -> None:
        await self._evening.send_protocol()

    async def _allow(self, request: Request, fields: dict[str, str]) -> Response | None:
        consent = fields.get("consent", "")
        if not 1 <= len(consent) <= 16 * 1024:
            return self._again(request)
        if self._evening.asks:
            await self._evening.allow(consent)
        return None

    # Preview: the two requests of preview.js, JSON with the session's token in a header

    async def _preview(self, request: Request) -> Response:
        if not self._is_script(request) or self._evening.progress.step is not Step.AIM:
            return Response(status_code=403)
        offer = (await _body(request)).decode("utf-8", "replace")
        if not 1 <= len(offer) <= 8192:
            return JSONResponse({"error": "malformed"}, 400)
        self._evening.window.touch(boottime_s())
        self._evening.preview_addresses = (request.scope["server"][0],)
        try:
            answer, max_s = await self._evening.open_preview(offer)
        except GuardDeniesError as exc:
            return JSONResponse({"error": exc.code, "message": self._preview_trouble(request, exc.code)}, 409)
        except GuardAwayError:
            return JSONResponse({"error": "guard", "message": self._preview_trouble(request, "other")}, 503)
        return JSONResponse({"answer": answer, "max_s": max_s})

    def _preview_trouble(self, request: Request, code: str) -> str:
        return say_in(self._language(request))(PREVIEWS.get(code, PREVIEWS["other"]))

    async def _lease(self, request: Request) -> Response:
        if not self._is_script(request) or self._evening.preview is None:
            return Response(status_code=403)
        counter = (await _body(request)).decode("ascii", "replace")
        if not counter.isdecimal() or not 1 <= int(counter) <= 1_000_000:
            return Response(status_code=400)
        self._evening.window.touch(boottime_s())
        try:
            await self._evening.guard.ask(setup.RenewPreview(int(counter)), setup.Done)
            standing = await self._evening.guard.standing()
        except (GuardDeniesError, GuardAwayError):
            return Response(status_code=409)
        return JSONResponse({"position_deg": standing.position_deg})

    def _is_script(self, request: Request) -> bool:
        session = self._session(request)
        return session is not None and door.is_csrf(session, request.headers.get("x-setup-token", ""))

    # Papers

    async def _paper(self, request: Request) -> Response:
        session, evening = self._session(request), self._evening
        if session is None:
            return self._contact(request, is_wrong=False)
        say, date = say_in(self._language(request)), datetime.now(UTC).strftime("%Y-%m-%d")
        match request.path_params["name"]:
            case "receipts" if evening.progress.loan is not None:
                page = await asyncio.to_thread(
                    paper.receipts, say, evening.progress, gateway=evening.stub.gateway, date=date
                )
            case "protocol" if (signed := evening.signed()) is not None:
                page = await asyncio.to_thread(
                    paper.protocol,
                    say,
                    evening.progress,
                    gateway=evening.stub.gateway,
                    date=date,
                    sha256=hashlib.sha256(signed).hexdigest(),
                    language=self._language(request),
                )
            case _:
                return RedirectResponse("/", status_code=303)
        return Response(page, media_type="application/pdf")


_HOUSEHOLDS: Final = ("alone", "together")


class _TooMuchError(Exception):
    """A body that is too long, too slow or no form."""


async def _too_much(_request: Request, _exc: Exception) -> Response:
    return Response(status_code=413)


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_LIMIT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_FORM_BYTES:
                    raise _TooMuchError
    except TimeoutError as exc:
        raise _TooMuchError from exc
    return bytes(body)


async def _form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form, each once. Raises _TooMuchError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise _TooMuchError
    try:
        pairs = parse_qsl(
            (await _body(request)).decode("utf-8"), keep_blank_values=True, max_num_fields=64, errors="strict"
        )
    except ValueError as exc:
        raise _TooMuchError from exc
    return dict(pairs)


def _paper_ref(typed: str) -> str | None:
    """A paper's or tag's reference; None for what is none, a personal number above all."""
    import msgspec

    try:
        return msgspec.convert(typed.strip(), machine.Paper)
    except msgspec.ValidationError:
        return None


def _consent_of(fields: dict[str, str], who: str) -> Consent | None:
    """A drawn signature, of which only the hash is kept, or the reference of a signed paper."""
    if fields.get(f"{who}-yes") != "yes":
        return None
    # It is read aloud to the centre: the label's alphabet, in which no two characters are taken for one another.
    reference = f"c-{make_word(KEY_LENGTH)}"
    typed = fields.get(f"{who}-paper", "").strip()
    paper_ref = _paper_ref(typed) if typed else None
    if typed and paper_ref is None:
        return None
    drawn = fields.get(f"{who}-signature", "")
    if _is_drawing(drawn):
        return Consent(reference, "drawn", paper_ref, hashlib.sha256(drawn.encode()).hexdigest())
    if paper_ref is not None:
        return Consent(reference, "paper", paper_ref, hashlib.sha256(f"paper:{paper_ref}".encode()).hexdigest())
    return None


def _is_drawing(text: str) -> bool:
    """Strokes as lists of points, and more than a dot."""
    try:
        strokes = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(strokes, list)
        and all(isinstance(stroke, list) for stroke in strokes)
        and sum(len(stroke) for stroke in strokes) >= 8
    )
