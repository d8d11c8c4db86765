"""Which instants did they agree on? From local words to instants, with the two odd nights of each year.

Local time is turned into an instant once, at the start of an occasion; everything after that is elapsed time and is
compared as Unix seconds. Never as local time: Python takes `fold=0` and `fold=1` of one wall time for equal, and two
hours added to a wall time across the fold are three hours of waiting.

Source: docs/protocol.md, "Agreement"; PEP 495.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from gateway.agreement.recurrence import dates_of
from gateway.agreement.schema import Agreement, Line, Pause
from gateway.core.interval_clock import Interval

_OCCASION_ID = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2})")

SPAN_MAX_S: Final = 20 * 3600
"""No occasion lasts longer, re-checks included: 4 h of window, then three times 1 h + 4 h + 180 s (19 h 9 min)."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """One agreed moment of one line, in whole Unix seconds.

    `occasion_id` is the local start in the agreement's own words ("2026-11-23T23:30"), also on a night when clocks skip
    that time: it names the occasion, `start_unix_s` says when it is. The first look opens in
    [start_unix_s, end_unix_s]; no look opens after `recheck_end_unix_s`; no look lasts longer than `max_s`.
    """

    line_id: str
    occasion_id: str
    start_unix_s: int
    end_unix_s: int
    recheck_end_unix_s: int
    max_s: int


def local_instant(zone: ZoneInfo, local: datetime, *, last: bool = False) -> int:
    """Unix seconds of a naive local time. In the gap: the first valid instant after it. In the fold: the first
    occurrence, or the second if `last`.

    Source: docs/protocol.md, "Agreement"; PEP 495 for what the two folds of a time in the gap mean.
    """
    naive_s = calendar.timegm(local.timetuple())
    before_s = _offset_s(local.replace(tzinfo=zone, fold=0))
    after_s = _offset_s(local.replace(tzinfo=zone, fold=1))
    if before_s >= after_s:  # an ordinary time, or one in the fold: fold=0 is the earlier
        return naive_s - (after_s if last else before_s)
    # In the gap the two readings lie on either side of the change; find the first second with the later offset.
    lo_s, hi_s = naive_s - after_s, naive_s - before_s
    while hi_s - lo_s > 1:
        middle_s = (lo_s + hi_s) // 2
        if _offset_s(datetime.fromtimestamp(middle_s, zone)) == before_s:
            lo_s = middle_s
        else:
            hi_s = middle_s
    return hi_s


def pause_bounds(zone: ZoneInfo, pause: Pause) -> tuple[int, int]:
    """Unix seconds of a pause, read so that it covers the most: from the first 02:30 of a fold until the second."""
    return (
        local_instant(zone, datetime.fromisoformat(pause.first)),
        local_instant(zone, datetime.fromisoformat(pause.last), last=True),
    )


def occasions_between(agreement: Agreement, lo_utc: datetime, hi_utc: datetime) -> list[Occasion]:
    """The occasions that start in [lo_utc, hi_utc), by start and then by line id; consent and pauses don't matter here.

    Raises:
        ValueError: a time without a zone, which is our own mistake.
    """
    if lo_utc.tzinfo is None or hi_utc.tzinfo is None:
        raise ValueError("a time without a zone is not an instant")
    zone = agreement.zone
    # A day on either side: an occasion moved out of a gap may start on another date than its id says.
    first = _within_years(lo_utc).astimezone(zone).date() - timedelta(days=1)
    last = _within_years(hi_utc).astimezone(zone).date() + timedelta(days=1)
    lo_s, hi_s = lo_utc.timestamp(), hi_utc.timestamp()
    found = [
        occasion
        for line in agreement.lines
        for occasion in _occasions_on(agreement, zone, line, first, last)
        if lo_s <= occasion.start_unix_s < hi_s
    ]
    return sorted(found, key=lambda occasion: (occasion.start_unix_s, occasion.line_id))


def occasion_at(agreement: Agreement, line_id: str, interval: Interval) -> Occasion | None:
    """The line's occasion that is under way for the whole interval: inside [start, recheck_end]. None if there is none,
    no such line, or an interval with no end.
    """
    line = agreement.line(line_id)
    if line is None or not 0 <= interval.lo_unix_s <= interval.hi_unix_s <= _LATEST.timestamp():
        return None
    lo_utc = datetime.fromtimestamp(interval.lo_unix_s, UTC)
    zone = agreement.zone
    today = lo_utc.astimezone(zone).date()
    for occasion in _occasions_on(agreement, zone, line, today - timedelta(days=2), today + timedelta(days=1)):
        if occasion.start_unix_s <= interval.lo_unix_s and interval.hi_unix_s <= occasion.recheck_end_unix_s:
            return occasion
    return None


def occasion_by_id(agreement: Agreement, line: Line, occasion_id: str) -> Occasion | None:
    """The occasion of that name, or None if the line does not produce it."""
    match = _OCCASION_ID.fullmatch(occasion_id)
    if match is None or match[2] != line.start:
        return None
    try:
        day = date.fromisoformat(match[1])
    except ValueError:
        return None
    return next(iter(_occasions_on(agreement, agreement.zone, line, day, day)), None)


_EARLIEST: Final = datetime(2019, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2101, 1, 1, tzinfo=UTC)


def _within_years(moment: datetime) -> datetime:
    # Beyond the years an agreement may hold nothing can be found, and conversion to local time could overflow.
    return min(max(moment, _EARLIEST), _LATEST)


def _occasions_on(agreement: Agreement, zone: ZoneInfo, line: Line, first: date, last: date) -> list[Occasion]:
    days = dates_of(line.rrule, agreement.valid.first, agreement.valid.last, first, last)
    return [_occasion(zone, line, day) for day in days if day not in line.exceptions]


def _occasion(zone: ZoneInfo, line: Line, day: date) -> Occasion:
    start_s = local_instant(zone, datetime.combine(day, line.start_time))
    window_s = line.window_min * 60
    end_s = start_s + window_s
    # The latest chain there can be: each look opens in its last second and runs to its limit, then waits. There is no
    # grace on top; a look that was recorded as closing later than it can have closed earns no extra time.
    step_s = line.max_s + line.recheck.after_min * 60 + window_s
    return Occasion(
        line_id=line.id,
        occasion_id=f"{day.isoformat()}T{line.start}",
        start_unix_s=start_s,
        end_unix_s=end_s,
        recheck_end_unix_s=end_s + line.recheck.times * step_s,
        max_s=line.max_s,
    )


def _offset_s(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None  # ZoneInfo always knows
    return round(offset.total_seconds())
