"""The bytes of EST: PKCS#10 requests and PKCS#7 answers, in base64 as RFC 7030 (with RFC 8951's erratum) wants them.

No library of EST is alive; what is needed of CMS is a degenerate SignedData with certificates only (RFC 5652 §5.1).
"""

from __future__ import annotations

import base64
import binascii

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from gateway.core.refusal import RefusalCode, RefusedError

MAX_REQUEST_BYTES = 8 * 1024
MAX_ANSWER_BYTES = 64 * 1024
CSR_TYPE = "application/pkcs10"
CERTS_TYPE = "application/pkcs7-mime"


def make_csr(gateway: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request in DER, signed by the key it is for."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gateway)])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def read_csr(untrusted: bytes) -> tuple[str, ec.EllipticCurvePublicKey]:
    """(name, key) of a request in DER: one common name, P-256, signed by its own key. Raises RefusedError.

    Whatever else it asks for, extensions above all, is not looked at: the CA decides what stands in a certificate.
    """
    if len(untrusted) > MAX_REQUEST_BYTES:
        raise RefusedError(RefusalCode.MALFORMED, "request too long")
    try:
        request = x509.load_der_x509_csr(untrusted)
        key = request.public_key()
        signed = request.is_signature_valid
        names = list(request.subject)
    except (ValueError, TypeError, NotImplementedError, x509.UnsupportedGeneralNameType) as exc:
        raise RefusedError(RefusalCode.MALFORMED, f"request: {exc}") from exc
    # `cryptography` raises what its parser and OpenSSL raise, and both of it for a key they don't know.
    except Exception as exc:
        raise RefusedError(RefusalCode.MALFORMED, f"request: {type(exc).__name__}") from exc
    if not signed:
        raise RefusedError(RefusalCode.BAD_SIGNATURE, "request is not signed by its key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(RefusalCode.MALFORMED, "request: not a P-256 key")
    if len(names) != 1 or names[0].oid != NameOID.COMMON_NAME or not isinstance(names[0].value, str):
        raise RefusedError(RefusalCode.MALFORMED, "request: not one common name")
    return names[0].value, key


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def to_base64(der: bytes) -> bytes:
    """Lines of 64 characters. Source: RFC 8951 §3.1."""
    text = base64.b64encode(der)
    return b"".join(text[start : start + 64] + b"\r\n" for start in range(0, len(text), 64))


def from_base64(untrusted: bytes) -> bytes:
    """Raises RefusedError. White space is skipped wherever it stands, as RFC 8951 §3.1 asks of a reader."""
    try:
        return base64.b64decode(b"".join(untrusted.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise RefusedError(RefusalCode.MALFORMED, "base64") from exc


def certs_only(certificates: list[x509.Certificate]) -> bytes:
    """A degenerate SignedData in DER."""
    return pkcs7.serialize_certificates(certificates, serialization.Encoding.DER)


def read_certs(untrusted: bytes) -> list[x509.Certificate]:
    """The certificates of a degenerate SignedData in DER. Raises RefusedError."""
    try:
        found = pkcs7.load_der_pkcs7_certificates(untrusted)
    # `cryptography` raises ValueError, UnsupportedAlgorithm, and what OpenSSL's parser says.
    except Exception as exc:
        raise RefusedError(RefusalCode.MALFORMED, f"PKCS#7: {type(exc).__name__}") from exc
    if not 1 <= len(found) <= 8:
        raise RefusedError(RefusalCode.MALFORMED, f"PKCS#7 with {len(found)} certificates")
    return found
