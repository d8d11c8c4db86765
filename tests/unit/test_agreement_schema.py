"""Untrusted bytes become an agreement, or are refused as malformed; nothing in between.

Mutations that turn a test here red:
* drop `object_pairs_hook` in `_decode` → test_hostile_bytes_are_malformed[duplicate key …]
* drop `parse_constant` → nothing (the closed schema has no float field); it is the second fence
* drop the depth check → test_deep_nesting_is_refused_before_the_parser_sees_it
* drop the size check → test_more_than_16_kib_is_malformed
* `forbid_unknown_fields=False` → test_a_wrong_field_is_malformed[unknown field …]
* `\\Z` → `$` in an id's pattern → test_a_wrong_field_is_malformed[id with newline]
* drop the closed list of areas in `_ZONE` → test_a_wrong_field_is_malformed[zone legacy], and
  [zone with leap seconds] where that is installed
* drop "BYHOUR is unknown" (let `_PARTS` take all) → test_a_rule_outside_the_subset_is_malformed
"""

import copy
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agreement import AGREEMENT_MAX_BYTES, Agreement, encode_agreement, parse_agreement
from gateway.core.refusal import RefusalCode, RefusedError

RAW = {
    "agreement": "a-7f3a",
    "version": 4,
    "gateway": "gw-1",
    "install_epoch": 2,
    "timezone": "Europe/Stockholm",
    "valid": {"from": "2026-11-01", "until": "2027-10-31"},
    "consent": {
        "resident": {"given": "2026-10-30", "how": "signed-at-installation", "ref": "c-19"},
        "cohabitant": None,
    },
    "lines": [
        {
            "id": "night-1",
            "rrule": "FREQ=DAILY",
            "start": "23:30",
            "window_min": 30,
            "max_s": 60,
            "recheck": {"after_min": 15, "times": 1},
        }
    ],
    "picture": {"mode": "clear"},
    "lamp": "dim",
    "if_not_seen": [
        {"do": "call-resident", "within_min": 5},
        {"do": "visit", "unit": "hv-centrum", "within_min": 45},
    ],
    "pauses": [{"from": "2026-12-24T12:00", "until": "2026-12-26T12:00"}],
    "resident_ref": "r-1",
}
MISSING = object()


def changed(path, value):
    """A copy of RAW with the field at `path` set, or removed."""
    raw = copy.deepcopy(RAW)
    target = raw
    for key in path[:-1]:
        target = target[key]
    if value is MISSING:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return raw


def refusal(untrusted):
    with pytest.raises(RefusedError) as caught:
        parse_agreement(untrusted)
    return caught.value.code


def test_the_protocol_s_example_is_taken_as_bytes_and_as_an_object():
    agreement = parse_agreement(json.dumps(RAW).encode())
    assert agreement == parse_agreement(copy.deepcopy(RAW))
    assert (agreement.version, agreement.lines[0].start, agreement.lines[0].exceptions) == (4, "23:30", ())
    assert [step.do for step in agreement.if_not_seen] == ["call-resident", "visit"]


def test_an_agreement_is_immutable_and_hashable():
    agreement = parse_agreement(RAW)
    hash(agreement)
    with pytest.raises(AttributeError):
        agreement.version = 5


def test_the_canonical_form_round_trips_and_does_not_depend_on_the_order_of_fields():
    agreement = parse_agreement(RAW)
    encoded = encode_agreement(agreement)
    assert parse_agreement(encoded) == agreement
    shuffled = json.dumps(dict(reversed(RAW.items())), indent=2).encode()
    assert encode_agreement(parse_agreement(shuffled)) == encoded
    assert encoded == json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":")).encode()


