"""What an attacker in the home's network does to a device in set-up; used by tests/browser/test_wizard.py.

No browser here: the requests are made by hand, so that nothing a browser forbids is left untried.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import urllib.parse
from dataclasses import dataclass

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from device_bench import RunningDevice

from provisioning.factory.word import in_groups


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def token(self) -> str:
        found = re.search(rb'name="token" value="([0-9a-f]{64})"', self.body)
        assert found
        return found[1].decode()

    def cookie(self, name: str) -> str:
        found = re.search(f"{name}=([^;]+)", self.headers.get("set-cookie", ""))
        assert found
        return found[1]

    def plain(self) -> bytes:
        """The page without what is random in it."""
        return re.sub(rb'value="[0-9a-f]{64}"', b"", self.body)


def ask(
    running: RunningDevice,
    path: str = "/",
    form: dict[str, str] | None = None,
    *,
    host: str | None = None,
    origin: str | None = "own",
    cookies: dict[str, str] | None = None,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request. The name is the label's unless `host` says another; `origin` None sends none."""
    port = running.device.wizard_port
    host = host or f"{running.device.stub.setup.host}.local:{port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=8, context=context)
    sent = {"Host": host, **(headers or {})}
    if cookies:
        sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    if form is not None:
        body = urllib.parse.urlencode(form).encode()
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    if body is not None and origin is not None:
        sent["Origin"] = f"https://{host}" if origin == "own" else origin
    try:
        connection.request("GET" if body is None else "POST", path, body, sent)
        reply = connection.getresponse()
        return Answer(reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def knock(running: RunningDevice, code: str) -> Answer:
    """Type a code on a phone of one's own."""
    page = ask(running)
    cookies = {"__Host-visitor": page.cookie("__Host-visitor")}
    return ask(running, "/enter", {"token": page.token, "code": code}, cookies=cookies)


def listening(running: RunningDevice) -> set[int]:
    """TCP ports that any process of the device listens at, in whatever network namespace it is."""
    ports: set[int] = set()
    for pid in running.pids().values():
        for each in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            ports |= {one.laddr.port for one in each.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    return ports


WRONG = "7KQ2XR9MVD"
CLOSED = "closed until somebody does the physical act"


def before_anybody_is_in(running: RunningDevice) -> None:
    device = running.device
    assert listening(running) == {device.wizard_port}
    unauthenticated_probe(running)
    foreign_names_and_origins(running)
    oversized(running)
    tls(running)
    assert ask(running).status == 200


def unauthenticated_probe(running: RunningDevice) -> None:
    device = running.device
    first = ask(running)
    secret = [
        device.stub.setup.gateway,
        device.stub.code,
        in_groups(device.stub.code),
        device.stub.contact.ap_key,
        "0.1",
    ]
    for path in (
        "/",
        "/do/join",
        "/paper/protocol.pdf",
        "/paper/receipts.pdf",
        "/.env",
        "/preview",
        "/x/../y",
        "/network",
    ):
        page = ask(running, path)
        assert page.plain() == first.plain(), path
        assert "server" not in page.headers
        for word in secret:
            assert word not in page.body.decode() + str(page.headers), (path, word)
    for path in ("/static/preview.js", "/static/sign.js", "/static/../pages.py", "/static/pages.py"):
        assert ask(running, path).status in (404, 200)
        assert b"import" not in ask(running, path).body
    for path in ("/do/join", "/do/go-on", "/do/send", "/do/nothing", "/do/network", "/preview", "/preview/lease"):
        answer = ask(running, path, {"token": "0" * 64, "kind": "ethernet"})
        assert (answer.status, answer.body) == (403, b"")


def foreign_names_and_origins(running: RunningDevice) -> None:
    port = running.device.wizard_port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost",
        "",
        f"{running.device.stub.setup.host}.local.evil",
    ):
        # A name that somebody made point to the device: DNS rebinding.
        assert ask(running, host=host or "x").status == 421
    assert ask(running, host=f"127.0.0.1:{port}").status == 200
    page = ask(running)
    form = {"token": page.token, "code": running.device.stub.code}
    cookies = {"__Host-visitor": page.cookie("__Host-visitor")}
    for origin in (None, "null", "https://evil.example", f"http://{running.device.stub.setup.host}.local:{port}"):
        assert ask(running, "/enter", form, origin=origin, cookies=cookies).status == 403, origin
    assert ask(running, "/enter", form, cookies={}).status == 403
    assert ask(running, "/enter", {**form, "token": "0" * 64}, cookies=cookies).status == 403
    for header in ("content-security-policy", "x-content-type-options", "cross-origin-resource-policy"):
        assert header in page.headers
    # Not one of these was a try: the right code was in each.
    contact = running.device.directory / "setup" / "contact.json"
    assert not contact.exists() or json.loads(contact.read_bytes())["wrong"] == 0


def oversized(running: RunningDevice) -> None:
    page = ask(running)
    cookies = {"__Host-visitor": page.cookie("__Host-visitor")}
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    big = b"token=" + page.token.encode() + b"&code=" + b"A" * 400_000
    many = "&".join(f"a{number}=1" for number in range(200)).encode()
    for body in (big, many, b"\xff\xfe" * 100, b"%" * 1000):
        try:
            status = ask(running, "/enter", body=body, cookies=cookies, headers=kind).status
        except OSError:
            status = 413  # it stopped reading, and closed
        assert status in (403, 413), status
    assert ask(running, "/enter", body=b"{}", cookies=cookies, headers={"Content-Type": "text/plain"}).status == 413
    with contextlib.suppress(OSError):  # or it stopped reading, and closed
        assert ask(running, headers={"X-Long": "A" * 400_000}).status in (400, 431)


def tls(running: RunningDevice) -> None:
    """TLS 1.3 only, the label's certificate, and twenty handshakes that are none."""
    port = running.device.wizard_port
    for number in range(20):
        with socket.create_connection(("127.0.0.1", port), 3) as sock:
            hello = b"\x16\x03\x01" + os.urandom(2) + os.urandom(40 * number) if number % 2 else os.urandom(300)
            sock.sendall(hello)
            if number % 3:
                sock.shutdown(socket.SHUT_WR)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port), 3) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 3) as sock, context.wrap_socket(sock) as tls_sock:
        assert tls_sock.version() == "TLSv1.3"
        shown = x509.load_der_x509_certificate(tls_sock.getpeercert(binary_form=True) or b"")
    assert shown.fingerprint(hashes.SHA256()).hex() == running.device.stub.fingerprint
    assert running.device.stub.setup.gateway not in str(shown.subject)


