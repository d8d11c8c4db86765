"""A check that was not made becomes somebody's task: begun once for each occasion, and never dropped.

A hand-over goes from open to acknowledged to done, each by a named person, and no other way; between the last two
somebody says that they have arrived. Whichever of the three is overdue, it escalates, again and again: also that a unit
has taken it on is no reason to believe that somebody is there. It begins by whoever notices first: the device
(`check.closed`, its ledger), or the centre (`centre.missed`); the occasion's name makes the two one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

from centre.state import CentreState
from centre.store import HandoverStart, Store
from centre.store.handover import overdue_word
from gateway.agreement import Agreement, HandoverStep, parse_agreement
from gateway.core.refusal import RefusedError
from gateway.protocol.key import b64url_encode

DEFAULT_WITHIN_MIN: Final = 15
"""For an occasion whose agreement the centre does not hold: somebody must look at it soon, and find out."""

_log = logging.getLogger(__name__)


def start_of(
    *,
    gateway: str,
    install_epoch: int,
    line: str,
    occasion: str,
    reason: str,
    agreement: Agreement | None,
    now_unix_s: float,
) -> HandoverStart:
    """What is to be done by whom, from the agreement's `if_not_seen`.

    It must be acknowledged within the time of the first step; the unit is the first that any step names.
    """
    steps: tuple[HandoverStep, ...] = () if agreement is None else agreement.if_not_seen
    return HandoverStart(
        id=f"h-{b64url_encode(secrets.token_bytes(9))}",
        gateway=gateway,
        install_epoch=install_epoch,
        line=line,
        occasion=occasion,
        reason=reason,
        unit=next((step.unit for step in steps if step.unit is not None), None),
        steps=[{"do": step.do, "within_min": step.within_min, "unit": step.unit} for step in steps],
        within_min=steps[0].within_min if steps else DEFAULT_WITHIN_MIN,
        created_unix_s=now_unix_s,
    )


def agreement_at(store: Store, gateway: str, install_epoch: int, now_unix_s: float) -> Agreement | None:
    """The agreement that the home had accepted last by then, None if the centre holds none."""
    accepted = [row for row in store.agreements(gateway, install_epoch) if row["accepted_unix_s"] <= now_unix_s]
    try:
        return parse_agreement(accepted[-1]["agreement_json"].encode()) if accepted else None
    except RefusedError:
        return None


def begin(
    store: Store,
    *,
    gateway: str,
    install_epoch: int,
    line: str,
    occasion: str,
    reason: str,
    now_unix_s: float,
) -> str | None:
    """Begin a hand-over by the agreement in force now; its id, or None when this occasion has one. Blocking."""
    start = start_of(
        gateway=gateway,
        install_epoch=install_epoch,
        line=line,
        occasion=occasion,
        reason=reason,
        agreement=agreement_at(store, gateway, install_epoch, now_unix_s),
        now_unix_s=now_unix_s,
    )
    if not store.put_handover(start):
        return None
    _log.warning("%s: hand-over %s of %s %s (%s)", gateway, start.id, line, occasion, reason)
    return start.id


def news(row: dict[str, Any]) -> dict[str, Any]:
    """What the event `handover` says; a page fetches the rest."""
    return {name: row[name] for name in ("id", "gateway", "state", "escalations")}


def tell(state: CentreState, handover: str, gateway: str) -> None:
    """The event for a hand-over that has just begun."""
    state.events.send("handover", {"id": handover, "gateway": gateway, "state": "open", "escalations": 0})


async def escalate(state: CentreState) -> int:
    """Escalate every hand-over of which something is overdue; returns how many."""
    late = await asyncio.to_thread(state.store.escalate_handovers, now_unix_s=state.clock())
    for row in late:
        _log.warning("%s: hand-over %s: %s (%d)", row["gateway"], row["id"], overdue_word(row), row["escalations"])
        state.events.send("handover", news(row))
    return len(late)
