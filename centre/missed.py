"""Was every agreed check made? The centre asks, because a device that is silent can't.

For each occasion of the agreements that a home has accepted, `judge` says from what the home has signed: it waits, it
is settled (seen, paused, or refused for a reason by which no check was wanted), or it is missed. A missed one becomes a
hand-over (`centre.handover`). What is not signed by the home settles nothing: a forged ledger line can send somebody to
a home, never keep somebody away. Lines under a checkpoint that was witnessed are signed; where a check's report was
lost, they say how it ended.

It is stricter than "an attempt was made": a check that broke off, a re-check that nobody made, and a refusal because of
a fault all end in a hand-over, since nobody has seen the resident.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from centre.handover import escalate, start_of, tell
from centre.outcome import outcome_of
from centre.state import CentreState
from centre.store import LONGEST_WINDOW_S, Store
from centre.witness import reconcile
from gateway.agreement import Agreement, Attempt, Occasion, Outcome, next_step, occasions_between, parse_agreement
from gateway.agreement.occasion import SPAN_MAX_S, pause_bounds
from gateway.core.refusal import RefusedError
from gateway.ledger import RecordKind, parse_line
from gateway.protocol.message import Closed, MissedCheck, Verdict

GRACE_S: Final = 60.0
"""How long after a window's end a home's report may still be on its way."""
LOOK_EVERY_S: Final = 60.0
LOOK_AGAIN_S: Final = 6 * 3600.0
"""At least so often each home is looked at, whatever was thought to come next."""
RECONCILE_AFTER_S: Final = 900.0
"""So long after the start nothing is compared: the broker's backlog must come in first."""
_VERDICTS: Final[Mapping[str, Verdict]] = {
    "seen": Verdict.SEEN,
    "not-seen": Verdict.NOT_SEEN,
    "unsure": Verdict.UNSURE,
}
"""By the word that a `verdict` record has."""
SETTLING: Final = frozenset({"paused", "withdrawn", "no-consent", "returned"})
"""Refusals by which no check is wanted. Any other leaves a resident whom nobody has looked at."""

_log = logging.getLogger(__name__)


# What one occasion has come to


@dataclass(frozen=True, slots=True)
class Told:
    """What a home has signed of one occasion."""

    attempts: tuple[Attempt, ...] = ()
    """Those that have ended."""
    refusals: tuple[str, ...] = ()
    """Codes of openings that it refused, oldest first."""
    opened_unix_s: float | None = None
    """When an opening was accepted whose end is not known."""
    said: str | None = None
    """Its newest word in its list of what is due."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Nothing can be missed before `until_unix_s`."""

    until_unix_s: float


@dataclass(frozen=True, slots=True)
class Settled:
    why: str


@dataclass(frozen=True, slots=True)
class Missed:
    why: str


def judge(agreement: Agreement, occasion: Occasion, told: Told, *, now_unix_s: float) -> Pending | Settled | Missed:
    """What an occasion of `agreement` has come to."""
    outcomes = {attempt.outcome for attempt in told.attempts}
    if "seen" in outcomes:
        return Settled("seen")
    until_unix_s = occasion.end_unix_s + GRACE_S
    if told.attempts:
        step = next_step(agreement, occasion, told.attempts)
        if step.action == "handover" or step.closes_unix_s is None:
            return Missed(_unseen(outcomes))
        until_unix_s = step.closes_unix_s + GRACE_S
    if told.opened_unix_s is not None:
        until_unix_s = max(until_unix_s, told.opened_unix_s + occasion.max_s + GRACE_S)
    if now_unix_s < until_unix_s:
        return Pending(until_unix_s)
    if told.attempts:
        return Missed(_unseen(outcomes, missed="recheck-missed"))
    if told.said == "paused" or _is_paused(agreement, occasion):
        return Settled("paused")
    settling = [code for code in told.refusals if code in SETTLING]
    if settling:
        return Settled(settling[-1])
    if told.opened_unix_s is not None:
        return Missed("unclosed")
    return Missed(told.refusals[-1] if told.refusals else "missed-check")


def _unseen(outcomes: set[Outcome], *, missed: str = "not-seen") -> str:
    return "check-broken" if outcomes == {"broken"} else missed


