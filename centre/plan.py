"""What an agreement means, for whoever writes it: the next occasions, the odd nights, when consent ends. Pure.

The rules are the device's own (`gateway.agreement`): what is shown here is what it will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from gateway.agreement import Agreement, Occasion, occasions_between, parse_agreement
from gateway.agreement.occasion import pause_bounds
from gateway.core.refusal import RefusedError
from gateway.protocol import strict_json

DAYS: Final = 14
MAX_OCCASIONS: Final = 400


def meaning(untrusted_agreement: dict[str, Any], *, now_unix_s: float) -> dict[str, Any]:
    """The next two weeks and any odd night (DST) of the year that follows; or `problem`, in the parser's words."""
    try:
        agreement = parse_agreement(strict_json.dumps(untrusted_agreement))
    except RefusedError as exc:
        return {"problem": str(exc.detail or exc.code), "occasions": [], "consent_ends": None}
    now = datetime.fromtimestamp(now_unix_s, UTC)
    first = max(now, datetime.combine(agreement.valid.first, datetime.min.time(), UTC) - timedelta(days=1))
    found = occasions_between(agreement, first, first + timedelta(days=DAYS))[:MAX_OCCASIONS]
    known = {(one.line_id, one.occasion_id) for one in found}
    for day in odd_days(agreement.zone, first.date(), first.date() + timedelta(days=366)):
        noon = datetime.combine(day, datetime.min.time(), UTC)
        near = occasions_between(agreement, noon - timedelta(hours=12), noon + timedelta(hours=36))
        found += [one for one in near if night_of(agreement.zone, one) and (one.line_id, one.occasion_id) not in known]
    return {
        "problem": None,
        "occasions": [_facts(agreement, one) for one in found],
        "consent_ends": consent_ends(agreement),
    }


def next_occasions(agreement: Agreement, *, now_unix_s: float, most: int) -> list[dict[str, Any]]:
    """The next ones that begin within two weeks, at most `most`."""
    found: list[Occasion] = []
    for days in (5, DAYS):  # most agreements are for every night, and a day costs time
        now = datetime.fromtimestamp(now_unix_s, UTC)
        found = list(occasions_between(agreement, now, now + timedelta(days=days)))[:most]
        if len(found) == most:
            break
    return [_facts(agreement, one) for one in found]


def pauses_left(agreement: Agreement, *, now_unix_s: float) -> list[dict[str, Any]]:
    """Those that are not over, as agreed, soonest first; `is_now` of the one that holds now."""
    found = []
    for pause in agreement.pauses:
        first_s, last_s = pause_bounds(agreement.zone, pause)
        if now_unix_s < last_s:
            found.append((first_s, {"first": pause.first, "last": pause.last, "is_now": first_s <= now_unix_s}))
    return [facts for _first_s, facts in sorted(found, key=lambda pair: pair[0])]


def standing(last: Mapping[str, Any] | None, held: tuple[str | None, int | None]) -> str:
    """How what was sent last to a home (`Store.last_sent`) stands to what the home says it holds.

    `none`, `confirmed`, `waiting` (the home has not said that it has it), or `other`: it holds one that is not what was
    sent last, and no answer is owed. What a home refused was never sent.
    """
    if last is None:
        return "none" if held[0] is None else "other"
    if (last["agreement"], last["version"]) == held:
        return "confirmed"
    is_ahead = held[1] is None or last["version"] > held[1]
    return "waiting" if last["accepted_unix_s"] is None or is_ahead else "other"


def consent_ends(agreement: Agreement) -> str | None:
    """The first local date on which a consent that is needed holds no longer, or the last day of validity."""
    persons = [one for one in (agreement.consent.resident, agreement.consent.cohabitant) if one is not None]
    ends = [one.until for one in persons if one.until is not None] + [agreement.valid.last]
    return min(ends).isoformat()


def is_paused(agreement: Agreement, unix_s: float) -> bool:
    bounds = (pause_bounds(agreement.zone, pause) for pause in agreement.pauses)
    return any(first_s <= unix_s < last_s for first_s, last_s in bounds)


def odd_days(zone: ZoneInfo, first: date, last: date) -> list[date]:
    """Local days on which the clock is changed."""
    found, day = [], first
    while day <= last:
        if _offset(zone, day) != _offset(zone, day + timedelta(days=1)):
            found.append(day)
        day += timedelta(days=1)
    return found


def night_of(zone: ZoneInfo, occasion: Occasion) -> str | None:
    """`gap` or `fold` when the clock changes in the twelve hours around an occasion's start."""
    start = datetime.fromtimestamp(occasion.start_unix_s, UTC)
    before, after = ((start + timedelta(hours=h)).astimezone(zone).utcoffset() for h in (-6, 6))
    assert before is not None
    assert after is not None
    return None if before == after else "gap" if after > before else "fold"


def _offset(zone: ZoneInfo, day: date) -> timedelta | None:
    return datetime.combine(day, datetime.min.time(), zone).utcoffset()


def _facts(agreement: Agreement, occasion: Occasion) -> dict[str, Any]:
    local = datetime.fromtimestamp(occasion.start_unix_s, UTC).astimezone(agreement.zone)
    return {
        "line": occasion.line_id,
        "occasion": occasion.occasion_id,
        "start_unix_s": float(occasion.start_unix_s),
        "end_unix_s": float(occasion.end_unix_s),
        "weekday": local.weekday(),
        "local": local.strftime("%Y-%m-%dT%H:%M"),
        "night": night_of(agreement.zone, occasion),
        "is_paused": is_paused(agreement, occasion.start_unix_s),
    }
