"""Secrets that a person types from a label: random, unambiguous, and never one that somebody would try first.

The alphabet is Crockford's base 32, without I, L, O and U: five bits a character. What is typed is read with small
letters, spaces and dashes forgiven, and O, I and L taken for 0 and 1. Source: crockford.com/base32.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import pairwise
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH: Final = 10
"""50 random bits. Source: R03, at least 40."""
KEY_LENGTH: Final = 12
"""60 random bits for the access point: WPA2's handshake can be tested offline, so more than the code has."""
LEAST_DIFFERENT: Final = 6
_FORGIVEN: Final = str.maketrans({"O": "0", "I": "1", "L": "1", " ": None, "-": None, "\t": None})


def make_word(length: int, choose: Callable[[int], int] = secrets.randbelow) -> str:
    """`length` random characters; trivial ones are thrown away. `choose(n)` gives a number below n."""
    while True:
        word = "".join(ALPHABET[choose(len(ALPHABET))] for _ in range(length))
        if not is_trivial(word):
            return word


def is_trivial(word: str) -> bool:
    """Few different characters, a run up or down, or a half that is repeated."""
    if len(set(word)) < min(LEAST_DIFFERENT, len(word)):
        return True
    places = [ALPHABET.index(char) for char in word]
    steps = {(later - earlier) % len(ALPHABET) for earlier, later in pairwise(places)}
    half = len(word) // 2
    return len(steps) == 1 or word[:half] == word[half:]


def read_word(untrusted: str, length: int) -> str | None:
    """What was typed, in the alphabet; None when it can't be one of ours."""
    if len(untrusted) > 4 * length:
        return None
    word = untrusted.strip().upper().translate(_FORGIVEN)
    return word if len(word) == length and set(word) <= set(ALPHABET) else None


def in_groups(word: str, size: int = 5) -> str:
    """For people: `ABCDE-FGHJK`."""
    return "-".join(word[start : start + size] for start in range(0, len(word), size))
