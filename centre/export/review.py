"""The weekly review of accesses for the controller: what a person should look at, and the numbers beside it.

Law 2001:454, 10 section, asks that accesses are documented and systematically reviewed. This finds; a person judges:
no finding says that somebody did wrong. A ledger that does not verify is itself the first finding, and nothing of what
it says is counted. The review leaves a line in a log of its own (requirement R39).
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from centre.export import table, vocabulary
from centre.export.account import (
    HEARTBEAT_EVERY_S,
    Account,
    AgreementRefusedError,
    Look,
    by_time,
    clock_uncertain,
    read_account,
    read_agreement,
    shown,
)
from centre.export.document import Bullets, Caution, Document, Heading, Paragraph, Part, Signature, Table
from centre.export.moment import Period, clock, day_in_words, in_words, length_in_words
from centre.export.words import Words, later
from gateway.agreement import Agreement
from gateway.agreement.occasion import local_instant
from gateway.ledger import Record, RecordKind

NEAR_LIMIT: Final = 0.9
"""A look of this share of the agreed length, or more, is called long."""
LONG_WITHOUT_AGREEMENT_S: Final = 60.0
"""Where no agreement is given: twice the usual 30 s. Source: design, "What other municipalities promise"."""
SILENCE_S: Final = 2 * HEARTBEAT_EVERY_S
"""One heartbeat is missing for certain."""
WINDOW_MAX_S: Final = 240 * 60
"""The longest window that an agreement can have; what opens later than that fits none."""
USUAL_MIN_LOOKS: Final = 7
UNUSUAL_S: Final = 15 * 60
"""A first look this far from the usual time of its line is called unusual, once there are enough to have a usual."""


class Sign(StrEnum):
    """What a finding is about, in the order in which the report has them."""

    NOT_VERIFIED = "not-verified"
    TORN = "torn"
    UNSIGNED_TAIL = "unsigned-tail"
    ALARM = "alarm"
    SILENT = "silent"
    ERASED = "erased"
    UNCLOSED = "unclosed"
    RECOVERED = "recovered"
    HEARTBEAT_MISSING = "heartbeat-missing"
    MISSED = "missed-check"
    OUTSIDE = "outside"
    UNUSUAL_TIME = "unusual-time"
    FURTHER_ATTEMPT = "further-attempt"
    LONG = "long"
    NO_VERDICT = "no-verdict"
    CLOCK = "clock"


WORDS: Final = {
    Sign.NOT_VERIFIED: later("the log does not verify; nothing in it is counted"),
    Sign.TORN: later("a record was not written to its end"),
    Sign.UNSIGNED_TAIL: later("records after the last signed checkpoint"),
    Sign.ALARM: later("the device raised an alarm about itself"),
    Sign.SILENT: later("no record in this week"),
    Sign.ERASED: later("records are erased; they may be of this week"),
    Sign.UNCLOSED: later("a check without an ending"),
    Sign.RECOVERED: later("the ending was recorded after a restart"),
    Sign.HEARTBEAT_MISSING: later("a sign of life is missing during the check"),
    Sign.MISSED: later("an agreed check did not take place"),
    Sign.OUTSIDE: later("opened outside the time of its occasion"),
    Sign.UNUSUAL_TIME: later("opened at an unusual minute"),
    Sign.FURTHER_ATTEMPT: later("a further attempt on the same occasion"),
    Sign.LONG: later("a long look, near the limit"),
    Sign.NO_VERDICT: later("a look without an answer"),
    Sign.CLOCK: later("the time of the opening is uncertain"),
}


@dataclass(frozen=True, slots=True)
class Home:
    account: Account
    agreement: Agreement | None


@dataclass(frozen=True, slots=True)
class Finding:
    """`at_unix_s`, `who` and `check` where it is about one opening; `detail` is a number or a code, never prose."""

    gateway: str
    sign: Sign
    at_unix_s: float | None = None
    who: str = ""
    check: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """One week of all homes. `looks` and `refused` are of ledgers that verify only."""

    period: Period
    homes: tuple[Home, ...]
    findings: tuple[Finding, ...]
    looks: tuple[tuple[str, Look], ...]
    refused: Counter[tuple[str, str]]
    """By gateway and code."""

    @property
    def persons(self) -> list[tuple[str, int, int, float]]:
        """Pseudonym, openings, homes, seconds watched; the most openings first."""
        openings: Counter[str] = Counter()
        seconds: dict[str, float] = {}
        homes: dict[str, set[str]] = {}
        for gateway, look in self.looks:
            who = look.who or "-"
            openings[who] += 1
            seconds[who] = seconds.get(who, 0.0) + (look.watched_s or 0.0)
            homes.setdefault(who, set()).add(gateway)
        return [(who, number, len(homes[who]), seconds[who]) for who, number in openings.most_common()]


def read_homes(paths: Sequence[Path], agreements: Sequence[Path]) -> list[Home]:
    """Each ledger with its agreement, where one of the files is it. A ledger that doesn't verify is kept as such.

    Raises AgreementRefusedError for a file that is the agreement of none of them.
    """
    accounts = [read_account(path, unverified=True) for path in paths]
    matched: dict[str, Agreement] = {}
    for path in agreements:
        faults = []
        for account in accounts:
            try:
                matched[account.gateway] = read_agreement(path, account)
                break
            except AgreementRefusedError as error:
                faults.append(error)
        else:
            raise faults[0]
    return [Home(account, matched.get(account.gateway)) for account in accounts]


def examine(homes: Sequence[Home], period: Period) -> Examined:
    """Find what a person should look at."""
    findings: list[Finding] = []
    looks: list[tuple[str, Look]] = []
    refused: Counter[tuple[str, str]] = Counter()
    for home in homes:
        findings += _of_the_log(home, period)
        if home.account.fault is not None:
            continue
        week = home.account.within(period)
        looks += [(week.gateway, look) for look in by_time(week.looks)]
        for each in week.refusals:
            refused[week.gateway, each.code] += each.count
        for look in by_time(week.looks):
            findings += _of_a_look(home, look, period)
    order = list(Sign)
    findings.sort(key=lambda found: (order.index(found.sign), found.gateway, found.at_unix_s or 0.0))
    return Examined(period, tuple(homes), tuple(findings), tuple(looks), refused)


def _of_the_log(home: Home, period: Period) -> Iterator[Finding]:
    account = home.account
    name = account.gateway
    if account.fault is not None:
        yield Finding(name, Sign.NOT_VERIFIED, detail=account.fault.code.value)
        return
    assert account.report is not None
    report, week = account.report, account.within(period)
    torn_bytes = report.torn_tail_bytes + report.torn_checkpoint_bytes
    if torn_bytes:
        yield Finding(name, Sign.TORN, detail=str(torn_bytes))
    if report.uncovered:
        yield Finding(name, Sign.UNSIGNED_TAIL, detail=str(report.uncovered))
    if account.erased:
        yield Finding(name, Sign.ERASED, detail=str(account.erased))
    if not (week.looks or week.refusals or week.events):
        yield Finding(name, Sign.SILENT)
    for event in week.events:
        sign = _sign_of(event)
        if sign is not None:
            yield Finding(name, sign, event.time_lo, detail=shown(event.why) or shown(event.occasion))


def _sign_of(event: Record) -> Sign | None:
    match event.kind, event.why:
        case RecordKind.TAMPER, _:
            return Sign.ALARM
        case RecordKind.CLOCK, "contradicted":
            return Sign.ALARM
        case RecordKind.BOOT, "torn-tail":
            return Sign.TORN
        case RecordKind.MISSED_CHECK, _:
            return Sign.MISSED
        case _:
            return None


def _of_a_look(home: Home, look: Look, period: Period) -> Iterator[Finding]:
    def found(sign: Sign, detail: str = "") -> Finding:
        first = look.first
        return Finding(home.account.gateway, sign, first.time_lo, look.who, shown(first.check), detail)

    if look.closed is None:
        yield found(Sign.UNCLOSED)
    if look.recovered:
        yield found(Sign.RECOVERED)
    if look.longest_silence_s >= SILENCE_S:
        yield found(Sign.HEARTBEAT_MISSING, f"{look.longest_silence_s:.0f} s")
    attempt = look.first.attempt or 1
    if attempt > 1:
        yield found(Sign.FURTHER_ATTEMPT, str(attempt))
    limit_s = _limit_s(home, look)
    if (look.watched_s or 0.0) >= limit_s or look.why == "time-up":
        yield found(Sign.LONG, f"{look.watched_s or 0.0:.0f} s")
    if look.outcome in ("no-verdict", "broken"):
        yield found(Sign.NO_VERDICT, look.why or "")
    if clock_uncertain(look.first):
        yield found(Sign.CLOCK)
    # An occasion's id is in the words of the agreement, whatever the time of the report.
    zone = period.zone if home.agreement is None else home.agreement.zone
    late_s = _lateness_s(look, zone)
    if late_s is not None and attempt == 1 and not look.opening_erased:
        if not 0.0 <= late_s <= _window_s(home, look):
            yield found(Sign.OUTSIDE, _minutes(late_s))
        usual_s = _usual_lateness_s(home.account, look, zone)
        if usual_s is not None and abs(late_s - usual_s) > UNUSUAL_S:
            yield found(Sign.UNUSUAL_TIME, _minutes(late_s - usual_s))


def _limit_s(home: Home, look: Look) -> float:
    line = None if home.agreement is None or look.first.line is None else home.agreement.line(look.first.line)
    return LONG_WITHOUT_AGREEMENT_S if line is None else NEAR_LIMIT * line.max_s


def _window_s(home: Home, look: Look) -> float:
    line = None if home.agreement is None or look.first.line is None else home.agreement.line(look.first.line)
    return WINDOW_MAX_S if line is None else line.window_min * 60


def _lateness_s(look: Look, zone: ZoneInfo) -> float | None:
    """Seconds from the occasion's start, which its id names in local words, to the opening."""
    try:
        named = datetime.strptime(look.first.occasion or "", "%Y-%m-%dT%H:%M")  # noqa: DTZ007 - made an instant below
    except ValueError:
        return None
    return look.first.time_lo - local_instant(zone, named)


