"""The words beside the picture: closed on the device's side. The browser's side: contract/test_picture_words.py.

Mutations that turn a test here red (gateway/protocol/picture.py): no `forbid_unknown_fields` of ViewSignal or
PictureWord; `ge` or `le` of Share dropped; `max_bytes=` not given to `strict_json.loads`; the length not asked in
`encode`.
"""

from __future__ import annotations

import json

import msgspec
import pytest
from picture_support import A_SIGNAL, NO_WORDS, WORDS

from gateway.core.refusal import RefusedError
from gateway.protocol import picture


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_a_word_is_read_as_it_was_said(word):
    data = picture.encode(word)
    assert picture.decode(data) == word
    assert json.loads(data)["kind"]


@pytest.mark.parametrize("name", NO_WORDS)
def test_what_is_no_word_is_refused(name):
    with pytest.raises(RefusedError):
        picture.decode(NO_WORDS[name].encode())


@pytest.mark.parametrize("word", [picture.AskClock(0), picture.AskClock(2**32 - 1), picture.StillShown(7)])
def test_the_page_asks_and_acknowledges(word):
    assert picture.decode_page(picture.encode(word)) == word


@pytest.mark.parametrize(
    "untrusted",
    [
        b"",
        b"{",
        b'{"kind":"ask-clock"}',
        b'{"kind":"ask-clock","asked":-1}',
        b'{"kind":"ask-clock","asked":4294967296}',
        b'{"kind":"ask-clock","asked":1,"asked":1}',
        b'{"kind":"still-shown","number":1,"why":"x"}',
        b'{"kind":"form","form":"video"}',
        b'{"kind":"ask-clock","asked":' + b"1" * picture.MAX_WORD_BYTES + b"}",
    ],
)
def test_what_is_no_word_of_the_page_is_refused(untrusted):
    with pytest.raises(RefusedError):
        picture.decode_page(untrusted)


def test_a_word_that_is_too_long_is_not_said():
    class Long(picture.PictureWord, frozen=True, tag="long"):
        text: str

    with pytest.raises(ValueError, match="at most"):
        picture.encode(Long("x" * picture.MAX_WORD_BYTES))


def test_no_word_speaks_of_a_person():
    """`not seen` is the operator's to say: no kind, field or value of the eye's words may come near it."""
    schema = json.dumps(msgspec.json.schema(picture.AnyWord)).lower()
    assert "misaimed" in schema
    for word in ("seen", "person", "resident", "verdict", "unsure", "empty", "bed"):
        assert word not in schema
    assert A_SIGNAL.view in picture.View
