"""Until when our own client certificate holds, without a library: link has none that reads certificates (9 MB).

Only for a file of our own configuration; nothing is verified here. Source: RFC 5280 §4.1, X.690 (DER).
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Final

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18


def not_after(pem: bytes) -> datetime:
    """The end of the first certificate in `pem`. Raises ValueError when there is none, or it is not of the form."""
    text = pem.decode("ascii")
    begin = text.index("-----BEGIN CERTIFICATE-----")
    end = text.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(text[begin:end])
    tbs = _inside(_inside(der, 0), 0)
    at = 0
    fields: list[tuple[int, bytes]] = []
    while at < len(tbs) and len(fields) < 6:
        tag, start, stop = _element(tbs, at)
        fields.append((tag, tbs[start:stop]))
        at = stop
    if fields and fields[0][0] == _VERSION:
        fields = fields[1:]
    # serialNumber, signature, issuer, validity
    if len(fields) < 4 or fields[3][0] != _SEQUENCE:
        raise ValueError("no certificate")
    validity = fields[3][1]
    tag, start, stop = _element(validity, _element(validity, 0)[2])
    written = validity[start:stop].decode("ascii")
    if tag == _UTC_TIME:
        # Source: RFC 5280 §4.1.2.5.1: two digits from 50 on are of the twentieth century.
        written = ("19" if int(written[:2]) >= 50 else "20") + written
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _inside(der: bytes, at: int) -> bytes:
    tag, start, stop = _element(der, at)
    if tag != _SEQUENCE:
        raise ValueError("no sequence")
    return der[start:stop]


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """(tag, where its content begins, where it ends)."""
    if at + 2 > len(der):
        raise ValueError("cut short")
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count])
        start += count
    if start + length > len(der):
        raise ValueError("cut short")
    return tag, start, start + length