def _usual_lateness_s(account: Account, look: Look, zone: ZoneInfo) -> float | None:
    """The median of the line's first looks before this one; None while there are too few."""
    earlier = [
        late_s
        for other in account.looks
        if other.first.line == look.first.line
        and (other.first.attempt or 1) == 1
        and other.first.time_lo < look.first.time_lo
        and (late_s := _lateness_s(other, zone)) is not None
    ]
    return statistics.median(earlier) if len(earlier) >= USUAL_MIN_LOOKS else None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:+.0f} min"


def as_document(found: Examined, say: Words, *, now: datetime) -> Document:
    """The report to read, judge and sign."""
    first, last = found.period.first, found.period.last
    assert first is not None
    assert last is not None
    year, week, _ = first.isocalendar()
    parts: list[Part] = [
        Paragraph(
            say(
                "Week {week}, {year}: {first} to {last}.",
                week=week,
                year=year,
                first=day_in_words(first, say),
                last=day_in_words(last, say),
            )
        ),
        Paragraph(
            say(
                "Systematic review of accesses (law 2001:454, section 10). Made by machine {moment}. "
                "A finding is something to look at; it does not say that anybody did wrong.",
                moment=in_words(found.period.zone, now.timestamp(), say),
            )
        ),
    ]
    parts += [
        Caution(say("{home}: {words}", home=each.gateway, words=say(WORDS[Sign.NOT_VERIFIED])))
        for each in found.findings
        if each.sign is Sign.NOT_VERIFIED
    ]
    parts += [Heading(say("The logs")), _logs(found, say), Heading(say("Findings"))]
    parts += _findings(found, say)
    parts += [Heading(say("Who looked how often")), *_persons(found, say)]
    parts += [Heading(say("Refusals")), *_refusals(found, say)]
    labels = (say("Reviewed by"), say("Date"), say("Measures"))
    parts += [Heading(say("Signature")), Signature(labels)]
    return Document(say("Weekly review of accesses"), say.language, say("Page"), tuple(parts))


