"""Home care is told of a hand-over by a real mail server and a real web server, however often those fail first.

Mutations that turn it red: end a delivery before it was sent (`centre.deliver._try`); sign the webhook's body without
its timestamp; leave `fallback` out of `HandoverRows.fan_out`; take deliveries without a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from test_centre_app import NOW_UNIX_S, FakeBroker, make_state

from centre.deliver import MailServer, Post, Unit, deliver_once, sign_webhook, wait_s
from centre.state import CentreState
from centre.store import HandoverStart
from provisioning.bench_home import free_port

pytestmark = pytest.mark.slow

KEY = b"k" * 32


class Mailbox:
    """aiosmtpd's handler; refuses the first `refuses` messages."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuses:
            self.refuses -= 1
            return "451 try again later"
        self.mails.append(BytesParser(policy=default).parsebytes(envelope.content))
        return "250 taken"


@contextlib.contextmanager
def mail_server(box: Mailbox) -> Iterator[int]:
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@contextlib.contextmanager
def web_server(statuses: list[int]) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Answers with `statuses` in turn, then 204."""
    heard: list[tuple[dict[str, str], bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_UNIX_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[CentreState, Clock]]:
    clock = Clock()
    state, _homes = make_state(tmp_path, FakeBroker())
    yield replace(state, clock=clock), clock
    state.store.close()


def hand_over(state: CentreState, unit: str | None = "hv-1", name: str = "h-1") -> None:
    steps = [{"do": "visit", "within_min": 5, "unit": unit}]
    occasion = f"2026-11-18T22:3{name[-1]}"
    start = HandoverStart(name, "gw-a", 1, "night-1", occasion, "not-seen", unit, steps, 5, state.clock())
    assert state.store.put_handover(start)


def go(state: CentreState, post: Post) -> int:
    return asyncio.run(deliver_once(state, post))


def test_a_hand_over_reaches_mail_and_system_after_both_failed_first(desk: tuple[CentreState, Clock]) -> None:
    state, clock = desk
    box = Mailbox(refuses=2)
    with mail_server(box) as port, web_server([500, 302]) as (url, heard):
        unit = Unit("hv-1", "night@example.org", url, KEY)
        post = Post(
            {"hv-1": unit}, None, MailServer("127.0.0.1", port, "centre@example.org", "none"), "https://c.example/"
        )
        hand_over(state)
        assert go(state, post) == 0
        assert go(state, post) == 0, "nobody is asked again at once"
        rows = state.store.deliveries("h-1")
        assert {row["why"] for row in rows} == {"smtpdataerror", "http-500"}
        clock.now_s += wait_s(1) * 2
        assert go(state, post) == 0
        clock.now_s += wait_s(2) * 2
        assert go(state, post) == 2
        assert go(state, post) == 0, "once it went out, it is not sent again"
    (mail,) = box.mails
    text = mail.get_content()
    assert mail["To"] == "night@example.org"
    assert "gw-a" in text
    assert "https://c.example/#handovers" in text
    assert "Den boende sågs inte / The resident was not seen" in text
    assert "besök / visit (5 min)" in text
    headers, body = heard[-1]
    assert json.loads(body)["handover"] == "h-1"
    expected = sign_webhook(KEY, name=headers["webhook-id"], timestamp=int(headers["webhook-timestamp"]), body=body)
    assert headers["webhook-signature"] == expected
    assert expected != sign_webhook(KEY, name=headers["webhook-id"], timestamp=1, body=body)
    assert len({each[0]["webhook-id"] for each in heard}) == 1, "a receiver can tell a repetition"
    assert {row["state"] for row in state.store.deliveries("h-1")} == {"done"}


def test_what_was_under_way_when_a_worker_died_is_sent_by_another(desk: tuple[CentreState, Clock]) -> None:
    state, clock = desk
    box = Mailbox()
    with mail_server(box) as port:
        mail = MailServer("127.0.0.1", port, "centre@example.org", "none")
        post = Post({"hv-1": Unit("hv-1", "night@example.org")}, None, mail)
        hand_over(state)
        state.store.fan_out(post.channels, fallback=None, now_unix_s=clock())
        taken = state.store.take_deliveries(now_unix_s=clock(), lease_s=60, limit=20)
        assert len(taken) == 1
        assert go(state, post) == 0, "it is another's for a minute"
        clock.now_s += 61
        assert go(state, post) == 1


def test_an_escalation_goes_to_the_unit_and_to_the_fallback(desk: tuple[CentreState, Clock]) -> None:
    state, clock = desk
    with web_server([]) as (url, heard), web_server([]) as (other_url, other_heard):
        units = {"hv-1": Unit("hv-1", None, url, KEY), "duty": Unit("duty", None, other_url, KEY)}
        post = Post(units, "duty")
        hand_over(state)
        hand_over(state, unit="hv-unknown", name="h-2")
        assert go(state, post) == 2, "a unit without channels is the fallback's"
        assert [json.loads(body)["handover"] for _, body in heard] == ["h-1"]
        assert [json.loads(body)["handover"] for _, body in other_heard] == ["h-2"]
        clock.now_s += 301
        assert len(state.store.escalate_handovers(now_unix_s=clock())) == 2
        assert go(state, post) == 3
        kinds = sorted((json.loads(body)["type"], json.loads(body)["handover"]) for _, body in heard + other_heard)
        assert kinds.count(("handover.escalated", "h-1")) == 2


def test_a_unit_that_took_it_on_and_is_not_there_is_told_and_so_is_the_fallback(
    desk: tuple[CentreState, Clock],
) -> None:
    state, clock = desk
    box = Mailbox()
    with mail_server(box) as port, web_server([]) as (url, heard):
        units = {"hv-1": Unit("hv-1", "night@example.org"), "duty": Unit("duty", None, url, KEY)}
        post = Post(units, "duty", MailServer("127.0.0.1", port, "centre@example.org", "none"))
        hand_over(state)
        assert state.store.acknowledge_handover("h-1", who="hc-1", now_unix_s=clock())
        assert go(state, post) == 0, "who took it on need not be told that it began"
        clock.now_s += 301
        assert len(state.store.escalate_handovers(now_unix_s=clock())) == 1
        assert go(state, post) == 2
        assert json.loads(heard[-1][1])["type"] == "handover.arrival-overdue"
        assert "acknowledged by hc-1, and nobody has said that they are there" in box.mails[-1].get_content()
        clock.now_s += 900
        assert len(state.store.escalate_handovers(now_unix_s=clock())) == 1
        assert state.store.arrive_handover("h-1", who="hc-1", now_unix_s=clock())
        assert go(state, post) == 0, "they have just said that they are there"
        clock.now_s += 1800
        assert len(state.store.escalate_handovers(now_unix_s=clock())) == 1
        assert go(state, post) == 2
        assert "hc-1 arrived long ago" in box.mails[-1].get_content()


def test_what_somebody_has_taken_on_is_not_told_any_more(desk: tuple[CentreState, Clock]) -> None:
    state, clock = desk
    with web_server([500]) as (url, heard):
        post = Post({"hv-1": Unit("hv-1", None, url, KEY)})
        hand_over(state)
        go(state, post)
        assert state.store.acknowledge_handover("h-1", who="op-1", now_unix_s=clock())
        clock.now_s += 600
        assert go(state, post) == 0
        assert len(heard) == 1
        assert state.store.stuck_deliveries(tries=1) == 0


def test_a_server_that_nobody_runs_is_tried_for_as_long_as_it_takes(desk: tuple[CentreState, Clock]) -> None:
    state, clock = desk
    post = Post(
        {"hv-1": Unit("hv-1", "a@example.org", "http://127.0.0.1:9/", KEY)},
        None,
        MailServer("127.0.0.1", 9, "c@example.org", "none"),
    )
    hand_over(state)
    for _ in range(6):
        assert go(state, post) == 0
        clock.now_s += 400
    rows = state.store.deliveries("h-1")
    assert {(row["state"], row["tries"]) for row in rows} == {("waiting", 6)}
    assert state.store.stuck_deliveries(tries=3) == 2
    assert 240 <= wait_s(30) <= 360
