"""What the exports promise: nothing from a broken ledger, nobody's data, the right hour, the same facts everywhere.

Mutations that turn these tests red (tried by hand, 2026-11-23):

- `account.read_account`: catch LedgerRefusedError also without `unverified` → a broken ledger is refused
- `account.read_agreement`: leave out the comparison of digests → an agreement of yesterday is refused
- `account.shown`: return the identifier as it is → a personal number is withheld
- `account.Look.ended`: leave out the branch of `recovered` → a recovered check ends when it was last seen
- `account._OpenLook.see`: leave out VERDICT → a verdict before a cut is kept
- `table.safe`: return the cell as it is → no cell is a formula
- `table.looks_and_refusals`: leave out the row of erased records → what is erased is shown as erased
- `moment.clock`: leave out the fold → the hour that comes twice says which one
- `sheet.next_occasion`: leave out pauses, or the withdrawal → the next check is one that may take place
- `fhir._look`: claim the profile always → only a look with a picture claims the profile
"""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime

import pytest
from export_support import EXPORT, GATEWAY, ZONE, Home, a_home, an_agreement, at, messages
from fhir.resources.R4B.bundle import Bundle
from ledger_support import new_signer
from pypdf import PdfReader

from centre.export import fhir, paper, plain, sheet, table, vocabulary
from centre.export.account import AgreementRefusedError, _Gathering, read_account, read_agreement, shown
from centre.export.commands import _phone
from centre.export.document import Document
from centre.export.moment import Period, clock, length_in_words, offset
from centre.export.words import CATALOGUE, Words
from gateway.agreement import parse_agreement
from gateway.cli import main
from gateway.core.catalogue import LANGUAGES, compile_po, read_po
from gateway.core.refusal import RefusalCode
from gateway.ledger import LedgerRefusedError, RecordKind

pytestmark = pytest.mark.slow

NOW = datetime.fromtimestamp(at("2026-11-23T09:00"), UTC)
SV, EN = Words("sv"), Words("en")


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def a_table(path, say=EN, period=None):
    account = read_account(path)
    return rows_of(table.encode(table.looks_and_refusals(account.within(period or Period(ZONE)), say, ZONE), bom=False))


def a_sheet(path, say=EN, agreement=None, now=NOW, **more) -> Document:
    return sheet.make(read_account(path), agreement, say, zone=ZONE, now=now, **more)


def as_text(document: Document) -> str:
    return " ".join(plain.render(document).decode().split())


def events_of(path, agreement=None, **more):
    account = read_account(path, **more)
    made = fhir.bundle(account, agreement, now=NOW)
    return [entry["resource"] for entry in made["entry"]]


def break_it(path) -> None:
    segment = path / "segments" / "000000.log"
    segment.write_bytes(segment.read_bytes().replace(b'"why":"seen"', b'"why":"unsure"', 1))


# Whether a ledger is believed


@pytest.mark.parametrize("format_", ["fhir", "csv", "text", "pdf"])
def test_a_broken_ledger_is_refused_in_every_format_and_nothing_is_written(tmp_path, format_, capsys):
    path, out = a_home(tmp_path / "ledger"), tmp_path / "out"
    break_it(path)
    assert main(["ledger", "export", str(path), "--format", format_, "--out", str(out)]) == 1
    assert not out.exists()
    assert "edited" in capsys.readouterr().err


def test_a_ledger_that_was_cut_back_is_refused_though_every_record_left_is_good(tmp_path, capsys):
    path, out = a_home(tmp_path / "ledger"), tmp_path / "out"
    segment = path / "segments" / "000000.log"
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-1]))
    assert main(["ledger", "export", str(path), "--format", "csv", "--out", str(out)]) == 1
    assert not out.exists()
    assert "rolled back" in capsys.readouterr().err