def _is_paused(agreement: Agreement, occasion: Occasion) -> bool:
    """An agreed pause that covers the window's end; one that ends before it leaves time for the check."""
    bounds = (pause_bounds(agreement.zone, pause) for pause in agreement.pauses)
    return any(first_s <= occasion.end_unix_s < last_s for first_s, last_s in bounds)


def closed_unix_s(closed: Closed, agreement: Agreement | None, *, heard_unix_s: float) -> float:
    """When a check ended: as heard, or earlier by the home's own word for when the re-check opens.

    A report may come hours late, and a re-check counts from the end of the look, not from the report.
    """
    line = None if agreement is None else agreement.line(closed.line)
    if line is None or closed.next != "recheck" or closed.next_unix_s is None or outcome_of(closed) == "broken":
        return heard_unix_s
    said_unix_s = closed.next_unix_s - line.recheck.after_min * 60
    return min(heard_unix_s, max(said_unix_s, heard_unix_s - SPAN_MAX_S))


def reports_of(gateway: str, lines: Iterable[bytes]) -> list[tuple[Closed, float]]:
    """What the home's reports would have said of checks whose `closed` record is among `lines`, and when they ended.

    A report that the broker lost comes no more; a guard that was restarted in a check makes none. Whether the mount is
    up, and what is to follow, no record says: `parked` is False and `next` none.
    """
    verdicts: dict[str, Verdict] = {}
    found: list[tuple[Closed, float]] = []
    for raw in lines:
        stored = parse_line(raw)
        record = stored.record()
        if record is None or record.check is None:
            continue
        if record.kind is RecordKind.VERDICT and (verdict := _VERDICTS.get(record.why or "")) is not None:
            verdicts[record.check] = verdict
        if record.kind is not RecordKind.CLOSED or record.line is None or record.occasion is None:
            continue
        report = Closed(
            gateway=gateway,
            check=record.check,
            why=record.why or "recovered",
            who=record.who or "unknown",
            line=record.line,
            occasion=record.occasion,
            attempt=record.attempt or 1,
            watched_s=record.watched_s or 0.0,
            frames=record.frames or 0,
            parked=False,
            ledger_size=stored.seq + 1,
            verdict=verdicts.get(record.check),
            view=record.view,
        )
        found.append((report, record.time_lo))
    return found


# Which occasions there are


@dataclass(frozen=True, slots=True)
class AgreementTime:
    """An agreement and the time in which it was the home's; `until_unix_s` is infinite for the present one."""

    agreement: Agreement
    since_unix_s: float
    until_unix_s: float


@lru_cache(maxsize=4096)
def _parsed(agreement_json: str) -> Agreement | None:
    try:
        return parse_agreement(agreement_json.encode())
    except RefusedError:
        return None  # its home has accepted it by other rules than ours; then its own list counts


def in_force(rows: Sequence[Mapping[str, Any]], withdrawals: Sequence[float]) -> list[AgreementTime]:
    """The accepted agreements of one home (rows of the store, oldest first), each until the next or a withdrawal."""
    found = []
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        agreement, since = _parsed(row["agreement_json"]), row["accepted_unix_s"]
        ends = [moment for moment in withdrawals if moment >= since]
        if following is not None:
            ends.append(following["accepted_unix_s"])
        if agreement is not None:
            found.append(AgreementTime(agreement, since, min(ends, default=math.inf)))
    return found


def occasions_of(
    agreements: Sequence[AgreementTime], lo_unix_s: float, hi_unix_s: float
) -> list[tuple[Agreement, Occasion]]:
    """What starts in [lo, hi), by start: of each agreement that was in force then, or came while the window was open.

    An occasion stands in it once, under the newest agreement that has it.
    """
    found: dict[tuple[str, str], tuple[Agreement, Occasion]] = {}
    lo_utc = datetime.fromtimestamp(max(0.0, lo_unix_s), UTC)
    hi_utc = datetime.fromtimestamp(max(0.0, hi_unix_s), UTC)
    for each in agreements:
        for occasion in occasions_between(each.agreement, lo_utc, hi_utc):
            if occasion.end_unix_s > each.since_unix_s and occasion.start_unix_s < each.until_unix_s:
                found[occasion.line_id, occasion.occasion_id] = (each.agreement, occasion)
    return sorted(found.values(), key=lambda pair: (pair[1].start_unix_s, pair[1].line_id))


