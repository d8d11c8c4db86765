"""How somebody proves who they are, and what is common to all ways: an account, or nothing.

Three ways: a secret token (here), a passkey (`centre.passkey`), an OpenID provider (`centre.oidc`). What follows,
session and grant, doesn't know which way it was. With `link = "enrol"` a token opens the door until the account has
its first passkey, and never again; programs (role `system`) always use theirs.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final

from centre.role import CentreRole
from centre.state import Account, CentreState

MAX_ANSWER_CHARS: Final = 512
LOGIN_LIFE_S: Final = 300.0
"""From the begin of a login to its end."""


class LoginRefusedError(Exception):
    """The answer proves nothing. The words say what to do, and not which accounts exist."""


def account_of(accounts: Mapping[str, Account], untrusted_token: str) -> Account | None:
    """The account whose token this is. Takes the same time whichever account it is, or none."""
    if len(untrusted_token) > MAX_ANSWER_CHARS:
        return None
    digest = sha256(untrusted_token)
    found = None
    for account in accounts.values():
        if account.login_sha256 is not None and hmac.compare_digest(account.login_sha256, digest):
            found = account
    return found


def by_token(state: CentreState, untrusted_token: str) -> Account | None:
    """The account that may come in with this token now, or None. Blocking."""
    account = account_of(state.accounts, untrusted_token)
    if account is None or state.link_rule == "always" or CentreRole.SYSTEM in account.roles:
        return account
    return None if state.store.passkeys(account.who) else account


def begin(state: CentreState, way: str, *, secret: str, who: str | None = None) -> str:
    """Keep what a login under way has to give back; returns its name, which only the browser knows. Blocking."""
    name = secrets.token_urlsafe(24)
    now_unix_s = state.clock()
    state.store.put_login(
        sha256(name), way=way, who=who, secret=secret, exp_unix_s=now_unix_s + LOGIN_LIFE_S, now_unix_s=now_unix_s
    )
    return name


def take(state: CentreState, way: str, untrusted_name: str) -> tuple[str, str | None]:
    """(secret, who) of a login under way, once. Raises LoginRefusedError when there is none. Blocking."""
    found = state.store.take_login(sha256(untrusted_name[:MAX_ANSWER_CHARS]), way=way, now_unix_s=state.clock())
    if found is None:
        raise LoginRefusedError("This login was begun too long ago, or used already. Begin again.")
    return found


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()