def test_a_broken_ledger_can_be_exported_if_the_output_says_so_in_words(tmp_path, capsys):
    path = a_home(tmp_path / "ledger")
    break_it(path)
    texts = {}
    for format_ in ("fhir", "csv", "text"):
        out = tmp_path / format_
        arguments = ["--format", format_, "--unverified", "--language", "sv", "--out", str(out)]
        assert main(["ledger", "export", str(path), *arguments]) == 0
        texts[format_] = out.read_text()
    assert "NOT VERIFIED: edited" in texts["fhir"]
    assert all(row["logg kontrollerad"] == "NEJ" for row in rows_of(texts["csv"].encode()))
    assert "INTE KONTROLLERAD" in texts["csv"]
    assert "INTE KONTROLLERAD" in texts["text"]
    assert "oförändrade" not in texts["text"]


def test_only_what_was_verified_is_read(tmp_path):
    gathering = _Gathering()
    gathering.take_from(a_home(tmp_path / "ledger"), size=3)  # what a writer added since the verification is left out
    assert gathering.size == 3


def test_the_agreement_must_be_the_one_that_the_ledger_recorded_last(tmp_path):
    path, file = a_home(tmp_path / "ledger"), tmp_path / "agreement.json"
    account = read_account(path)
    file.write_bytes(an_agreement())
    assert read_agreement(file, account).version == 4
    file.write_bytes(an_agreement(version=3))
    with pytest.raises(AgreementRefusedError, match="recorded last"):
        read_agreement(file, account)
    file.write_bytes(an_agreement(gateway="gw-other"))
    with pytest.raises(AgreementRefusedError, match="another home"):
        read_agreement(file, account)
    file.write_bytes(b"{}")
    with pytest.raises(AgreementRefusedError, match="not an agreement"):
        read_agreement(file, account)


def test_a_resident_ref_that_looks_like_a_personal_number_is_refused(tmp_path):
    content = an_agreement(resident_ref="19121212-1212")
    path, file = a_home(tmp_path / "ledger", agreement=content), tmp_path / "agreement.json"
    file.write_bytes(content)
    with pytest.raises(AgreementRefusedError, match="personal number"):
        read_agreement(file, read_account(path))


# Nobody's data


@pytest.mark.parametrize(
    "number", ["19121212-1212", "121212-1212", "1212121212", "201212721212", "x-121212-1212", "121212+1212.b"]
)
def test_what_looks_like_a_personal_number_is_withheld(number):
    assert shown(number) == "***"


@pytest.mark.parametrize("innocent", ["op-17", "c-0001abcdEFGH", "2026-11-23T23:30", "SE2321000016-10AB", "night-1"])
def test_ordinary_identifiers_are_shown(innocent):
    assert shown(innocent) == innocent


def test_no_personal_number_passes_whatever_field_it_stands_in(tmp_path):
    number = "121212-1212"
    with Home(tmp_path / "ledger") as home:
        home.record(RecordKind.OPENED, at("2026-11-20T23:30"), check=number, line=number, occasion=number, role=number)
        home.record(RecordKind.CLOSED, at("2026-11-20T23:31"), check=number, line=number, occasion=number, why="seen")
        home.ledger.checkpoint()
    account = read_account(tmp_path / "ledger")
    outputs = [
        fhir.encode(fhir.bundle(account, None, now=NOW)),
        table.encode(table.looks_and_refusals(account, EN, ZONE), bom=False),
        plain.render(sheet.make(account, None, EN, zone=ZONE, now=NOW)),
    ]
    assert [number.encode() in output for output in outputs] == [False] * 3
    assert b"***" in outputs[0]


def test_the_resident_reads_a_role_and_no_pseudonym(tmp_path):
    text = as_text(a_sheet(a_home(tmp_path / "ledger")))
    assert "Who looked: an alarm operator." in text
    assert not re.search(r"op-[0-9]|c-0", text)


# Looks


