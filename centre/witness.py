"""Witness of the homes' ledgers: a checkpoint is cosigned only if it extends the last one that was.

Who holds a ledger's key can rewrite all of it; only somebody who kept an earlier checkpoint can tell. The centre keeps
one of each home, and so may anybody elsewhere (`tillsyn witness`). What is shared is pure and stands first:

* `rule` is the order of checks of a witness, given the proof that came with a checkpoint.
* `rule_by_lines` needs no proof, because the centre holds the ledger's own lines and computes the tree from them.
* `Cosigner` makes cosignatures; `gateway.ledger.CosignerKey` verifies them.

Then `Witness`, which keeps the state: one writing transaction reads what is known, rules, and is durable before anybody
is answered. A home whose signed checkpoint is no extension of what is known has a log that was cut or forked: it is
disabled in that installation. Lines are not signed, so a false line can't be told from a home that lies about it; both
end there. A line that is missing disables nothing: the checkpoint waits for the line, for a proof, or for somebody who
looks at the alarm.

Source: https://c2sp.org/tlog-witness, https://c2sp.org/tlog-cosignature (Ed25519, type 0x04).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from centre.outcome import outcome_of_ending
from centre.store import Store, Witnessing
from gateway.core.error import ConfigError
from gateway.ledger import (
    EMPTY_ROOT,
    Checkpoint,
    CosignerKey,
    NoteError,
    RecordKind,
    VerifierKey,
    parse_line,
    parse_note,
    verify_checkpoint,
    verify_consistency,
)
from gateway.ledger.cosignature import cosigned_text
from gateway.ledger.note import decode_base64
from gateway.ledger.tree import HASH_BYTES, node_hash

MAX_PROOF_LINES: Final = 63
MAX_NOTE_BYTES: Final = 6 * 1024
"""Of a checkpoint that is kept: with our cosignature it must fit the store's column."""
MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + MAX_PROOF_LINES * 45 + 64
_SIZE: Final = re.compile(r"old (0|[1-9][0-9]{0,15})\Z")

_log = logging.getLogger(__name__)


# Cosignatures


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness's private key. One key, one witness: the signed text does not say the name."""

    name: str
    private_key: Ed25519PrivateKey

    @property
    def public(self) -> CosignerKey:
        return CosignerKey(self.name, self.private_key.public_key().public_bytes_raw())

    def cosign(self, checkpoint: Checkpoint, *, unix_s: int) -> bytes:
        """One signature line with its newline: as of `unix_s`, this was the largest consistent tree we had seen."""
        signature = unix_s.to_bytes(8) + self.private_key.sign(cosigned_text(checkpoint.text(), unix_s))
        encoded = base64.b64encode(self.public.key_id + signature).decode()
        return f"\N{EM DASH} {self.name} {encoded}\n".encode()


def read_cosigner(path: Path, name: str) -> Cosigner:
    """Raises ConfigError when the file is missing or holds no unencrypted Ed25519 private key."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{path}: not an unencrypted private key in PEM") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return Cosigner(name, key)


def read_ledger_key(gateway: str, vkey: str) -> VerifierKey:
    """The key under which a home's checkpoints must verify. Raises ConfigError."""
    try:
        key = VerifierKey.parse(vkey)
    except NoteError as exc:
        raise ConfigError(f"{gateway}: ledger_vkey: {exc}") from exc
    if key.name != f"tillsyn/{gateway}":
        raise ConfigError(f"{gateway}: ledger_vkey: it is the key of {key.name}, not of tillsyn/{gateway}")
    return key


# What a witness may say


@dataclass(frozen=True, slots=True)
class Head:
    """A tree by size and root; a witness that never cosigned knows the empty one."""

    size: int = 0
    root: bytes = EMPTY_ROOT


