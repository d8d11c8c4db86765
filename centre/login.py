"""How somebody proves who they are: one port, and the way that is built.

A login has two steps, because a passkey's has: `begin` gives what the browser needs (for a passkey a challenge, for a
token nothing), `finish` takes what it answers. What follows, session and grant, doesn't know which way it was.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final, Protocol

from centre.state import Account

MAX_ANSWER_CHARS: Final = 512


class LoginPort(Protocol):
    """One way of logging in. Neither step says which accounts exist."""

    name: str

    async def begin(self) -> dict[str, Any]:
        """What the login page needs to know; JSON."""

    async def finish(self, untrusted: Mapping[str, str]) -> Account | None:
        """The account that the answer proves, or None."""


class TokenLogin:
    """A local account with one secret token, of which only the SHA-256 is configured."""

    name = "token"

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self._accounts = accounts

    async def begin(self) -> dict[str, Any]:
        return {"way": self.name}

    async def finish(self, untrusted: Mapping[str, str]) -> Account | None:
        return self.account_of(untrusted.get("token", ""))

    def account_of(self, untrusted_token: str) -> Account | None:
        """The account whose token this is. Takes the same time whichever account it is, or none."""
        if len(untrusted_token) > MAX_ANSWER_CHARS:
            return None
        digest = hashlib.sha256(untrusted_token.encode()).hexdigest()
        found = None
        for account in self._accounts.values():
            if hmac.compare_digest(account.login_sha256, digest):
                found = account
        return found