def test_a_verdict_before_a_cut_is_kept(tmp_path):
    with Home(tmp_path / "ledger") as home:
        check = home.look(at("2026-11-20T23:31"), why=None)
        home.record(RecordKind.VERDICT, at("2026-11-20T23:32"), check=check, why="seen", who="op-17")
        home.record(RecordKind.CLOSED, at("2026-11-21T06:00"), check=check, why="recovered", watched_s=20.0)
        home.ledger.checkpoint()
    (look,) = read_account(tmp_path / "ledger").looks
    assert (look.outcome, look.recovered) == ("seen", True)


def test_a_recovered_check_ends_when_it_was_last_seen_and_not_at_the_next_start(tmp_path):
    opened = at("2026-11-20T23:31")
    with Home(tmp_path / "ledger") as home:
        check = home.look(opened, why=None)
        home.record(
            RecordKind.CLOSED, at("2026-11-21T06:00"), check=check, why="recovered", watched_s=20.0, boot="f" * 32
        )
        home.ledger.checkpoint()
    (look,) = read_account(tmp_path / "ledger").looks
    assert look.ended == (opened + 20, opened + 20 + 2 + 10)
    assert "up to ten seconds more" in as_text(a_sheet(tmp_path / "ledger"))
    (event,) = [e for e in events_of(tmp_path / "ledger") if e["type"]["code"] == "rest"]
    assert event["period"] == {"start": "2026-11-20T22:31:00.000Z", "end": "2026-11-20T22:31:32.000Z"}


def test_an_unclosed_check_is_shown_as_such(tmp_path):
    with Home(tmp_path / "ledger") as home:
        home.look(at("2026-11-20T23:31"), why=None)
        home.ledger.checkpoint()
    (row,) = a_table(tmp_path / "ledger")
    assert (row["outcome"], row["seconds"]) == ("no ending is recorded", "")
    assert "How long is not known" in as_text(a_sheet(tmp_path / "ledger"))
    (event,) = [e for e in events_of(tmp_path / "ledger") if e["type"]["code"] == "rest"]
    assert "end" not in event["period"]


def test_what_is_erased_is_shown_as_erased(tmp_path):
    path, signer = tmp_path / "ledger", new_signer(f"tillsyn/{GATEWAY}")
    with Home(path, signer, segment_bytes=1500) as home:
        for day in (1, 2, 3):
            home.look(at(f"2026-11-{day:02}T23:31"), occasion=f"2026-11-{day:02}T23:30")
        home.ledger.checkpoint()
        erased = home.ledger.erase(8)
    assert erased == 8
    account = read_account(path)
    assert account.erased == 8
    first, *others = a_table(path)
    assert (first["what"], first["number"]) == ("erased records", "8")
    assert others[0]["what"] == "check, its opening erased"
    assert "8 older records of the log are erased" in as_text(a_sheet(path))
    used = events_of(path)[0]
    assert {"type": "erased", "valueString": "8"} in used["entity"][0]["detail"]


# CSV


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d"])
def test_no_cell_is_a_formula(start):
    (row,) = csv.reader(io.StringIO(table.encode([[f"{start}1+1"]], bom=False).decode(), newline=""))
    assert row == [f"'{start}1+1"]


def test_a_pseudonym_that_begins_like_a_formula_is_made_harmless(tmp_path):
    with Home(tmp_path / "ledger") as home:
        home.look(at("2026-11-20T23:31"), who="-2.3")
        home.ledger.checkpoint()
    content = table.encode(table.looks_and_refusals(read_account(tmp_path / "ledger"), EN, ZONE), bom=False)
    cells = [cell for row in csv.reader(io.StringIO(content.decode(), newline="")) for cell in row]
    assert "'-2.3" in cells
    assert [cell for cell in cells if cell.startswith(table.FORMULA_STARTS)] == []


def test_the_table_is_rfc_4180_with_a_byte_order_mark_on_request_only(tmp_path):
    rows = [["a", 'with "quotes"'], ["b, with comma", "c"]]
    assert table.encode(rows, bom=False) == b'a,"with ""quotes"""\r\n"b, with comma",c\r\n'
    assert table.encode(rows, bom=True).startswith(b"\xef\xbb\xbfa")