class Ruling(StrEnum):
    """What becomes of a checkpoint whose signature holds."""

    CONSISTENT = "consistent"
    """It extends what is known: cosign it, after it is kept."""
    REPEATED = "repeated"
    """It is known; nothing changes."""
    TOO_OLD_SIZE = "too-old-size"
    """The old size is above the checkpoint's."""
    OTHER_OLD_SIZE = "other-old-size"
    """The proof is from another size than the one that is known; says nothing of the log."""
    BAD_PROOF = "bad-proof"
    GAP = "gap"
    """Neither proof nor all lines; says nothing of the log."""
    LINES_FALSE = "lines-false"
    """The lines contradict what was witnessed before, which this checkpoint did not cause."""
    SHORTER = "log-shorter"
    FORKED = "log-forked"


BREAKS_THE_LOG: Final = frozenset({Ruling.SHORTER, Ruling.FORKED})
"""The home signed something that no honest continuation of its log would make it sign."""


def rule(known: Head, checkpoint: Checkpoint, *, old_size: int, proof: Sequence[bytes]) -> Ruling:
    """What a witness that knows `known` says to a checkpoint with a proof from `old_size`; its signature holds.

    Source: https://c2sp.org/tlog-witness, "add-checkpoint", in the order given there.
    """
    if old_size > checkpoint.size:
        return Ruling.TOO_OLD_SIZE
    if old_size != known.size:
        return Ruling.OTHER_OLD_SIZE
    if old_size == checkpoint.size and checkpoint.root != known.root:
        return Ruling.FORKED
    if old_size == 0 and checkpoint.size:
        # The empty tree is a prefix of every tree; there is nothing to prove, and nothing may be sent.
        return Ruling.BAD_PROOF if proof else Ruling.CONSISTENT
    if not verify_consistency(old_size, known.root, checkpoint.size, checkpoint.root, proof):
        return Ruling.BAD_PROOF
    return Ruling.CONSISTENT


@dataclass(frozen=True, slots=True)
class Peaks:
    """A tree of `size` leaves as the roots of its complete subtrees, largest first: enough to grow it."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def extended(self, leaf_hashes: Iterable[bytes]) -> Peaks:
        size, hashes = self.size, list(self.hashes)
        for leaf in leaf_hashes:
            node, carries = leaf, size
            while carries & 1:
                node, carries = node_hash(hashes.pop(), node), carries >> 1
            hashes.append(node)
            size += 1
        return Peaks(size, tuple(hashes))

    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY_ROOT
        node = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            node = node_hash(left, node)
        return node

    def to_hex(self) -> str:
        return b"".join(self.hashes).hex()

    @classmethod
    def from_hex(cls, size: int, text: str) -> Peaks:
        joined = bytes.fromhex(text)
        hashes = tuple(joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES))
        if len(hashes) != size.bit_count():
            raise ValueError("as many peaks as the size has ones in binary")
        return cls(size, hashes)


def rule_by_lines(known: Head, peaks: Peaks, checkpoint: Checkpoint, lines: Sequence[bytes] | None) -> Ruling:
    """What the holder of the ledger's lines says to a checkpoint above `known` whose signature holds.

    `peaks` are of the lines that were compared before (`peaks.size` ≤ `known.size`); `lines` are the raw ones from
    there to the checkpoint's end, None if one is missing.
    """
    if lines is None:
        return Ruling.GAP
    try:
        leaves = leaf_hashes(lines, first=peaks.size)
    except ValueError:
        return Ruling.LINES_FALSE
    unseen = known.size - peaks.size
    at_known = peaks.extended(leaves[:unseen])
    if at_known.root() != known.root:
        return Ruling.LINES_FALSE
    return Ruling.CONSISTENT if at_known.extended(leaves[unseen:]).root() == checkpoint.root else Ruling.FORKED


def leaf_hashes(lines: Iterable[bytes], *, first: int) -> list[bytes]:
    """The leaves of raw lines numbered from `first` on. ValueError if one is no line, or its body not its digest's."""
    leaves = []
    for seq, raw in enumerate(lines, first):
        line = parse_line(raw)
        if line.seq != seq:
            raise ValueError("the line has another number")
        leaves.append(line.leaf_hash())
    return leaves


