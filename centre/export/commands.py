"""`tillsyn ledger export` and `tillsyn ledger review`: what the centre adds to the device's `ledger` command."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.core.error import GatewayError, LedgerUnwritableError

DEFAULT_ZONE = "Europe/Stockholm"
_PHONE = re.compile(r"[0-9+][0-9 ()-]{2,24}")
_WEEK = re.compile(r"([0-9]{4})-W([0-9]{2})")

_EXPORT = """\
Give a ledger to people: FHIR R4 AuditEvents (IHE BALP PatientRead), CSV for the unit manager, or the resident's own
sheet as large print (pdf) or as text. Verifies first. Exit status 0: written. 1: the ledger does not verify, or the
agreement is not this ledger's, and nothing is written.
"""
_REVIEW = """\
The controller's weekly check of who looked at whom (law 2001:454, 10 section): what was unusual, refusals by code,
gaps, and who looked how often, with a line to sign on. The format goes by the file's ending: .pdf, .txt or .csv.
Exit status 0: the report is written. 1: it is written, and a ledger in it did not verify; or it could not be written.
"""


def register(actions: Any) -> None:
    """Add the actions to `tillsyn ledger`."""
    export = actions.add_parser(
        "export", help="give it to people: FHIR, CSV, or the resident's sheet", description=_EXPORT
    )
    export.add_argument("path", type=Path, metavar="PATH", help="the ledger's directory")
    export.add_argument("--format", choices=("fhir", "csv", "pdf", "text"), required=True)
    export.add_argument("--from", dest="first", type=_day, metavar="DATE", help="first local date")
    export.add_argument("--until", dest="last", type=_day, metavar="DATE", help="last local date, included")
    export.add_argument(
        "--agreement", type=Path, metavar="FILE", help="the agreement in force, as the guard keeps it (JSON)"
    )
    export.add_argument("--phone", type=_phone, help="the centre's number, for the resident's sheet")
    export.add_argument("--bom", action="store_true", help="csv: begin with a byte-order mark, for Excel")
    export.add_argument(
        "--unverified", action="store_true", help="export a ledger that does not verify; the output says so"
    )
    export.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    _common(export)
    export.set_defaults(run=_export)
    review = actions.add_parser("review", help="the controller's weekly check of accesses", description=_REVIEW)
    review.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="the directory of one ledger, or several")
    review.add_argument("--week", type=_week, required=True, metavar="2026-W47", help="ISO week, Monday to Sunday")
    review.add_argument(
        "--agreement", type=Path, action="append", default=[], metavar="FILE", help="of one home; may be repeated"
    )
    review.add_argument("--out", type=_report, required=True, metavar="FILE", help="ends in .pdf, .txt or .csv")
    review.add_argument("--log", type=Path, metavar="FILE", help="append one line about this review, durably")
    _common(review)
    review.set_defaults(run=_review)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", choices=("sv", "en"), default="sv", help="default %(default)s")
    parser.add_argument(
        "--home-timezone", type=_zone, metavar="ZONE", help=f"default: the agreement's, else {DEFAULT_ZONE}"
    )


def _day(text: str) -> date:
    return date.fromisoformat(text)


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time zone") from error


def _phone(text: str) -> str:
    if not _PHONE.fullmatch(text):
        raise argparse.ArgumentTypeError("a phone number has digits, spaces, hyphens and a plus")
    return text


def _week(text: str) -> tuple[int, int]:
    match = _WEEK.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("a week is written 2026-W47")
    year, week = int(match[1]), int(match[2])
    try:
        date.fromisocalendar(year, week, 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return year, week


def _report(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".pdf", ".txt", ".csv"):
        raise argparse.ArgumentTypeError("the report is a .pdf, .txt or .csv")
    return path


def _export(options: argparse.Namespace) -> int:
    from centre.export import fhir, plain, sheet, table
    from centre.export.account import read_account, read_agreement
    from centre.export.moment import Period
    from centre.export.words import Words

    if options.first is not None and options.last is not None and options.first > options.last:
        print("tillsyn ledger export: --from is after --until", file=sys.stderr)
        return 2
    now, say = datetime.now(UTC), Words(options.language)
    account = read_account(options.path, unverified=options.unverified)
    if account.fault is not None:
        print(f"tillsyn ledger export: NOT VERIFIED: {account.fault}", file=sys.stderr)
    agreement = None if options.agreement is None else read_agreement(options.agreement, account)
    zone = options.home_timezone or (ZoneInfo(DEFAULT_ZONE) if agreement is None else agreement.zone)
    bounded = options.first is not None or options.last is not None
    period = Period(zone, options.first, options.last)
    match options.format:
        case "fhir":
            content = fhir.encode(fhir.bundle(account.within(period), agreement, now=now))
        case "csv":
            content = table.encode(table.looks_and_refusals(account.within(period), say, zone), bom=options.bom)
        case _:
            document = sheet.make(
                account,
                agreement,
                say,
                zone=zone,
                now=now,
                period=period if bounded else None,
                phone=options.phone,
            )
            if options.format == "text":
                content = plain.render(document)
            elif (made := _pdf(document, large=True)) is None:
                return 1
            else:
                content = made
    _deliver(content, options.out)
    return 0


def _review(options: argparse.Namespace) -> int:
    from centre.export import plain, review
    from centre.export.moment import week_of
    from centre.export.words import Words

    now, say = datetime.now(UTC), Words(options.language)
    zone = options.home_timezone or ZoneInfo(DEFAULT_ZONE)
    period = week_of(zone, *options.week)
    homes = review.read_homes(options.paths, options.agreement)
    found = review.examine(homes, period)
    match options.out.suffix:
        case ".csv":
            content = review.as_csv(found, say)
        case ".txt":
            content = plain.render(review.as_document(found, say, now=now))
        case _:
            made = _pdf(review.as_document(found, say, now=now), large=False)
            if made is None:
                return 1
            content = made
    _deliver(content, options.out)
    line = review.log_line(found, now=now, report=content, report_name=options.out.name)
    if options.log is not None:
        try:
            review.append_durably(options.log, line)
        except OSError as error:
            raise OutputError(f"{options.log.name}: {error}") from error
    print(line)
    for home in found.homes:
        if home.account.fault is not None:
            print(f"tillsyn ledger review: {home.account.gateway}: {home.account.fault}", file=sys.stderr)
    return 1 if any(home.account.fault is not None for home in found.homes) else 0


def _pdf(document: Any, *, large: bool) -> bytes | None:
    try:
        # The one library of this room; everything else works without it.
        from centre.export import paper
    except ImportError as error:
        print(f"tillsyn ledger: {error.name} is missing; install tillsyn-gateway[centre]", file=sys.stderr)
        return None
    return paper.render(document, body_pt=paper.LARGE_PT if large else paper.OFFICE_PT)


class OutputError(GatewayError):
    """The output could not be written; `tillsyn` says so and exits with 1."""


def _deliver(content: bytes, out: Path | None) -> None:
    from gateway.ledger.disk import Disk, replace_durably

    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        # Readable by the owner alone: pseudonyms are personal data too.
        replace_durably(Disk(), out, content)
    except (OSError, LedgerUnwritableError) as error:
        raise OutputError(f"{out.name}: {error}") from error
