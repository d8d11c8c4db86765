"""The agreement as a type: untrusted bytes become a frozen `Agreement` here, or are refused.

It promises: total (every input gives an `Agreement` or `RefusedError` with code `malformed`), bounded (size, depth,
counts and spans have limits, so that nothing signed by mistake can cost the guard its evening) and closed (an unknown
field, a duplicate key or a wrong type is refused; nothing is coerced). There is no field for a name, an address or a
personal number.

Source: docs/protocol.md, "Agreement".
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time
from typing import Annotated, Any, Final, Literal, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from gateway.agreement.recurrence import RECURRENCE_MAX_CHARS, parse_recurrence
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.core.schema_type import make_ready

AGREEMENT_MAX_BYTES: Final = 16 * 1024
"""Source: docs/protocol.md, "Envelope"."""
AGREEMENT_MAX_DEPTH: Final = 8
VALIDITY_MAX_DAYS: Final = 3660
"""Ten years: counting the days of a rule with COUNT then costs a few milliseconds, once, and is remembered."""
YEARS: Final = range(2020, 2100)
"""Years that may appear. Keeps every later conversion to an instant within what `datetime` can hold."""

# Only names of the form Area/Location. Without the closed list of areas `right/Europe/Stockholm` would be accepted on
# systems that ship it: it counts leap seconds, so it is 27 s off.
_ZONE = re.compile(
    r"(?:UTC|(?:Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Europe|Indian|Pacific)"
    r"(?:/[A-Za-z0-9_+-]{1,32}){1,2})"
)
_DETAIL_MAX_CHARS: Final = 200

# `\Z`, not `$`: `$` also matches before a final newline.
Id = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
_ClockTime = Annotated[str, msgspec.Meta(pattern=r"\A(?:[01][0-9]|2[0-3]):[0-5][0-9]\Z")]
_LocalMinute = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Closed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every object of the agreement: immutable, and closed to fields it does not know."""


class Validity(_Closed, frozen=True):
    """Local dates, both inclusive. An occasion belongs to the date on which it starts, by the agreement's words."""

    first: date = msgspec.field(name="from")
    last: date = msgspec.field(name="until")


class Consent(_Closed, frozen=True):
    """One person's consent. `given` of None: the person is named, but consent is missing, so nothing opens.

    Dates are local. Consent holds from `given` up to and including `until`; on the date `withdrawn` it is already gone.
    """

    given: date | None
    how: Id | None = None
    ref: Id | None = None
    until: date | None = None
    withdrawn: date | None = None

    def holds(self, first: date, last: date) -> bool:
        """True if consent holds on every local date from `first` to `last`."""
        return (
            self.given is not None
            and self.given <= first
            and (self.until is None or last <= self.until)
            and (self.withdrawn is None or last < self.withdrawn)
        )


class ConsentGroup(_Closed, frozen=True):
    """Who must consent. A resident of None is missing consent; a cohabitant of None means nobody else lives there."""

    resident: Consent | None
    cohabitant: Consent | None


class Recheck(_Closed, frozen=True):
    """A new look after one that did not see the resident: `after_min` minutes later, at most `times` times."""

    after_min: Annotated[int, msgspec.Meta(ge=1, le=60)]
    times: Annotated[int, msgspec.Meta(ge=0, le=3)]


class Line(_Closed, frozen=True):
    """One agreed check: when it recurs (`rrule`, local `start` as HH:MM), for how long it may wait and may last.

    `exceptions` are local dates on which the occasion does not happen.
    """

    id: Id
    rrule: Annotated[str, msgspec.Meta(min_length=1, max_length=RECURRENCE_MAX_CHARS)]
    start: _ClockTime
    window_min: Annotated[int, msgspec.Meta(ge=1, le=240)]
    max_s: Annotated[int, msgspec.Meta(ge=5, le=180)]
    recheck: Recheck
    exceptions: Annotated[tuple[date, ...], msgspec.Meta(max_length=366)] = ()

    @property
    def start_time(self) -> time:
        """Local wall time, without a zone."""
        return time(int(self.start[:2]), int(self.start[3:]))


class Picture(_Closed, frozen=True):
    mode: Literal["clear", "softened"]


class HandoverStep(_Closed, frozen=True):
    """What home care does when the resident was not seen, in the order listed."""

    do: Id
    within_min: Annotated[int, msgspec.Meta(ge=1, le=240)]
    unit: Id | None = None


class Pause(_Closed, frozen=True):
    """No check from the local minute `first` until the local minute `last` (YYYY-MM-DDTHH:MM)."""

    first: _LocalMinute = msgspec.field(name="from")
    last: _LocalMinute = msgspec.field(name="until")