def test_there_is_one_row_for_each_attempt_and_refusals_are_added_up(tmp_path):
    rows = a_table(a_home(tmp_path / "ledger"))
    assert sum(row["what"] == "check" for row in rows) == 22
    second = next(row for row in rows if row["attempt"] == "2")
    assert (second["date"], second["time"], second["time zone"]) == ("2026-11-16", "23:49:00", "UTC+01:00")
    assert (second["seconds"], second["who"], second["outcome"]) == ("57.0", "op-9", "the resident was seen")
    refused = {(row["date"], row["why"]): row["number"] for row in rows if row["what"] == "refusals"}
    assert refused == {("2026-11-17", "outside the agreed time"): "41", ("2026-11-17", "wrong signature"): "1"}
    assert {row["log verified"] for row in rows} == {"yes"}
    uncertain = [row["date"] for row in rows if row["clock"].startswith("uncertain")]
    assert uncertain == ["2026-11-19"]


def test_a_period_counts_local_dates_with_both_ends(tmp_path):
    with Home(tmp_path / "ledger") as home:
        for moment in ("2026-11-19T23:59", "2026-11-20T00:00", "2026-11-21T23:59", "2026-11-22T00:00"):
            home.look(at(moment), occasion=moment)
        home.ledger.checkpoint()
    rows = a_table(tmp_path / "ledger", period=Period(ZONE, date(2026, 11, 20), date(2026, 11, 21)))
    assert [row["occasion"] for row in rows] == ["2026-11-20T00:00", "2026-11-21T23:59"]


# The odd nights


def test_the_hour_that_comes_twice_says_which_one(tmp_path):
    with Home(tmp_path / "ledger") as home:
        for fold in (0, 1):
            home.look(at("2026-10-25T02:31", fold), occasion="2026-10-25T02:30", attempt=fold + 1)
        home.ledger.checkpoint()
    rows = a_table(tmp_path / "ledger", SV)
    assert [(row["tid"], row["tidszon"]) for row in rows] == [
        ("02:31:00 (sommartid)", "UTC+02:00"),
        ("02:31:00 (vintertid)", "UTC+01:00"),
    ]
    assert "klockan 02:31 (vintertid)." in as_text(a_sheet(tmp_path / "ledger", SV))


def test_the_hour_that_is_skipped_is_never_shown():
    before, after = at("2027-03-28T01:59"), at("2027-03-28T03:00")
    assert after - before == 60
    assert [clock(ZONE, moment, EN) for moment in (before, after)] == ["01:59", "03:00"]
    assert [offset(ZONE, moment) for moment in (before, after)] == ["UTC+01:00", "UTC+02:00"]


# FHIR


def test_the_bundle_validates_as_fhir_and_every_look_and_refusal_is_in_it(tmp_path):
    path = a_home(tmp_path / "ledger")
    agreement = parse_agreement(an_agreement())
    content = fhir.encode(fhir.bundle(read_account(path), agreement, now=NOW))
    # R4B's AuditEvent is R4's, element for element; the library dropped plain R4.
    bundle = Bundle.model_validate_json(content)
    kinds = Counter(entry.resource.type.code for entry in bundle.entry)
    assert kinds == {"110101": 1, "rest": 22, "110113": 3}
    assert len({entry.fullUrl for entry in bundle.entry}) == len(bundle.entry)


def test_a_look_follows_patient_read(tmp_path):
    path = a_home(tmp_path / "ledger")
    look = next(e for e in events_of(path, parse_agreement(an_agreement())) if e["type"]["code"] == "rest")
    assert look["meta"]["profile"] == [fhir.PROFILE]
    assert (look["action"], look["outcome"], look["subtype"][0]["code"]) == ("R", "0", "read")
    agents = {agent["type"]["coding"][0]["code"]: agent for agent in look["agent"]}
    assert set(agents) == {"IRCP", "110152", "110153"}
    assert agents["IRCP"]["requestor"] is True
    assert agents["IRCP"]["who"]["identifier"]["value"] == "op-17"
    assert "name" not in agents["IRCP"]
    assert "network" not in agents["IRCP"]
    assert all(agents[code]["network"] and not agents[code]["requestor"] for code in ("110152", "110153"))
    entities = {entity["type"]["code"]: entity for entity in look["entity"]}
    assert entities["1"]["what"] == {"type": "Patient", "identifier": {"value": "r-81"}}
    assert entities["1"]["role"]["code"] == "1"
    assert entities["2"]["role"]["code"] == "4"
    assert not any("query" in entity for entity in look["entity"])


