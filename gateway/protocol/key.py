"""P-256 keys as JWK, and ES256 over raw r‖s. The one algorithm of the profile.

Source: RFC 7518 §3.4 and §6.2, RFC 7638 (thumbprint).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol import strict_json

_B64URL: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of P-256's base point. Source: FIPS 186-5 / SEC 2, curve secp256r1."""
_FIELD: Final = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
"""P-256's prime. Source: as above."""
SIGNATURE_BYTES: Final = 64


def b64url_encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Decode unpadded base64url; exactly one text stands for any bytes, every other is malformed.

    Raises RefusedError(malformed).
    """
    if text and not _B64URL.match(text):
        raise RefusedError(RefusalCode.MALFORMED, "not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as exc:
        raise RefusedError(RefusalCode.MALFORMED, "not base64url") from exc
    if b64url_encode(data) != text:
        raise RefusedError(RefusalCode.MALFORMED, "base64url with stray bits")
    return data


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A P-256 public key with its thumbprint as `kid`."""

    kid: str
    point: ec.EllipticCurvePublicKey

    @classmethod
    def from_jwk(cls, untrusted: object) -> VerifyingKey:
        """Take exactly {kty, crv, x, y}; raises RefusedError(malformed) for anything else, other curves included."""
        if not isinstance(untrusted, dict) or set(untrusted) != {"kty", "crv", "x", "y"}:
            raise RefusedError(RefusalCode.MALFORMED, "JWK fields")
        if untrusted["kty"] != "EC" or untrusted["crv"] != "P-256":
            raise RefusedError(RefusalCode.MALFORMED, "JWK is not P-256")
        if not isinstance(untrusted["x"], str) or not isinstance(untrusted["y"], str):
            raise RefusedError(RefusalCode.MALFORMED, "JWK coordinate")
        x, y = b64url_decode(untrusted["x"]), b64url_decode(untrusted["y"])
        if len(x) != 32 or len(y) != 32:
            raise RefusedError(RefusalCode.MALFORMED, "JWK coordinate length")
        # OpenSSL reduces a coordinate beyond the prime; one key would then have two thumbprints.
        if not (int.from_bytes(x) < _FIELD and int.from_bytes(y) < _FIELD):
            raise RefusedError(RefusalCode.MALFORMED, "JWK coordinate out of range")
        try:
            numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1())
            point = numbers.public_key()
        except ValueError as exc:
            raise RefusedError(RefusalCode.MALFORMED, "point not on P-256") from exc
        return cls(thumbprint(untrusted["x"], untrusted["y"]), point)

    @classmethod
    def of(cls, point: ec.EllipticCurvePublicKey) -> VerifyingKey:
        """Wrap a point of our own making; raises ValueError when it is on another curve."""
        if not isinstance(point.curve, ec.SECP256R1):
            raise ValueError("not a P-256 key")
        numbers = point.public_numbers()
        x, y = b64url_encode(numbers.x.to_bytes(32)), b64url_encode(numbers.y.to_bytes(32))
        return cls(thumbprint(x, y), point)

    def jwk(self) -> dict[str, str]:
        numbers = self.point.public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": b64url_encode(numbers.x.to_bytes(32)),
            "y": b64url_encode(numbers.y.to_bytes(32)),
        }

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Check raw r‖s over SHA-256 of `signed`; raises RefusedError(bad-signature).

        High S is accepted: WebCrypto makes it, and no signature is ever used as an identity.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise RefusedError(RefusalCode.BAD_SIGNATURE, "signature length")
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if not (0 < r < _ORDER and 0 < s < _ORDER):
            raise RefusedError(RefusalCode.BAD_SIGNATURE, "r or s out of range")
        try:
            self.point.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as exc:
            raise RefusedError(RefusalCode.BAD_SIGNATURE) from exc


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A P-256 private key in memory. Never printed: repr leaves it out."""

    private: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.verifying.kid!r})"

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """Raises ValueError when the PEM is not an unencrypted P-256 private key."""
        private = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise ValueError("not a P-256 private key")
        return cls(private)

    def to_pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def verifying(self) -> VerifyingKey:
        return VerifyingKey.of(self.private.public_key())

    def sign(self, data: bytes) -> bytes:
        """Raw r‖s, 64 bytes."""
        r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


def thumbprint(x: str, y: str) -> str:
    """RFC 7638 thumbprint of a P-256 JWK, base64url, 43 characters."""
    canonical = strict_json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y})
    return b64url_encode(hashlib.sha256(canonical).digest())
