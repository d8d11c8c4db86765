"""What a press of the resident's button means.

Mutations, each tried: LONG_S = 40; STUCK_S = 60; take one look instead of two in `feel`; STOP for a stuck one.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.check.button import LONG_S, STUCK_S, Button, Meaning, feel

LOOK_S = 0.04


def press(*stretches):
    """Meanings of (is_pressed, for so many seconds), … looked at every 40 ms."""
    button, at_s, meanings = Button(), 0.0, []
    for is_pressed, length_s in stretches:
        for _ in range(round(length_s / LOOK_S)):
            button, meaning = feel(button, is_pressed, at_s)
            at_s += LOOK_S
            if meaning is not None:
                meanings.append(meaning)
    return meanings


@pytest.mark.parametrize(("held_s", "meant"), [
    (0.08, Meaning.NOT_TONIGHT),
    (1.0, Meaning.NOT_TONIGHT),
    (LONG_S - 0.2, Meaning.NOT_TONIGHT),
    (LONG_S + 0.2, Meaning.STOP),
    (STUCK_S - 0.5, Meaning.STOP),
])  # fmt: skip
def test_a_press_is_felt_at_once_and_understood_when_it_ends(held_s, meant):
    assert press((False, 1), (True, held_s)) == [Meaning.PRESSED]
    assert press((False, 1), (True, held_s), (False, 1)) == [Meaning.PRESSED, meant]


def test_a_button_that_never_comes_up_is_stuck_and_never_means_stop():
    assert press((True, 600.0)) == [Meaning.PRESSED, Meaning.STUCK]
    assert press((True, 600.0), (False, 1)) == [Meaning.PRESSED, Meaning.STUCK, Meaning.FREED]
    assert press((True, 30), (False, 1), (True, 1), (False, 1))[3:] == [Meaning.PRESSED, Meaning.NOT_TONIGHT]


def test_a_bouncing_contact_means_nothing_of_its_own():
    assert press(*[(True, LOOK_S), (False, LOOK_S)] * 50) == []
    bouncing = [(True, 0.4), (False, LOOK_S), (True, 0.4), (False, LOOK_S), (True, 0.4), (False, 1)]
    assert press((False, 1), *bouncing) == [Meaning.PRESSED, Meaning.NOT_TONIGHT]


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 700)), max_size=30))
def test_whatever_is_done_to_it_every_press_ends_in_one_meaning(stretches):
    meanings = press(*[(is_pressed, looks * LOOK_S) for is_pressed, looks in stretches], (False, 1))
    words = iter(meanings)
    for word in words:
        assert word is Meaning.PRESSED
        ending = next(words)
        assert ending in {Meaning.NOT_TONIGHT, Meaning.STOP, Meaning.STUCK}
        if ending is Meaning.STUCK:
            assert next(words) is Meaning.FREED