def test_without_an_agreement_the_home_stands_for_the_patient(tmp_path):
    look = next(e for e in events_of(a_home(tmp_path / "ledger")) if e["type"]["code"] == "rest")
    assert look["entity"][0]["what"]["identifier"]["value"] == GATEWAY


def test_only_a_look_with_a_picture_claims_the_profile_and_refusals_are_failures(tmp_path):
    with Home(tmp_path / "ledger") as home:
        home.look(at("2026-11-20T23:31"), why="camera-fault", watched_s=0.0)
        home.look(at("2026-11-20T23:32"), why="lease-lapsed", watched_s=2.0, attempt=2)
        home.refused(at("2026-11-20T23:33"), "outside-window", who="op-9")
        home.refused(at("2026-11-20T23:34"), "camera-fault")
        home.ledger.checkpoint()
    _, dark, short, request, fault = events_of(tmp_path / "ledger")
    assert (dark["outcome"], "meta" in dark) == ("8", False)
    assert (short["outcome"], "meta" in short) == ("0", True)
    assert (request["outcome"], request["outcomeDesc"]) == ("4", "outside-window")
    assert request["agent"][0]["who"]["identifier"]["value"] == "op-9"
    assert (fault["outcome"], len(fault["agent"])) == ("8", 1)


def test_the_same_record_has_the_same_id_in_every_export(tmp_path):
    path = a_home(tmp_path / "ledger")
    account = read_account(path)
    ids = [
        {entry["resource"]["id"] for entry in fhir.bundle(account, None, now=now)["entry"][1:]}
        for now in (NOW, datetime(2027, 1, 1, tzinfo=UTC))
    ]
    assert ids[0] == ids[1]


# The resident's sheet


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sheet_has_the_facts_on_lines_of_72_columns(tmp_path, language):
    agreement = parse_agreement(an_agreement())
    document = a_sheet(a_home(tmp_path / "ledger"), Words(language), agreement, phone="042-10 50 00")
    text = plain.render(document).decode()
    assert max(map(len, text.splitlines())) <= 72
    words = " ".join(text.split())
    for fact in {
        "en": (
            "Sunday 22 November 2026 at 23:31.",
            "It lasted 28 seconds.",
            "You were seen.",
            "The camera was on 22 times.",
            "42 requests were refused: outside the agreed time (41), wrong signature (1).",
            "Monday 23 November 2026 at 23:30, or until 00:00 at the latest.",
            "Every day between 23:30 and 00:00, for 60 seconds at most.",
            "If you are not seen: again after 15 minutes, 1 time at most.",
            "we phone you (within 5 minutes), home care comes to you (within 45 minutes)",
            "There is no microphone.",
            "You may stop at any time.",
            "Phone the centre: 042-10 50 00.",
        ),
        "sv": (
            "Söndag 22 november 2026 klockan 23:31.",
            "Den varade 28 sekunder.",
            "Du syntes.",
            "Kameran var på 22 gånger.",
            "42 förfrågningar avvisades: utanför överenskommen tid (41), fel signatur (1).",
            "Måndag 23 november 2026 klockan 23:30, eller senast 00:00.",
            "Varje dag mellan 23:30 och 00:00, högst 60 sekunder.",
            "Om du inte syns: igen efter 15 minuter, högst 1 gång.",
            "vi ringer dig (inom 5 minuter), hemvården åker hem till dig (inom 45 minuter)",
            "Det finns ingen mikrofon.",
            "Du får sluta när du vill.",
            "Ring larmcentralen: 042-10 50 00.",
        ),
    }[language]:
        assert fact in words


