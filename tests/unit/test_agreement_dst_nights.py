"""The two odd nights of each year, and all the others: every line gives one occasion a night, when it should.

The expected instants are worked out here from UTC alone, without `fold` and without the code under test.

Mutations that turn a test here red:
* `local_instant`: in the gap return `naive_s - before_s` (what zoneinfo says by itself) → every night in Stockholm,
  Helsinki, New York; the table
* `local_instant`: in the fold take `after_s` → every night; the table
* `_occasion`: end by local time (`local_instant(start + window)`) → every night; the table
* `occasions_between`: without the day before → test_a_check_that_moves_past_midnight_is_found_on_either_date

`python tests/unit/test_agreement_dst_nights.py` writes docs/dst-nights.md anew.
"""

import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.agreement import occasion_at, occasions_between, parse_agreement
from gateway.core.interval_clock import Interval

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dst-nights.md"
STARTS = ("01:30", "02:00", "02:30", "02:59", "03:00", "23:30")
WINDOW_MIN = 30

# Changes of Swedish time, both at 01:00 UTC. Source: directive 2000/84/EC, last Sunday of March and of October.
STOCKHOLM_CHANGES = (
    ("2026-03-29", "2026-10-25"),
    ("2027-03-28", "2027-10-31"),
    ("2028-03-26", "2028-10-29"),
    ("2029-03-25", "2029-10-28"),
    ("2030-03-31", "2030-10-27"),
)


def agreement(zone, first, last, starts=STARTS, **line):
    return parse_agreement(
        {
            "agreement": "a",
            "version": 1,
            "gateway": "gw",
            "install_epoch": 1,
            "timezone": zone,
            "valid": {"from": first, "until": last},
            "consent": {"resident": {"given": first, "how": "signed", "ref": "c"}, "cohabitant": None},
            "lines": [
                {
                    "id": f"at-{start.replace(':', '')}",
                    "rrule": "FREQ=DAILY",
                    "start": start,
                    "window_min": WINDOW_MIN,
                    "max_s": 60,
                    "recheck": {"after_min": 15, "times": 1},
                    **line,
                }
                for start in starts
            ],
            "picture": {"mode": "clear"},
            "lamp": "dim",
            "if_not_seen": [{"do": "visit", "within_min": 45}],
            "pauses": [],
            "resident_ref": "r",
        }
    )


def expected_start(zone, naive):
    """The first UTC instant whose wall time is `naive`; if there is none, the first whose wall time is past it."""
    guess = naive.replace(tzinfo=UTC)
    offsets = {(guess + timedelta(hours=h)).astimezone(zone).utcoffset() for h in (-26, 26)}
    exact = [guess - offset for offset in offsets if (guess - offset).astimezone(zone).replace(tzinfo=None) == naive]
    if exact:
        return min(exact)
    instant = guess - max(offsets)
    while instant.astimezone(zone).replace(tzinfo=None) < naive:
        instant += timedelta(minutes=1)
    return instant


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Europe/Stockholm", "Europe/Helsinki", "Atlantic/Azores", "America/New_York"])
@pytest.mark.parametrize(("first", "last"), [("2026-01-01", "2031-12-31"), ("2032-01-01", "2037-12-31")])
def test_every_night_2026_to_2037_each_line_gives_one_occasion_at_the_agreed_instant(name, first, last):
    zone = ZoneInfo(name)
    agreed = agreement(name, first, last)
    # Asked a month at a time, as a caller would, so that the edges of a query are tested too.
    edges = [datetime(y, m, 1, tzinfo=UTC) for y in range(int(first[:4]), int(last[:4]) + 1) for m in range(1, 13)]
    edges = [edges[0] - timedelta(days=1), *edges[1:], edges[-1] + timedelta(days=40)]
    found = [occasion for lo, hi in pairwise(edges) for occasion in occasions_between(agreed, lo, hi)]
    moments = {(occasion.line_id, occasion.occasion_id): occasion for occasion in found}
    assert len(moments) == len(found)
    day, count = date.fromisoformat(first), 0
    while day <= date.fromisoformat(last):
        for start in STARTS:
            occasion = moments[(f"at-{start.replace(':', '')}", f"{day}T{start}")]
            begin_s = expected_start(zone, datetime.fromisoformat(f"{day}T{start}")).timestamp()
            assert (occasion.start_unix_s, occasion.end_unix_s) == (begin_s, begin_s + WINDOW_MIN * 60), occasion
            count += 1
        day += timedelta(days=1)
    assert count == len(found)


def test_the_night_that_skips_an_hour_moves_lines_in_the_gap_to_its_end():
    found = night("2026-03-29", "2026-03-28T20:00", "2026-03-29T04:00")
    assert found == {
        "at-0130": ("2026-03-29T00:30", "2026-03-29T01:00"),
        "at-0200": ("2026-03-29T01:00", "2026-03-29T01:30"),
        "at-0230": ("2026-03-29T01:00", "2026-03-29T01:30"),
        "at-0259": ("2026-03-29T01:00", "2026-03-29T01:30"),
        "at-0300": ("2026-03-29T01:00", "2026-03-29T01:30"),
    }


