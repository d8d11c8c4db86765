"""Is this the ledger that was written? Reading only: usable on a copy, without the lock, beside a running writer.

What it can tell depends on what was signed. Records after the newest checkpoint are chained but not signed: a changed
last record among them looks like a torn write, and the last ones can be cut off unseen. Whoever holds the signing key
can rewrite everything; only a witness that kept an earlier checkpoint can tell (`witnessed`). A key that the attacker
put in place of ours shows only to whoever gives the true one (`vkey`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gateway.ledger.checkpoint import NOTE_LINES, Checkpoint, parse_checkpoint, verify_checkpoint
from gateway.ledger.note import MAX_NOTE_BYTES, NoteError, VerifierKey, parse_note
from gateway.ledger.record import FIRST_PREV, SaltedRecord
from gateway.ledger.refused import Finding, LedgerRefusedError
from gateway.ledger.segment import CHECKPOINT, CHECKPOINTS, PUBLIC_KEY, Scan, TornTail
from gateway.ledger.tree import EMPTY_ROOT, CompactTree

_MAX_NOTE_LINE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """A ledger that verifies. `size` counts all records, `records` those with a body, `erased` those without."""

    size: int
    records: int
    erased: int
    root_hex: str
    checkpoint_size: int
    """Size under the newest signed checkpoint."""
    uncovered: int
    """Records appended after it: chained, not yet signed."""
    torn_tail_bytes: int
    """Length of a last line that was not written to its end; the writer cuts it off when it opens."""
    torn_checkpoint_bytes: int
    """The same for checkpoints.log."""
    key_id: str
    """The ledger key's id, 8 hex digits."""


def verify_directory(path: Path, vkey: str | None = None, *, witnessed: bytes | None = None) -> VerifyReport:
    """Check every line, every checkpoint and how they belong together; change nothing.

    `vkey` is the ledger's key from a source other than the ledger, and wins over ledger.pub. `witnessed` is a
    checkpoint (a signed note) that somebody else kept: the ledger must extend it. Raises LedgerRefusedError with a
    code, and NoteError if `vkey` is not a vkey.
    """
    key = read_public_key(path)
    if vkey is not None:
        true_key = VerifierKey.parse(vkey)
        if key != true_key:
            raise LedgerRefusedError(Finding.KEY_SUBSTITUTED, f"{PUBLIC_KEY}: the key is {key}, not {true_key}")
    found = audit(path, key, witnessed=witnessed)
    return VerifyReport(
        size=found.tree.size,
        records=found.tree.size - found.erased,
        erased=found.erased,
        root_hex=found.tree.root().hex(),
        checkpoint_size=found.checkpoints.latest.size,
        uncovered=found.tree.size - found.checkpoints.latest.size,
        torn_tail_bytes=found.torn_tail.size_bytes if found.torn_tail else 0,
        torn_checkpoint_bytes=found.checkpoints.torn_bytes,
        key_id=key.key_id.hex(),
    )


