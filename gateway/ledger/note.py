"""Signed notes: a text and Ed25519 signatures under it, readable by a person and by any C2SP tool.

Strict: what is not exactly the form is refused, base64 with loose trailing bits included, so that a note has one
spelling only. Source: https://c2sp.org/signed-note (version of 2025), signature type 0x01.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.core.error import UntrustedInputError

MAX_NOTE_BYTES = 100 * 1024
MAX_SIGNATURES = 16
"""What the specification asks a verifier to accept at least; we accept no more."""
KEY_ID_BYTES = 4
ED25519 = b"\x01"
PUBLIC_KEY_BYTES = 32
_DASH = "\N{EM DASH} "


class NoteError(UntrustedInputError):
    """Not a well-formed note or key, or not signed by the key it was to be signed by."""


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not yet verified; `signature` is without the key id."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class UntrustedNote:
    """A note of the right form; nothing in it has been verified."""

    untrusted_text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public Ed25519 key under a name; its text form is the C2SP vkey `name+hexid+base64`."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            raise NoteError("an Ed25519 public key has 32 bytes")

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Read a vkey of one line without its newline. NoteError if it is malformed or its id is not its own."""
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise NoteError("a vkey is name+id+key")
        name, key_id, encoded = parts
        typed_key = decode_base64(encoded)
        if typed_key[:1] != ED25519:
            raise NoteError("only Ed25519 keys (type 0x01) are taken")
        key = cls(name, typed_key[1:])
        if key_id != key.key_id.hex():
            raise NoteError("the vkey's id does not belong to its name and key")
        return key

    @property
    def key_id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public_key).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public_key).decode()}"

    def made(self, signature: NoteSignature) -> bool:
        """True when the line claims to be by this key; says nothing of whether it verifies."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """The private key under its name. `name` has no space and no plus sign; NoteError otherwise."""

    name: str
    private_key: Ed25519PrivateKey

    def __post_init__(self) -> None:
        _check_name(self.name)

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self.private_key.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """Sign `text`, which ends in a newline; the same text always gives the same note (RFC 8032)."""
        if not text.endswith("\n") or _has_control_characters(text):
            raise NoteError("a note's text ends in a newline and has no other control character")
        signature = self.verifier.key_id + self.private_key.sign(text.encode())
        return f"{text}\n{_DASH}{self.name} {base64.b64encode(signature).decode()}\n".encode()


def parse_note(untrusted_note: bytes) -> UntrustedNote:
    """Take a note apart without verifying it. NoteError if it is not exactly of the form."""
    if len(untrusted_note) > MAX_NOTE_BYTES:
        raise NoteError("the note is too long")
    try:
        note = untrusted_note.decode()
    except UnicodeDecodeError as error:
        raise NoteError("the note is not UTF-8") from error
    if _has_control_characters(note):
        raise NoteError("the note has a control character")
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise NoteError("the note has no signature")
    signature_lines = lines[:-1].split("\n")
    if len(signature_lines) > MAX_SIGNATURES:
        raise NoteError("the note has too many signatures")
    return UntrustedNote(text + "\n", tuple(_parse_signature(line) for line in signature_lines))


def verify_note(untrusted_note: bytes, key: VerifierKey) -> str:
    """Give the note's text if `key` signed it. Other keys' signatures are ignored; a false one by `key` is not."""
    note = parse_note(untrusted_note)
    own = [signature for signature in note.signatures if key.made(signature)]
    if not own:
        raise NoteError(f"the note is not signed by {key.name} ({key.key_id.hex()})")
    public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
    for signature in own:
        try:
            public_key.verify(signature.signature, note.untrusted_text.encode())
        except InvalidSignature as error:
            raise NoteError(f"the signature of {key.name} ({key.key_id.hex()}) is false") from error
    return note.untrusted_text


def decode_base64(text: str) -> bytes:
    """Standard base64 with padding, in its one canonical spelling. NoteError otherwise."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("not base64") from error
    if base64.b64encode(decoded).decode() != text:
        raise NoteError("not canonical base64")
    return decoded


def _parse_signature(line: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise NoteError("a signature line is an em dash, a name and base64")
    _check_name(name)
    signature = decode_base64(encoded)
    if len(signature) <= KEY_ID_BYTES:
        raise NoteError("a signature is longer than its key id")
    return NoteSignature(name, signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:])


def _check_name(name: str) -> None:
    if not name or "+" in name or any(each.isspace() for each in name) or _has_control_characters(name):
        raise NoteError("a key name is not empty and has no space and no plus sign")


def _has_control_characters(text: str) -> bool:
    return any(each < " " and each != "\n" for each in text)
