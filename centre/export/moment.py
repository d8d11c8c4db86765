"""Instants as a person reads them: local, in words, and right on the night when an hour comes twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from centre.export.words import Words, later

WEEKDAYS: Final = (
    later("Monday"),
    later("Tuesday"),
    later("Wednesday"),
    later("Thursday"),
    later("Friday"),
    later("Saturday"),
    later("Sunday"),
)
MONTHS: Final = (
    later("January"),
    later("February"),
    later("March"),
    later("April"),
    later("May"),
    later("June"),
    later("July"),
    later("August"),
    later("September"),
    later("October"),
    later("November"),
    later("December"),
)


@dataclass(frozen=True, slots=True)
class Period:
    """Local dates, both included; None is unbounded."""

    zone: ZoneInfo
    first: date | None = None
    last: date | None = None

    def holds(self, unix_s: float) -> bool:
        day = datetime.fromtimestamp(unix_s, self.zone).date()
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)

    @property
    def end_unix_s(self) -> float | None:
        """The first instant after the last date."""
        if self.last is None:
            return None
        return datetime.combine(self.last + timedelta(days=1), time.min, self.zone).timestamp()


def week_of(zone: ZoneInfo, year: int, week: int) -> Period:
    """An ISO week, Monday to Sunday. ValueError if the year has no such week."""
    return Period(zone, date.fromisocalendar(year, week, 1), date.fromisocalendar(year, week, 7))


def clock(zone: ZoneInfo, unix_s: float, say: Words, *, seconds: bool = False) -> str:
    """The time of day; in the hour that comes twice it says which one."""
    local = datetime.fromtimestamp(unix_s, zone)
    shown = local.strftime("%H:%M:%S" if seconds else "%H:%M")
    if local.replace(fold=0).utcoffset() == local.replace(fold=1).utcoffset():
        return shown
    return say("{time} (summer time)", time=shown) if local.dst() else say("{time} (winter time)", time=shown)


def day_in_words(day: date, say: Words) -> str:
    return say(
        "{weekday} {day} {month} {year}",
        weekday=say(WEEKDAYS[day.weekday()]),
        day=day.day,
        month=say(MONTHS[day.month - 1]),
        year=day.year,
    )


def in_words(zone: ZoneInfo, unix_s: float, say: Words) -> str:
    """Day and time of an instant."""
    day = day_in_words(datetime.fromtimestamp(unix_s, zone).date(), say)
    return say("{day} at {time}", day=day, time=clock(zone, unix_s, say))


def offset(zone: ZoneInfo, unix_s: float) -> str:
    """As "UTC+01:00": never beginning with a sign, which a spreadsheet would take for a formula."""
    moment = datetime.fromtimestamp(unix_s, zone)
    return f"UTC{moment.isoformat()[-6:]}"


def length_in_words(seconds: float, say: Words) -> str:
    """Whole seconds below two minutes, then minutes and seconds."""
    whole = round(seconds)
    if whole < 120:
        return say.plural("{n} second", "{n} seconds", whole)
    minutes, rest = divmod(whole, 60)
    words = say.plural("{n} minute", "{n} minutes", minutes)
    if not rest:
        return words
    return say("{minutes} and {seconds}", minutes=words, seconds=say.plural("{n} second", "{n} seconds", rest))


def capital(sentence: str) -> str:
    """The sentence with a capital first letter; days and months have a small one in Swedish."""
    return sentence[:1].upper() + sentence[1:]
