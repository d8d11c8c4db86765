"""Who signs: a private key in a file, or one in a token that never gives it out.

A source of a key is written as a path (`keys/root/root.pem`) or as a `pkcs11:` URI (RFC 7512). Public keys are read
from JWK files, or from any source of a private key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm

from gateway.core.error import ConfigError
from gateway.core.refusal import RefusedError
from gateway.protocol import strict_json
from gateway.protocol.envelope import Signer, sign, verify
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import Message
from provisioning.authority import token_pkcs11
from provisioning.authority.error import AuthorityError
from provisioning.authority.secret_file import read_public, read_secret

_JWK: Final = '{"kty":"EC","crv":"P-256","x":"…","y":"…"}'


def open_signer(source: str) -> Signer:
    """The key that `source` names, ready to sign. Asks for a PIN where a token needs one and no file has it.

    Raises ConfigError: no such key, not a P-256 key, a file that others may read, a token that does not open.
    """
    if token_pkcs11.is_uri(source):
        return token_pkcs11.open_token_signer(token_pkcs11.parse(source))
    path = Path(source)
    try:
        return SigningKey.from_pem(read_secret(path))
    except TypeError as exc:  # the library's word for an encrypted PEM
        raise ConfigError(
            f"{path}: encrypted with a password, which is not supported. Keep the key on an encrypted disk, or in a "
            "token."
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{path}: not a P-256 private key in PEM. `tillsyn authority root new` makes one.") from exc


def read_jwk(path: Path) -> VerifyingKey:
    """A public key from a JWK file. Raises ConfigError; a file with a private part is refused by name."""
    return to_key(read_public(path), str(path))


def to_key(untrusted: bytes, name: str) -> VerifyingKey:
    """A public key from the bytes of a JWK, called `name` in messages. Raises ConfigError."""
    try:
        value = strict_json.loads(untrusted)
        if isinstance(value, dict) and "d" in value:
            raise ConfigError(f"{name}: this JWK holds a private key (`d`). Give the public one: {_JWK}")
        return VerifyingKey.from_jwk(value)
    except RefusedError as exc:
        raise ConfigError(f"{name}: not a public key. A JWK has exactly these members: {_JWK}") from exc


def public_key(source: str) -> VerifyingKey:
    """A public key from a JWK file, or the public half of a private key. Raises ConfigError."""
    if token_pkcs11.is_uri(source):
        return open_signer(source).verifying
    path = Path(source)
    if read_public(path).lstrip().startswith(b"-----BEGIN"):
        return open_signer(source).verifying
    return read_jwk(path)


def sign_with(message: Message, signer: Signer) -> bytes:
    """One compact JWS of `message`, verified once more before it leaves. Raises AuthorityError."""
    key = signer.verifying
    try:
        envelope = sign(message, signer)
        if verify(envelope, {key.kid: key}, type(message)) != message:
            raise AuthorityError("what was signed does not read back as what was meant. Nothing was written.")
    except (RefusedError, ValueError) as exc:
        raise AuthorityError(f"this can't be signed: {exc}. Nothing was written.") from exc
    return envelope
