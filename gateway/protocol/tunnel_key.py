"""WireGuard's keys: X25519, as 32 bytes in base64. Source: wg(8), "KEY FORMATS"."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

KEY_BYTES: Final = 32
TunnelKey = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\Z")]
"""A public key. The last character has two free bits only, so that each key has one spelling."""


def new_private_key() -> bytes:
    """A fresh private key in base64, to be kept in a file that its owner alone may read."""
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw())


def public_key(private: bytes) -> str:
    """The public half of a private key in base64. Raises ValueError for what is none."""
    try:
        raw = base64.b64decode(private.strip(), validate=True)
    except binascii.Error as exc:
        raise ValueError("not a WireGuard key") from exc
    if len(raw) != KEY_BYTES:
        raise ValueError("not a WireGuard key")
    return base64.b64encode(X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()).decode()
