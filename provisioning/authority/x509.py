"""X.509 for the broker's mTLS: a small own CA, P-256, one certificate for each identity.

A gateway's certificate has its id as common name; Mosquitto takes it for the user name, and the access list's patterns
put it into topics (`%u`). So no certificate is issued for a name that is anything but a gateway's id, the centre's
name, or a server's: a wildcard or a slash in a name would be a right.
Source: RFC 5280; `use_identity_as_username` in mosquitto.conf(5).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.core.error import ConfigError
from provisioning.authority.broker_config import CENTRE, is_centre, is_gateway
from provisioning.authority.error import AuthorityError
from provisioning.authority.secret_file import read_public, read_secret

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca-key.pem"
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
_COMMON_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """The CA in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str) -> CertificateAuthority:
        """A new CA. Raises ValueError for a name that is no plain text of 1 to 64 characters."""
        if not _COMMON_NAME.match(name):
            raise ValueError(f"not a CA's name: {name!r} (letters, digits, space and . _ -, at most 64)")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, directory: Path) -> CertificateAuthority:
        """The CA that `tillsyn authority ca new` made. Raises ConfigError, also when its key may be read by others."""
        certificate = load_certificate(directory / CA_FILE)
        key = load_private(directory / CA_KEY_FILE)
        if key.public_key() != certificate.public_key():
            raise ConfigError(f"{directory}: {CA_FILE} and {CA_KEY_FILE} are not of one pair")
        return cls(certificate, key)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *, server_names: tuple[str, ...] = ()) -> Identity:
        """A certificate for `name`: a client's, or a server's for `server_names` (DNS names or IP addresses).

        Raises ValueError for a client that is neither a gateway nor the centre, and for a server with the name of one
        or with a name that is no host's; AuthorityError when the CA's own certificate has ended.
        """
        client = is_centre(name) or is_gateway(name)
        if client == bool(server_names) or not (client or _HOST.match(name)):
            raise ValueError(f"no certificate for {name!r}: a client is `{CENTRE}` or gw- and a-z, 0-9, - (at most 40)")
        for each in server_names:
            _alternative(each)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key.public_key(), server_names)
        return Identity(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))

    def certify(self, name: str, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """A gateway's certificate for a key that it made itself.

        Raises ValueError for a name that is no gateway's, and as `issue`.
        """
        if not is_gateway(name):
            raise ValueError(f"not a gateway id: {name!r}")
        return self._sign(name, key, ())

    def _sign(self, name: str, key: ec.EllipticCurvePublicKey, server_names: tuple[str, ...]) -> x509.Certificate:
        now = datetime.now(UTC)
        ends = self.certificate.not_valid_after_utc
        if ends <= now:
            raise AuthorityError(f"the CA's certificate ended on {ends:%Y-%m-%d}; make a new CA and issue all anew")
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(_name(name), self.certificate.subject, key, LEAF_DAYS, latest=ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if server_names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(each) for each in server_names]), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())


def load_certificate(path: Path) -> x509.Certificate:
    """One certificate from a PEM file. Raises ConfigError and OSError."""
    try:
        return x509.load_pem_x509_certificate(read_public(path))
    except ValueError as exc:
        raise ConfigError(f"{path}: not a certificate in PEM") from exc


def load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """A P-256 private key from a PEM file with mode 0600. Raises ConfigError and OSError."""
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{path}: not an unencrypted private key in PEM") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: not a P-256 private key")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, latest: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    until = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a peer's clock may be a little behind
        .not_valid_after(until if latest is None else min(until, latest))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _HOST.match(name):
            raise ValueError(f"not a host's name or address: {name!r} (lower case, no wildcard)") from None
        return x509.DNSName(name)
