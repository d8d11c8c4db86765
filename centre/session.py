"""Who is asking: a login token, once for a cookie or with each request of a program.

Only hashes are kept, of the token in the configuration and of the cookie in the store. What a session may send is
limited here too.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.requests import Request

from centre.login import by_token, sha256
from centre.state import Account, CentreState

COOKIE: Final = "tillsyn_session"
SESSION_LIFE_S: Final = 12 * 3600
RATE_PER_S: Final = 5.0
BURST: Final = 20.0


@dataclass(frozen=True, slots=True)
class Session:
    account: Account
    session_sha256: str | None
    """None for a program's bearer token, which needs no cookie and hence no defence against forged requests."""

    @property
    def is_bearer(self) -> bool:
        return self.session_sha256 is None


async def log_in(state: CentreState, account: Account) -> str:
    """Start a session of 12 h; returns the cookie's value."""
    cookie = secrets.token_urlsafe(32)
    now_unix_s = state.clock()
    await asyncio.to_thread(
        state.store.put_session,
        sha256(cookie),
        who=account.who,
        exp_unix_s=now_unix_s + SESSION_LIFE_S,
        now_unix_s=now_unix_s,
    )
    return cookie


async def session_of(state: CentreState, request: Request) -> Session | None:
    """The session of a request, by bearer token or cookie; None if there is none, or its account is gone."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            return None
        account = await asyncio.to_thread(by_token, state, token.strip())
        return None if account is None else Session(account, None)
    try:
        morsel = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    if morsel is None:
        return None
    digest = sha256(morsel.value)
    who = await asyncio.to_thread(state.store.session_who, digest, now_unix_s=state.clock())
    account = state.accounts.get(who) if who is not None else None
    return None if account is None else Session(account, digest)


class RateLimit:
    """A token bucket for each key: 20 at once, then 5 a second.

    In this process only: with N workers a session may send N times as much, which defends the broker as well.
    """

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, key: str, *, now_s: float) -> bool:
        """Take one; False when none is left. `now_s` is any clock that does not jump back."""
        left, since_s = self._buckets.get(key, (BURST, now_s))
        left = min(BURST, left + (now_s - since_s) * RATE_PER_S)
        if len(self._buckets) > 1024:
            self._buckets.clear()  # more sessions than a centre has seats: start over, rather than grow
        self._buckets[key] = (left - 1 if left >= 1 else left, now_s)
        return left >= 1