def test_the_night_that_repeats_an_hour_has_no_second_check():
    found = night("2026-10-25", "2026-10-24T22:00", "2026-10-25T04:00")
    assert found == {
        "at-0130": ("2026-10-24T23:30", "2026-10-25T00:00"),
        "at-0200": ("2026-10-25T00:00", "2026-10-25T00:30"),
        "at-0230": ("2026-10-25T00:30", "2026-10-25T01:00"),
        "at-0259": ("2026-10-25T00:59", "2026-10-25T01:29"),
        "at-0300": ("2026-10-25T02:00", "2026-10-25T02:30"),
    }


def test_a_check_that_moves_past_midnight_is_found_on_either_date():
    # Greenland's clocks go from 23:00 to midnight, so 23:30 on that Saturday is the first instant of Sunday.
    agreed = agreement("America/Nuuk", "2027-03-27", "2027-03-27", ["23:30"])
    begin = utc("2027-03-28T01:00")
    assert begin.astimezone(ZoneInfo("America/Nuuk")).date() == date(2027, 3, 28)
    for lo, hi in ((begin, begin + timedelta(hours=1)), (begin - timedelta(hours=1), begin + timedelta(seconds=1))):
        (found,) = occasions_between(agreed, lo, hi)
        assert (found.occasion_id, found.start_unix_s) == ("2027-03-27T23:30", begin.timestamp())
    interval = Interval(begin.timestamp(), begin.timestamp() + 60)
    assert occasion_at(agreed, "at-2330", interval) == found


def night(day, lo, hi):
    agreed = agreement("Europe/Stockholm", day, day)
    found = occasions_between(agreed, utc(lo), utc(hi))
    return {
        o.line_id: tuple(
            datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M") for s in (o.start_unix_s, o.end_unix_s)
        )
        for o in found
    }


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "rule",
    ["FREQ=DAILY", "FREQ=MONTHLY;BYDAY=-1SU", "FREQ=DAILY;INTERVAL=7;BYDAY=TU", "FREQ=DAILY;COUNT=3660"],
)
def test_asking_in_the_tenth_year_of_twelve_lines_costs_less_than_5_ms(rule):
    starts = [f"{n:02}:30" for n in range(12)]
    agreed = agreement("Europe/Stockholm", "2026-01-01", "2036-01-01", starts, rrule=rule)
    lo = datetime(2035, 10, 27, 12, tzinfo=UTC)
    first = occasions_between(agreed, lo, lo + timedelta(days=1))  # reads the zone and, for COUNT, finds the last day
    best_s = min(timed(lambda: occasions_between(agreed, lo, lo + timedelta(days=1))) for _ in range(5))
    assert best_s < 0.005
    assert len(first) in (0, 12)


def timed(act):
    began_s = time.thread_time()
    act()
    return time.thread_time() - began_s


def rendered():
    zone = ZoneInfo("Europe/Stockholm")
    lines = [
        "# The ten DST nights 2026-2030 in Europe/Stockholm",
        "",
        "Twice a year a night has an hour too few or too many, and it is the hour in which many checks are agreed.",
        "",
        "In March, 02:00 is followed at once by 03:00. A check agreed for a time that does not exist that night is",
        "done at the first instant that does: 03:00. In October the hour from 02:00 to 03:00 comes twice. A check in",
        "that hour happens once, the first time round. A window of 30 minutes is always 30 minutes by a stop watch,",
        "whatever the clock on the wall shows at its end. So no night lacks a check and no night has one too many.",
        "",
        "The device compares UTC only; local times are for you. `+02:00` is summer time, `+01:00` winter time. In",
        "October a window can run from 02:30+02:00 to 02:00+01:00: that is half an hour.",
        "",
        "This file is written by `python tests/unit/test_agreement_dst_nights.py` from the code that decides, and a",
        "test fails if they differ.",
        "",
        "| night | agreed | local start | local end | UTC start | UTC end |",
        "|---|---|---|---|---|---|",
    ]
    for day in (day for year in STOCKHOLM_CHANGES for day in year):
        agreed = agreement("Europe/Stockholm", day, day, ("01:30", "02:00", "02:30", "03:00"))
        around = utc(f"{day}T00:00")
        found = occasions_between(agreed, around - timedelta(days=1), around + timedelta(days=1))
        for occasion in sorted(found, key=lambda o: o.occasion_id):
            moments = [datetime.fromtimestamp(s, UTC) for s in (occasion.start_unix_s, occasion.end_unix_s)]
            local = [moment.astimezone(zone).isoformat(timespec="minutes")[11:] for moment in moments]
            plain = [moment.strftime("%Y-%m-%d %H:%M") for moment in moments]
            lines.append(f"| {day} | {occasion.occasion_id[11:]} | {' | '.join(local + plain)} |")
    return "\n".join(lines) + "\n"


def test_the_published_table_is_what_the_code_does():
    assert DOCUMENT.read_text() == rendered()


def test_the_published_table_covers_both_changes_of_each_year_and_both_are_changes():
    assert rendered().count("\n| 20") == 10 * 4
    zone = ZoneInfo("Europe/Stockholm")
    for day in (day for year in STOCKHOLM_CHANGES for day in year):
        change = utc(f"{day}T01:00")
        assert change.astimezone(zone).utcoffset() != (change - timedelta(seconds=1)).astimezone(zone).utcoffset()


if __name__ == "__main__":
    DOCUMENT.write_text(rendered())