def _logs(found: Examined, say: Words) -> Table:
    openings = Counter(gateway for gateway, _ in found.looks)
    rows = []
    for home in found.homes:
        account = home.account
        fault = account.fault
        verified = say("yes") if fault is None else say("NO: {code}", code=vocabulary.fault(fault.code.value, say))
        agreement = say("not given") if home.agreement is None else str(home.agreement.version)
        counted = "-" if fault is not None else str(openings[account.gateway])
        rows.append((account.gateway, verified, str(account.size), str(account.erased), agreement, counted))
    headings = (say("home"), say("verified"), say("records"), say("erased"), say("agreement"), say("openings"))
    return Table(headings, tuple(rows), (3, 2.4, 1.7, 1.9, 3.2, 2))


def _findings(found: Examined, say: Words) -> list[Part]:
    if not found.findings:
        return [Paragraph(say("Nothing was found."))]
    counts = Counter(each.sign for each in found.findings)
    parts: list[Part] = [Bullets(tuple(f"{say(WORDS[sign])}: {counts[sign]}" for sign in Sign if counts[sign]))]
    headings = (say("home"), say("when"), say("what"), say("detail"), say("who"), say("check"))
    rows = tuple(
        (each.gateway, _when(each, found.period, say), say(WORDS[each.sign]), _detail(each, say), each.who, each.check)
        for each in found.findings
    )
    return [*parts, Table(headings, rows, (2, 2.2, 3.6, 3, 1.6, 3))]


