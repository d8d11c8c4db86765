"""The stub of an identity that a device leaves the factory with: enough to be set up, and nothing of any home.

    factory/                    on the device, one directory, made whole or not at all
      setup.json                gateway, host name for set-up, the centre to enrol at
      setup-cert.pem            the certificate whose fingerprint stands on the label
      centre-ca.pem             who the centre's enrolment service must be certified by
      setup-key.pem    0600     its key
      contact.json     0600     the set-up code as a scrypt hash, the access point's name and key

The host name for set-up (`gw-xxxx.local`) and the access point's name are random and say nothing about the gateway's
id: whoever looks at the network learns no name that the centre knows. Nothing here is shared by two devices but the
centre's address and its CA, which are no secrets. The code itself is on the label only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Meta

from gateway.core.error import ConfigError
from gateway.protocol.message import GatewayId
from provisioning.authority.secret_file import read_public, read_secret, write_directory
from provisioning.authority.x509 import private_pem
from provisioning.factory.word import CODE_LENGTH, KEY_LENGTH, make_word

CERTIFICATE_DAYS: Final = 3650
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1}
"""About 50 ms on a Pi. The code has 50 random bits, so this only slows down who has the card."""
_NAME_CHARACTERS: Final = "abcdefghjkmnpqrstvwxyz23456789"

Url = Annotated[str, Meta(pattern=r"^https://[a-z0-9.:\[\]-]{1,200}\Z")]
HostName = Annotated[str, Meta(pattern=r"^gw-[a-z0-9]{4}\Z")]


class SetupFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """setup.json"""

    gateway: GatewayId
    host: HostName
    enrol_at: Url


class ContactFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """contact.json"""

    salt: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    code_scrypt: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    ssid: Annotated[str, Meta(pattern=r"^tillsyn-[a-z0-9]{4}\Z")]
    ap_key: Annotated[str, Meta(pattern=r"^[0-9A-Z]{12}\Z")]

    def is_code(self, code: str) -> bool:
        """Whether `code`, read by `read_word`, is the label's. Takes as long for a right one as for a wrong one."""
        return hmac.compare_digest(_scrypt(code, bytes.fromhex(self.salt)).hex(), self.code_scrypt)


@dataclass(frozen=True, slots=True)
class Stub:
    """One new device, with the secrets that go onto its label."""

    setup: SetupFile
    contact: ContactFile
    code: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    centre_ca: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hex, as browsers show it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def pin(self) -> str:
        """SHA-256 of the public key in base64, as in RFC 7469: what a program compares."""
        return pin_of(self.certificate)

    def register_line(self) -> str:
        """What the centre is told: one JSON object on one line, no secret."""
        return json.dumps({"gateway": self.setup.gateway, "certificate_sha256": self.fingerprint}, sort_keys=True)

    def write(self, directory: Path) -> None:
        """Make the device's `factory` directory. Raises FileExistsError, ConfigError, OSError."""
        write_directory(
            directory,
            public={
                "setup.json": msgspec.json.encode(self.setup) + b"\n",
                "setup-cert.pem": self.certificate.public_bytes(serialization.Encoding.PEM),
                "centre-ca.pem": self.centre_ca,
            },
            secret={
                "setup-key.pem": private_pem(self.key),
                "contact.json": msgspec.json.encode(self.contact) + b"\n",
            },
        )


def make_stub(*, enrol_at: str, centre_ca: bytes, choose: Callable[[int], int] = secrets.randbelow) -> Stub:
    """A new device. Raises ConfigError when the centre's address or CA is none."""
    try:
        x509.load_pem_x509_certificate(centre_ca)
        setup = msgspec.convert(
            {"gateway": f"gw-{_name(12, choose)}", "host": f"gw-{_name(4, choose)}", "enrol_at": enrol_at}, SetupFile
        )
    except (ValueError, msgspec.ValidationError) as exc:
        raise ConfigError(f"the centre's enrolment address or CA can't be used: {exc}") from exc
    code = make_word(CODE_LENGTH, choose)
    salt = secrets.token_bytes(16)
    contact = ContactFile(
        salt.hex(),
        _scrypt(code, salt).hex(),
        f"tillsyn-{setup.host.removeprefix('gw-')}",
        make_word(KEY_LENGTH, choose),
    )
    key = ec.generate_private_key(ec.SECP256R1())
    return Stub(setup, contact, code, _certificate(key, setup.host), key, centre_ca)


def read_stub(directory: Path) -> tuple[SetupFile, ContactFile]:
    """What the device knows of itself. Raises ConfigError; ConfigError too when others may read a secret."""
    try:
        setup = msgspec.json.decode(read_public(directory / "setup.json"), type=SetupFile)
        contact = msgspec.json.decode(read_secret(directory / "contact.json"), type=ContactFile)
    except OSError as exc:
        raise ConfigError(f"{exc.filename}: {exc.strerror}. `tillsyn factory label` makes it.") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{directory}: not a factory directory ({exc})") from exc
    return setup, contact


def pin_of(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


def _scrypt(code: str, salt: bytes) -> bytes:
    return hashlib.scrypt(code.encode(), salt=salt, dklen=32, **_SCRYPT)


def _name(length: int, choose: Callable[[int], int]) -> str:
    return "".join(_NAME_CHARACTERS[choose(len(_NAME_CHARACTERS))] for _ in range(length))


def _certificate(key: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    """Self-signed: nobody's chain helps a phone that has never seen this device, the label's fingerprint does.

    Its dates are wide, because the device does not know the time yet.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{host}.local")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{host}.local")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