def test_the_next_check_is_one_that_may_take_place(tmp_path):
    paused = an_agreement(pauses=[{"from": "2026-11-23T12:00", "until": "2026-11-25T12:00"}])
    agreement = parse_agreement(paused)
    path = a_home(tmp_path / "ledger", agreement=paused)
    account = read_account(path)
    occasion = sheet.next_occasion(account, agreement, NOW)
    assert occasion.occasion_id == "2026-11-25T23:30"
    ended = parse_agreement(an_agreement(valid={"from": "2026-09-01", "until": "2026-11-20"}))
    assert sheet.next_occasion(account, ended, NOW) is None
    nobody = parse_agreement(an_agreement(consent={"resident": None, "cohabitant": None}))
    assert sheet.next_occasion(account, nobody, NOW) is None


def test_who_has_stopped_reads_that_nobody_can_look(tmp_path):
    path, signer = tmp_path / "ledger", new_signer(f"tillsyn/{GATEWAY}")
    agreement = parse_agreement(an_agreement())
    with Home(path, signer) as home:
        home.agreed(an_agreement(), at("2026-11-01T10:00"))
        home.record(RecordKind.WITHDRAWN, at("2026-11-20T12:00"), why="local")
        home.ledger.checkpoint()
    assert "You have stopped the checks." in as_text(a_sheet(path, agreement=agreement))
    with Home(path, signer) as home:
        home.record(RecordKind.CONSENT, at("2026-11-21T12:00"), why="fresh")
        home.ledger.checkpoint()
    assert "Monday 23 November 2026 at 23:30" in as_text(a_sheet(path, agreement=agreement))


def test_the_residents_own_pause_moves_the_next_check(tmp_path):
    agreement = parse_agreement(an_agreement())
    with Home(tmp_path / "ledger") as home:
        home.record(RecordKind.PAUSED, at("2026-11-23T08:00"), why="local", until_unix_s=at("2026-11-24T08:00"))
        home.ledger.checkpoint()
    text = as_text(a_sheet(tmp_path / "ledger", agreement=agreement))
    assert "You have paused the checks until Tuesday 24 November 2026 at 08:00." in text
    assert "Tuesday 24 November 2026 at 23:30, or until" in text


@pytest.mark.parametrize(
    ("language", "blurred", "dim", "full"),
    [
        ("en", "The picture is blurred in the camera before anybody sees it.", "dimly lit", "fully lit"),
        ("sv", "Bilden görs suddig i kameran", "lyser svagt", "full styrka"),
    ],
)
def test_the_sheet_says_how_the_picture_and_the_lamp_are_agreed(tmp_path, language, blurred, dim, full):
    a_home(tmp_path / "ledger")
    texts = [
        as_text(a_sheet(tmp_path / "ledger", Words(language), parse_agreement(an_agreement(**wishes))))
        for wishes in ({}, {"picture": {"mode": "softened"}, "lamp": "on"})
    ]
    assert [blurred in text for text in texts] == [False, True]
    assert [dim in text for text in texts] == [True, False]
    assert [full in text for text in texts] == [False, True]


def test_an_empty_ledger_makes_a_sheet_that_says_so(tmp_path):
    with Home(tmp_path / "ledger"):
        pass
    text = as_text(a_sheet(tmp_path / "ledger"))
    assert "There is no check in the log." in text
    assert "The camera was on 0 times." in text


@pytest.mark.parametrize("phone", ["042-10 50 00", "+46 42 10 50 00"])
def test_a_phone_number_is_taken(phone):
    assert _phone(phone) == phone


