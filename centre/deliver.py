"""Telling home care of a hand-over: e-mail and signed webhook, from an outbox in the store, until it went out.

What is told is pseudonymous: which home, which check, why, until when, and the address of the page on which to take it
on. A message may come twice (a worker that dies after sending), never not at all: what waits is tried again with
growing pauses for as long as it is still so, and after the third try in vain it is a fault on the operators'
desk too.

The webhook follows Standard Webhooks: `webhook-id`, `webhook-timestamp`, and `webhook-signature: v1,<base64>` by
HMAC-SHA256 over `id.timestamp.body`. Source: https://www.standardwebhooks.com.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any, Final, Literal

import aiosmtplib
import httpx

from centre.state import CentreState
from centre.store.handover import STUCK_TRIES, overdue_word
from centre.words import words
from gateway.core.error import TransientError

EVERY_S: Final = 2.0
LEASE_S: Final = 60.0
LIMIT_S: Final = 20.0
FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 300.0
BATCH: Final = 20
_WHAT: Final[Mapping[str, tuple[str, str]]] = {
    "created": (
        "Ingen har sett den boende vid en överenskommen tillsyn. Någon måste kvittera senast {by}.",
        "Nobody has seen the resident at an agreed check. Somebody must acknowledge it by {by}.",
    ),
    "escalated": (
        "Ingen har kvitterat den här överlämningen. Någon skulle ha gjort det senast {by}.",
        "Nobody has acknowledged this hand-over. Somebody should have by {by}.",
    ),
    "arrival-overdue": (
        "Överlämningen är kvitterad av {who}, men ingen har sagt att de är på plats. Det skulle ha skett senast {by}.",
        "This hand-over was acknowledged by {who}, and nobody has said that they are there. It was due by {by}.",
    ),
    "outcome-overdue": (
        "{who} är på plats sedan länge, men ingen har sagt hur det gick. Ring dem. Det skulle ha skett senast {by}.",
        "{who} arrived long ago, and nobody has said what came of it. Call them. It was due by {by}.",
    ),
}

# The page's own messages (words.js), so that their Swedish is the catalogue's; any other code stands as it is.
_REASONS: Final[Mapping[str, str]] = {
    "missed-check": "The agreed check was not made",
    "not-seen": "The resident was not seen",
    "recheck-missed": "Not seen, and nobody looked again",
    "check-broken": "The check broke off, and nobody saw the resident",
    "unclosed": "The check began, and the home has not said how it ended",
    "home-disabled": "The home is disabled because of its log",
    "home-silent": "The home is silent",
    "camera-fault": "The camera does not work",
    "mount-fault": "The camera can't be turned",
}
_STEPS: Final[Mapping[str, str]] = {
    "call-resident": "call the resident",
    "visit": "visit",
    "call-contact": "call the contact person",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unit:
    """A home-care unit's addresses."""

    unit: str
    email: str | None = None
    webhook_url: str | None = None
    webhook_key: bytes | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(
            name for name, address in (("email", self.email), ("webhook", self.webhook_url)) if address is not None
        )


@dataclass(frozen=True, slots=True)
class MailServer:
    host: str
    port: int
    sender: str
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: str | None = None
    trust: ssl.SSLContext | None = None
    """Whom to trust; None: the machine's own authorities."""


@dataclass(frozen=True, slots=True)
class Post:
    """Everything that the job needs to know; from the configuration."""

    units: Mapping[str, Unit]
    fallback: str | None = None
    mail: MailServer | None = None
    page: str = ""
    """The address of the console, for people to click on."""

    @property
    def channels(self) -> dict[str, tuple[str, ...]]:
        return {unit.unit: unit.channels for unit in self.units.values()}


class UndeliveredError(TransientError):
    """Not taken by the other side; `why` is a word for the row."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def wait_s(tries: int) -> float:
    """How long after the n-th try in vain: 5 s, 10 s, … 5 min, ± 20 %."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tries - 1, 10)) * random.uniform(0.8, 1.2)  # noqa: S311