class Agreement(_Closed, frozen=True):
    """What the resident and the municipality agreed. Only `parse_agreement` makes one from bytes."""

    agreement: Id
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    gateway: Id
    install_epoch: _Count
    timezone: Annotated[str, msgspec.Meta(max_length=64)]
    valid: Validity
    consent: ConsentGroup
    lines: Annotated[tuple[Line, ...], msgspec.Meta(min_length=1, max_length=12)]
    picture: Picture
    lamp: Literal["dim", "on"]
    if_not_seen: Annotated[tuple[HandoverStep, ...], msgspec.Meta(min_length=1, max_length=8)]
    pauses: Annotated[tuple[Pause, ...], msgspec.Meta(max_length=64)]
    resident_ref: Id

    @property
    def zone(self) -> ZoneInfo:
        """The agreement's time zone; `zoneinfo` keeps it in its cache."""
        return ZoneInfo(self.timezone)

    def line(self, line_id: str) -> Line | None:
        """The line with that id, or None."""
        return next((line for line in self.lines if line.id == line_id), None)


make_ready(Agreement)


def parse_agreement(untrusted: bytes | dict[str, Any]) -> Agreement:
    """Make an `Agreement` of UTF-8 JSON (at most 16 KiB, nested at most 8 deep), or of an object already decoded.

    A caller who decodes by itself must itself have refused duplicate keys; bytes are checked here.

    Raises:
        RefusedError: `malformed`, on anything wrong; nothing else is raised for any bytes or any decoded JSON object.

    Source: docs/protocol.md, "Agreement".
    """
    raw = untrusted if isinstance(untrusted, dict) else _decode(untrusted)
    try:
        agreement = msgspec.convert(raw, Agreement, strict=True)
    except (ValueError, RecursionError) as error:  # msgspec.ValidationError, and UnicodeEncodeError on lone surrogates
        _refuse(str(error), error)
    _check(agreement)
    return agreement


def encode_agreement(agreement: Agreement) -> bytes:
    """The one canonical form: JSON, keys sorted, no white space, every field written, ASCII and so UTF-8.

    `parse_agreement(encode_agreement(a)) == a`, and equal agreements give equal bytes.
    """
    return msgspec.json.encode(agreement, order="sorted")


def _refuse(detail: str, cause: Exception | None = None) -> NoReturn:
    raise RefusedError(RefusalCode.MALFORMED, detail[:_DETAIL_MAX_CHARS]) from cause


def _decode(untrusted: bytes) -> object:
    if len(untrusted) > AGREEMENT_MAX_BYTES:
        _refuse("agreement is too large")
    if _depth(untrusted) > AGREEMENT_MAX_DEPTH:
        _refuse("agreement is nested too deep")
    try:
        # The standard library's decoder, because msgspec keeps the last of two equal keys without a word.
        return json.loads(untrusted.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(str(error), error)


def _depth(untrusted: bytes) -> int:
    """Deepest nesting of brackets outside strings. Counted before parsing, so that the parser never recurses far."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in untrusted:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:  # backslash
                escaped = True
            elif byte == 0x22:  # quotation mark
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key")
    return fields


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _check(agreement: Agreement) -> None:
    """What the types alone can't say."""
    try:
        _check_zone(agreement.timezone)
        _check_validity(agreement.valid)
        for person in (agreement.consent.resident, agreement.consent.cohabitant):
            if person is not None:
                _check_consent(person)
        _check_lines(agreement.lines)
        for pause in agreement.pauses:
            _check_pause(pause)
    except ValueError as error:
        _refuse(str(error), error)


def _check_zone(name: str) -> None:
    if not _ZONE.fullmatch(name):
        raise ValueError("timezone is not of the form Area/Location")
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:  # OSError: the name of a directory
        raise ValueError("timezone is unknown") from error


def _check_validity(valid: Validity) -> None:
    if valid.first.year not in YEARS or valid.last.year not in YEARS:
        raise ValueError("validity is outside the years that may appear")
    if not 0 <= (valid.last - valid.first).days < VALIDITY_MAX_DAYS:
        raise ValueError("validity ends before it begins, or is longer than ten years")


def _check_consent(consent: Consent) -> None:
    if consent.given is None:
        return
    if consent.how is None or consent.ref is None:
        raise ValueError("consent is given, but not how or where it is filed")
    if consent.until is not None and consent.until < consent.given:
        raise ValueError("consent ends before it is given")


def _check_lines(lines: tuple[Line, ...]) -> None:
    if len({line.id for line in lines}) != len(lines):
        raise ValueError("two lines have the same id")
    for line in lines:
        parse_recurrence(line.rrule)


def _check_pause(pause: Pause) -> None:
    first, last = datetime.fromisoformat(pause.first), datetime.fromisoformat(pause.last)
    if first.year not in YEARS or last.year not in YEARS:
        raise ValueError("a pause is outside the years that may appear")
    if first >= last:
        raise ValueError("a pause ends before it begins")