def told_of(facts: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Told]:
    """The store's facts of one home, by line and occasion."""
    by_occasion: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for fact in facts:
        by_occasion.setdefault((fact["line"], fact["occasion"]), []).append(fact)
    return {occasion: _told(each) for occasion, each in by_occasion.items()}


def _told(facts: Sequence[Mapping[str, Any]]) -> Told:
    checks = [fact for fact in facts if fact["what"] == "check"]
    answered = [fact for fact in facts if fact["what"] == "asked" and fact["word"] is not None]
    ended = {fact["attempt"] for fact in checks}
    return Told(
        attempts=tuple(
            Attempt(fact["line"], fact["occasion"], fact["attempt"], fact["at_unix_s"], fact["at_unix_s"], fact["word"])
            for fact in checks
        ),
        refusals=tuple(fact["word"] for fact in answered if fact["word"] != "check.opened"),
        opened_unix_s=max(
            (f["at_unix_s"] for f in answered if f["word"] == "check.opened" and f["attempt"] not in ended),
            default=None,
        ),
        said=next((fact["word"] for fact in facts if fact["what"] == "said"), None),
    )


def reason_of(store: Store, told: MissedCheck, *, install_epoch: int, now_unix_s: float) -> str:
    """Why the home's own alarm was raised, as well as it is known here: a refusal says more than "nobody came"."""
    if told.why != "missed-check":
        return told.why
    if store.disabled({told.gateway: install_epoch}):
        return "home-disabled"
    facts = store.occasion_facts(told.gateway, install_epoch, since_unix_s=now_unix_s - 2 * SPAN_MAX_S)
    refusals = told_of(facts).get((told.line, told.occasion), Told()).refusals
    return next((code for code in reversed(refusals) if code not in SETTLING), told.why)


# The job


@dataclass(frozen=True, slots=True)
class Begun:
    """A hand-over that a look began."""

    handover: str
    gateway: str


def look(store: Store, homes: Mapping[str, int], *, now_unix_s: float) -> list[Begun]:
    """Judge what may have been missed in any home (gateway: install_epoch), and hand it over. Blocking.

    Repeating it, or another worker doing the same, begins nothing twice. After a time in which nobody looked it goes on
    where it stopped, so no occasion is left out.
    """
    judged = store.judged()
    # Of a device that goes back nothing is expected any more, and its silence is nobody's hand-over.
    returned = store.returned(homes)
    waiting = {
        gateway: install_epoch
        for gateway, install_epoch in homes.items()
        if gateway not in returned and judged.get((gateway, install_epoch), (0.0, 0.0))[1] <= now_unix_s
    }
    if not waiting:
        return []
    disabled, held = store.disabled(waiting), store.held_agreements()
    begun: list[Begun] = []
    for gateway, install_epoch in waiting.items():
        known = judged.get((gateway, install_epoch))
        begun += _look_at(
            store,
            gateway,
            install_epoch,
            before=known,
            silent_reason="home-disabled" if gateway in disabled else "missed-check",
            held=held[gateway],
            now_unix_s=now_unix_s,
        )
    return begun


def _look_at(
    store: Store,
    gateway: str,
    install_epoch: int,
    *,
    before: tuple[float, float] | None,
    silent_reason: str,
    held: tuple[str | None, int | None],
    now_unix_s: float,
) -> list[Begun]:
    rows = store.agreements(gateway, install_epoch)
    agreements = in_force(rows, store.withdrawals(gateway)) if rows else []
    since_unix_s = now_unix_s - LONGEST_WINDOW_S if before is None else before[0]
    facts = store.occasion_facts(gateway, install_epoch, since_unix_s=since_unix_s - SPAN_MAX_S)
    if asked := _asked(facts):
        _enter_outcomes(store, gateway, install_epoch, asked, now_unix_s=now_unix_s)
        facts = store.occasion_facts(gateway, install_epoch, since_unix_s=since_unix_s - SPAN_MAX_S)
    told = told_of(facts)
    begun: list[Begun] = []
    until_unix_s, look_unix_s = now_unix_s, now_unix_s + LOOK_AGAIN_S

    def hand_over(agreement: Agreement | None, line: str, occasion: str, why: str) -> None:
        start = start_of(
            gateway=gateway,
            install_epoch=install_epoch,
            line=line,
            occasion=occasion,
            reason=silent_reason if why == "missed-check" else why,
            agreement=agreement,
            now_unix_s=now_unix_s,
        )
        if store.put_handover(start):
            _log.warning("%s: hand-over %s of %s %s (%s)", gateway, start.id, line, occasion, start.reason)
            begun.append(Begun(start.id, gateway))

    for agreement, occasion in occasions_of(agreements, since_unix_s, now_unix_s + LOOK_AGAIN_S):
        standing = judge(
            agreement,
            occasion,
            told.get((occasion.line_id, occasion.occasion_id), Told()),
            now_unix_s=now_unix_s,
        )
        match standing:
            case Pending(pending_unix_s):
                until_unix_s = min(until_unix_s, occasion.start_unix_s)
                look_unix_s = min(look_unix_s, pending_unix_s)
            case Missed(why):
                hand_over(agreement, occasion.line_id, occasion.occasion_id, why)
            case Settled():
                pass
    if not any((each.agreement.agreement, each.agreement.version) == held for each in agreements):
        # The home holds an agreement that we don't: what it listed itself is all there is to go by.
        for line, occasion_id, ends_unix_s in _announced(facts, told):
            if ends_unix_s <= now_unix_s:
                hand_over(None, line, occasion_id, "missed-check")
            else:
                look_unix_s = min(look_unix_s, ends_unix_s)
    store.put_judged(gateway, install_epoch, before=before, until_unix_s=until_unix_s, look_unix_s=look_unix_s)
    return begun


