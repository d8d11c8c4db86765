"""Nonces of challenges: 128 bits, single use, in RAM only, bound to this boot and to the key that asked.

They live 30 s of BOOTTIME, so that no wall clock is involved, and are bounded in number: per key, so that one key's
flood can't push out another's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.key import b64url_encode

LIFE_S: Final = 30.0
PER_KEY: Final = 4
MAX_KEPT: Final = 64


@dataclass(slots=True)
class _Issued:
    kid: str
    issued_s: float
    used: bool = False


class NonceBook:
    """The nonces that were given out. `random_bytes` is `os.urandom`, or a fake with the same form in tests."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._issued: OrderedDict[str, _Issued] = OrderedDict()

    def issue(self, kid: str, *, now_s: float) -> str:
        """A new nonce for this key; its oldest is dropped beyond PER_KEY. Raises RefusedError(rate-limited)."""
        self._forget(now_s)
        own = [nonce for nonce, issued in self._issued.items() if issued.kid == kid]
        if len(own) >= PER_KEY:
            del self._issued[own[0]]
        if len(self._issued) >= MAX_KEPT:
            raise RefusedError(RefusalCode.RATE_LIMITED, "too many open challenges")
        nonce = b64url_encode(self._random_bytes(16))
        self._issued[nonce] = _Issued(kid, now_s)
        return nonce

    def use(self, nonce: str, kid: str, *, now_s: float) -> None:
        """Spend a nonce; raises RefusedError nonce-unknown, nonce-used or nonce-expired."""
        issued = self._issued.get(nonce)
        if issued is None or issued.kid != kid:
            raise RefusedError(RefusalCode.NONCE_UNKNOWN)
        if issued.used:
            raise RefusedError(RefusalCode.NONCE_USED)
        issued.used = True
        if now_s - issued.issued_s > LIFE_S:
            raise RefusedError(RefusalCode.NONCE_EXPIRED)

    def __len__(self) -> int:
        return len(self._issued)

    def _forget(self, now_s: float) -> None:
        # Kept for twice its life, so that a late one is told from one that never was.
        while self._issued:
            oldest = next(iter(self._issued.values()))
            if now_s - oldest.issued_s <= 2 * LIFE_S:
                return
            self._issued.popitem(last=False)
