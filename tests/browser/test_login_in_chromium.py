"""Passkeys with Chromium's own virtual authenticator, and OpenID with a small real provider: code, PKCE, signed tokens.

Mutations that turn it red: verify no challenge in `centre.passkey.finish_login` (an old answer logs in again); compare
no state with the cookie in `centre.oidc.finish`; check no nonce in `centre.oidc._claims`; give a passkey's session to
the account that is named in the user handle instead of the one the key is registered for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import uvicorn
from chromium import FLAGS, artefacts, program
from joserfc import jwt
from joserfc.jwk import RSAKey
from playwright.sync_api import Browser, expect, sync_playwright
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from test_centre_app import FakeBroker, make_state
from test_page_signing import serving

from centre.login import sha256
from centre.state import Account, CentreState, Provider

pytestmark = pytest.mark.browser


class SmallProvider:
    """An OpenID provider of one person, who is always logged in. `lies` makes it answer as no honest one would."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "k-1", "use": "sig", "alg": "RS256"})
        self.issuer = ""
        self.lies: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.used = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.discovery),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/keys", self.keys),
            ]
        )

    async def discovery(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.lies.get("issuer", self.issuer),
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
        )

    async def authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        back = {"code": code, "state": self.lies.get("state", query["state"])}
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(back)}", status_code=303)

    async def token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(form["code"])
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        is_same = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
        basic = base64.b64decode(request.headers["authorization"].split()[1]).decode()
        if not is_same or form["redirect_uri"] != asked["redirect_uri"] or basic != "tillsyn:s3cret":
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        self.used += 1
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": "tillsyn", "sub": "person-7", "iat": now, "exp": now + 300}
        claims |= {"nonce": asked["nonce"]} | self.lies.get("claims", {})
        key = self.lies.get("key", self.key)
        token = jwt.encode({"alg": "RS256", "kid": "k-1"}, claims, key, algorithms=["RS256"])
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": token})

    async def keys(self, _request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})


@contextlib.contextmanager
def served(app: Starlette, listening: socket.socket) -> Iterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, CentreState, SmallProvider, str]]:
    provider = SmallProvider()
    provider_socket = socket.create_server(("127.0.0.1", 0))
    provider.issuer = f"http://127.0.0.1:{provider_socket.getsockname()[1]}"
    listening = socket.create_server(("127.0.0.1", 0))
    origin = f"http://localhost:{listening.getsockname()[1]}"
    state, _homes = make_state(Path(tmp_path_factory.mktemp("centre")), FakeBroker())
    accounts = {
        "op-key": Account("op-key", ("operator",), sha256("enrol-me")),
        "op-oidc": Account("op-oidc", ("operator",), None, subject="person-7"),
    }
    state = replace(
        state, origins=frozenset({origin}), clock=time.time, link_rule="enrol", accounts=accounts,
        oidc=Provider(provider.issuer, "tillsyn", "s3cret"),
    )  # fmt: skip
    with served(provider.app(), provider_socket), serving(state, listening), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        yield browser, state, provider, origin
        browser.close()
        state.events.close()
    state.store.close()


def _page(browser: Browser) -> Any:
    page = browser.new_context(locale="en-GB").new_page()
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
        "isUserVerified": True, "automaticPresenceSimulation": True,
    }  # fmt: skip
    session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return page


def test_a_login_link_is_good_until_the_first_passkey_and_the_passkey_from_then_on(place: Any, tmp_path: Path) -> None:
    browser, state, _provider, origin = place
    page = _page(browser)
    page.goto(f"{origin}/login?token=enrol-me")
    page.goto(f"{origin}/#account")
    page.get_by_test_id("passkey-new").click()
    expect(page.get_by_test_id("message")).to_contain_text("passkey is registered")
    assert len(state.store.passkeys("op-key")) == 1
    page.locator("#log-out").click()
    expect(page.get_by_test_id("passkey")).to_be_visible()
    page.goto(f"{origin}/login?token=enrol-me")
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    page.screenshot(path=artefacts(tmp_path / "artefacts") / "login-passkey.png")

    answers: list[str] = []

    def hear(request: Any) -> None:
        if request.url.endswith("/login/passkey"):
            answers.append(request.post_data or "")

    page.on("request", hear)
    page.get_by_test_id("passkey").click()
    expect(page.locator("#who")).to_have_text("op-key")
    (used,) = answers
    replayed = page.request.post(f"{origin}/login/passkey", data=json.loads(used), headers={"Origin": origin})
    assert (replayed.status, replayed.json()["error"]) == (401, "passkey-refused"), "an answer counts once"

    # The same answer under a challenge of its own: the signature is over another one.
    begun = page.request.post(f"{origin}/login/passkey/begin", data={}, headers={"Origin": origin}).json()
    again = json.loads(used) | {"login": begun["login"]}
    assert page.request.post(f"{origin}/login/passkey", data=again, headers={"Origin": origin}).status == 401
    page.context.close()


def test_the_provider_says_who_and_the_centre_says_what_they_may(place: Any) -> None:
    browser, _state, provider, origin = place
    page = _page(browser)
    page.goto(origin)
    page.get_by_test_id("oidc").click()
    expect(page.locator("#who")).to_have_text("op-oidc")
    assert provider.used == 1
    page.context.close()


@pytest.mark.parametrize(
    "lies",
    [
        {"claims": {"sub": "person-8"}},
        {"claims": {"aud": "another"}},
        {"claims": {"iss": "https://elsewhere.example"}},
        {"claims": {"nonce": "another"}},
        {"claims": {"exp": 1}},
        {"key": RSAKey.generate_key(2048, {"kid": "k-1"})},
        {"state": "another"},
        {"issuer": "https://elsewhere.example"},
    ],
    ids=["unknown-person", "audience", "issuer", "nonce", "expired", "key", "state", "discovery"],
)
def test_a_provider_that_lies_lets_nobody_in(place: Any, lies: dict[str, Any]) -> None:
    browser, _state, provider, origin = place
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    provider.lies = lies
    try:
        page.goto(f"{origin}/login/oidc")
        expect(page.get_by_role("alert")).to_contain_text("did not work")
        assert not [cookie for cookie in context.cookies() if cookie["name"] == "tillsyn_session"]
    finally:
        provider.lies = {}
        context.close()


def test_a_login_that_was_begun_elsewhere_cannot_be_ended_here(place: Any) -> None:
    browser, _state, _provider, origin = place
    theirs, mine = browser.new_context(locale="en-GB"), browser.new_context(locale="en-GB")
    page = theirs.new_page()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.route("**/login/oidc/back*", lambda route: route.abort())
    with contextlib.suppress(Exception):
        page.goto(f"{origin}/login/oidc")
    back = next(url for url in seen if urlsplit(url).path == "/login/oidc/back")
    victim = mine.new_page()
    victim.goto(back)
    expect(victim.get_by_role("alert")).to_contain_text("did not work")
    theirs.close()
    mine.close()
