"""What a record may say, and that a line has one spelling."""

from __future__ import annotations

import math
import re
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_support import BOOT, a_record

from gateway.ledger.record import (
    FIRST_PREV,
    MAX_LINE_BYTES,
    PERSON,
    Record,
    RecordKind,
    SaltedRecord,
    StoredLine,
    new_line,
    parse_line,
)

PROTOCOL_KINDS = (
    "opened live closed refused verdict missed-check handover agreement consent paused withdrawn trust boot clock "
    "power tamper update setup returned"
)


def string_types(struct: type[msgspec.Struct]) -> dict[str, msgspec.inspect.StrType]:
    described = msgspec.inspect.type_info(struct)
    assert isinstance(described, msgspec.inspect.StructType)
    found = {}
    for each in described.fields:
        options = each.type.types if isinstance(each.type, msgspec.inspect.UnionType) else (each.type,)
        for option in options:
            if isinstance(option, msgspec.inspect.StrType):
                found[each.name] = option
    return found


def framed(content: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(content), content)


def full_record() -> Record:
    return a_record(
        RecordKind.CLOSED,
        time_hi=1.7e9 + 1,
        who="op-17",
        role="operator",
        check="c-1",
        line="night-1",
        occasion="2026-11-01T23:30+01:00",
        attempt=1,
        why="lease-lapsed",
        watched_s=31.25,
        frames=930,
        count=3,
        view="clear",
        version=4,
        digest_of="ab" * 32,
    )


def test_the_kinds_are_those_of_the_protocol_and_the_heartbeat():
    assert {str(kind) for kind in RecordKind} == {*PROTOCOL_KINDS.split(), "heartbeat"}


def test_no_string_of_a_record_has_room_for_a_name_or_a_sentence():
    # R37. Mutation: a field of plain `str`, or $ for \Z in a pattern -> red.
    types = string_types(SaltedRecord)
    assert set(types) == {
        *("boot", "who", "role", "check", "line", "occasion", "why", "view", "sw", "digest_of", "salt"),
    }
    for name, option in types.items():
        assert option.pattern, name
        for text in ("Anna Svensson", "Åsa", "a b", "a\u00a0b", "a\n", BOOT + "\n", "a\tb", "٣", "", "x" * 65):
            assert not re.search(option.pattern, text), (name, text)


@pytest.mark.slow
@given(st.text(min_size=1), st.sampled_from(sorted(string_types(Record))))
def test_text_with_a_space_or_beyond_ascii_is_never_appended(text, name):
    text += "" if not text.isascii() or " " in text else " "
    with pytest.raises(ValueError, match="schema"):
        new_line(msgspec.structs.replace(full_record(), **{name: text}), seq=0, prev=FIRST_PREV)


@pytest.mark.parametrize("number", ["191212121212", "19121212-1212", "121212-1212", "1212121212"])
def test_a_personal_number_is_no_pseudonym(number):
    assert not re.search(PERSON, number)
    with pytest.raises(ValueError, match="schema"):
        new_line(a_record(who=number), seq=0, prev=FIRST_PREV)


@pytest.mark.parametrize(
    "fields",
    [
        {"boottime": math.nan},
        {"time_hi": math.inf},
        {"time_lo": -1.0},
        {"attempt": -1},
        {"attempt": True},
        {"count": 2**53},
        {"kind": "closed-ish"},
        {"boot": "0"},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_our_own_mistake(fields):
    with pytest.raises(ValueError):
        new_line(a_record(**fields), seq=0, prev=FIRST_PREV)


@pytest.mark.slow
@given(
    st.builds(
        lambda floats, count, kind: Record(
            boot=BOOT, boottime=floats[0], time_lo=floats[1], time_hi=floats[2], kind=kind, count=count, sw="1"
        ),
        st.tuples(*[st.floats(0, allow_infinity=False)] * 3),
        st.integers(0, 2**53 - 1),
        st.sampled_from(RecordKind),
    )
)
def test_a_line_reads_back_as_what_was_written(record):
    line = new_line(record, seq=5, prev="ab" * 32)
    again = parse_line(line.encode())
    assert again == line
    body = msgspec.to_builtins(again.record())
    del body["salt"]
    assert body == msgspec.to_builtins(record)


def test_a_whole_number_of_seconds_is_written_as_seconds():
    assert b'"boottime":5.0' in new_line(a_record(boottime=5), seq=0, prev=FIRST_PREV).encode()


def test_the_fullest_record_is_far_from_the_bound():
    assert len(new_line(full_record(), seq=2**53 - 1, prev="ab" * 32).encode()) < MAX_LINE_BYTES / 3


def test_two_equal_records_have_different_digests():
    # Mutation: a constant salt -> red: an erased body could be guessed.
    lines = [new_line(a_record(), seq=0, prev=FIRST_PREV) for _ in range(2)]
    assert lines[0].digest != lines[1].digest


def test_an_erased_line_has_the_same_leaf():
    line = new_line(full_record(), seq=5, prev="ab" * 32)
    erased = parse_line(line.erased().encode())
    assert erased.record() is None
    assert b"op-17" not in erased.encode()
    assert erased.leaf_hash() == line.leaf_hash()


def test_another_spelling_of_the_same_line_is_refused_even_with_its_crc():
    # Mutation: no comparison with the canonical spelling -> red.
    content = new_line(a_record(), seq=0, prev=FIRST_PREV).encode()[9:-1]
    assert parse_line(framed(content))
    for other in (
        content.replace(b":", b": ", 1),
        content.replace(b"12.5", b"12.50"),
        content.replace(b"12.5", b"1.25e1"),
        content.replace(b"refused", rb"\u0072efused"),
        content.replace(b'"seq":0', b'"seq":0,"seq":0'),
        content.replace(b'"seq":0', b'"seq":-0'),
        content.replace(b'"sw"', b'"who":null,"sw"'),
        content.replace(b'"sw"', b'"name":"Anna","sw"'),
        content.replace(b'"seq":0', b'"seq":0,"note":"x"'),
        content + b" ",
    ):
        assert other != content
        with pytest.raises(ValueError):
            parse_line(framed(other))


def test_a_changed_body_does_not_fit_its_digest():
    # Mutation: no digest comparison in parse_line -> red.
    content = new_line(a_record(), seq=0, prev=FIRST_PREV).encode()[9:-1]
    with pytest.raises(ValueError, match="digest"):
        parse_line(framed(content.replace(b"12.5", b"12.6")))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_line_parser(untrusted):
    for line in (untrusted, framed(untrusted)):
        with pytest.raises(ValueError):
            parse_line(line)


def test_a_line_of_erased_body_cannot_smuggle_null():
    content = StoredLine(seq=0, prev=FIRST_PREV, digest="0" * 64).encode()[9:-1]
    assert parse_line(framed(content))
    with pytest.raises(ValueError):
        parse_line(framed(b'{"body":null,' + content[1:]))