async def brute_force(running: RunningDevice) -> None:
    """Five tries, over a power cut; then no port until somebody holds the button."""
    for number in range(3):
        answer = await asyncio.to_thread(knock, running, WRONG)
        assert answer.status == 403, number
    await running.restart_home()
    await running.until(running.port_is_open, 30.0, "the wizard listens again")
    for _ in range(2):
        assert (await asyncio.to_thread(knock, running, WRONG)).status == 403
    await running.until(lambda: not running.port_is_open(), 30.0, "the door closes")
    assert listening(running) == set()
    closed = running.log().count(CLOSED)
    await running.restart_home()
    # It says so when it has decided not to listen: after the start, and not a moment before.
    await running.until(lambda: running.log().count(CLOSED) > closed, 40.0, "the wizard stays closed")
    assert not running.port_is_open()
    running.device.act_path.touch()
    await running.until(running.port_is_open, 30.0, "the door opens by a physical act")


def with_somebody_in(running: RunningDevice) -> None:
    progress = running.device.directory / "setup" / "progress.json"
    entered = knock(running, in_groups(running.device.stub.code).lower())
    assert entered.status == 303
    session = {"__Host-setup": entered.cookie("__Host-setup")}
    assert "secure" in entered.headers["set-cookie"].lower()
    assert "samesite=strict" in entered.headers["set-cookie"].lower()
    page = ask(running, cookies=session)
    assert b'data-step="network"' in page.body

    # The second phone, with the right code: the same page as for a wrong one, and no way to what the first one sees.
    second = knock(running, running.device.stub.code)
    wrong = knock(running, WRONG)
    assert second.status == wrong.status == 403
    assert second.plain() == wrong.plain()
    assert b'data-step="network"' not in ask(running).body

    # A hostile page in the first phone's browser: it sends the cookie along at worst, and can't know the token.
    before = progress.read_bytes()
    evil = {"kind": "ethernet", "token": "0" * 64}
    assert ask(running, "/do/join", evil, cookies=session).status == 403
    assert (
        ask(running, "/do/join", {**evil, "token": page.token}, cookies=session, origin="https://evil.example").status
        == 403
    )
    assert ask(running, "/do/join", {**evil, "token": page.token}, cookies=session, host="evil.example").status == 421
    assert ask(running, "/do/join", {"kind": "ethernet"}, cookies=session).status == 403
    # And none of the later steps can be had now.
    for act in ("go-on", "enrol", "compare", "informed", "consent", "receipt", "aim", "tick", "alarm", "sign", "send"):
        form = {"token": page.token, "same": "yes", "read": "yes", "code": WRONG, "loan": "x"}
        assert ask(running, f"/do/{act}", form, cookies=session).status == 303
    assert progress.read_bytes() == before
    assert running.air.tries == []
