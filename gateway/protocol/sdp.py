"""The few things about an SDP that decide who sees the picture.

Browsers may use any fingerprint of an SDP (Chromium took the sha-512 one while the sha-256 line was false, measured
November 2026). So exactly one distinct fingerprint is allowed, of kind sha-256, and it is signed with the rest.
Source: RFC 8122 §5, RFC 8839 §5.1.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.refusal import RefusalCode, RefusedError

MAX_LINES: Final = 256
MAX_CANDIDATES: Final = 16
_FINGERPRINT: Final = re.compile(r"a=fingerprint:([A-Za-z0-9-]+) ([0-9A-Fa-f:]+)\Z")
_SHA256_HEX: Final = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){31}\Z")


def only_fingerprint(untrusted_sdp: str) -> str:
    """The one sha-256 fingerprint of an SDP, upper case; raises RefusedError(malformed) if there isn't exactly one."""
    lines = untrusted_sdp.splitlines()
    if len(lines) > MAX_LINES or sum(line.startswith("a=candidate:") for line in lines) > MAX_CANDIDATES:
        raise RefusedError(RefusalCode.MALFORMED, "SDP too long")
    found: set[str] = set()
    for line in lines:
        if not line.lower().startswith("a=fingerprint"):
            continue
        match = _FINGERPRINT.match(line)
        if match is None or match[1].lower() != "sha-256" or not _SHA256_HEX.match(match[2].upper()):
            raise RefusedError(RefusalCode.MALFORMED, "fingerprint is not sha-256")
        found.add(match[2].upper())
    if len(found) != 1:
        raise RefusedError(RefusalCode.MALFORMED, f"{len(found)} fingerprints")
    return found.pop()


def keep_sha256(sdp: str) -> str:
    """Our own answer with its sha-256 fingerprint only; lines end in CR LF (RFC 8866 §5)."""
    kept = [
        line
        for line in sdp.splitlines()
        if not line.startswith("a=fingerprint:") or line.startswith("a=fingerprint:sha-256 ")
    ]
    return "\r\n".join([*kept, ""])


def candidates(untrusted_sdp: str) -> list[str]:
    """The candidates of an SDP as ICE libraries want them, without `a=candidate:`; at most MAX_CANDIDATES."""
    mark = "a=candidate:"
    return [line.removeprefix(mark) for line in untrusted_sdp.splitlines() if line.startswith(mark)][:MAX_CANDIDATES]