@pytest.mark.parametrize("phone", ["Anna 042-10 50 00", "=1+1", "12", "1" * 40])
def test_what_is_no_phone_number_is_not_taken(tmp_path, phone, capsys):
    with pytest.raises(SystemExit):
        main(["ledger", "export", str(tmp_path), "--format", "text", "--phone", phone])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pdf_is_large_real_text_with_title_and_language(tmp_path, language):
    path, out = a_home(tmp_path / "ledger"), tmp_path / "sheet.pdf"
    (tmp_path / "agreement.json").write_bytes(an_agreement())
    arguments = ["--format", "pdf", "--language", language, "--agreement", str(tmp_path / "agreement.json")]
    assert main(["ledger", "export", str(path), *arguments, "--out", str(out)]) == 0
    reader = PdfReader(out)
    assert reader.trailer["/Root"]["/Lang"] == language
    assert reader.metadata.title == {"sv": "Din tillsyn via kamera", "en": "Your checks by camera"}[language]
    sizes: list[float] = []
    text = ""

    def visit(piece, matrix, text_matrix, font, size):
        if piece.strip():
            sizes.append(size * abs(text_matrix[3]) * abs(matrix[3]))

    for page in reader.pages:
        text += page.extract_text(visitor_text=visit) + " "
        fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
        used = [font for font in fonts if "Tillsyn" in str(font) or "Vera" in str(font["/BaseFont"])]
        assert used
        assert all("/FontFile2" in font["/FontDescriptor"] for font in used)
        assert "/XObject" not in page["/Resources"]  # no pictures
    assert len(reader.pages) == 2
    assert len(sizes) > 20
    assert min(sizes) >= 16.0
    words = " ".join(text.split())
    last = {"sv": "Söndag 22 november 2026 klockan 23:31.", "en": "Sunday 22 November 2026 at 23:31."}[language]
    for fact in (last, {"sv": "Så här slutar du", "en": "How to stop"}[language]):
        assert fact in words


def test_what_looks_like_markup_is_printed_as_it_stands():
    document = Document("<b>&title</b>", "en", "Page", ())
    assert "<b>&title</b>" in PdfReader(io.BytesIO(paper.render(document, body_pt=16))).pages[0].extract_text()


# Words


def test_every_message_is_translated_and_no_translation_is_left_over():
    single, plural = messages()
    entries = read_po(CATALOGUE.read_text(encoding="utf-8"))[1:]
    assert {entry["msgid"] for entry in entries if "msgid_plural" not in entry} == single
    assert {entry["msgid"]: entry["msgid_plural"] for entry in entries if "msgid_plural" in entry} == plural


def test_every_translation_fills_in_the_same_values():
    for entry in read_po(CATALOGUE.read_text(encoding="utf-8"))[1:]:
        texts = [value for name, value in entry.items() if name != "msgid"]
        wanted = set(re.findall(r"{(\w+)}", entry["msgid"]))
        assert [set(re.findall(r"{(\w+)}", text)) for text in texts] == [wanted] * len(texts), entry["msgid"]


def test_the_font_has_every_letter_of_every_word():
    font = paper.font_path().read_bytes()
    used = set(CATALOGUE.read_text(encoding="utf-8") + "".join(messages()[0])) | {"•", "…"}
    assert {letter for letter in used if letter.isprintable() and ord(letter) not in code_points(font)} == set()


def code_points(font: bytes) -> set[int]:
    """What a TrueType font has glyphs for, from its cmap of format 4. Source: OpenType specification, "cmap"."""
    tables = {
        font[12 + 16 * n : 16 + 16 * n]: struct.unpack(">I", font[20 + 16 * n : 24 + 16 * n])[0]
        for n in range(struct.unpack(">H", font[4:6])[0])
    }
    cmap, found = tables[b"cmap"], set()
    for n in range(struct.unpack(">H", font[cmap + 2 : cmap + 4])[0]):
        start = cmap + struct.unpack(">I", font[cmap + 8 + 8 * n : cmap + 12 + 8 * n])[0]
        if struct.unpack(">H", font[start : start + 2])[0] == 4:
            count = struct.unpack(">H", font[start + 6 : start + 8])[0] // 2
            ends = struct.unpack(f">{count}H", font[start + 14 : start + 14 + 2 * count])
            starts = struct.unpack(f">{count}H", font[start + 16 + 2 * count : start + 16 + 4 * count])
            for lo, hi in zip(starts, ends, strict=True):
                found |= set(range(lo, hi + 1))
    return found


