"""Nonces: single use, one key, 30 s, one boot, bounded, whatever the order of events.

Mutations that turn a test here red (gateway/decision/nonce.py):
* `> LIFE_S` → `>= LIFE_S` → test_a_nonce_lives_thirty_seconds_and_no_longer; → `> 2 * LIFE_S`: the same
* drop `issued.kid != kid` → test_a_nonce_is_its_keys_alone, the model
* drop `issued.used = True` → test_a_nonce_is_good_once, the model
* mark as used before the key is compared → test_another_key_can_not_spend_it
* drop `del self._issued[own[0]]` → test_one_keys_flood_does_not_push_out_another
* delete the newest → test_beyond_four_the_oldest_goes
* drop the limit MAX_KEPT → test_the_book_is_bounded
* drop `_forget` → test_old_nonces_are_forgotten
* fewer random bytes → test_a_nonce_is_128_random_bits
"""

from __future__ import annotations

import os
import re
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from protocol_support import tried

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.decision.nonce import LIFE_S, MAX_KEPT, PER_KEY, NonceBook
from gateway.protocol.key import b64url_decode
from gateway.protocol.message import KINDS


def refusal(act) -> RefusalCode:
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.code


def a_book() -> NonceBook:
    numbers = count(1)
    return NonceBook(lambda size: next(numbers).to_bytes(size))


def test_a_nonce_is_128_random_bits():
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    nonce = NonceBook(random_bytes).issue("k", now_s=0.0)
    assert asked == [16]
    assert len(b64url_decode(nonce)) == 16
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", nonce)
    assert "nonce" in KINDS["check.open"].__struct_fields__


def test_a_nonce_is_good_once():
    book = a_book()
    nonce = book.issue("k", now_s=0.0)
    book.use(nonce, "k", now_s=1.0)
    assert refusal(lambda: book.use(nonce, "k", now_s=1.0)) is RefusalCode.NONCE_USED
    assert refusal(lambda: book.use(nonce, "k", now_s=50.0)) is RefusalCode.NONCE_USED


def test_a_nonce_lives_thirty_seconds_and_no_longer():
    assert LIFE_S == 30.0
    for later_s, code in (
        (0.0, None),
        (29.999, None),
        (30.0, None),
        (30.001, "nonce-expired"),
        (59.0, "nonce-expired"),
    ):
        book = a_book()
        nonce = book.issue("k", now_s=1000.0)
        if code is None:
            book.use(nonce, "k", now_s=1000.0 + later_s)
        else:
            assert refusal(lambda b=book, n=nonce, s=later_s: b.use(n, "k", now_s=1000.0 + s)) == code


def test_an_expired_nonce_does_not_come_back():
    """Not even if BOOTTIME went backwards, which it never does."""
    book = a_book()
    nonce = book.issue("k", now_s=1000.0)
    refusal(lambda: book.use(nonce, "k", now_s=1031.0))
    assert refusal(lambda: book.use(nonce, "k", now_s=1001.0)) is RefusalCode.NONCE_USED


def test_a_nonce_is_its_keys_alone():
    book = a_book()
    nonce = book.issue("k", now_s=0.0)
    assert refusal(lambda: book.use(nonce, "other", now_s=1.0)) is RefusalCode.NONCE_UNKNOWN


def test_another_key_can_not_spend_it():
    book = a_book()
    nonce = book.issue("k", now_s=0.0)
    refusal(lambda: book.use(nonce, "other", now_s=1.0))
    book.use(nonce, "k", now_s=1.0)


def test_a_nonce_of_another_boot_is_unknown():
    before = NonceBook(os.urandom)
    nonce = before.issue("k", now_s=0.0)
    assert refusal(lambda: NonceBook(os.urandom).use(nonce, "k", now_s=0.0)) is RefusalCode.NONCE_UNKNOWN


@pytest.mark.parametrize("spelling", ["", "A" * 22, "padded=", " spaced ", "\n", "\ud800"])
def test_what_was_never_given_out_is_unknown(spelling):
    book = a_book()
    book.issue("k", now_s=0.0)
    assert refusal(lambda: book.use(spelling, "k", now_s=0.0)) is RefusalCode.NONCE_UNKNOWN


