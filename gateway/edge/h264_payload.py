"""An H.264 access unit as RTP payloads. Source: RFC 6184 §5.6 (single unit), §5.7.1 (STAP-A), §5.8 (FU-A).

Ours and not aiortc's: its packets of 1300 bytes don't fit a tunnel over a path of 1280, where each would become two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_PAYLOAD_BYTES: Final = 1140
"""With RTP (24), SRTP (16), TURN (4), UDP and IP (28), and WireGuard with its UDP and IP (60): 1272 of 1280 bytes."""
_FU_A: Final = 28
_STAP_A: Final = 24


def payloads(unit: bytes, most_bytes: int = MAX_PAYLOAD_BYTES) -> list[bytes]:
    """The payloads of one Annex B access unit, in order; the last one gets the marker. Bytes before the first start
    code are none of a unit and are left out.
    """
    made: list[bytes] = []
    small: list[bytes] = []
    small_bytes = 1
    for nal in nal_units(unit):
        if len(nal) + 3 <= most_bytes:
            if small_bytes + 2 + len(nal) > most_bytes:
                made.append(_together(small))
                small, small_bytes = [], 1
            small.append(nal)
            small_bytes += 2 + len(nal)
            continue
        if small:
            made.append(_together(small))
            small, small_bytes = [], 1
        made += _fragments(nal, most_bytes)
    if small:
        made.append(_together(small))
    return made


def nal_units(unit: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B access unit, without start codes and the zeros that may trail. Source: H.264 B.1."""
    begin = unit.find(b"\0\0\1")
    while begin >= 0:
        begin += 3
        end = unit.find(b"\0\0\1", begin)
        nal = (unit[begin:] if end < 0 else unit[begin:end]).rstrip(b"\0")
        if nal:
            yield nal
        begin = end


def _together(nals: list[bytes]) -> bytes:
    if len(nals) == 1:
        return nals[0]
    importance = max(nal[0] & 0x60 for nal in nals)
    return bytes([importance | _STAP_A]) + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def _fragments(nal: bytes, most_bytes: int) -> list[bytes]:
    indicator, kind = nal[0] & 0x60 | _FU_A, nal[0] & 0x1F
    body_bytes = len(nal) - 1
    # Of equal size, so that no packet carries a few bytes only.
    count = -(-body_bytes // (most_bytes - 2))
    size = -(-body_bytes // count)
    made = []
    for begin in range(1, len(nal), size):
        first, last = begin == 1, begin + size >= len(nal)
        made.append(bytes([indicator, first << 7 | last << 6 | kind]) + nal[begin : begin + size])
    return made