@dataclass(frozen=True, slots=True)
class Submission:
    """A request for a cosignature, taken apart and not verified."""

    old_size: int
    proof: tuple[bytes, ...]
    untrusted_note: bytes


def parse_submission(untrusted: bytes) -> Submission:
    """Read the body of an `add-checkpoint` request. NoteError if it is not exactly of the form."""
    if len(untrusted) > MAX_REQUEST_BYTES:
        raise NoteError("the request is too long")
    head, blank, note = untrusted.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as exc:
        raise NoteError("the request is not text") from exc
    match = _SIZE.match(lines[0])
    if not blank or match is None or len(lines) - 1 > MAX_PROOF_LINES:
        raise NoteError("a request is an old size, a proof of at most 63 lines, an empty line and a checkpoint")
    proof = tuple(decode_base64(line) for line in lines[1:])
    if any(len(each) != HASH_BYTES for each in proof):
        raise NoteError("a proof line is one hash")
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError("the checkpoint is too long")
    return Submission(int(match[1]), proof, note)


def format_submission(old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """The body of an `add-checkpoint` request, for whoever asks a witness."""
    lines = [f"old {old_size}", *(base64.b64encode(each).decode() for each in proof)]
    return "\n".join(lines).encode() + b"\n\n" + note


# The state


@dataclass(frozen=True, slots=True)
class Log:
    """One home's ledger in one installation, and the key that signs its checkpoints."""

    gateway: str
    install_epoch: int
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What became of a checkpoint. `cosignature` is a signature line; None if it was not cosigned.

    `newest` is the newest checkpoint that we have cosigned, its cosignature under it, for the home to keep.
    """

    ruling: Ruling
    known_size: int
    cosignature: bytes | None = None
    newest: bytes | None = None


class Witness:
    """Keeps the newest consistent checkpoint of each log; `cosigner` None means that it is checked, and not cosigned.

    Blocking: every call is one durable transaction.
    """

    def __init__(self, store: Store, cosigner: Cosigner | None) -> None:
        self._store = store
        self._cosigner = cosigner

    def submit(self, log: Log, submission: Submission, *, now_unix_s: float) -> Witnessed:
        """Rule by the proof that came along. Raises NoteError when the log's key did not sign the checkpoint."""
        signed = _verified(submission.untrusted_note, log.key)
        with self._store.witnessing(log.gateway, log.install_epoch) as record:
            known, peaks = _known(record)
            ruling = rule(known, signed.checkpoint, old_size=submission.old_size, proof=submission.proof)
            signed.keep(record, now_unix_s)
            return self._done(record, signed, ruling, known=known, peaks=peaks, now_unix_s=now_unix_s)

    def take(self, log: Log, untrusted_note: bytes, *, now_unix_s: float) -> Witnessed:
        """Rule by the lines that the centre holds. Raises NoteError as `submit` does.

        The one checkpoint below what is known that is no sign of a shortened log is one that we were sent before:
        the broker repeats, and an old one played again proves nothing.
        """
        signed = _verified(untrusted_note, log.key)
        with self._store.witnessing(log.gateway, log.install_epoch) as record:
            known, peaks = _known(record)
            is_new = signed.keep(record, now_unix_s)
            compared = peaks.size
            ruling, peaks = self._by_lines(record, known, peaks, signed.checkpoint, is_new=is_new)
            if ruling is Ruling.CONSISTENT:
                _enter_checks(record, compared, peaks.size, now_unix_s)
            return self._done(record, signed, ruling, known=known, peaks=peaks, now_unix_s=now_unix_s)

    def _by_lines(
        self, record: Witnessing, known: Head, peaks: Peaks, checkpoint: Checkpoint, *, is_new: bool
    ) -> tuple[Ruling, Peaks]:
        if checkpoint.size == known.size and checkpoint.size:
            return (Ruling.REPEATED if checkpoint.root == known.root else Ruling.FORKED), peaks
        if checkpoint.size < known.size:
            if not is_new:
                return Ruling.REPEATED, peaks
            lines = record.lines(0, checkpoint.size) if checkpoint.size <= peaks.size else None
            is_prefix = lines is None or Peaks().extended(leaf_hashes(lines, first=0)).root() == checkpoint.root
            return (Ruling.SHORTER if is_prefix else Ruling.FORKED), peaks
        lines = record.lines(peaks.size, checkpoint.size)
        ruling = rule_by_lines(known, peaks, checkpoint, lines)
        if ruling is Ruling.GAP and not known.size:
            # The first of a log that began before we did: there is nothing it could contradict.
            return Ruling.CONSISTENT, peaks
        if ruling is Ruling.CONSISTENT and lines is not None:
            peaks = peaks.extended(leaf_hashes(lines, first=peaks.size))
        return ruling, peaks

    def _done(
        self, record: Witnessing, signed: _Signed, ruling: Ruling, *, known: Head, peaks: Peaks, now_unix_s: float
    ) -> Witnessed:
        if ruling in BREAKS_THE_LOG:
            record.disable(ruling.value, known_size=known.size, note_sha256=signed.sha256, now_unix_s=now_unix_s)
        if ruling is not Ruling.CONSISTENT:
            row = record.newest()
            newest = row["note"].encode() if row is not None and row["is_cosigned"] else None
            return Witnessed(ruling, known.size, newest=newest)
        checkpoint, cosignature = signed.checkpoint, None
        if self._cosigner is not None:
            cosignature = self._cosigner.cosign(checkpoint, unix_s=int(now_unix_s))
        note = signed.note + (cosignature or b"")
        record.keep(
            size=checkpoint.size,
            root_hex=checkpoint.root.hex(),
            note=note.decode(),
            is_cosigned=cosignature is not None,
            at_unix_s=now_unix_s,
            lines_size=peaks.size,
            peaks_hex=peaks.to_hex(),
        )
        return Witnessed(ruling, checkpoint.size, cosignature, None if cosignature is None else note)


def _enter_checks(record: Witnessing, first: int, end: int, now_unix_s: float) -> None:
    """Enter the checks that these lines say have ended: a checkpoint covers them now, so the home has signed them.

    Each has come before by its own report, but where that was lost with the database of a centre that is a backup now.
    """
    verdicts: dict[str | None, str | None] = {}
    for raw in record.ending_lines(first, end):
        closed = parse_line(raw).record()
        if closed is not None and closed.kind is RecordKind.VERDICT:
            verdicts[closed.check] = closed.why  # it counts whatever ended the check before it could
            continue
        if closed is None or None in (closed.check, closed.line, closed.occasion, closed.attempt):
            continue  # erased by retention; or a preview of set-up, which is no agreed check
        record.put_check(
            check=closed.check,
            line=closed.line,
            occasion=closed.occasion,
            attempt=closed.attempt,
            outcome=outcome_of_ending(verdicts.get(closed.check, closed.why), closed.watched_s or 0.0),
            at_unix_s=closed.time_lo,
            now_unix_s=now_unix_s,
        )


@dataclass(frozen=True, slots=True)
class _Signed:
    """A checkpoint whose signature holds, and its note with that signature alone.

    Signatures of others are left out: with them anybody could make a note that was never seen out of one that was.
    """

    checkpoint: Checkpoint
    note: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.note).hexdigest()

    def keep(self, record: Witnessing, now_unix_s: float) -> bool:
        """True when this checkpoint was never seen before."""
        return record.put_checkpoint(self.note.decode(), note_sha256=self.sha256, now_unix_s=now_unix_s)


