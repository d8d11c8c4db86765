"""Grants: what the issuing key lets one person's key do, for one shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.refusal import RefusedError
from gateway.protocol.envelope import MAX_GRANT_LIFE_S, Signer, to_message
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import Confirmation, Grant, Role
from provisioning.authority.error import AuthorityError
from provisioning.authority.signer import sign_with

SLACK_S: Final = 60.0
"""A grant begins this long before now: a device's whole clock interval must lie after its beginning."""
LONGEST_HOURS: Final = MAX_GRANT_LIFE_S / 3600


def make_grant(
    issuer: Signer,
    person: VerifyingKey,
    *,
    who: str,
    roles: Sequence[Role],
    homes: Sequence[str],
    groups: Sequence[str],
    hours: float,
    epoch: int,
    now_unix_s: float,
) -> bytes:
    """A signed grant that lasts `hours` from a minute ago on. Raises AuthorityError."""
    if not 0 < hours <= LONGEST_HOURS:
        raise AuthorityError(
            f"{hours:g} hours; a grant lasts for one shift, more than 0 and at most {LONGEST_HOURS:g} hours. Devices "
            "refuse a longer one."
        )
    if not homes and not groups:
        raise AuthorityError("a grant for no home is good for nothing: name --home or --group")
    if person.kid == issuer.verifying.kid:
        raise AuthorityError("the person's key is the issuing key itself; each person has a key of their own")
    begins = float(int(now_unix_s - SLACK_S))
    grant = Grant(
        sub=who,
        name_ref=who,
        roles=list(dict.fromkeys(roles)),
        cnf=Confirmation(person.jwk()),
        epoch=epoch,
        nbf=begins,
        exp=begins + hours * 3600,
        homes=sorted(set(homes)),
        groups=sorted(set(groups)),
    )
    try:
        grant = to_message(msgspec.to_builtins(grant), Grant)
    except RefusedError as exc:
        raise AuthorityError(
            "not a grant: ids are letters, digits and . _ : -, at most 64; homes are gw-…, at most 64 of them; groups "
            "at most 16; roles at least one; the epoch is not negative"
        ) from exc
    return sign_with(grant, issuer)
