"""The device's side of enrolment: a small EST client (RFC 7030) over TLS 1.3, with the centre's own CA as only anchor.

A device that has never had the time can't judge a certificate's dates. The anchor is our own CA, pinned at the factory,
so what the dates would add is little: while `knows_time` is False they are not looked at (X509_V_FLAG_NO_CHECK_TIME),
and everything else is, names included. See ADR 0081.

Calls block, for at most `LIMIT_S` a step; coroutines make them in a thread.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.error import TransientError
from gateway.core.refusal import RefusalCode, RefusedError
from provisioning.authority.x509 import private_pem
from provisioning.enrolment import pkcs
from provisioning.enrolment.word import (
    MAX_WORD_BYTES,
    EnrolmentRefusedError,
    Keys,
    Place,
    ProtocolTaken,
    Standing,
    Targets,
    Word,
    decode,
    encode,
)

LIMIT_S: Final = 10.0
NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME. Source: openssl/x509_vfy.h; Python has no name for it."""
EST: Final = "/.well-known/est"
OWN: Final = "/tillsyn"

T = TypeVar("T", bound=Word)


class UnreachableError(TransientError):
    """No answer: network, name, or a server that is none of ours. `step` says how far it came."""

    def __init__(self, step: str, detail: str) -> None:
        super().__init__(f"{step}: {detail}")
        self.step = step


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    date: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class EstClient:
    """One centre. `url` is https://host[:port], `ca` the PEM of its CA."""

    url: str
    ca: bytes
    knows_time: bool = True
    identity: Identity | None = None

    def with_identity(self, identity: Identity) -> EstClient:
        return EstClient(self.url, self.ca, self.knows_time, identity)

    def cacerts(self) -> list[x509.Certificate]:
        """The CA certificates that the centre gives out (RFC 7030 §4.1); the pinned one must be among them.

        Raises UnreachableError, EnrolmentRefusedError, RefusedError.
        """
        found = pkcs.read_certs(pkcs.from_base64(self._ask("GET", f"{EST}/cacerts", limit=pkcs.MAX_ANSWER_BYTES)))
        if x509.load_pem_x509_certificate(self.ca) not in found:
            raise RefusedError(RefusalCode.UNKNOWN_KEY, "the centre's CA is not the one on this device")
        return found

    def enrol(self, gateway: str, key: ec.EllipticCurvePrivateKey, code: str) -> x509.Certificate:
        """A first certificate, by the installer's one-time code (RFC 7030 §4.2.1, HTTP Basic). Raises as `cacerts`."""
        login = base64.b64encode(f"{gateway}:{code}".encode()).decode()
        return self._certificate("simpleenroll", gateway, key, {"Authorization": f"Basic {login}"})

    def renew(self, gateway: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A new certificate, by the one in hand (RFC 7030 §4.2.2)."""
        return self._certificate("simplereenroll", gateway, key, {})

    def register(self, keys: Keys) -> Place:
        return self._say("POST", f"{OWN}/register", Place, keys)

    def standing(self) -> Standing:
        return self._say("GET", f"{OWN}/standing", Standing)

    def give_protocol(self, jws: bytes) -> ProtocolTaken:
        """Hand in the signed installation protocol."""
        body = self._ask("POST", f"{OWN}/protocol", jws, {"Content-Type": "text/plain"}, limit=MAX_WORD_BYTES)
        return decode(body, ProtocolTaken)

    def targets(self) -> Targets:
        return self._say("GET", f"{OWN}/targets", Targets)

    def line_bytes(self) -> int:
        """Fetch the block that the centre holds out to measure a line with; its length."""
        return len(self._ask("GET", f"{OWN}/line", limit=1024 * 1024))

    def date(self) -> datetime | None:
        """The centre's time, by TLS; to the second."""
        return self._exchange("GET", f"{EST}/cacerts", b"", {}, pkcs.MAX_ANSWER_BYTES).date

    def _certificate(
        self, action: str, gateway: str, key: ec.EllipticCurvePrivateKey, headers: dict[str, str]
    ) -> x509.Certificate:
        body = self._ask(
            "POST",
            f"{EST}/{action}",
            pkcs.to_base64(pkcs.make_csr(gateway, key)),
            {"Content-Type": pkcs.CSR_TYPE, "Content-Transfer-Encoding": "base64", **headers},
            limit=pkcs.MAX_ANSWER_BYTES,
        )
        found = pkcs.read_certs(pkcs.from_base64(body))
        ours = [one for one in found if one.public_key() == key.public_key()]
        if len(ours) != 1:
            raise RefusedError(RefusalCode.UNKNOWN_KEY, "the certificate is not for our key")
        self._demand_ours(ours[0], gateway)
        return ours[0]

    def _demand_ours(self, certificate: x509.Certificate, gateway: str) -> None:
        names = [attribute.value for attribute in certificate.subject]
        if names != [gateway]:
            raise RefusedError(RefusalCode.WRONG_DEVICE, "the certificate has another name")
        try:
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(self.ca))
        except (ValueError, TypeError, InvalidSignature) as exc:
            raise RefusedError(RefusalCode.BAD_SIGNATURE, "the certificate is not of the pinned CA") from exc

    def _say(self, method: str, path: str, kind: type[T], word: Word | None = None) -> T:
        body = b"" if word is None else encode(word)
        return decode(self._ask(method, path, body, {"Content-Type": "application/json"}, limit=MAX_WORD_BYTES), kind)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, limit: int
    ) -> bytes:
        answer = self._exchange(method, path, body, headers or {}, limit)
        if answer.status != 200:
            raise EnrolmentRefusedError(answer.reason)
        return answer.body

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str], limit: int) -> Answer:
        place = urlsplit(self.url)
        assert place.hostname is not None
        try:
            connection = http.client.HTTPSConnection(
                place.hostname, place.port or 443, timeout=LIMIT_S, context=self._tls()
            )
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as exc:
                raise UnreachableError("certificate", exc.verify_message or "not of our CA") from exc
            except ssl.SSLError as exc:
                raise UnreachableError("tls", exc.reason or "no TLS") from exc
            except TimeoutError as exc:
                raise UnreachableError("connect", "no answer") from exc
            except OSError as exc:
                raise UnreachableError("connect", exc.strerror or "no answer") from exc
            try:
                connection.request(method, path, body or None, {"Connection": "close", **headers})
                reply = connection.getresponse()
                content = reply.read(limit + 1)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as exc:
            raise UnreachableError("answer", type(exc).__name__) from exc
        if len(content) > limit:
            raise RefusedError(RefusalCode.MALFORMED, "the answer is too long")
        date = reply.headers.get("Date")
        return Answer(
            reply.status, content, _date(date), reply.headers.get("X-Tillsyn-Refusal", f"http-{reply.status}")
        )

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.ca.decode("ascii"))
        if not self.knows_time:
            context.verify_flags |= NO_CHECK_TIME
        if self.identity is not None:
            # ssl takes a chain from files only; this one is in memory and has no name.
            fd = os.memfd_create("chain", os.MFD_CLOEXEC)
            with os.fdopen(fd, "wb", buffering=0) as chain:
                chain.write(
                    self.identity.certificate.public_bytes(serialization.Encoding.PEM) + private_pem(self.identity.key)
                )
                context.load_cert_chain(f"/proc/self/fd/{fd}")
        return context


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
