"""Passkeys: registered from a session, then all that is needed to log in. Source: W3C Web Authentication Level 3.

The authenticator must verify its user (PIN or finger), and keeps the account's name itself, so nobody types one. The
relying party is the host of the console's own origin. Blocking, all of it: coroutines call it in a thread.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlsplit

import webauthn
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from centre import login
from centre.login import LoginRefusedError
from centre.state import Account, CentreState

MAX_CREDENTIAL_CHARS: Final = 16 * 1024
MAX_PASSKEYS: Final = 10
_REFUSED: Final = "The passkey did not fit. Try again, or ask for a new login link."


def begin_registration(state: CentreState, who: str, *, origin: str) -> dict[str, Any]:
    """What the browser needs. Raises LoginRefusedError for a program, which has no page."""
    options = webauthn.generate_registration_options(
        rp_id=_host(origin),
        rp_name="Tillsyn",
        user_name=who,
        user_id=who.encode(),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[
            PublicKeyCredentialDescriptor(base64url_to_bytes(row["credential_id"])) for row in state.store.passkeys(who)
        ],
    )
    name = login.begin(state, "passkey-new", secret=bytes_to_base64url(options.challenge), who=who)
    return {"login": name, "options": json.loads(webauthn.options_to_json(options))}


def finish_registration(state: CentreState, who: str, *, origin: str, name: str, untrusted_credential: str) -> None:
    """Raises LoginRefusedError."""
    challenge, whose = login.take(state, "passkey-new", name)
    if whose != who:
        raise LoginRefusedError(_REFUSED)
    if len(state.store.passkeys(who)) >= MAX_PASSKEYS:
        raise LoginRefusedError("This account has ten passkeys. Remove one first.")
    try:
        verified = webauthn.verify_registration_response(
            credential=_read(untrusted_credential),
            expected_challenge=base64url_to_bytes(challenge),
            expected_rp_id=_host(origin),
            expected_origin=origin,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as exc:
        raise LoginRefusedError(_REFUSED) from exc
    is_new = state.store.put_passkey(
        bytes_to_base64url(verified.credential_id),
        who=who,
        public_key_hex=verified.credential_public_key.hex(),
        sign_count=verified.sign_count,
        now_unix_s=state.clock(),
    )
    if not is_new:
        raise LoginRefusedError("This passkey is registered already.")


def begin_login(state: CentreState, *, origin: str) -> dict[str, Any]:
    options = webauthn.generate_authentication_options(
        rp_id=_host(origin), user_verification=UserVerificationRequirement.REQUIRED
    )
    name = login.begin(state, "passkey", secret=bytes_to_base64url(options.challenge))
    return {"login": name, "options": json.loads(webauthn.options_to_json(options))}


def finish_login(state: CentreState, *, origin: str, name: str, untrusted_credential: str) -> Account:
    """The account whose passkey signed. Raises LoginRefusedError."""
    challenge, _who = login.take(state, "passkey", name)
    credential = _read(untrusted_credential)
    known = state.store.passkey(str(credential.get("id", ""))[:MAX_CREDENTIAL_CHARS])
    account = None if known is None else state.accounts.get(known["who"])
    if known is None or account is None:
        raise LoginRefusedError(_REFUSED)
    try:
        verified = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=base64url_to_bytes(challenge),
            expected_rp_id=_host(origin),
            expected_origin=origin,
            credential_public_key=bytes.fromhex(known["public_key_hex"]),
            credential_current_sign_count=known["sign_count"],
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as exc:
        raise LoginRefusedError(_REFUSED) from exc
    state.store.use_passkey(known["credential_id"], sign_count=verified.new_sign_count, now_unix_s=state.clock())
    return account


def _read(untrusted_credential: str) -> dict[str, Any]:
    if len(untrusted_credential) > MAX_CREDENTIAL_CHARS:
        raise LoginRefusedError(_REFUSED)
    try:
        value = json.loads(untrusted_credential)
    except (ValueError, RecursionError) as exc:
        raise LoginRefusedError(_REFUSED) from exc
    if not isinstance(value, dict):
        raise LoginRefusedError(_REFUSED)
    return value


def _host(origin: str) -> str:
    host = urlsplit(origin).hostname
    if not host:
        raise LoginRefusedError("A passkey belongs to a browser's page.")
    return host
