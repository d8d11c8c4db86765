"""A checkpoint: the ledger's size and root under its origin, as the text of a signed note.

Source: https://c2sp.org/tlog-checkpoint. Extension lines are refused: this ledger writes none, and what nobody writes
nobody should have to audit.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from gateway.ledger.note import NoteError, NoteSigner, VerifierKey, decode_base64, verify_note
from gateway.ledger.tree import HASH_BYTES

NOTE_LINES = 5
"""Origin, size, root, empty line, one signature: what this ledger writes."""
MAX_SIZE = 2**53 - 1
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,15})\Z")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`size` leaves under `root` (32 bytes); `origin` names the log and is also its key's name."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text as a checkpoint. NoteError if it is not exactly three lines of the form."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise NoteError("a checkpoint is origin, size and root")
    if not _SIZE.match(lines[1]) or int(lines[1]) > MAX_SIZE:
        raise NoteError("a checkpoint's size is a plain decimal number")
    root = decode_base64(lines[2])
    if len(root) != HASH_BYTES:
        raise NoteError("a checkpoint's root has 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


def sign_checkpoint(signer: NoteSigner, size: int, root: bytes) -> bytes:
    """Sign `size` and `root` under the signer's name as origin."""
    return signer.sign(Checkpoint(signer.name, size, root).text())


def verify_checkpoint(untrusted_note: bytes, key: VerifierKey) -> Checkpoint:
    """Give the checkpoint if `key` signed it and its origin is the key's name; NoteError otherwise."""
    checkpoint = parse_checkpoint(verify_note(untrusted_note, key))
    if checkpoint.origin != key.name:
        raise NoteError(f"the checkpoint is of {checkpoint.origin}, not of {key.name}")
    return checkpoint