GOOD = {
    "cohabitant consents": (
        ("consent", "cohabitant"),
        {"given": "2026-10-30", "how": "oral", "ref": "c", "until": "2027-01-01"},
    ),
    "cohabitant named only": (("consent", "cohabitant"), {"given": None}),
    "cohabitant named, nulls": (("consent", "cohabitant"), {"given": None, "how": None, "ref": None}),
    "resident missing": (("consent", "resident"), None),
    "withdrawn": (
        ("consent", "resident"),
        {"given": "2026-10-30", "how": "x", "ref": "y", "until": None, "withdrawn": "2026-11-09"},
    ),
    "exceptions": (("lines", 0, "exceptions"), ["2026-11-05"]),
    "no recheck": (("lines", 0, "recheck"), {"after_min": 1, "times": 0}),
    "no pauses": (("pauses",), []),
    "one day": (("valid",), {"from": "2026-11-01", "until": "2026-11-01"}),
    "three-part zone": (("timezone",), "America/Argentina/Buenos_Aires"),
    "utc": (("timezone",), "UTC"),
}


@pytest.mark.parametrize(("path", "value"), GOOD.values(), ids=GOOD)
def test_what_the_protocol_allows_is_taken_and_round_trips(path, value):
    agreement = parse_agreement(changed(path, value))
    assert isinstance(agreement, Agreement)
    assert parse_agreement(encode_agreement(agreement)) == agreement


@pytest.mark.parametrize("field", RAW)
def test_every_top_level_field_is_required(field):
    assert refusal(changed((field,), MISSING)) is RefusalCode.MALFORMED


LINE = RAW["lines"][0]
BAD = {
    "unknown field at the top": (("name",), "Karin"),
    "unknown field in a line": (("lines", 0, "address"), "x"),
    "unknown field in consent": (("consent", "guardian"), None),
    "unknown field in recheck": (("lines", 0, "recheck", "x"), 1),
    "version zero": (("version",), 0),
    "version as text": (("version",), "4"),
    "version as float": (("version",), 4.0),
    "version as bool": (("version",), True),
    "version huge": (("version",), 2**63),
    "epoch negative": (("install_epoch",), -1),
    "id empty": (("agreement",), ""),
    "id with space": (("agreement",), "a b"),
    "id with newline": (("agreement",), "a\n"),
    "id too long": (("agreement",), "a" * 65),
    "id not ascii": (("resident_ref",), "å"),
    "id lone surrogate": (("resident_ref",), "\ud800"),
    "field lone surrogate": (("\ud800",), "x"),
    "zone unknown": (("timezone",), "Europe/Nowhere"),
    "zone empty": (("timezone",), ""),
    "zone a directory": (("timezone",), "America/Argentina"),
    "zone climbing": (("timezone",), "Europe/../../etc/passwd"),
    "zone absolute": (("timezone",), "/etc/localtime"),
    "zone with leap seconds": (("timezone",), "right/Europe/Stockholm"),
    "zone legacy": (("timezone",), "CET"),
    "valid reversed": (("valid",), {"from": "2026-11-02", "until": "2026-11-01"}),
    "valid not a date": (("valid", "from"), "2026-02-30"),
    "valid a moment": (("valid", "from"), "2026-11-01T00:00"),
    "valid basic format": (("valid", "from"), "20261101"),
    "valid too long": (("valid", "until"), "2037-10-31"),
    "valid ages ago": (("valid", "from"), "0001-01-01"),
    "valid far ahead": (("valid",), {"from": "9999-01-01", "until": "9999-12-31"}),
    "consent null": (("consent",), None),
    "consent without cohabitant": (("consent",), {"resident": None}),
    "consent empty": (("consent", "resident"), {}),
    "consent without ref": (("consent", "resident"), {"given": "2026-10-30", "how": "x"}),
    "consent as flag": (("consent", "resident", "given"), True),
    "consent ends first": (
        ("consent", "resident"),
        {"given": "2026-10-30", "how": "x", "ref": "y", "until": "2026-10-29"},
    ),
    "no lines": (("lines",), []),
    "thirteen lines": (("lines",), [{**LINE, "id": f"n{n}"} for n in range(13)]),
    "line twice": (("lines",), [LINE, LINE]),
    "lines an object": (("lines",), LINE),
    "start 24:00": (("lines", 0, "start"), "24:00"),
    "start with seconds": (("lines", 0, "start"), "23:30:00"),
    "start in other digits": (("lines", 0, "start"), "2٣:30"),
    "start with newline": (("lines", 0, "start"), "23:30\n"),
    "window zero": (("lines", 0, "window_min"), 0),
    "window 241": (("lines", 0, "window_min"), 241),
    "max 4 s": (("lines", 0, "max_s"), 4),
    "max 181 s": (("lines", 0, "max_s"), 181),
    "recheck at once": (("lines", 0, "recheck", "after_min"), 0),
    "recheck after 61": (("lines", 0, "recheck", "after_min"), 61),
    "four rechecks": (("lines", 0, "recheck", "times"), 4),
    "recheck null": (("lines", 0, "recheck"), None),
    "exceptions without end": (("lines", 0, "exceptions"), ["2026-11-05"] * 367),
    "picture other": (("picture", "mode"), "recorded"),
    "lamp off": (("lamp",), "off"),
    "nobody to hand over to": (("if_not_seen",), []),
    "nine steps": (("if_not_seen",), RAW["if_not_seen"] * 5),
    "pause reversed": (("pauses",), [{"from": "2026-12-26T12:00", "until": "2026-12-24T12:00"}]),
    "pause empty": (("pauses",), [{"from": "2026-12-24T12:00", "until": "2026-12-24T12:00"}]),
    "pause no date": (("pauses",), [{"from": "2026-02-30T12:00", "until": "2026-12-24T12:00"}]),
    "pause with zone": (("pauses",), [{"from": "2026-12-24T12:00Z", "until": "2026-12-25T12:00Z"}]),
    "pause ages ago": (("pauses",), [{"from": "0001-01-01T00:00", "until": "2026-12-25T12:00"}]),
    "65 pauses": (("pauses",), RAW["pauses"] * 65),
}


