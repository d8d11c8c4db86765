r"""What the ledger says, and how a record becomes one line of a file.

A record has no free text: every string is an identifier, a word from a closed list, a number or a hash, so that no
name, room or personal number has a field to stand in. A line is

    <CRC-32, 8 hex digits> <canonical JSON of {seq, prev, digest, body}>\n

`digest` is the SHA-256 of the body's canonical JSON with a random 128-bit salt in it; the tree's leaf is the canonical
JSON of {digest, prev, seq}. So a body can be erased when its time is over, its leaf still verifies, and nobody can
guess the body from the digest. Reading is strict: a line that is not byte for byte what we would have written is
refused.
"""

from __future__ import annotations

import json
import re
import secrets
import zlib
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from gateway.ledger.tree import leaf_hash

MAX_LINE_BYTES = 4096
"""No record of the schema reaches half of this."""
SALT_BYTES = 16
FIRST_PREV = "0" * 64
_MAX_INT = 2**53 - 1
"""Largest integer that every JSON reader keeps exact. Source: RFC 8259 section 6."""
_CRC = re.compile(rb"[0-9a-f]{8}")

# \Z and not $, which would let a newline through; [0-9] and not \d, which would let other scripts' digits through.
IDENTIFIER = r"^[A-Za-z0-9._:-]{1,64}\Z"
PERSON = r"^(?!(?:18|19|20)?[0-9]{6}-?[0-9]{4}\Z)[A-Za-z0-9._:-]{1,64}\Z"
"""A pseudonym; a Swedish personal number by itself is no pseudonym."""
OCCASION = r"^(?:[0-9TZ:+.-]{1,40}|[A-Za-z0-9._:-]{1,64})\Z"
WORD = r"^[a-z0-9-]{1,40}\Z"
VERSION = r"^[A-Za-z0-9._:+~-]{1,64}\Z"

Identifier = Annotated[str, msgspec.Meta(pattern=IDENTIFIER)]
Person = Annotated[str, msgspec.Meta(pattern=PERSON)]
Occasion = Annotated[str, msgspec.Meta(pattern=OCCASION)]
Word = Annotated[str, msgspec.Meta(pattern=WORD)]
Version = Annotated[str, msgspec.Meta(pattern=VERSION)]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_INT)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0)]


class RecordKind(StrEnum):
    """What happened. Source: docs/protocol.md, "Ledger"; `heartbeat` bounds the length of a check that was cut off."""

    OPENED = "opened"
    LIVE = "live"
    CLOSED = "closed"
    REFUSED = "refused"
    VERDICT = "verdict"
    MISSED_CHECK = "missed-check"
    HANDOVER = "handover"
    AGREEMENT = "agreement"
    CONSENT = "consent"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"
    TRUST = "trust"
    BOOT = "boot"
    CLOCK = "clock"
    POWER = "power"
    TAMPER = "tamper"
    UPDATE = "update"
    SETUP = "setup"
    RETURNED = "returned"
    HEARTBEAT = "heartbeat"


RESTATED: Final = "restated"
"""`why` of a record that says again what an older one said, before retention takes the older one's payload."""
LIFTED: Final = "lifted"
"""The same of a withdrawal that a fresh consent has lifted since: the old consent stays dead, nothing is withdrawn."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fact. Patterns and ranges are checked when it is appended or read, not when it is made.

    Fields that are None are not written, so that a field added later does not change how old records are spelled.
    """

    boot: Hex32
    """Boot id; `boottime` means something only within it."""
    boottime: Seconds
    """BOOTTIME in seconds."""
    time_lo: Seconds
    """Unix time in seconds: it was not earlier than this."""
    time_hi: Seconds | None = None
    """Unix time in seconds: it was not later than this; None is unbounded."""
    kind: RecordKind
    who: Person | None = None
    role: Identifier | None = None
    check: Identifier | None = None
    line: Identifier | None = None
    """Id of the line of the agreement."""
    occasion: Occasion | None = None
    attempt: Count | None = None
    why: Word | None = None
    watched_s: Seconds | None = None
    frames: Count | None = None
    count: Count | None = None
    """How many refusals of a burst this record stands for."""
    view: Word | None = None
    sw: Version
    """Version of the software that wrote the record."""
    version: Count | None = None
    """Version of the agreement, trust or configuration the record is about."""
    until_unix_s: Seconds | None = None
    """Until when something holds, a pause for example."""
    since_unix_s: Seconds | None = None
    """Since when it holds, where the record restates an older one that retention takes away."""
    digest_of: Hex64 | None = None
    """SHA-256 of the document the record is about."""


class SaltedRecord(Record, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record as it stands in the ledger."""

    salt: Hex32


class StoredLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a segment; an erased record has no body."""

    seq: Count
    prev: Hex64
    digest: Hex64
    body: SaltedRecord | msgspec.UnsetType = msgspec.UNSET

    def record(self) -> SaltedRecord | None:
        return None if isinstance(self.body, msgspec.UnsetType) else self.body

    def leaf_hash(self) -> bytes:
        """Hash of the tree's leaf; the body is in it by its digest only."""
        return leaf_hash(_canonical({"digest": self.digest, "prev": self.prev, "seq": self.seq}))

    def erased(self) -> StoredLine:
        return StoredLine(seq=self.seq, prev=self.prev, digest=self.digest)

    def encode(self) -> bytes:
        """The one spelling of this line, newline included."""
        content = _canonical(msgspec.to_builtins(self))
        return b"%08x %s\n" % (zlib.crc32(content), content)


class TornLineError(ValueError):
    """The line was not written to its end: no newline, or the CRC does not fit."""


_record_decoder = msgspec.json.Decoder(SaltedRecord)
_line_decoder = msgspec.json.Decoder(StoredLine)


def new_line(record: Record, *, seq: int, prev: str) -> StoredLine:
    """Salt `record` and chain it to the leaf hash `prev` (hex). ValueError if it breaks the schema."""
    salted = msgspec.to_builtins(record) | {"salt": secrets.token_hex(SALT_BYTES)}
    try:
        # Through the decoder and back: it checks what making a Record does not, and turns 5 into 5.0.
        body = _record_decoder.decode(_canonical(salted))
    except msgspec.MsgspecError as error:
        raise ValueError(f"the record breaks its schema: {error}") from error
    return StoredLine(seq=seq, prev=prev, digest=_digest(body), body=body)


def parse_line(untrusted_line: bytes) -> StoredLine:
    """Read one line with its newline. TornLineError or ValueError, with what is wrong, if we did not write it so."""
    if not untrusted_line.endswith(b"\n"):
        raise TornLineError("the line has no end")
    crc, content = untrusted_line[:8], untrusted_line[9:-1]
    if not _CRC.fullmatch(crc) or untrusted_line[8:9] != b" " or int(crc, 16) != zlib.crc32(content):
        raise TornLineError("the CRC does not fit the line")
    if len(untrusted_line) > MAX_LINE_BYTES:
        raise ValueError("the line is too long")
    try:
        line = _line_decoder.decode(content)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the line breaks the schema: {error}") from error
    if line.encode() != untrusted_line:
        raise ValueError("the line is not in its canonical spelling")
    body = line.record()
    if body is not None and _digest(body) != line.digest:
        raise ValueError("the body does not fit its digest")
    return line


def _digest(body: SaltedRecord) -> str:
    return sha256(_canonical(msgspec.to_builtins(body))).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")
