"""What device and centre say to one another at enrolment, as closed schemas, and the short code that both show.

Certificates go by EST (RFC 7030). What EST has no field for, the device's other public keys one way and the trust
store, the install epoch and the broker the other way, goes over the same TLS connection, with the new certificate as
the client's. The short code is made of everything that crossed: whoever stood between the two would have changed
something of it, and two people who read six digits to one another would hear it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from gateway.core.error import UntrustedInputError
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.message import GatewayId, Id, TunnelSettings
from gateway.protocol.tunnel_key import TunnelKey

MAX_WORD_BYTES = 32 * 1024
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?\Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all."""


class Keys(Word, frozen=True):
    """The device's public keys: of its answers, of its log, and of its end of the tunnel where it has one."""

    device_jwk: dict[str, str]
    ledger_vkey: Annotated[str, Meta(pattern=r"^tillsyn/gw-[a-z0-9-]{1,40}\+[0-9a-f]{8}\+[A-Za-z0-9+/=]{40,60}\Z")]
    tunnel_key: TunnelKey | None = None


class BrokerPlace(Word, frozen=True):
    host: Host
    port: Port
    name: Host
    """What the broker's certificate must say."""


class EndPoint(Word, frozen=True):
    """Somewhere to try; `name` is what its certificate must say, where it has one and another name than `host`."""

    host: Host
    port: Port
    name: Host | None = None


class Targets(Word, frozen=True):
    """What a device will need to reach, for a test of the line before it is anybody's."""

    broker: EndPoint
    relay: EndPoint | None = None


class Fallback(Word, frozen=True):
    """Where broker and relay are reached by TLS from a network that lets no tunnel through; IPv4 addresses."""

    broker_host: Host
    broker_port: Port
    relay_host: Host
    relay_port: Port


class TunnelPlace(Word, frozen=True):
    """The device's end of the tunnel. `home_key` is its own key, said back: so it stands in what the centre keeps."""

    settings: TunnelSettings
    home_key: TunnelKey
    fallback: Fallback | None = None


class Place(Word, frozen=True):
    """The device's place in the world, as the centre gives it."""

    gateway: GatewayId
    install_epoch: Annotated[int, Meta(ge=1, le=999_999_999)]
    groups: Annotated[list[Id], Meta(max_length=16)]
    roots: Annotated[list[dict[str, str]], Meta(min_length=1, max_length=4)]
    trust: Annotated[str, Meta(max_length=16 * 1024)]
    """The trust statement in force, signed by the roots."""
    broker: BrokerPlace
    """Inside the tunnel, where there is one."""
    witness: Annotated[str, Meta(max_length=300)] | None = None
    """The vkey of who cosigns the device's log; without it nothing in it is ever erased."""
    tunnel: TunnelPlace | None = None


class AlarmState(Word, frozen=True):
    """The test alarm at the centre."""

    occasion: Id
    begun: bool
    acknowledged: bool


class Standing(Word, frozen=True):
    """How far the centre is: `compared` is None until somebody there has said whether the codes are the same."""

    compared: bool | None
    alarm: AlarmState | None = None
    has_protocol: bool = False


class ProtocolTaken(Word, frozen=True):
    """The centre has the signed protocol; the digest of what it has."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


T = TypeVar("T", bound=Word)


def encode(word: Word) -> bytes:
    return msgspec.json.encode(word, order="deterministic")


def decode(untrusted: bytes, kind: type[T]) -> T:
    """Raises RefusedError(malformed)."""
    if len(untrusted) > MAX_WORD_BYTES:
        raise RefusedError(RefusalCode.MALFORMED, "too long")
    try:
        return msgspec.json.decode(untrusted, type=kind, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise RefusedError(RefusalCode.MALFORMED, str(exc)) from exc


def short_code(*, certificate_der: bytes, keys: Keys, place: Place) -> str:
    """Six digits in two groups, the same at both ends if nothing was changed on the way.

    One guess in a million gets past it, and a wrong one is heard; who could guess again and again would have to be
    between the two at each of as many enrolments.
    """
    digest = hashlib.sha256(b"tillsyn short code 1\n")
    for part in (certificate_der, encode(keys), encode(place)):
        digest.update(len(part).to_bytes(4, "big") + part)
    number = int.from_bytes(digest.digest()[:8], "big") % 1_000_000
    return f"{number // 1000:03d} {number % 1000:03d}"


class EnrolmentRefusedError(UntrustedInputError):
    """The centre says no; `code` is its word for it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def jsonable(word: Word) -> Any:
    return msgspec.to_builtins(word)
