"""What a witness adds to a checkpoint: "as of this second, the largest consistent tree that I have seen".

Here is what whoever relies on a witness needs; making cosignatures is the witness's (centre/witness.py). Source:
https://c2sp.org/tlog-cosignature (Ed25519, type 0x04).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.ledger.note import NoteError, decode_base64, parse_note

COSIGNATURE_ED25519: Final = b"\x04"


@dataclass(frozen=True, slots=True)
class CosignerKey:
    """A witness's public key; its text form is a vkey with type 0x04."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + COSIGNATURE_ED25519 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(COSIGNATURE_ED25519 + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @classmethod
    def parse(cls, vkey: str) -> CosignerKey:
        """Raises NoteError when it is no vkey of a cosigner, or its id is not its own."""
        parts = vkey.split("+", 2)
        typed_key = decode_base64(parts[2]) if len(parts) == 3 else b""
        if typed_key[:1] != COSIGNATURE_ED25519 or len(typed_key) != 33:
            raise NoteError("a cosigner's vkey is name+id+key, with a key of type 0x04")
        key = cls(parts[0], typed_key[1:])
        if parts[1] != key.key_id.hex():
            raise NoteError("the vkey's id does not belong to its name and key")
        return key

    def verify(self, untrusted_note: bytes) -> int:
        """The Unix second at which this witness cosigned the note. Raises NoteError if it did not."""
        note = parse_note(untrusted_note)
        for signature in note.signatures:
            if (signature.name, signature.key_id) != (self.name, self.key_id):
                continue
            if len(signature.signature) != 72:
                raise NoteError("a cosignature is a timestamp and an Ed25519 signature")
            unix_s = int.from_bytes(signature.signature[:8])
            try:
                Ed25519PublicKey.from_public_bytes(self.public_key).verify(
                    signature.signature[8:], cosigned_text(note.untrusted_text, unix_s)
                )
            except InvalidSignature as error:
                raise NoteError(f"the cosignature of {self.name} is false") from error
            return unix_s
        raise NoteError(f"the note is not cosigned by {self.name}")


def cosigned_text(checkpoint_text: str, unix_s: int) -> bytes:
    """The bytes that a witness signs."""
    return f"cosignature/v1\ntime {unix_s}\n{checkpoint_text}".encode()