def _verified(untrusted_note: bytes, key: VerifierKey) -> _Signed:
    """Raises NoteError when it is too long, no checkpoint, or not signed by `key`."""
    if len(untrusted_note) > MAX_NOTE_BYTES:
        raise NoteError("the checkpoint is too long")
    checkpoint = verify_checkpoint(untrusted_note, key)
    own = next(each for each in parse_note(untrusted_note).signatures if key.made(each))
    encoded = base64.b64encode(own.key_id + own.signature).decode()
    return _Signed(checkpoint, f"{checkpoint.text()}\n\N{EM DASH} {own.name} {encoded}\n".encode())


def _known(record: Witnessing) -> tuple[Head, Peaks]:
    row = record.newest()
    if row is None:
        return Head(), Peaks()
    head = Head(row["size"], bytes.fromhex(row["root_hex"]))
    return head, Peaks.from_hex(row["lines_size"], row["peaks_hex"])


# Once a day

RECONCILE_EVERY_S: Final = 86_400
SILENT_LIMIT_S: Final = 3600.0
"""A home says hello every 300 s."""
CHECKPOINT_LIMIT_S: Final = 26 * 3600.0
"""Nobody's log may stand unsigned for longer than a day and a bit."""


class Finding(StrEnum):
    """What a day's comparison may find; also the alarm's code."""

    GAP = "ledger-gap"
    STALE_CHECKPOINT = "checkpoint-stale"
    SILENT = "home-silent"


