"""On which dates does a line recur? A small, bounded subset of RFC 5545 recurrence rules.

Only what night checks need is understood: FREQ (DAILY, WEEKLY, MONTHLY), INTERVAL, BYDAY, BYMONTHDAY, and one of UNTIL
(a local date, inclusive) and COUNT. Everything else is refused, so no rule can ask for every second of a century.

The rule counts dates only; the time of day is the line's. DTSTART is the first day of validity. As in `dateutil`, and
unlike the letter of RFC 5545, that first day is an occasion only if the rule matches it.

Whether a date matches is worked out from that date alone. `dateutil` walks from DTSTART, and a rule that never matches
(`FREQ=DAILY;INTERVAL=7;BYDAY=TU` from a Monday) to the year 9999 whatever UNTIL says: 0.5 s [measured, 4.0.0]. So it is
what the tests compare with, not what runs.

Source: RFC 5545, 3.3.10.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final

RECURRENCE_MAX_CHARS: Final = 160
_INTERVAL_MAX: Final = 99
_COUNT_MAX: Final = 3660

_FREQUENCIES: Final = frozenset({"DAILY", "WEEKLY", "MONTHLY"})
_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_PARTS: Final = frozenset({"FREQ", "INTERVAL", "BYDAY", "BYMONTHDAY", "UNTIL", "COUNT"})
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_BYDAY = re.compile(r"([+-]?[1-5])?(MO|TU|WE|TH|FR|SA|SU)")
_BYMONTHDAY = re.compile(r"-?(?:[1-9]|[12][0-9]|3[01])")
_UNTIL = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A rule that was understood. `weekdays` holds (RFC 5545 name, ordinal in the month or None)."""

    frequency: str
    interval: int
    weekdays: tuple[tuple[str, int | None], ...]
    month_days: tuple[int, ...]
    until: date | None
    count: int | None


def parse_recurrence(untrusted: str) -> Recurrence:
    """Understand a rule, or raise ValueError. Parts may come in any order, each once, in capitals.

    INTERVAL 1..99, COUNT 1..3660. BYDAY takes ordinals (`-1SU`) with MONTHLY only, and then on each weekday.
    BYMONTHDAY does not go with WEEKLY.

    Source: RFC 5545, 3.3.10.
    """
    if len(untrusted) > RECURRENCE_MAX_CHARS:
        raise ValueError("recurrence is too long")
    parts: dict[str, str] = {}
    for part in untrusted.split(";"):
        name, sign, value = part.partition("=")
        if name not in _PARTS or not sign or name in parts:
            raise ValueError("recurrence has a part that is unknown, empty or repeated")
        parts[name] = value
    frequency = parts.get("FREQ", "")
    if frequency not in _FREQUENCIES:
        raise ValueError("recurrence is not daily, weekly or monthly")
    if "UNTIL" in parts and "COUNT" in parts:
        raise ValueError("recurrence has both UNTIL and COUNT")
    if "BYMONTHDAY" in parts and frequency == "WEEKLY":
        raise ValueError("BYMONTHDAY has no meaning in a weekly recurrence")
    return Recurrence(
        frequency=frequency,
        interval=_number(parts.get("INTERVAL", "1"), _INTERVAL_MAX),
        weekdays=_weekdays(parts["BYDAY"], ordinals=frequency == "MONTHLY") if "BYDAY" in parts else (),
        month_days=_month_days(parts["BYMONTHDAY"]) if "BYMONTHDAY" in parts else (),
        until=_until(parts["UNTIL"]) if "UNTIL" in parts else None,
        count=_number(parts["COUNT"], _COUNT_MAX) if "COUNT" in parts else None,
    )


def dates_of(rule: str, valid_first: date, valid_last: date, lo: date, hi: date) -> list[date]:
    """The dates in [lo, hi] on which the rule recurs within its validity, ascending. Costs about 2 µs a day asked for.

    Raises ValueError on a rule that `parse_recurrence` does not take.
    """
    recurrence = parse_recurrence(rule)
    first, last = max(lo, valid_first), min(hi, _last_date(recurrence, valid_first, valid_last))
    return [day for day in _days(first, last) if _recurs_on(recurrence, valid_first, day)]


# Only COUNT looks back to the first day, so its end is remembered. 64 is more than the twelve lines of the agreement in
# force and of the one that replaces it.
@lru_cache(maxsize=64)
def _last_date(recurrence: Recurrence, valid_first: date, valid_last: date) -> date:
    last = valid_last if recurrence.until is None else min(valid_last, recurrence.until)
    if recurrence.count is None:
        return last
    matches = (day for day in _days(valid_first, last) if _recurs_on(recurrence, valid_first, day))
    return next(islice(matches, recurrence.count - 1, None), last)


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def _recurs_on(recurrence: Recurrence, dtstart: date, day: date) -> bool:
    """True if the rule recurs on `day`, which is not before `dtstart`; UNTIL and COUNT are not looked at."""
    month_days = calendar.monthrange(day.year, day.month)[1]
    match recurrence.frequency:
        case "DAILY":
            periods, on_day = (day - dtstart).days, True
        case "WEEKLY":  # weeks begin on Monday, the RFC's default
            periods = (day.toordinal() - day.weekday() - dtstart.toordinal() + dtstart.weekday()) // 7
            on_day = bool(recurrence.weekdays) or day.weekday() == dtstart.weekday()
        case _:
            periods = (day.year - dtstart.year) * 12 + day.month - dtstart.month
            on_day = bool(recurrence.weekdays or recurrence.month_days) or day.day == dtstart.day
    if periods % recurrence.interval or not on_day:
        return False
    if recurrence.month_days and not {day.day, day.day - month_days - 1} & set(recurrence.month_days):
        return False
    nth, nth_from_end = (day.day - 1) // 7 + 1, -((month_days - day.day) // 7 + 1)
    return not recurrence.weekdays or any(
        _WEEKDAYS[day.weekday()] == name and ordinal in (None, nth, nth_from_end)
        for name, ordinal in recurrence.weekdays
    )


def _number(text: str, most: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise ValueError("recurrence has a number out of range")
    return int(text)


def _weekdays(text: str, *, ordinals: bool) -> tuple[tuple[str, int | None], ...]:
    weekdays: list[tuple[str, int | None]] = []
    for word in text.split(","):
        match = _BYDAY.fullmatch(word)
        if match is None or (match[1] and not ordinals):
            raise ValueError("recurrence has a BYDAY that is not a weekday")
        weekdays.append((match[2], int(match[1]) if match[1] else None))
    if len(set(weekdays)) != len(weekdays):
        # Forty times TU means TU, and costs forty times as much to count.
        raise ValueError("recurrence names a weekday twice")
    if len({ordinal is None for _, ordinal in weekdays}) > 1:
        raise ValueError("recurrence mixes weekdays with and without ordinal, which programs read differently")
    return tuple(weekdays)


def _month_days(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(_BYMONTHDAY.fullmatch(word) for word in words):
        raise ValueError("recurrence has a BYMONTHDAY that is not a day of a month")
    if len(set(words)) != len(words):
        raise ValueError("recurrence names a day of the month twice")
    return tuple(int(word) for word in words)


def _until(text: str) -> date:
    match = _UNTIL.fullmatch(text)
    if match is None:
        raise ValueError("recurrence has an UNTIL that is not a date")
    return date(int(match[1]), int(match[2]), int(match[3]))
