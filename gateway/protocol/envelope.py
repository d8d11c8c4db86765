"""The envelope: JWS in compact form, ES256 only, verified before anything in it is decoded.

A signed message is `header.payload.signature` (RFC 7515 §3.1). The protected header is exactly {alg, kid, typ}; the key
comes from the trust store under `kid`, never from the message; `typ` is `tillsyn.<kind>+jws` (RFC 8725 §3.11), so that
a message of one kind is never taken for another.

A person's command travels with the grant that lets the key sign: `<grant>~<command>`. The grant is verified first,
under the centre's issuing key; it names the person's key (RFC 7800 `cnf`), which verifies the command. At no point is
an unverified payload parsed. The order of checks is fixed and is part of the promise:

  size → form → header → (grant: key known → signature → schema → epoch)
  → key bound → signature → schema → audience → role

Why no JOSE library here: the profile is one algorithm and three header names; the library's options are what RFC 8725
warns of. Independent implementations (joserfc, jose) check it in the tests. See docs/adr/0004.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from gateway.core.interval_clock import Interval
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol import strict_json
from gateway.protocol.key import VerifyingKey, b64url_decode, b64url_encode
from gateway.protocol.message import KINDS, ROLE_FOR, AgreementWithdraw, Close, Command, Grant, Message, Role, TrustPut

MAX_ENVELOPE_BYTES: Final = 16 * 1024
MAX_GRANT_LIFE_S: Final = 12 * 3600
_FORM: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_HEADER_FIELDS: Final = {"alg", "kid", "typ"}
_MAX_HEADER_BYTES: Final = 512

M = TypeVar("M", bound=Message)


class Signer(Protocol):
    """Whoever holds a P-256 private key: a `SigningKey` in memory, or a token that never gives it out."""

    @property
    def verifying(self) -> VerifyingKey: ...

    def sign(self, data: bytes) -> bytes:
        """ES256 over `data`: raw r‖s, 64 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class UntrustedEnvelope:
    """A JWS taken apart, not verified: nothing in it may be acted on."""

    kid: str
    kind: str
    signed: bytes
    untrusted_payload: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class TrustStore:
    """Who may sign what on this device. Frozen: a change is a new, higher version."""

    version: int
    epoch: int
    roots: Mapping[str, VerifyingKey]
    issuers: Mapping[str, VerifyingKey]
    releases: Mapping[str, VerifyingKey] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerifiedCommand:
    """A command whose signature, grant, audience and role hold. Made by `verify_command` only."""

    command: Command
    who: str
    """Pseudonymous id of the person (the grant's `name_ref`)."""
    role: Role
    kid: str
    """The person's key; later commands of the same check must come from it."""
    grant: Grant


def split(untrusted: bytes) -> UntrustedEnvelope:
    """Take one compact JWS apart; raises RefusedError(malformed). Nothing is verified."""
    if len(untrusted) > MAX_ENVELOPE_BYTES:
        raise RefusedError(RefusalCode.MALFORMED, f"{len(untrusted)} bytes")
    if not _FORM.match(untrusted):
        raise RefusedError(RefusalCode.MALFORMED, "not a compact JWS")
    protected, payload, signature = untrusted.decode("ascii").split(".")
    header_bytes = b64url_decode(protected)
    header = strict_json.loads(header_bytes, max_bytes=_MAX_HEADER_BYTES, max_depth=1)
    if not isinstance(header, dict) or set(header) != _HEADER_FIELDS:
        raise RefusedError(RefusalCode.MALFORMED, "header fields")
    alg, kid, typ = header["alg"], header["kid"], header["typ"]
    if alg != "ES256":
        raise RefusedError(RefusalCode.MALFORMED, "alg")
    if not isinstance(kid, str) or not isinstance(typ, str):
        raise RefusedError(RefusalCode.MALFORMED, "header types")
    kind = typ.removeprefix("tillsyn.").removesuffix("+jws")
    if kind not in KINDS or typ != f"tillsyn.{kind}+jws":
        raise RefusedError(RefusalCode.MALFORMED, "typ")
    return UntrustedEnvelope(kid, kind, f"{protected}.{payload}".encode("ascii"), payload, b64url_decode(signature))