def _when(finding: Finding, period: Period, say: Words) -> str:
    if finding.at_unix_s is None:
        return ""
    day = datetime.fromtimestamp(finding.at_unix_s, period.zone).date().isoformat()
    return f"{day} {clock(period.zone, finding.at_unix_s, say)}"


def _detail(finding: Finding, say: Words) -> str:
    match finding.sign:
        case Sign.NO_VERDICT:
            return vocabulary.ending(finding.detail, say)
        case Sign.MISSED:
            return vocabulary.missed(finding.detail, say)
        case Sign.ALARM | Sign.TORN:
            return vocabulary.doubt(finding.detail, say)
        case Sign.NOT_VERIFIED:
            return vocabulary.fault(finding.detail, say)
        case _:
            return finding.detail


def _persons(found: Examined, say: Words) -> list[Part]:
    if not found.persons:
        return [Paragraph(say("Nobody looked."))]
    headings = (say("who"), say("openings"), say("homes"), say("watched"))
    rows = tuple(
        (who, str(number), str(homes), length_in_words(seconds, say)) for who, number, homes, seconds in found.persons
    )
    return [Table(headings, rows, (4, 2, 2, 4))]


def _refusals(found: Examined, say: Words) -> list[Part]:
    if not found.refused:
        return [Paragraph(say("Nothing was refused."))]
    rows = tuple(
        (gateway, vocabulary.refusal(code, say), str(number))
        for (gateway, code), number in sorted(found.refused.items())
    )
    return [Table((say("home"), say("why"), say("number")), rows, (3, 6, 2))]


def as_csv(found: Examined, say: Words) -> bytes:
    """The same as rows: `what` is finding, person or refusal."""
    names = (later("kind"), later("home"), later("when"), later("what"), later("detail"), later("who"), later("check"))
    rows = [[say(name) for name in names]]
    for each in found.findings:
        when, what = _when(each, found.period, say), say(WORDS[each.sign])
        rows.append([say("finding"), each.gateway, when, what, _detail(each, say), each.who, each.check])
    rows += [[say("person"), "", "", say("openings"), str(number), who, ""] for who, number, _, _ in found.persons]
    rows += [
        [say("refusals"), gateway, "", vocabulary.refusal(code, say), str(number), "", ""]
        for (gateway, code), number in sorted(found.refused.items())
    ]
    return table.encode(rows, bom=False)


def log_line(found: Examined, *, now: datetime, report: bytes, report_name: str) -> str:
    """One line of JSON about this review: what was reviewed, what was found, and the report's digest."""
    first = found.period.first
    assert first is not None
    year, week, _ = first.isocalendar()
    return json.dumps(
        {
            "what": "access-review",
            "at": now.isoformat(timespec="seconds"),
            "week": f"{year}-W{week:02}",
            "ledgers": [
                {
                    "gateway": home.account.gateway,
                    "size": home.account.size,
                    "root": None if home.account.report is None else home.account.report.root_hex,
                    "refused": None if home.account.fault is None else home.account.fault.code.value,
                }
                for home in found.homes
            ],
            "openings": len(found.looks),
            "findings": {sign.value: number for sign, number in Counter(f.sign for f in found.findings).items()},
            "report": report_name,
            "report_sha256": hashlib.sha256(report).hexdigest(),
        },
        sort_keys=True,
    )


def append_durably(path: Path, line: str) -> None:
    """Append one line and its newline in one write, and wait for the disk. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        content = f"{line}\n".encode()
        if os.write(fd, content) != len(content):
            raise OSError(f"{path.name}: the line was not written whole")
        os.fsync(fd)
    finally:
        os.close(fd)
