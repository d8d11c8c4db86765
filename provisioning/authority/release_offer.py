"""Update offers: what the release role says is the newest system, for whom, and how long the word is good.

An offer follows another by one rule, which devices keep: its number is above. What is written here keeps two more, as a
net under whoever signs: the version does not go back, and the same version keeps its bundle.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.refusal import RefusedError
from gateway.protocol import strict_json
from gateway.protocol.envelope import split, to_message
from gateway.protocol.key import b64url_decode
from gateway.protocol.message import UpdateOffer
from gateway.update.offer import version_key
from provisioning.authority.error import AuthorityError

MAX_DAYS: Final = 60.0


def read_offer(own: bytes) -> UpdateOffer:
    """An offer that was signed here earlier; its signature is not looked at. Raises AuthorityError."""
    try:
        envelope = split(own.strip())
        if envelope.kind != UpdateOffer.KIND:
            raise AuthorityError("the previous file is no update offer")
        return to_message(strict_json.loads(b64url_decode(envelope.untrusted_payload)), UpdateOffer)
    except RefusedError as exc:
        raise AuthorityError(f"the previous offer can't be read: {exc}") from exc


def compose_offer(
    previous: UpdateOffer | None,
    *,
    version: str,
    compatible: str,
    url: str,
    manifest_sha256: str,
    size_bytes: int,
    ring: str,
    tries: int,
    now_unix_s: float,
    not_before_h: float,
    days: float,
) -> UpdateOffer:
    """The content of an offer. Raises AuthorityError when it breaks the schema or goes back behind `previous`."""
    if not 0 < days <= MAX_DAYS or not 0 <= not_before_h < days * 24:
        raise AuthorityError(f"an offer is good for at most {MAX_DAYS:.0f} days, and begins before it ends")
    ends = now_unix_s + days * 86400.0
    content = {
        "statement": 1 if previous is None else previous.statement + 1,
        "version": version,
        "compatible": compatible,
        "url": url,
        "manifest_sha256": manifest_sha256,
        "size_bytes": size_bytes,
        "ring": ring,
        "not_before": now_unix_s + not_before_h * 3600.0,
        "deadline": ends,
        "stated": now_unix_s,
        "expires": ends,
        "tries": tries,
    }
    try:
        put = to_message(content, UpdateOffer)
    except RefusedError as exc:
        cause = exc.__cause__
        raise AuthorityError(f"not an offer: {cause if isinstance(cause, msgspec.ValidationError) else exc}") from exc
    if previous is not None and previous.compatible == put.compatible:
        if version_key(put.version) < version_key(previous.version):
            raise AuthorityError(
                f"version {put.version} is below {previous.version}; devices refuse to go back. Give what it mends a "
                "version of its own."
            )
        if put.version == previous.version and put.manifest_sha256 != previous.manifest_sha256:
            raise AuthorityError(
                f"version {put.version} was offered with another bundle; a new bundle is a new version"
            )
    return put