@pytest.mark.parametrize(("path", "value"), BAD.values(), ids=BAD)
def test_a_wrong_field_is_malformed(path, value):
    raw = changed(path, value)
    assert refusal(raw) is RefusalCode.MALFORMED
    assert refusal(json.dumps(raw).encode()) is RefusalCode.MALFORMED


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY",
        "INTERVAL=2;FREQ=DAILY",
        "FREQ=WEEKLY;BYDAY=MO,WE,FR;INTERVAL=2",
        "FREQ=MONTHLY;BYDAY=1MO,-1SU,+2TU",
        "FREQ=MONTHLY;BYMONTHDAY=1,15,-1",
        "FREQ=DAILY;UNTIL=20270101",
        "FREQ=DAILY;COUNT=3660",
    ],
)
def test_a_rule_in_the_subset_is_taken(rule):
    assert parse_agreement(changed(("lines", 0, "rrule"), rule)).lines[0].rrule == rule


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "DAILY",
        "FREQ=SECONDLY",
        "FREQ=MINUTELY",
        "FREQ=HOURLY",
        "FREQ=YEARLY",
        "freq=daily",
        "FREQ=DAILY;",
        "FREQ=DAILY;FREQ=WEEKLY",
        "INTERVAL=2",
        "FREQ=DAILY;BYHOUR=1,2,3",
        "FREQ=DAILY;BYMINUTE=1",
        "FREQ=DAILY;BYSETPOS=1",
        "FREQ=DAILY;BYMONTH=1",
        "FREQ=DAILY;WKST=SU",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;INTERVAL=-1",
        "FREQ=DAILY;INTERVAL=100",
        "FREQ=DAILY;INTERVAL=",
        "FREQ=DAILY;INTERVAL=1.0",
        "FREQ=DAILY;INTERVAL=٣",
        "FREQ=DAILY;COUNT=0",
        "FREQ=DAILY;COUNT=3661",
        "FREQ=DAILY;COUNT=1;UNTIL=20270101",
        "FREQ=DAILY;UNTIL=20270230",
        "FREQ=DAILY;UNTIL=00000101",
        "FREQ=DAILY;UNTIL=20270101T000000Z",
        "FREQ=DAILY;BYDAY=1MO",
        "FREQ=WEEKLY;BYDAY=",
        "FREQ=WEEKLY;BYDAY=XX",
        "FREQ=WEEKLY;BYMONTHDAY=1",
        "FREQ=MONTHLY;BYDAY=6MO",
        "FREQ=MONTHLY;BYDAY=0MO",
        "FREQ=MONTHLY;BYMONTHDAY=0",
        "FREQ=MONTHLY;BYMONTHDAY=32",
        "DTSTART:20260101T000000\nRRULE:FREQ=DAILY",
        "FREQ=DAILY\n",
        "FREQ=MONTHLY;BYMONTHDAY=" + ",".join(["1"] * 100),
    ],
)
def test_a_rule_outside_the_subset_is_malformed(rule):
    assert refusal(changed(("lines", 0, "rrule"), rule)) is RefusalCode.MALFORMED


