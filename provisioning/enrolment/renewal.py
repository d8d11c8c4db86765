"""Renewing the link's certificate in time: at two thirds of its life, with a new key, whole or not at all.

`tillsyn renew` is run by a timer. The new key and certificate go into one file that the old name is then given, so
that a cut leaves the old pair or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.error import ConfigError
from gateway.ledger.disk import Disk, replace_durably
from provisioning.authority.secret_file import read_public, read_secret
from provisioning.authority.x509 import private_pem
from provisioning.enrolment.est_client import EstClient, Identity

PAIR_FILE: Final = "identity.pem"
"""Key and certificate in one file: both or neither are new."""
RENEW_AT: Final = 2 / 3


@dataclass(frozen=True, slots=True)
class Due:
    """When a certificate is to be renewed, and when it ends."""

    at: datetime
    ends: datetime


def due(certificate: x509.Certificate) -> Due:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Due(begins + (ends - begins) * RENEW_AT, ends)


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    return now >= due(certificate).at


def read_pair(directory: Path) -> Identity:
    """The pair in use. Raises ConfigError when there is none."""
    path = directory / PAIR_FILE
    try:
        content = read_secret(path)
        key = serialization.load_pem_private_key(content, password=None)
        certificate = x509.load_pem_x509_certificate(content)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{path}: not a key and its certificate") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{path}: key and certificate are not of one pair")
    return Identity(certificate, key)


def write_pair(directory: Path, identity: Identity) -> None:
    """Put a pair in use, durably. Raises OSError."""
    content = private_pem(identity.key) + identity.certificate.public_bytes(serialization.Encoding.PEM)
    replace_durably(Disk(), directory / PAIR_FILE, content)


def renew(directory: Path, client: EstClient, *, now: datetime) -> Due | None:
    """Renew if it is time; what holds then, or None when it was not time.

    Raises UnreachableError, EnrolmentRefusedError and RefusedError with the old pair in place.
    """
    old = read_pair(directory)
    if not is_due(old.certificate, now):
        return None
    gateway = str(old.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = client.with_identity(old).renew(gateway, key)
    write_pair(directory, Identity(certificate, key))
    return due(certificate)


def ca_of(directory: Path) -> bytes:
    return read_public(directory / "ca.pem")
