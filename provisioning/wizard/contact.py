"""Who is let in: the label's code, once, within five tries, inside a window. Pure.

A wrong code is counted durably before anybody hears of it; after five, only a physical act at the device opens again.
A right code is spent with its first use: whoever comes second, or lost the first phone, needs the physical act too.
What a wrong code, a spent one and a closed door answer is the same.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

MAX_WRONG: Final = 5
WINDOW_S: Final = 15 * 60.0
"""Without anything done by somebody who was let in. Source: R06."""


class Contact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durable."""

    wrong: Annotated[int, Meta(ge=0)] = 0
    session_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None

    @property
    def is_locked(self) -> bool:
        return self.wrong >= MAX_WRONG

    @property
    def is_spent(self) -> bool:
        return self.session_sha256 is not None


def counted(contact: Contact) -> Contact:
    """Before the code is looked at: a try is a try, also when the power goes in the middle of it."""
    return msgspec.structs.replace(contact, wrong=contact.wrong + 1)


def let_in(contact: Contact, token: str) -> Contact:
    """The code was right and unspent: the tries are forgotten, and only this session is let in from now on."""
    return msgspec.structs.replace(contact, wrong=0, session_sha256=_sha256(token))


def after_act() -> Contact:
    """After the physical act: as a fresh device, and no earlier session counts."""
    return Contact()


def knows(contact: Contact, token: str) -> bool:
    """Whether this is the session that was let in."""
    return contact.session_sha256 is not None and hmac.compare_digest(contact.session_sha256, _sha256(token))


def csrf(token: str) -> str:
    """What every form of this session carries; a page from elsewhere can't know it."""
    return hmac.new(token.encode(), b"tillsyn csrf", hashlib.sha256).hexdigest()


def is_csrf(token: str, given: str) -> bool:
    return hmac.compare_digest(csrf(token).encode(), given.encode("utf-8", "replace"))


@dataclass(slots=True)
class Window:
    """How long the door stays open, on BOOTTIME."""

    touched_s: float

    def touch(self, now_s: float) -> None:
        self.touched_s = now_s

    def is_over(self, now_s: float) -> bool:
        return now_s - self.touched_s > WINDOW_S


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
