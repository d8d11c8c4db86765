"""JSON as the envelope's profile allows it: bounded, no duplicate keys, no NaN, no lone surrogates, integers ≤ 2⁵³.

Python's own parser takes all of these, and a peer that reads them another way would act on other facts than we do.
Source: RFC 8259 §4 and §6, RFC 7493 (I-JSON).
"""

from __future__ import annotations

import json
import math
from typing import Any

from gateway.core.refusal import RefusalCode, RefusedError

MAX_BYTES = 16 * 1024
MAX_DEPTH = 8
_MAX_INT = 2**53
_MAX_NUMBER_CHARS = 32


def loads(untrusted: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Decode strictly; raises RefusedError(malformed) on anything outside the profile. Time and memory are linear."""
    if len(untrusted) > max_bytes:
        raise _malformed(f"{len(untrusted)} bytes, at most {max_bytes}")
    try:
        text = untrusted.decode("utf-8", errors="strict")
    except UnicodeDecodeError as exc:
        raise _malformed("not UTF-8") from exc
    # The depth is bounded before the parser recurses, so that 10⁵ brackets cost one pass and no stack.
    _check_depth(text, max_depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as exc:
        raise _malformed("not JSON") from exc
    _check_texts(value)
    return value


def dumps(value: Any) -> bytes:
    """Canonical bytes: sorted keys, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _malformed(detail: str) -> RefusedError:
    return RefusedError(RefusalCode.MALFORMED, detail)


def _check_depth(text: str, max_depth: int) -> None:
    # So few brackets in all, strings included, can't be too deep: true of nearly every command, and 20 times cheaper.
    if text.count("{") + text.count("[") <= max_depth:
        return
    depth = 0
    in_string = False
    escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > max_depth:
                raise _malformed(f"deeper than {max_depth}")
        elif char in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _malformed("duplicate key")
        _check_text(key)
        _check_texts(value)
        result[key] = value
    return result


def _check_texts(value: Any) -> None:
    """Every string of a value, through lists of lists; objects inside have been through `_object`."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise _malformed("lone surrogate") from exc
    if "\x00" in text:
        raise _malformed("NUL in a string")


def _no_constant(name: str) -> Any:
    raise _malformed(name)


def _int(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_CHARS:
        raise _malformed("integer too long")
    value = int(digits)
    if abs(value) > _MAX_INT:
        raise _malformed("integer beyond 2^53")
    return value


def _float(digits: str) -> float:
    if len(digits) > _MAX_NUMBER_CHARS:
        raise _malformed("number too long")
    value = float(digits)
    if not math.isfinite(value):
        raise _malformed("number out of range")
    return value