def findings(
    *, lines: int, extent: int, witnessed_size: int | None, unwitnessed_since_unix_s: float | None,
    heard_unix_s: float, now_unix_s: float,
) -> list[Finding]:  # fmt: skip
    """Compare what is here of a home with what should be. `extent` is one more than the highest line's number.

    `unwitnessed_since_unix_s` is the time of the oldest line that no witnessed checkpoint covers.
    """
    found = []
    if lines != extent or (witnessed_size or 0) > extent:
        found.append(Finding.GAP)
    if unwitnessed_since_unix_s is not None and now_unix_s - unwitnessed_since_unix_s > CHECKPOINT_LIMIT_S:
        found.append(Finding.STALE_CHECKPOINT)
    if now_unix_s - heard_unix_s > SILENT_LIMIT_S:
        found.append(Finding.SILENT)
    return found


def reconcile(
    store: Store, logs: Mapping[str, Log], gateways: Mapping[str, int], *, now_unix_s: float
) -> list[tuple[str, Finding]]:
    """Compare every home (gateway: install_epoch) once a day; returns what is newly found. Several workers share it.

    A home without a known ledger key can't be witnessed, so its checkpoints are not asked for. Counts the alarms.
    """
    day = int(now_unix_s // RECONCILE_EVERY_S)
    done = store.reconciled_days()
    if all(done.get(gateway) == day for gateway in gateways):
        return []
    witnessed, states = store.witnessed(), store.home_states()
    found: list[tuple[str, Finding]] = []
    for gateway, install_epoch in gateways.items():
        if done.get(gateway) == day:
            continue
        newest: dict[str, Any] = witnessed.get((gateway, install_epoch), {})
        lines, extent = store.ledger_extent(gateway)
        heard_unix_s = states[gateway]["heard_unix_s"]
        here = findings(
            lines=lines,
            extent=extent,
            witnessed_size=newest.get("size"),
            unwitnessed_since_unix_s=(
                store.oldest_line_from(gateway, newest.get("size", 0)) if gateway in logs else None
            ),
            # One that was never heard is silent from the second day on: on the first it is being installed.
            heard_unix_s=heard_unix_s or (0.0 if gateway in done else now_unix_s),
            now_unix_s=now_unix_s,
        )
        is_first = store.put_reconciliation(
            gateway,
            day=day,
            at_unix_s=now_unix_s,
            lines=lines,
            witnessed_size=newest.get("size"),
            silent_s=None if heard_unix_s is None else now_unix_s - heard_unix_s,
            findings=" ".join(here),
        )
        if is_first:
            for finding in here:
                store.count_alarm(gateway, finding.value, now_unix_s=now_unix_s)
                _log.warning("%s: %s", gateway, finding)
            found += [(gateway, finding) for finding in here]
    return found
