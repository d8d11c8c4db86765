"""The words on the media socket: a sealed datagram or a word, and ValueError for all else.

Mutations of gateway/ipc/media.py that turn these red, each tried: RecursionError not caught; MAX_CONTROL_BYTES not
asked; the kind byte not looked at; one decoder for both directions; of datagrams that came together: the last one's
length not asked, an empty one let through, MAX_DATAGRAM_BYTES or MAX_TOGETHER not asked.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.ipc import media

LINE = "1 1 udp 2130706431 127.0.0.1 5000 typ host"
FROM_EYE = [media.Gather("abcd", "p" * 22), media.Connect("abcd", "p" * 22, [LINE] * 16, False, True)]
FROM_LINK = [media.Gathered([LINE]), media.Connected(), media.Failed()]
DEEP = b"\x01\x82\xa1x" + b"\x91" * 8000 + b"\xa4type\xa5Ready"


@given(st.binary(max_size=1500))
def test_a_sealed_datagram_passes_unread_both_ways(datagram):
    assert media.from_eye(media.sealed(datagram)) == [datagram]
    assert media.from_link(media.sealed(datagram)) == datagram


@pytest.mark.slow
@given(st.lists(st.binary(min_size=1, max_size=media.MAX_DATAGRAM_BYTES), min_size=1, max_size=media.MAX_TOGETHER))
def test_datagrams_that_leave_together_come_apart_as_they_were(datagrams):
    frame = media.together(datagrams)
    assert len(frame) <= media.MAX_FRAME_BYTES
    assert media.from_eye(frame) == datagrams
    with pytest.raises(ValueError):
        media.from_link(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x02",
        b"\x02\x00",
        b"\x02\x00\x00",
        b"\x02\x00\x02a",
        b"\x02\x00\x01ab",
        b"\x02\x00\x01a\x00\x00\x00\x01b",
        b"\x02\x05\xdd" + bytes(1501),
        b"\x02" + b"\x00\x01a" * 21,
    ],
)
def test_what_is_not_whole_datagrams_is_refused(frame):
    with pytest.raises(ValueError):
        media.from_eye(frame)


@pytest.mark.parametrize("word", FROM_EYE, ids=lambda word: type(word).__name__)
def test_the_eyes_words_are_understood_by_the_link_alone(word):
    assert media.from_eye(media.control(word)) == word
    with pytest.raises(ValueError):
        media.from_link(media.control(word))


@pytest.mark.parametrize("word", FROM_LINK, ids=lambda word: type(word).__name__)
def test_the_links_words_are_understood_by_the_eye_alone(word):
    assert media.from_link(media.control(word)) == word
    with pytest.raises(ValueError):
        media.from_eye(media.control(word))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=300) | st.binary(max_size=300).map(lambda data: b"\x01" + data))
@example(DEEP)
@example(b"\x01\x81\xa4type\xa2\xff\xfe")
@example(b"\x01")
@example(b"\x02")
def test_no_bytes_do_more_than_be_refused(untrusted):
    for read in (media.from_eye, media.from_link):
        try:
            got = read(untrusted)
        except ValueError:
            continue
        assert isinstance(got, bytes | list | media.Word)


@pytest.mark.parametrize(
    "word",
    [
        media.Gather("abc", "p" * 22),
        media.Gather("ab\r\ncd", "p" * 22),
        media.Gather("abcd", "p" * 257),
        media.Connect("abcd", "p" * 22, [LINE] * 17, False, False),
        media.Connect("abcd", "p" * 22, ["x" * 301], False, False),
    ],
)
def test_a_word_out_of_bounds_is_refused(word):
    with pytest.raises(ValueError):
        media.from_eye(media.control(word))


@pytest.mark.parametrize("kind", [2, 3, 0x81, 255])
def test_a_word_under_another_kind_byte_is_refused(kind):
    with pytest.raises(ValueError):
        media.from_eye(bytes([kind]) + media.control(FROM_EYE[0])[1:])


def test_a_word_longer_than_any_word_is_refused_unread():
    long = b"\x01" + msgspec.msgpack.encode(media.Connected()) + b"\xc0" * media.MAX_CONTROL_BYTES
    with pytest.raises(ValueError, match="neither"):
        media.from_link(long)