GOOD_BYTES = json.dumps(RAW).encode()
HOSTILE = {
    "empty": b"",
    "not json": b"agreement",
    "null": b"null",
    "array": b"[]",
    "number": b"1",
    "text": b'"x"',
    "duplicate key at the top": GOOD_BYTES[:-1] + b',"version":5}',
    "duplicate key inside": GOOD_BYTES.replace(b'"times": 1', b'"times": 1, "times": 1'),
    "NaN": GOOD_BYTES.replace(b'"version": 4', b'"version": NaN'),
    "Infinity": GOOD_BYTES.replace(b'"version": 4', b'"version": Infinity'),
    "1e999": GOOD_BYTES.replace(b'"version": 4', b'"version": 1e999'),
    "10000 digits": GOOD_BYTES.replace(b'"version": 4', b'"version": ' + b"1" * 10000),
    "invalid utf-8": GOOD_BYTES.replace(b"a-7f3a", b"a-\xff"),
    "overlong utf-8": GOOD_BYTES.replace(b"a-7f3a", b"a-\xc0\xaf"),
    "bom": b"\xef\xbb\xbf" + GOOD_BYTES,
    "utf-16": GOOD_BYTES.decode().encode("utf-16"),
    "trailing bytes": GOOD_BYTES + b"{}",
    "cut": GOOD_BYTES[:-1],
    "nul": GOOD_BYTES + b"\0",
    "closing only": b"]" * 1000,
}


@pytest.mark.parametrize("untrusted", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_malformed(untrusted):
    assert refusal(untrusted) is RefusalCode.MALFORMED


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
def test_deep_nesting_is_refused_before_the_parser_sees_it(opening):
    for times in (9, 2000):
        with pytest.raises(RefusedError, match="nested too deep"):
            parse_agreement(opening * times)


def test_brackets_inside_text_are_not_nesting():
    raw = changed(("agreement",), '[[[[[[[[[[\\"[[')
    with pytest.raises(RefusedError) as caught:
        parse_agreement(json.dumps(raw).encode())
    assert "nested" not in caught.value.detail


def test_more_than_16_kib_is_malformed():
    padded = GOOD_BYTES + b" " * (AGREEMENT_MAX_BYTES - len(GOOD_BYTES))
    assert parse_agreement(padded) == parse_agreement(RAW)
    assert refusal(padded + b" ") is RefusalCode.MALFORMED


def test_hostile_bytes_of_full_size_cost_less_than_50_ms():
    for untrusted in (b"[" * AGREEMENT_MAX_BYTES, b'"' + b"\\" * (AGREEMENT_MAX_BYTES - 1), b"1" * AGREEMENT_MAX_BYTES):
        began_s = time.thread_time()
        assert refusal(untrusted) is RefusalCode.MALFORMED
        assert time.thread_time() - began_s < 0.05


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_an_agreement_or_malformed(untrusted):
    assert refusal(untrusted) is RefusalCode.MALFORMED


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_one_field_replaced_by_anything_raises_nothing_but_malformed(data):
    raw = copy.deepcopy(RAW)
    paths = [
        ("timezone",),
        ("valid", "from"),
        ("consent", "resident"),
        ("lines", 0, "rrule"),
        ("lines", 0),
        ("pauses",),
    ]
    paths += [("pauses", 0, "from"), ("lines", 0, "exceptions"), ("version",), ("if_not_seen", 0), ("resident_ref",)]
    path = data.draw(st.sampled_from(paths))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
    value = data.draw(
        st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
    )
    target = raw
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    code = None
    try:
        agreement = parse_agreement(raw)
    except RefusedError as refused:
        code = refused.code
    else:
        assert parse_agreement(encode_agreement(agreement)) == agreement
    assert code in (None, RefusalCode.MALFORMED)
