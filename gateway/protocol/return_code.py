"""The short code of a return: six digits that the device and the centre show, for two people to compare.

Made of the order's place and number, of what both sides drew by lot, and of the two keys that signed: the steward's,
who ordered it, and the device's. So the device that somebody holds is the one that was ordered back, and the order that
it obeys is the one that the centre knows of.
"""

from __future__ import annotations

import hashlib


def return_code(
    *, audience: str, version: int, steward_kid: str, nonce: str, device_kid: str, device_nonce: str
) -> str:
    """Six digits; the kids are RFC 7638 thumbprints, the nonces base64url as they stand in the messages."""
    digest = hashlib.sha256(b"tillsyn return code 1\n")
    for part in (audience, str(version), steward_kid, nonce, device_kid, device_nonce):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return f"{int.from_bytes(digest.digest()[:8], 'big') % 1_000_000:06d}"
