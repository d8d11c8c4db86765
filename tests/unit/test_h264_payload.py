"""Access units as RTP payloads, read back by aiortc's depacketizer, which is none of ours.

Mutations that turn these red, each tried: STAP-A without its lengths; the fragment's end bit left out; fragments cut at
`most_bytes` instead of two less; trailing zeros kept.
"""

from __future__ import annotations

import pytest
from aiortc.codecs.h264 import h264_depayload
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.h264_payload import MAX_PAYLOAD_BYTES, nal_units, payloads


def annex_b(nals: list[bytes], *, long_codes: bool = True) -> bytes:
    return b"".join((b"\0\0\0\1" if long_codes else b"\0\0\1") + nal for nal in nals)


def a_nal(kind: int, size: int) -> bytes:
    # No start code inside, as the encoder's emulation prevention sees to.
    return bytes([0x60 | kind]) + bytes(1 + index % 255 for index in range(size - 1))


def read_back(made: list[bytes]) -> bytes:
    return b"".join(h264_depayload(payload) for payload in made)


NALS = st.lists(st.tuples(st.sampled_from([1, 5, 6, 7, 8, 9]), st.integers(2, 5000)), min_size=1, max_size=6)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(NALS, st.booleans())
def test_a_unit_comes_back_as_it_was_in_packets_that_fit(sizes, long_codes):
    nals = [a_nal(kind, size) for kind, size in sizes]
    made = payloads(annex_b(nals, long_codes=long_codes))
    assert read_back(made) == annex_b(nals)
    assert max(map(len, made)) <= MAX_PAYLOAD_BYTES


def test_what_is_small_shares_a_packet_and_fragments_are_of_one_size():
    made = payloads(annex_b([a_nal(7, 20), a_nal(8, 8), a_nal(5, 3000)]))
    assert made[0][0] & 0x1F == 24
    fragments = made[1:]
    assert {payload[0] & 0x1F for payload in fragments} == {28}
    assert [payload[1] >> 6 for payload in fragments] == [0b10, 0b00, 0b01]
    assert max(map(len, fragments)) - min(map(len, fragments)) <= 2


def test_a_unit_that_fits_is_sent_as_it_is():
    nal = a_nal(1, MAX_PAYLOAD_BYTES - 3)
    assert payloads(annex_b([nal])) == [nal]


def test_zeros_that_trail_a_unit_are_not_sent():
    assert list(nal_units(b"\0\0\1\x65ab\0\0\0\0\1\x41cd\0")) == [b"\x65ab", b"\x41cd"]
    assert payloads(b"") == payloads(b"no start code") == []
