"""Strict JSON: whatever it takes, the standard decoder takes to the same value; and it costs little to refuse.

Mutations that turn a test here red (gateway/protocol/strict_json.py):
* drop `_check_depth` → test_depth_is_counted_as_the_value_is_nested
* count brackets inside strings → test_what_it_writes_it_reads
* `_check_texts` without its list branch, or not called on the whole → test_no_text_holds_a_surrogate_or_nul
* `if key in result` dropped → test_a_member_named_twice_is_refused
* `abs(value) > _MAX_INT` dropped → test_integers_are_exact_for_every_reader
* `math.isfinite` dropped → tests/vectors/json/1e309
* `len(untrusted) > max_bytes` dropped → test_memory_is_bounded
* `allow_nan=False` dropped in `dumps` → test_what_is_no_json_is_not_written
"""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protocol_support import depth_of, tried

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol import strict_json

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def texts_of(value):
    match value:
        case str():
            yield value
        case dict():
            for name, item in value.items():
                yield name
                yield from texts_of(item)
        case list():
            for item in value:
                yield from texts_of(item)


def read(untrusted: bytes):
    """The value, or the refusal; any other exception fails the test."""
    return tried(lambda: strict_json.loads(untrusted))[1]


@pytest.mark.slow
@given(value=VALUE)
@example(value=['"[[[[[[[[[[[[\\"', "\\"])
@example(value={"": {"": {"": [["\U0001f600"]]}}})
def test_what_it_writes_it_reads(value):
    written = strict_json.dumps(value)
    assert written.isascii()
    got = read(written)
    if depth_of(value) <= strict_json.MAX_DEPTH:
        assert got == value
        assert strict_json.dumps(got) == written
    else:
        assert got.code is RefusalCode.MALFORMED


@pytest.mark.slow
@given(value=VALUE, indent=st.integers(0, 4))
def test_another_spelling_has_the_same_value(value, indent):
    written = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    if depth_of(value) <= strict_json.MAX_DEPTH and len(written) <= strict_json.MAX_BYTES:
        assert strict_json.loads(written) == value


@pytest.mark.slow
@given(shape=st.lists(st.booleans(), min_size=1, max_size=20), limit=st.integers(0, 12))
def test_depth_is_counted_as_the_value_is_nested(shape, limit):
    opening = "".join("[" if is_list else '{"a":' for is_list in shape)
    closing = "".join("]" if is_list else "}" for is_list in reversed(shape))
    text = f"{opening}1{closing}".encode()
    if len(shape) <= limit:
        assert depth_of(strict_json.loads(text, max_depth=limit)) == len(shape)
    else:
        with pytest.raises(RefusedError):
            strict_json.loads(text, max_depth=limit)


FRAGMENTS = st.sampled_from(
    [*'[]{},:" \n\\', "1", "-0", "1e9", "NaN", "-Infinity", '"a"', '"\\ud800"', '"\\u0000"', "true", "null", '{"a":',
     '"\\ud83d\\ude00"', "9007199254740993", "é", "\ufeff", "\0", "\u2028"]
)  # fmt: skip


@pytest.mark.slow
@given(untrusted=st.binary(max_size=60) | st.lists(FRAGMENTS, max_size=16).map(lambda parts: "".join(parts).encode()))
@settings(max_examples=500)
@example(untrusted=b'[["\\ud800"]]')
@example(untrusted=b'"\\u0000"')
def test_whatever_it_takes_the_standard_decoder_takes_alike(untrusted):
    got = read(untrusted)
    if isinstance(got, RefusedError):
        assert got.code is RefusalCode.MALFORMED
        return
    assert got == json.loads(untrusted.decode())
    for text in texts_of(got):
        text.encode()
        assert "\0" not in text


@pytest.mark.slow
@given(
    path=st.lists(st.sampled_from(["list", "object", "key"]), max_size=6),
    hostile=st.sampled_from(["\\ud800", "\\udfff", "\\u0000", "a\\udc00\\ud800", "\\ud83d"]),
)
def test_no_text_holds_a_surrogate_or_nul(path, hostile):
    text = f'"{hostile}"'
    for step in path:
        text = {"list": f"[1,{text}]", "object": f'{{"a":{text}}}', "key": f'{{"{hostile}":{text}}}'}[step]
    assert read(text.encode()).code is RefusalCode.MALFORMED


@pytest.mark.slow
@given(name=TEXT, outer=st.lists(st.booleans(), max_size=5))
def test_a_member_named_twice_is_refused(name, outer):
    spelled = json.dumps(name)
    escaped = '"' + "".join(f"\\u{unit:04x}" for unit in _utf16(name)) + '"'
    for second in (spelled, escaped):
        text = f'{{{spelled}:1,"other than the name":2,{second}:1}}'
        for is_list in outer:
            text = f"[{text}]" if is_list else f'{{"b":{text}}}'
        assert read(text.encode()).code is RefusalCode.MALFORMED


def _utf16(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2)]


@given(number=st.integers())
@example(number=2**53)
@example(number=-(2**53) - 1)
@example(number=10**40)
def test_integers_are_exact_for_every_reader(number):
    got = read(str(number).encode())
    if abs(number) <= 2**53:
        assert (got, type(got)) == (number, int)
        assert int(float(number)) == number
    else:
        assert got.code is RefusalCode.MALFORMED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan]])
def test_what_is_no_json_is_not_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps(value)


def test_memory_is_bounded():
    """F51: less than 20 MB; measured: far less than one."""
    hostile = [
        b"[" * 100_000,
        b"[" * 16_000,
        b'{"a":' * 3000,
        b'"' + b"\\" * 16_000,
        b"9" * 16_000,
        b"[" + b"1," * 8000,
        b"[" + b"[]," * 5400,
        b"{" + b",".join(b'"%d":1' % number for number in range(1500)),
        b" " * 50_000_000,
    ]
    for untrusted in hostile:
        tracemalloc.start()
        try:
            assert read(untrusted).code is RefusalCode.MALFORMED
            assert tracemalloc.get_traced_memory()[1] < 2_000_000, untrusted[:20]
        finally:
            tracemalloc.stop()