def _opened(untrusted: UntrustedEnvelope, key: VerifyingKey) -> Message:
    """Verify, then decode: the only place where a payload becomes a typed message."""
    key.verify(untrusted.signature, untrusted.signed)
    value = strict_json.loads(b64url_decode(untrusted.untrusted_payload))
    return to_message(value, KINDS[untrusted.kind])


def to_message(value: Any, kind: type[M]) -> M:
    """A decoded JSON value as a message of `kind`; raises RefusedError(malformed)."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, ValueError, RecursionError) as exc:
        raise RefusedError(RefusalCode.MALFORMED, "schema") from exc


def verify(untrusted: bytes, keys: Mapping[str, VerifyingKey], kind: type[M]) -> M:
    """Verify one JWS of `kind` under the key that `keys` holds for its kid.

    Raises RefusedError: malformed (also for another kind), unknown-key, bad-signature.
    """
    envelope = split(untrusted)
    if envelope.kind != kind.KIND:
        raise RefusedError(RefusalCode.MALFORMED, "kind")
    key = keys.get(envelope.kid)
    if key is None:
        raise RefusedError(RefusalCode.UNKNOWN_KEY)
    return cast(M, _opened(envelope, key))


class GrantCache:
    """Grants whose signature was verified, by digest and trust version: a shift's grant is verified once.

    Bounded. A change of trust empties it by itself, because the version is part of what is looked up.
    """

    LIMIT: Final = 64

    def __init__(self) -> None:
        self._verified: OrderedDict[tuple[int, bytes], Grant] = OrderedDict()

    def verify(self, untrusted: bytes, envelope: UntrustedEnvelope, trust: TrustStore) -> Grant:
        """The grant, verified now or before; raises RefusedError."""
        issuer = trust.issuers.get(envelope.kid)
        if issuer is None:
            raise RefusedError(RefusalCode.UNKNOWN_KEY, "issuer")
        name = (trust.version, sha256(untrusted).digest())
        grant = self._verified.get(name)
        if grant is None:
            grant = cast("Grant", _opened(envelope, issuer))
            if len(self._verified) >= self.LIMIT:
                self._verified.popitem(last=False)
        self._verified[name] = grant
        self._verified.move_to_end(name)
        return grant


def verify_command(
    untrusted: bytes,
    trust: TrustStore,
    *,
    audience: str,
    gateway: str,
    groups: frozenset[str],
    cache: GrantCache | None = None,
) -> VerifiedCommand:
    """Verify `<grant>~<command>` in the fixed order; raises RefusedError with the first check that fails.

    Whether the shift is over is not asked here, because only openings depend on a clock: see `check_shift`.
    """
    if len(untrusted) > MAX_ENVELOPE_BYTES:
        raise RefusedError(RefusalCode.MALFORMED, f"{len(untrusted)} bytes")
    parts = untrusted.split(b"~")
    if len(parts) != 2:
        raise RefusedError(RefusalCode.MALFORMED, "not grant~command")
    untrusted_grant, untrusted_command = split(parts[0]), split(parts[1])
    if untrusted_grant.kind != Grant.KIND:
        raise RefusedError(RefusalCode.MALFORMED, "no grant")
    kind = KINDS[untrusted_command.kind]
    roles = ROLE_FOR.get(kind)
    if roles is None:
        raise RefusedError(RefusalCode.MALFORMED, "kind is no command")

    grant = (cache or GrantCache()).verify(parts[0], untrusted_grant, trust)
    # Revoked grants may still close: closing is easy, and the result is only safer.
    if grant.epoch < trust.epoch and kind not in (Close, AgreementWithdraw):
        raise RefusedError(RefusalCode.UNKNOWN_KEY, "grant of a revoked epoch")
    if not grant.nbf < grant.exp <= grant.nbf + MAX_GRANT_LIFE_S:
        raise RefusedError(RefusalCode.MALFORMED, "grant longer than a shift")

    person = VerifyingKey.from_jwk(grant.cnf.jwk)
    if untrusted_command.kid != person.kid:
        raise RefusedError(RefusalCode.UNKNOWN_KEY, "not the granted key")
    command = cast(Command, _opened(untrusted_command, person))
    if command.aud != audience:
        raise RefusedError(RefusalCode.WRONG_DEVICE)
    role = next((role for role in grant.roles if role in roles), None)
    if role is None:
        raise RefusedError(RefusalCode.WRONG_ROLE)
    if gateway not in grant.homes and groups.isdisjoint(grant.groups):
        raise RefusedError(RefusalCode.WRONG_ROLE, "grant is for other homes")
    return VerifiedCommand(command, grant.name_ref, role, person.kid, grant)


def check_shift(grant: Grant, interval: Interval) -> None:
    """The whole clock interval must lie inside the grant's shift; raises RefusedError(unknown-key)."""
    if not (grant.nbf <= interval.lo_unix_s and interval.hi_unix_s < grant.exp):
        raise RefusedError(RefusalCode.UNKNOWN_KEY, "outside the grant's shift")


