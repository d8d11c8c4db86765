"""Login by an OpenID provider: authorization code with PKCE. Source: OpenID Connect Core 1.0 §3.1; RFC 7636; RFC 9700.

The provider says who somebody is, and nothing about what they may do: that stands in the centre's own configuration,
under the `sub` that the provider gives. State, nonce and verifier are kept in the store and used once; the state's name
is also in a cookie, so that a login begun elsewhere can't be ended in this browser.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from centre import login
from centre.login import LoginRefusedError
from centre.state import Account, CentreState, Provider

ALGORITHMS: Final = ["ES256", "RS256", "PS256"]
TIMEOUT_S: Final = 5.0
LEEWAY_S: Final = 60
MAX_ANSWER_BYTES: Final = 64 * 1024
_REFUSED: Final = "The provider's answer did not fit. Try again; if it repeats, tell whoever runs the centre."


async def begin(state: CentreState, provider: Provider, *, redirect_uri: str) -> tuple[str, str]:
    """(the provider's address to go to, the name of this login for the cookie). Raises LoginRefusedError."""
    known = await _discover(provider)
    verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    name = await asyncio.to_thread(login.begin, state, "oidc", secret=f"{verifier} {nonce}")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": "openid",
        "state": name,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    endpoint = str(known["authorization_endpoint"])
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", name


async def finish(
    state: CentreState,
    provider: Provider,
    *,
    redirect_uri: str,
    cookie_name: str,
    untrusted_state: str,
    untrusted_code: str,
) -> Account:
    """The account under the `sub` that the provider signed for. Raises LoginRefusedError."""
    if not cookie_name or not secrets.compare_digest(cookie_name.encode(), untrusted_state.encode()):
        raise LoginRefusedError("This login was not begun in this browser. Begin again.")
    secret, _who = await asyncio.to_thread(login.take, state, "oidc", untrusted_state)
    verifier, nonce = secret.split(" ")
    known = await _discover(provider)
    form = {
        "grant_type": "authorization_code",
        "code": untrusted_code,
        "redirect_uri": redirect_uri,
        "client_id": provider.client_id,
        "code_verifier": verifier,
    }
    auth = None if provider.client_secret is None else (provider.client_id, provider.client_secret)
    tokens = await _ask(provider, str(known["token_endpoint"]), form=form, auth=auth)
    keys = await _ask(provider, str(known["jwks_uri"]))
    claims = _claims(str(tokens.get("id_token", "")), keys, provider, nonce=nonce, now_unix_s=state.clock())
    for account in state.accounts.values():
        if account.subject is not None and account.subject == claims["sub"]:
            return account
    raise LoginRefusedError("The provider knows you, the centre does not. Ask whoever runs it for an account.")


def _claims(
    untrusted_token: str, untrusted_keys: dict[str, Any], provider: Provider, *, nonce: str, now_unix_s: float
) -> dict[str, Any]:
    """Source: OpenID Connect Core 1.0 §3.1.3.7."""
    try:
        token = jwt.decode(untrusted_token, KeySet.import_key_set(cast(Any, untrusted_keys)), algorithms=ALGORITHMS)
        jwt.JWTClaimsRegistry(
            now=int(now_unix_s),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": provider.issuer},
            aud={"essential": True, "value": provider.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(token.claims)
    except (JoseError, ValueError, KeyError, TypeError) as exc:
        raise LoginRefusedError(_REFUSED) from exc
    audience = token.claims["aud"]
    if isinstance(audience, list) and token.claims.get("azp", provider.client_id) != provider.client_id:
        raise LoginRefusedError(_REFUSED)
    return dict(token.claims)


async def _discover(provider: Provider) -> dict[str, Any]:
    known = await _ask(provider, f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration")
    if known.get("issuer") != provider.issuer:
        raise LoginRefusedError(_REFUSED)
    return known


async def _ask(
    provider: Provider, address: str, *, form: dict[str, str] | None = None, auth: tuple[str, str] | None = None
) -> dict[str, Any]:
    is_local = urlsplit(provider.issuer).hostname in ("127.0.0.1", "localhost")
    if urlsplit(address).scheme != "https" and not is_local:
        raise LoginRefusedError(_REFUSED)
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client:
            if form is None:
                response = await client.get(address)
            else:
                response = await client.post(
                    address, data=form, auth=httpx.BasicAuth(*auth) if auth else httpx.USE_CLIENT_DEFAULT
                )
        if response.status_code != 200 or len(response.content) > MAX_ANSWER_BYTES:
            raise LoginRefusedError(_REFUSED)
        value = response.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise LoginRefusedError("The provider does not answer. Try again soon.") from exc
    if not isinstance(value, dict):
        raise LoginRefusedError(_REFUSED)
    return value
