"""The trust statement: which roots and issuers a device believes, signed by a root.

A statement follows another by one rule: its version is above, its epoch not below, and a root that the devices hold
signs it. When the roots change, a root of the new set signs too; a root that comes is the one that does, so that nobody
is locked in with a key that nobody has. What is signed here is read back as a device would (`make_trust`) before it is
given out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from gateway.core.refusal import RefusedError
from gateway.protocol.envelope import Signer, make_trust, to_message, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import TrustPut
from provisioning.authority.error import AuthorityError
from provisioning.authority.signer import sign_with

LONGEST_STEP: Final = 1000
"""How far a version or an epoch may rise at once. It can't be lowered again, so a slip would be for good."""


def keyed(jwks: Iterable[Mapping[str, str]]) -> dict[str, VerifyingKey]:
    """Keys by their thumbprint. Raises RefusedError(malformed)."""
    keys = [VerifyingKey.from_jwk(dict(jwk)) for jwk in jwks]
    return {key.kid: key for key in keys}


def compose(
    *,
    version: int,
    epoch: int,
    roots: Sequence[VerifyingKey],
    issuers: Sequence[VerifyingKey],
    releases: Sequence[VerifyingKey] = (),
) -> TrustPut:
    """A statement's content. Raises AuthorityError when it breaks the schema, or a key stands in it twice."""
    kids = [key.kid for key in (*roots, *issuers, *releases)]
    if len(set(kids)) != len(kids):
        raise AuthorityError("a key stands in the statement twice. Each root, issuer and release key is its own.")
    if not (1 <= len(roots) <= 4 and 1 <= len(issuers) <= 4):
        raise AuthorityError(f"{len(roots)} roots and {len(issuers)} issuers; a statement has 1 to 4 of each")
    if len(releases) > 4:
        raise AuthorityError(f"{len(releases)} release keys; a statement has at most 4")
    put = TrustPut(
        version=version,
        epoch=epoch,
        roots=[key.jwk() for key in roots],
        issuers=[key.jwk() for key in issuers],
        releases=[key.jwk() for key in releases],
    )
    try:
        return to_message(msgspec.to_builtins(put), TrustPut)
    except RefusedError as exc:
        raise AuthorityError(f"version {version} or epoch {epoch} is out of range (1 and 0 to 2147483648)") from exc


def read_previous(untrusted: bytes, known: Mapping[str, VerifyingKey]) -> TrustPut:
    """The statement in force. Raises AuthorityError unless one of the `known` roots signed it.

    Its own roots would prove nothing: whoever makes a statement up puts his own root in. And what it says of issuers is
    carried over.
    """
    parts = untrusted.split(b"~")
    if len(parts) > 2:
        raise AuthorityError("the previous statement has more than two signatures")
    put = None
    for part in parts:
        try:
            put = verify(part, known, TrustPut)
        except RefusedError:
            continue
    if put is None:
        raise AuthorityError(
            "none of the roots given signed the previous statement. Is it the right file, and whole (no newline behind "
            "it)? If another root of the same set signed it, name that one's JWK file with --known-root."
        )
    try:
        roots = keyed(put.roots)
        if verify(parts[-1], roots, TrustPut) != put or parts[0].split(b".")[1] != parts[-1].split(b".")[1]:
            raise AuthorityError("the previous statement's two signatures are over different statements")
    except RefusedError as exc:
        raise AuthorityError(f"the previous statement does not hold together: {exc}") from exc
    return put


def sign_statement(put: TrustPut, previous: TrustPut | None, root: Signer, new_root: Signer | None = None) -> bytes:
    """Sign `put` so that a device which holds `previous` takes it. Raises AuthorityError when it would or should not.

    `root` is of the previous set (of the own set, for the first statement). `new_root` is of the new set and signs
    second; it is needed when a root comes or when `root` goes, and refused when the roots stay.
    """
    roots = keyed(put.roots)
    if previous is None:
        if put.version != 1:
            raise AuthorityError(
                f"version {put.version} has a predecessor: name it with --previous. Only a first statement (version 1) "
                "has none. Each device and the centre keep a copy."
            )
        held = roots
    else:
        _follows(put, previous)
        held = keyed(previous.roots)
    if root.verifying.kid not in held:
        raise AuthorityError(
            f"root {root.verifying.kid} is none that the devices hold ({', '.join(held)}); they would refuse its "
            "signature. Give --root the key of one of those."
        )
    statement = sign_with(put, root)
    second = _second_signer(roots, held, root, new_root)
    if second is not None:
        statement += b"~" + sign_with(put, second)
    try:
        trust = make_trust(statement, held)
    except RefusedError as exc:
        raise AuthorityError(f"a device would refuse this statement: {exc}. Nothing was written.") from exc
    if (trust.version, trust.epoch) != (put.version, put.epoch) or set(trust.roots) != set(roots):
        raise AuthorityError("a device would read this statement otherwise than it was meant. Nothing was written.")
    return statement


def _follows(put: TrustPut, previous: TrustPut) -> None:
    if put.version <= previous.version:
        raise AuthorityError(
            f"version {put.version} is not above the previous statement's {previous.version}; devices refuse to go "
            f"back. Use --version {previous.version + 1}."
        )
    if put.epoch < previous.epoch:
        raise AuthorityError(
            f"epoch {put.epoch} is below the previous statement's {previous.epoch}: revoked grants would live again. "
            f"Use --epoch {previous.epoch}, or {previous.epoch + 1} to revoke all grants."
        )
    for word, new, old in (("version", put.version, previous.version), ("epoch", put.epoch, previous.epoch)):
        if new - old > LONGEST_STEP:
            raise AuthorityError(
                f"{word} {new} is {new - old} above the previous statement's {old}. It can never be lowered again; at "
                f"most {LONGEST_STEP} at once."
            )


def _second_signer(
    roots: Mapping[str, VerifyingKey], held: Mapping[str, VerifyingKey], root: Signer, new_root: Signer | None
) -> Signer | None:
    if set(roots) == set(held):
        if new_root is not None:
            raise AuthorityError(
                f"root {new_root.verifying.kid} is held already, so the roots don't change and one signature is right. "
                "Leave --new-root out."
            )
        return None
    coming = set(roots) - set(held)
    second = root if new_root is None else new_root
    if coming - {second.verifying.kid}:
        raise AuthorityError(
            f"a root that comes must sign too ({', '.join(sorted(coming))}): name its private key with --new-root, one "
            "in each statement"
        )
    if second.verifying.kid not in roots:
        raise AuthorityError(
            "the roots change, so a root of the new set must sign too: name its private key with --new-root"
        )
    return second