def sign(message: Message, key: Signer) -> bytes:
    """One compact JWS of `message`. Raises ValueError when it is too large for the envelope."""
    header = strict_json.dumps({"alg": "ES256", "kid": key.verifying.kid, "typ": f"tillsyn.{message.KIND}+jws"})
    payload = strict_json.dumps(msgspec.to_builtins(message))
    signed = f"{b64url_encode(header)}.{b64url_encode(payload)}".encode("ascii")
    envelope = signed + b"." + b64url_encode(key.sign(signed)).encode("ascii")
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise ValueError(f"{len(envelope)} bytes do not fit the envelope")
    return envelope


def make_trust(untrusted: bytes, roots: Mapping[str, VerifyingKey]) -> TrustStore:
    """Read a root-signed trust statement; raises RefusedError.

    `untrusted` is one JWS, or two joined by `~` over the same payload where the set of roots changes: the first by a
    root that is held, the second by one that is new (or by one that stays, where roots are only taken away), so that no
    root comes in that nobody can sign with. Whether its version is high enough is the caller's to check.
    """
    parts = untrusted.split(b"~", 2)  # a third part is refused unseen, so a million of them cost nothing
    if len(parts) > 2:
        raise RefusedError(RefusalCode.MALFORMED, "more than two signatures")
    put = verify(parts[0], roots, TrustPut)
    new_roots = _keyed(put.roots)
    if set(new_roots) != set(roots):
        if len(parts) != 2:
            raise RefusedError(RefusalCode.BAD_SIGNATURE, "new roots need a new root's signature too")
        fresh = {kid: key for kid, key in new_roots.items() if kid not in roots}
        if verify(parts[1], fresh or new_roots, TrustPut) != put:
            raise RefusedError(RefusalCode.BAD_SIGNATURE, "the two signatures are over different statements")
    elif len(parts) != 1:
        raise RefusedError(RefusalCode.MALFORMED, "a second signature, and no new roots")
    issuers, releases = _keyed(put.issuers), _keyed(put.releases)
    if not releases.keys().isdisjoint({*new_roots, *issuers}):
        # What decides on software must not be the key that lies on the centre's server.
        raise RefusedError(RefusalCode.MALFORMED, "a release key has another role too")
    return TrustStore(put.version, put.epoch, new_roots, issuers, releases)


def _keyed(untrusted_jwks: list[dict[str, str]]) -> dict[str, VerifyingKey]:
    keys = [VerifyingKey.from_jwk(jwk) for jwk in untrusted_jwks]
    return {key.kid: key for key in keys}