def read_public_key(path: Path) -> VerifierKey:
    """The key a ledger says is its own."""
    try:
        content = (path / PUBLIC_KEY).read_bytes()
    except FileNotFoundError as error:
        raise LedgerRefusedError(Finding.REMOVED, f"{PUBLIC_KEY}: the file is missing") from error
    except OSError as error:
        raise LedgerRefusedError(Finding.UNREADABLE, f"{PUBLIC_KEY}: {error.strerror}") from error
    try:
        key = VerifierKey.parse(content.decode().removesuffix("\n"))
    except (NoteError, UnicodeDecodeError) as error:
        raise LedgerRefusedError(Finding.EDITED, f"{PUBLIC_KEY} line 1: {error}") from error
    if content != f"{key}\n".encode():
        raise LedgerRefusedError(Finding.EDITED, f"{PUBLIC_KEY}: it is not one vkey on one line")
    return key


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What checkpoints the ledger holds. `whole_bytes` of checkpoints.log are whole notes, `torn_bytes` follow."""

    latest: Checkpoint
    latest_note: bytes
    earlier: tuple[tuple[str, Checkpoint], ...]
    whole_bytes: int
    torn_bytes: int


@dataclass(slots=True)
class Audit:
    """The state of a ledger that was found good."""

    checkpoints: Checkpoints
    tree: CompactTree = field(default_factory=CompactTree)
    prev: str = FIRST_PREV
    """Leaf hash of the last record, hex."""
    erased: int = 0
    last_record: SaltedRecord | None = None
    segment_starts: list[int] = field(default_factory=list)
    """For each segment the number of records before it."""
    last_segment_bytes: int = 0
    """Length of the last segment without a torn tail."""
    torn_tail: TornTail | None = None


def audit(
    path: Path, key: VerifierKey, *, witnessed: bytes | None = None, check_earlier_signatures: bool = True
) -> Audit:
    """Read and check a whole ledger under `key`. Raises LedgerRefusedError.

    Without `check_earlier_signatures` the roots of checkpoints.log must still be the tree's, which already rules out
    every lie in it; the writer leaves them out at start for speed.
    """
    # The checkpoints before the segments, and the earlier before the newest: a writer at work beside us can then only
    # make the records more than what is signed, never fewer.
    found = Audit(_read_checkpoints(path, key, check_earlier_signatures=check_earlier_signatures))
    claims = _claims(found.checkpoints)
    if witnessed is not None:
        claims.append(("the witnessed checkpoint", _verify(witnessed, key, "the witnessed checkpoint")))
    due: defaultdict[int, list[tuple[str, Checkpoint]]] = defaultdict(list)
    for where, claim in claims:
        due[claim.size].append((where, claim))
    # What is wrong with a line says more than a root that differs because of it, so the roots are judged at the end.
    forks = _differing(due.pop(0, []), EMPTY_ROOT)
    scan = Scan(path)
    for scanned in scan:
        while len(found.segment_starts) <= scanned.segment:
            found.segment_starts.append(found.tree.size)
            found.last_segment_bytes = 0
        found.tree.append(scanned.leaf_hash)
        found.prev = scanned.leaf_hash.hex()
        found.last_segment_bytes += len(scanned.line)
        record = scanned.stored.record()
        found.last_record = record or found.last_record
        found.erased += record is None
        if found.tree.size in due:
            forks += _differing(due.pop(found.tree.size), found.tree.root())
    while len(found.segment_starts) < len(scan.segments):
        found.segment_starts.append(found.tree.size)
        found.last_segment_bytes = 0
    found.torn_tail = scan.torn_tail
    if forks:
        raise LedgerRefusedError(Finding.FORKED, forks[0])
    if due:
        raise _too_short(found, *due[max(due)][0])
    return found


def _too_short(found: Audit, where: str, claim: Checkpoint) -> LedgerRefusedError:
    short = f"{where} covers {claim.size} records, the ledger has {found.tree.size}"
    if found.torn_tail and found.torn_tail.has_newline and claim.size == found.tree.size + 1:
        return LedgerRefusedError(Finding.EDITED, f"{found.torn_tail.where}: the CRC does not fit the line; {short}")
    return LedgerRefusedError(Finding.TRUNCATED, f"rolled back: {short}")


def _differing(claims: list[tuple[str, Checkpoint]], root: bytes) -> list[str]:
    return [
        f"{where}: root differs: signed for {claim.size} records was {claim.root.hex()}, the records give {root.hex()}"
        for where, claim in claims
        if claim.root != root
    ]


def _claims(checkpoints: Checkpoints) -> list[tuple[str, Checkpoint]]:
    """All checkpoints with where they stand; none may be smaller than one that was written before it."""
    claims = [*checkpoints.earlier, (CHECKPOINT, checkpoints.latest)]
    largest = 0
    for where, claim in claims:
        if claim.size < largest:
            raise LedgerRefusedError(
                Finding.REORDERED if where != CHECKPOINT else Finding.REMOVED,
                f"{where}: rolled back: it covers {claim.size} records, an earlier one covers {largest}",
            )
        largest = claim.size
    return claims


def _read_checkpoints(path: Path, key: VerifierKey, *, check_earlier_signatures: bool) -> Checkpoints:
    earlier: list[tuple[str, Checkpoint]] = []
    whole_bytes = torn_bytes = 0
    try:
        if (path / CHECKPOINTS).exists():
            with (path / CHECKPOINTS).open("rb") as file:
                note, line_number = _read_note(file), 1
                while note:
                    following = _read_note(file)
                    where = f"{CHECKPOINTS} line {line_number}"
                    try:
                        earlier.append((where, _verify(note, key, where, signature=check_earlier_signatures)))
                        whole_bytes += len(note)
                    except LedgerRefusedError:
                        if following:
                            raise
                        # A write that was cut off: the same checkpoint then still stands in its own file.
                        torn_bytes = len(note)
                    note, line_number = following, line_number + NOTE_LINES
        with (path / CHECKPOINT).open("rb") as file:
            latest = file.read(MAX_NOTE_BYTES + 1)
    except FileNotFoundError as error:
        raise LedgerRefusedError(Finding.REMOVED, f"{CHECKPOINT}: the file is missing") from error
    except OSError as error:
        raise LedgerRefusedError(Finding.UNREADABLE, f"{CHECKPOINT}: {error.strerror}") from error
    return Checkpoints(_verify(latest, key, CHECKPOINT), latest, tuple(earlier), whole_bytes, torn_bytes)


def _read_note(file: BinaryIO) -> bytes:
    return b"".join(file.readline(_MAX_NOTE_LINE_BYTES) for _ in range(NOTE_LINES))


def _verify(untrusted_note: bytes, key: VerifierKey, where: str, *, signature: bool = True) -> Checkpoint:
    try:
        note = parse_note(untrusted_note)
        if not any(key.made(each) for each in note.signatures):
            raise LedgerRefusedError(
                Finding.KEY_SUBSTITUTED, f"{where}: it is not signed by {key.name} ({key.key_id.hex()})"
            )
        return verify_checkpoint(untrusted_note, key) if signature else parse_checkpoint(note.untrusted_text)
    except NoteError as error:
        raise LedgerRefusedError(Finding.EDITED, f"{where}: {error}") from error
