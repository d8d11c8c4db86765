"""docs/view-signals.md is what the code does, and the thresholds are what its choice gives."""

from __future__ import annotations

import pytest
from view_scenes import scenes
from view_table import PAGE, choose, halves, look, page, word

from gateway.protocol.picture import View
from gateway.view import thresholds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen():
    return look(scenes())


def test_the_thresholds_are_those_chosen_on_the_first_half(seen):
    chosen = choose(halves(seen)[0])
    assert chosen == {name: getattr(thresholds, name) for name in chosen}


def test_the_page_says_what_the_code_does(seen):
    assert PAGE.read_text() == page(seen), "python tests/unit/view_table.py"


def test_there_are_enough_scenes_and_no_half_is_without_a_word(seen):
    chosen_by, reported = halves(seen)
    assert len(seen) >= 40 + 9
    assert {one.view for one in chosen_by} == {one.view for one in reported} == set(View)
    assert not {one.name for one in chosen_by} & {one.name for one in reported}


def test_a_clear_picture_is_called_clear_and_every_other_is_called_something(seen):
    """The least that the words are worth something for, whatever the page says."""
    _, reported = halves(seen)
    wrong = [one.name for one in reported if (word(one) is View.CLEAR) != (one.view is View.CLEAR)]
    assert len(wrong) <= len(reported) // 20
