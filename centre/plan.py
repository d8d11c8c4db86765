"""What an agreement means, for whoever writes it: the next occasions, the odd nights, when consent ends. Pure.

The rules are the device's own (`gateway.agreement`): what is shown here is what it will do.
"""

from __future__ import annotations

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