def sign_webhook(key: bytes, *, name: str, timestamp: int, body: bytes) -> str:
    digest = hmac.digest(key, f"{name}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def content(row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What a receiver is told."""
    return {
        "type": f"handover.{what}",
        "handover": row["id"],
        "gateway": row["gateway"],
        "line": row["line"],
        "occasion": row["occasion"],
        "reason": row["reason"],
        "unit": row["unit"],
        "steps": row["steps"],
        "state": row["state"],
        "deadline": datetime.fromtimestamp(row["by_unix_s"], UTC).isoformat(),
        "escalations": row["escalations"],
    }


def message(row: Mapping[str, Any], what: str, *, sender: str, to: str, page: str, name: str) -> EmailMessage:
    """One e-mail, Swedish first and English below: the night staff's own language is not known here."""
    mail = EmailMessage()
    urgent = "" if what == "created" else "PÅMINNELSE / REMINDER: "
    mail["Subject"] = f"{urgent}Överlämning {row['gateway']} / Hand-over"
    mail["From"], mail["To"] = sender, to
    mail["Message-ID"] = f"<{name}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    by = datetime.fromtimestamp(row["by_unix_s"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    swedish, english = (text.format(by=by, who=row["arrived_by"] or row["acknowledged_by"]) for text in _WHAT[what])
    reason = _both(_REASONS.get(row["reason"], row["reason"]))
    steps = "; ".join(f"{_both(_STEPS.get(one['do'], one['do']))} ({one['within_min']} min)" for one in row["steps"])
    mail.set_content(
        f"{swedish}\n{english}\n\n"
        f"Hem / home: {row['gateway']}\nTillsyn / check: {row['line']} {row['occasion']}\n"
        f"Orsak / reason: {reason}\nÅtgärder / steps: {steps or '-'}\n\n{page}#handovers\n",
        cte="quoted-printable",
    )
    return mail


def _both(english: str) -> str:
    swedish = words("sv")(english)
    return english if swedish == english else f"{swedish} / {english}"


def still_so(row: Mapping[str, Any], what: str) -> bool:
    """Whether a hand-over is still as it was when somebody was to be told."""
    if what == "created":
        return bool(row["state"] == "open")
    return bool(row["state"] != "done" and overdue_word(row) == what)


async def send_mail(server: MailServer, mail: EmailMessage) -> None:
    """Raises UndeliveredError."""
    try:
        await aiosmtplib.send(
            mail,
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            start_tls=server.security == "starttls",
            use_tls=server.security == "tls",
            tls_context=server.trust,
            timeout=LIMIT_S,
        )
    except (aiosmtplib.SMTPException, OSError, ValueError) as exc:
        raise UndeliveredError(type(exc).__name__.lower()[:40]) from exc


async def send_webhook(unit: Unit, *, name: str, body: bytes, now_unix_s: float) -> None:
    """Raises UndeliveredError."""
    assert unit.webhook_url is not None
    assert unit.webhook_key is not None
    timestamp = int(now_unix_s)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_webhook(unit.webhook_key, name=name, timestamp=timestamp, body=body),
    }
    try:
        async with httpx.AsyncClient(timeout=LIMIT_S, trust_env=False, follow_redirects=False) as client:
            response = await client.post(unit.webhook_url, content=body, headers=headers)
    except httpx.HTTPError as exc:
        raise UndeliveredError("unreachable") from exc
    if not 200 <= response.status_code < 300:
        raise UndeliveredError(f"http-{response.status_code}")


async def deliver_once(state: CentreState, post: Post) -> int:
    """Fan out what is new and try what is ripe; returns how many went out."""
    store = state.store
    await asyncio.to_thread(store.fan_out, post.channels, fallback=post.fallback, now_unix_s=state.clock())
    ripe = await asyncio.to_thread(store.take_deliveries, now_unix_s=state.clock(), lease_s=LEASE_S, limit=BATCH)
    if not ripe:
        return 0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_try(state, post, row), name="delivery") for row in ripe]
    return sum(task.result() for task in tasks)


async def _try(state: CentreState, post: Post, delivery: dict[str, Any]) -> bool:
    store, number = state.store, delivery["number"]
    row = await asyncio.to_thread(store.handover, delivery["handover"])
    assert row is not None, "hand-overs are never deleted"
    if not still_so(row, delivery["what"]):  # what has not gone out by now is of no use
        await asyncio.to_thread(store.end_delivery, number, now_unix_s=state.clock())
        return False
    name = f"{delivery['handover']}.{number}"
    unit = post.units.get(delivery["unit"])
    try:
        if unit is None or delivery["channel"] not in unit.channels:
            raise UndeliveredError("no-channel")
        if delivery["channel"] == "email":
            if post.mail is None or unit.email is None:
                raise UndeliveredError("no-mail-server")
            mail = message(row, delivery["what"], sender=post.mail.sender, to=unit.email, page=post.page, name=name)
            await send_mail(post.mail, mail)
        else:
            body = json.dumps(content(row, delivery["what"]), separators=(",", ":")).encode()
            await send_webhook(unit, name=name, body=body, now_unix_s=state.clock())
    except UndeliveredError as exc:
        next_unix_s = state.clock() + wait_s(delivery["tries"])
        _log.warning("hand-over %s: %s to %s: %s", row["id"], delivery["channel"], delivery["unit"], exc.why)
        await asyncio.to_thread(store.put_off_delivery, number, why=exc.why, next_unix_s=next_unix_s)
        if delivery["tries"] == STUCK_TRIES:
            state.events.send("alarm", {"gateway": row["gateway"], "code": "delivery-failed", "count": 1})
        return False
    await asyncio.to_thread(store.end_delivery, number, now_unix_s=state.clock())
    state.events.send(
        "handover",
        {"id": row["id"], "gateway": row["gateway"], "state": row["state"], "escalations": row["escalations"]},
    )
    return True


async def keep_delivering(state: CentreState, post: Post) -> None:
    """Every 2 s until cancelled. Raises SQLAlchemyError when the store can't write: end the process then."""
    while True:
        await deliver_once(state, post)
        await asyncio.sleep(EVERY_S)
