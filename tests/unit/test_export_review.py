"""What the weekly review of accesses promises: every kind of finding is found, and the review itself leaves a line.

Mutations that turn these tests red (tried by hand, 2026-11-23):

- `review.examine`: count also ledgers that don't verify → nothing of a broken ledger is counted
- `review._of_a_look`: leave out HEARTBEAT_MISSING → every kind of finding is found
- `review._lateness_s`: read the occasion's time with fold 0 alone → no false finding on the night with a gap
- `review._of_a_look`: use the report's time zone always → an occasion is read in the time of its agreement
- `review.append_durably`: leave out O_APPEND → each review adds one line
- `commands._review`: return 0 always → exit 1 when a ledger did not verify
- `review._detail`: give a code as it stands; `vocabulary`: leave a word out → every code is said in words
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from export_support import GATEWAY, ZONE, Home, a_home, an_agreement, at
from ledger_support import new_signer
from pypdf import PdfReader

from centre.export import plain, review, vocabulary
from centre.export.account import AgreementRefusedError
from centre.export.moment import week_of
from centre.export.review import Sign
from centre.export.words import Words
from gateway.agreement.missed import MissedOccasion
from gateway.check.machine import Why
from gateway.cli import main
from gateway.core.catalogue import LANGUAGES
from gateway.core.refusal import RefusalCode
from gateway.ledger import RecordKind
from gateway.ledger.refused import Finding as LedgerFinding
from gateway.services import guard

pytestmark = pytest.mark.slow

SERVICES = Path(guard.__file__).parent
WEEK = week_of(ZONE, 2026, 47)
NOW = datetime.fromtimestamp(at("2026-11-23T09:00"), UTC)


def tampers() -> set[str]:
    """The words for which the guard writes a `tamper` record."""
    text = "".join(path.read_text() for path in SERVICES.glob("guard_*.py"))
    return set(re.findall(r'RecordKind\.TAMPER, why="([a-z-]+)"', text))


def signs(path, period=WEEK, agreements=()) -> list[Sign]:
    return [each.sign for each in review.examine(review.read_homes([path], agreements), period).findings]


def test_every_kind_of_finding_about_a_look_is_found_once(tmp_path):
    path, file = a_home(tmp_path / "ledger"), tmp_path / "agreement.json"
    file.write_bytes(an_agreement())
    found = review.examine(review.read_homes([path], [file]), WEEK)
    assert [(each.sign, each.who) for each in found.findings] == [
        (Sign.RECOVERED, "op-17"),
        (Sign.HEARTBEAT_MISSING, "op-17"),
        (Sign.UNUSUAL_TIME, "op-17"),
        (Sign.FURTHER_ATTEMPT, "op-9"),
        (Sign.LONG, "op-9"),
        (Sign.NO_VERDICT, "op-17"),
        (Sign.NO_VERDICT, "op-17"),
        (Sign.CLOCK, "op-17"),
    ]
    assert found.persons == [("op-17", 6, 1, 151.0), ("op-9", 2, 1, 85.0)]
    assert found.refused == {(GATEWAY, "outside-window"): 41, (GATEWAY, "bad-signature"): 1}


def test_openings_outside_their_occasion_are_found(tmp_path):
    with Home(tmp_path / "ledger") as home:
        home.agreed(an_agreement(), at("2026-11-01T10:00"))
        home.look(at("2026-11-17T23:29"), occasion="2026-11-17T23:30")
        home.look(at("2026-11-19T00:01"), occasion="2026-11-18T23:30")
        home.ledger.checkpoint()
    file = tmp_path / "agreement.json"
    file.write_bytes(an_agreement())
    assert signs(tmp_path / "ledger", agreements=[file]) == [Sign.OUTSIDE, Sign.OUTSIDE]
    assert signs(tmp_path / "ledger") == [Sign.OUTSIDE]  # without the agreement the longest window there can be


def test_an_occasion_is_read_in_the_time_of_its_agreement(tmp_path):
    content, file = an_agreement(timezone="UTC"), tmp_path / "agreement.json"
    file.write_bytes(content)
    with Home(tmp_path / "ledger") as home:
        home.agreed(content, at("2026-11-01T10:00"))
        home.look(at("2026-11-18T00:31"), occasion="2026-11-17T23:30")
        home.ledger.checkpoint()
    assert signs(tmp_path / "ledger", agreements=[file]) == []


def test_findings_about_the_log_are_found(tmp_path):
    with Home(tmp_path / "ledger") as home:
        home.record(RecordKind.BOOT, at("2026-11-17T10:00"), why="torn-tail")
        home.record(RecordKind.TAMPER, at("2026-11-17T10:01"), why="integrity-alarm")
        home.record(RecordKind.CLOCK, at("2026-11-17T10:02"), why="contradicted")
        home.record(RecordKind.CLOCK, at("2026-11-17T10:03"), why="attested")
        home.record(RecordKind.MISSED_CHECK, at("2026-11-18T00:01"), occasion="2026-11-17T23:30")
        home.look(at("2026-11-18T23:31"), occasion="2026-11-18T23:30", why=None)
    assert signs(tmp_path / "ledger") == [
        Sign.TORN,
        Sign.UNSIGNED_TAIL,
        Sign.ALARM,
        Sign.ALARM,
        Sign.UNCLOSED,
        Sign.MISSED,
    ]


CODES = {
    vocabulary.missed: (vocabulary.MISSED, set(get_args(get_type_hints(MissedOccasion)["why"]))),
    vocabulary.fault: (vocabulary.FAULTS, {each.value for each in LedgerFinding}),
    vocabulary.doubt: (vocabulary.DOUBTS, {"torn-tail", "contradicted", "integrity-alarm"} | tampers()),
    vocabulary.ending: (vocabulary.ENDINGS, {each.value for each in Why}),
    vocabulary.refusal: (vocabulary.REFUSALS, {each.value for each in RefusalCode}),
}


@pytest.mark.parametrize("say_code", CODES, ids=lambda each: each.__name__)
def test_every_code_is_said_in_words(say_code):
    words, codes = CODES[say_code]
    assert codes
    assert set(words) == codes
    for code in codes:
        english, swedish = (say_code(code, Words(language)) for language in ("en", "sv"))
        assert english != code
        assert swedish not in (code, english)
    # A device of a later version may say more than we know.
    assert say_code("some-new-code", Words("sv")) == "some-new-code"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_code_is_left_in_the_report(tmp_path, language):
    with Home(tmp_path / "ledger") as home:
        home.record(RecordKind.BOOT, at("2026-11-17T10:00"), why="torn-tail")
        for why in ("integrity-alarm", *sorted(tampers())):
            home.record(RecordKind.TAMPER, at("2026-11-17T10:01"), why=why)
        home.record(RecordKind.CLOCK, at("2026-11-17T10:02"), why="contradicted")
        for day, why in enumerate(vocabulary.MISSED, 16):
            home.record(RecordKind.MISSED_CHECK, at(f"2026-11-{day}T23:59"), occasion=f"2026-11-{day}T23:30", why=why)
        home.look(at("2026-11-21T23:31"), occasion="2026-11-21T23:30", why="lease-lapsed", watched_s=2.0)
        home.ledger.checkpoint()
    bad = a_home(tmp_path / "bad")
    (bad / "checkpoint").unlink()
    homes = review.read_homes([tmp_path / "ledger", bad], [])
    say = Words(language)
    text = " ".join(plain.render(review.as_document(review.examine(homes, WEEK), say, now=NOW)).decode().split())
    codes = set().union(*(codes for _, codes in CODES.values()))
    assert {code for code in codes if "-" in code and code in text} == set()
    assert say("nobody looked again") in text


def test_a_home_that_said_nothing_all_week_is_found(tmp_path):
    assert signs(a_home(tmp_path / "ledger"), week_of(ZONE, 2026, 50)) == [Sign.SILENT]


def test_erased_records_are_found(tmp_path):
    path, signer = tmp_path / "ledger", new_signer(f"tillsyn/{GATEWAY}")
    with Home(path, signer, segment_bytes=1500) as home:
        for day in (16, 17, 18):
            home.look(at(f"2026-11-{day}T23:31"), occasion=f"2026-11-{day}T23:30")
        home.ledger.checkpoint()
        home.ledger.erase(7)
    assert Sign.ERASED in signs(path)


@pytest.mark.parametrize("night", ["2026-10-25T02:31", "2027-03-28T03:05"])
def test_there_is_no_false_finding_on_the_odd_nights(tmp_path, night):
    with Home(tmp_path / "ledger") as home:
        home.look(at(night), occasion=f"{night[:10]}T02:30")
        home.ledger.checkpoint()
    year, week, _ = datetime.fromisoformat(night).isocalendar()
    assert signs(tmp_path / "ledger", week_of(ZONE, year, week)) == []


def test_nothing_of_a_broken_ledger_is_counted_and_the_others_still_are(tmp_path):
    good, bad = a_home(tmp_path / "good"), a_home(tmp_path / "bad")
    (bad / "checkpoint").unlink()  # every record can still be read
    found = review.examine(review.read_homes([good, bad], []), WEEK)
    assert found.findings[0].sign is Sign.NOT_VERIFIED
    assert len(found.looks) == 8
    text = plain.render(review.as_document(found, Words("en"), now=NOW)).decode()
    assert "!! gw-test: the log does not verify; nothing in it is counted" in text


def test_an_agreement_of_none_of_the_homes_is_refused(tmp_path):
    path, file = a_home(tmp_path / "ledger"), tmp_path / "agreement.json"
    file.write_bytes(an_agreement(gateway="gw-other"))
    with pytest.raises(AgreementRefusedError, match="another home"):
        review.read_homes([path], [file])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("ending", ["pdf", "txt", "csv"])
def test_the_report_is_written_in_every_form_and_language(tmp_path, language, ending):
    path, out = a_home(tmp_path / "ledger"), tmp_path / f"report.{ending}"
    options = ["--week", "2026-W47", "--language", language, "--out", str(out)]
    assert main(["ledger", "review", str(path), *options]) == 0
    text = " ".join(page.extract_text() for page in PdfReader(out).pages) if ending == "pdf" else out.read_text()
    words = " ".join(text.split())
    assert {"sv": "ett livstecken saknas", "en": "a sign of life is missing"}[language] in words
    assert "op-17" in words
    if ending == "txt":
        assert max(map(len, text.splitlines())) <= 72
    if ending != "csv":
        assert {"sv": "Granskat av", "en": "Reviewed by"}[language] in words
    else:
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
        assert {"sv": "att titta på", "en": "finding"}[language] in cells


def test_each_review_adds_one_line_with_the_digest_of_its_report(tmp_path, capsys):
    path, out, log = a_home(tmp_path / "ledger"), tmp_path / "report.txt", tmp_path / "review.log"
    options = ["--week", "2026-W47", "--out", str(out), "--log", str(log)]
    assert main(["ledger", "review", str(path), *options]) == 0
    first = log.read_text()
    assert main(["ledger", "review", str(path), *options]) == 0
    assert log.read_text().startswith(first)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[1]["report_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (lines[1]["what"], lines[1]["week"], lines[1]["openings"]) == ("access-review", "2026-W47", 8)
    assert log.read_text().splitlines()[1] in capsys.readouterr().out
    assert log.stat().st_mode & 0o077 == 0


def test_a_log_that_cannot_be_written_fails_the_review(tmp_path, capsys):
    path, out = a_home(tmp_path / "ledger"), tmp_path / "report.txt"
    options = ["--week", "2026-W47", "--out", str(out), "--log", str(tmp_path / "missing" / "review.log")]
    assert main(["ledger", "review", str(path), *options]) == 1
    assert "review.log" in capsys.readouterr().err


def test_a_review_with_a_broken_ledger_is_written_and_exits_with_1(tmp_path, capsys):
    path, out, log = a_home(tmp_path / "ledger"), tmp_path / "report.txt", tmp_path / "review.log"
    (path / "checkpoint").unlink()
    options = ["--week", "2026-W47", "--out", str(out), "--log", str(log)]
    assert main(["ledger", "review", str(path), *options]) == 1
    assert "går inte att lita på" in out.read_text()
    assert json.loads(log.read_text())["ledgers"][0]["refused"] == "removed"


@pytest.mark.parametrize("week", ["2026-47", "2026-W00", "2026-W54", "2026-W5", "next"])
def test_what_is_no_week_is_an_error_of_use(tmp_path, week, capsys):
    with pytest.raises(SystemExit):
        main(["ledger", "review", str(tmp_path), "--week", week, "--out", "x.txt"])
