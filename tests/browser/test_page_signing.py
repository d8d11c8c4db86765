"""The browser's signatures are what the device takes, and the browser takes nothing that the device did not sign."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from chromium import FLAGS, program
from playwright.sync_api import Page, sync_playwright
from test_centre_app import TOKEN, FakeBroker, make_state

from centre.app import make_app
from gateway.protocol.envelope import TrustStore, sign, verify_command
from gateway.protocol.key import SigningKey, thumbprint
from gateway.protocol.message import Accepted, Challenge, Refused

pytestmark = pytest.mark.browser


@contextlib.contextmanager
def serving(state: Any, listening: socket.socket) -> Iterator[None]:
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(state), http="h11", ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Any]]:
    listening = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    state, _homes = make_state(Path(tmp_path_factory.mktemp("centre")), FakeBroker())
    state = replace(state, origins=frozenset({origin}), clock=lambda: 1_795_000_000.0)
    with serving(state, listening), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        page = browser.new_page()
        # A page of this origin without a console of its own, so that only what the test does is asked.
        page.goto(f"{origin}/login?token=wrong")
        page.evaluate("import('/static/jws.js').then((jws) => { window.jws = jws; })")
        page.evaluate(f"fetch('/login?token={TOKEN}')")
        yield page, state
        browser.close()
        state.events.close()
    state.store.close()


def test_a_command_that_the_browser_signed_is_taken_by_the_device(console: tuple[Page, Any]) -> None:
    page, state = console
    body, kid, exported = page.evaluate(
        """async () => {
            const key = await jws.operatorKey("op-1");
            const again = await jws.operatorKey("op-1");
            const response = await fetch("/api/v1/grants", {method: "POST",
              headers: {"Content-Type": "application/json"}, body: JSON.stringify({jwk: again.jwk})});
            const {grant} = await response.json();
            const command = await jws.sign(key, "check.challenge", {aud: "gw-a/1", jti: jws.newId()});
            const exported = await crypto.subtle.exportKey("jwk", key.privateKey).then(() => true, () => false);
            return [`${grant}~${command}`, key.kid, exported];
        }"""
    )
    issuer = state.issuing_key.verifying
    trust = TrustStore(1, 0, {}, {issuer.kid: issuer})
    verified = verify_command(body.encode(), trust, audience="gw-a/1", gateway="gw-a", groups=frozenset())
    assert isinstance(verified.command, Challenge)
    assert (verified.who, verified.kid) == ("op-1", kid)
    assert not exported, "the private key must not be exportable"


def test_the_browser_computes_the_same_thumbprint(console: tuple[Page, Any]) -> None:
    page, _ = console
    jwk = SigningKey.generate().verifying.jwk()
    assert page.evaluate("(jwk) => jws.thumbprint(jwk)", jwk) == thumbprint(jwk["x"], jwk["y"])


def verdict_of(page: Page, envelope: str, jwk: dict[str, str], kind: str = "accepted") -> Any:
    return page.evaluate(
        """([envelope, jwk, kind]) => jws.verify(envelope, jwk, kind).then(
            ({message}) => message, (error) => error instanceof jws.VerifyError ? "refused" : String(error))""",
        [envelope, jwk, kind],
    )


def test_the_browser_takes_a_reply_of_the_device_and_nothing_else(console: tuple[Page, Any]) -> None:
    page, _ = console
    device, stranger = SigningKey.generate(), SigningKey.generate()
    jwk = device.verifying.jwk()
    good = sign(Accepted("gw-a", "j-1"), device).decode()
    assert verdict_of(page, good, jwk) == {"gateway": "gw-a", "re": "j-1"}
    protected, payload, signature = good.split(".")
    other_payload = sign(Accepted("gw-b", "j-1"), device).decode().split(".")[1]
    # The last character of 64 bytes in base64url ends in 4 bits that a lenient decoder drops.
    loose = {"A": "B", "Q": "R", "g": "h", "w": "x"}[signature[-1]]
    for bad in (
        sign(Accepted("gw-a", "j-1"), stranger).decode(),
        sign(Refused("gw-a", "j-1", "busy"), device).decode(),
        f"{protected}.{other_payload}.{signature}",
        f"{protected}.{payload}.{signature[:-2]}{'AA' if signature[-2:] != 'AA' else 'QQ'}",
        f"{protected}.{payload}.{signature[:-1]}{loose}",
        f"{protected}.{payload}.",
        f"{protected}.{payload}",
        good + ".x",
        good + "\n",
        "x" * 20_000,
        "",
    ):
        assert verdict_of(page, bad, jwk) == "refused", bad[:60]


def test_the_browser_finds_only_one_sha256_fingerprint(console: tuple[Page, Any]) -> None:
    page, _ = console
    one, other = ":".join(["AB"] * 32), ":".join(["CD"] * 32)
    cases = {
        f"a=fingerprint:sha-256 {one}\r\n": one,
        f"a=fingerprint:sha-256 {one}\r\nm=video\r\na=fingerprint:sha-256 {one.lower()}\r\n": one,
        f"a=fingerprint:sha-256 {one}\r\na=fingerprint:sha-256 {other}\r\n": None,
        f"a=fingerprint:sha-256 {one}\r\na=fingerprint:sha-512 {one}:{other}\r\n": None,
        f"a=fingerprint:SHA-1 {one}\r\n": None,
        f"a=fingerprint:sha-256 {one}:AB\r\n": None,
        "v=0\r\n": None,
    }
    for sdp, expected in cases.items():
        found = page.evaluate("(sdp) => import('/static/check.js').then((check) => check.onlyFingerprint(sdp))", sdp)
        assert found == expected