def test_every_code_of_the_closed_lists_has_words():
    from gateway.check.machine import Why

    assert set(vocabulary.REFUSALS) == {code.value for code in RefusalCode}
    assert set(vocabulary.ENDINGS) == {why.value for why in Why}


def test_the_binary_catalogue_is_what_gettext_reads():
    catalogue = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "a"\nmsgstr "å"\n'
    assert len(read_po(catalogue)) == 2
    assert compile_po(catalogue)[:4] == struct.pack("<I", 0x950412DE)
    assert (SV("yes"), EN("yes")) == ("ja", "yes")
    assert [SV.plural("{n} second", "{n} seconds", n) for n in (0, 1, 2)] == ["0 sekunder", "1 sekund", "2 sekunder"]
    assert length_in_words(121, EN) == "2 minutes and 1 second"


@pytest.mark.parametrize(
    "fault",
    [
        '#, fuzzy\nmsgid "b"\nmsgstr "c"\n',
        'msgid "b"\nmsgstr ""\n',
        'msgid "b"\n',
        'msgid "a"\nmsgstr "twice"\n',
        'msgctxt "x"\nmsgid "b"\nmsgstr "c"\n',
        'msgid "b"\nmsgstr "c\n',
        'msgid "b"\nmsgid_plural "bs"\nmsgstr[0] "c"\n',
        "anything\n",
    ],
)
def test_a_catalogue_that_we_would_not_write_is_refused(fault):
    good = 'msgid ""\nmsgstr "Language: sv\\n"\n\nmsgid "a"\nmsgstr "b"\n\n'
    assert len(read_po(good)) == 2
    with pytest.raises(ValueError, match=r"line|whole|twice"):
        read_po(good + fault)


# The command


def test_export_writes_to_standard_output_and_to_a_file_for_the_owner_alone(tmp_path, capfdbinary):
    path, out = a_home(tmp_path / "ledger"), tmp_path / "out.json"
    assert main(["ledger", "export", str(path), "--format", "fhir"]) == 0
    printed = json.loads(capfdbinary.readouterr().out)
    assert main(["ledger", "export", str(path), "--format", "fhir", "--out", str(out)]) == 0
    assert len(json.loads(out.read_text())["entry"]) == len(printed["entry"])
    assert out.stat().st_mode & 0o077 == 0


def test_dates_the_wrong_way_round_are_an_error_of_use(tmp_path, capsys):
    path = a_home(tmp_path / "ledger")
    days = ["--from", "2026-11-20", "--until", "2026-11-19"]
    assert main(["ledger", "export", str(path), "--format", "csv", *days]) == 2


def test_the_verified_ledger_is_not_changed_by_an_export(tmp_path):
    path = a_home(tmp_path / "ledger")
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    assert main(["ledger", "export", str(path), "--format", "csv", "--out", str(tmp_path / "x.csv")]) == 0
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before


def test_the_devices_command_works_where_the_centre_is_not_shipped():
    program = (
        "import sys; sys.modules['centre'] = None\n"
        "from gateway.cli import parser\n"
        "parser().parse_args(['ledger', 'verify', 'x'])\n"
        "parser().parse_args(['ledger', 'export', 'x', '--format', 'csv'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "invalid choice: 'export'" in ended.stderr


def test_only_the_pdf_needs_the_library():
    importing = [path.name for path in EXPORT.glob("*.py") if "import reportlab" in path.read_text()]
    assert importing == ["paper.py"]


def test_a_break_beyond_the_year_2100_is_refused(tmp_path):
    with Home(tmp_path / "ledger") as home:
        home.record(RecordKind.BOOT, 1e12, why="start")
        home.ledger.checkpoint()
    with pytest.raises(LedgerRefusedError, match="2100"):
        read_account(tmp_path / "ledger")