def _asked(facts: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, int]]:
    """(line, occasion, attempt) of openings that may have been accepted."""
    return {
        (fact["line"], fact["occasion"], fact["attempt"])
        for fact in facts
        if fact["what"] == "asked" and fact["word"] in (None, "check.opened")
    }


def _enter_outcomes(
    store: Store, gateway: str, install_epoch: int, asked: set[tuple[str, str, int]], *, now_unix_s: float
) -> None:
    """Enter the outcomes of which only the home's ledger has told, once their report is overdue."""
    for report, ended_unix_s in reports_of(gateway, store.unreported(gateway, install_epoch)):
        if (report.line, report.occasion, report.attempt) not in asked or ended_unix_s > now_unix_s - GRACE_S:
            continue
        _log.warning("%s: check %s: closed by its ledger, and no report came", gateway, report.check)
        store.put_outcome(
            report,
            closed_jws="",
            now_unix_s=now_unix_s,
            install_epoch=install_epoch,
            outcome=outcome_of(report),
            closed_unix_s=ended_unix_s,
        )
        if report.why == "seal-broken":
            store.count_alarm(gateway, report.why, now_unix_s=now_unix_s)


def _announced(
    facts: Iterable[Mapping[str, Any]], told: Mapping[tuple[str, str], Told]
) -> list[tuple[str, str, float]]:
    """(line, occasion, when it will have been missed) of what the home announced and nobody has seen to."""
    return [
        (fact["line"], fact["occasion"], fact["closes_unix_s"] + GRACE_S)
        for fact in facts
        if fact["what"] == "said"
        and fact["word"] in {"soon", "due", "recheck", "missed"}
        # Only what was announced with its end: a new home may list what was over before it was installed.
        and fact["closes_unix_s"] is not None
        and not any(attempt.outcome == "seen" for attempt in told[fact["line"], fact["occasion"]].attempts)
    ]


async def look_once(state: CentreState) -> None:
    """One look at everything that must not be forgotten: missed checks, then hand-overs that nobody acknowledged."""
    for begun in await asyncio.to_thread(look, state.store, state.installations, now_unix_s=state.clock()):
        tell(state, begun.handover, begun.gateway)
    await escalate(state)


async def keep_looking(state: CentreState) -> None:
    """Every minute until cancelled. Raises SQLAlchemyError when the store can't write: end the process then."""
    while True:
        await look_once(state)
        await asyncio.sleep(LOOK_EVERY_S)


async def keep_reconciling(state: CentreState) -> None:
    """Compare each home's log once a day until cancelled, beginning a quarter of an hour after the start."""
    while True:
        await asyncio.sleep(RECONCILE_AFTER_S)
        await reconcile_once(state)


async def reconcile_once(state: CentreState) -> None:
    found = await asyncio.to_thread(reconcile, state.store, state.logs, state.installations, now_unix_s=state.clock())
    for gateway, finding in found:
        state.events.send("alarm", {"gateway": gateway, "code": finding.value, "count": 1})