def test_beyond_four_the_oldest_goes():
    book = a_book()
    nonces = [book.issue("k", now_s=float(at)) for at in range(PER_KEY + 1)]
    assert refusal(lambda: book.use(nonces[0], "k", now_s=5.0)) is RefusalCode.NONCE_UNKNOWN
    for nonce in nonces[1:]:
        book.use(nonce, "k", now_s=5.0)


def test_one_keys_flood_does_not_push_out_another():
    book = a_book()
    nonce = book.issue("k", now_s=0.0)
    for at in range(1000):
        book.issue("flood", now_s=at / 1000)
    book.use(nonce, "k", now_s=1.0)
    assert len(book) == PER_KEY + 1


def test_the_book_is_bounded():
    book = a_book()
    nonce = book.issue("k", now_s=0.0)
    made = 1
    with pytest.raises(RefusedError) as caught:
        for number in count():
            book.issue(f"key {number}", now_s=0.0)
            made += 1
    assert caught.value.code is RefusalCode.RATE_LIMITED
    assert made == len(book) == MAX_KEPT
    # The one who was there first is not hurt by it.
    book.use(nonce, "k", now_s=1.0)


def test_a_full_book_still_serves_those_who_are_in_it():
    book = a_book()
    for number in range(MAX_KEPT // PER_KEY):
        for _ in range(PER_KEY):
            book.issue(f"key {number}", now_s=0.0)
    assert refusal(lambda: book.issue("late", now_s=0.0)) is RefusalCode.RATE_LIMITED
    book.use(book.issue("key 0", now_s=1.0), "key 0", now_s=1.0)


def test_old_nonces_are_forgotten():
    book = a_book()
    nonce = book.issue("k", now_s=0.0)
    for number in range(MAX_KEPT - 1):
        book.issue(f"key {number}", now_s=0.0)
    book.issue("late", now_s=2 * LIFE_S + 0.001)
    assert len(book) == 1
    assert refusal(lambda: book.use(nonce, "k", now_s=61.0)) is RefusalCode.NONCE_UNKNOWN


class Histories(RuleBasedStateMachine):
    """Random histories against the simplest model: a list of what was given out."""

    nonces = Bundle("nonces")

    def __init__(self) -> None:
        super().__init__()
        self.book = a_book()
        self.now_s = 0.0
        self.given: dict[str, tuple[str, float]] = {}
        self.spent: set[str] = set()

    @rule(step_s=st.sampled_from([0.0, 0.5, 15.0, 29.999, 30.0, 31.0, 100.0]))
    def time_goes_on(self, step_s):
        self.now_s += step_s

    @rule(target=nonces, kid=st.sampled_from("abc"))
    def asks(self, kid):
        nonce = self.book.issue(kid, now_s=self.now_s)
        assert nonce not in self.given
        self.given[nonce] = (kid, self.now_s)
        return nonce

    @rule(nonce=nonces, kid=st.sampled_from("abc"))
    def uses(self, nonce, kid):
        owner, issued_s = self.given[nonce]
        later = [other for other, (by, at) in self.given.items() if by == owner]
        kept = nonce in later[-PER_KEY:]
        code, _ = tried(lambda: self.book.use(nonce, kid, now_s=self.now_s))
        good = kid == owner and kept and nonce not in self.spent and self.now_s - issued_s <= LIFE_S
        assert (code == "accepted") is good
        if kid != owner:
            assert code == RefusalCode.NONCE_UNKNOWN
        elif code != RefusalCode.NONCE_UNKNOWN:
            assert code in ("accepted", RefusalCode.NONCE_USED, RefusalCode.NONCE_EXPIRED)
            self.spent.add(nonce)

    @rule(nonce=consumes(nonces))
    def forgets(self, nonce):
        """An attacker who loses one changes nothing."""

    @invariant()
    def the_book_is_bounded(self):
        assert len(self.book) <= min(MAX_KEPT, 3 * PER_KEY)


TestHistories = pytest.mark.slow(Histories.TestCase)
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
