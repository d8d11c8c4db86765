"""That the list of mutations still fits the source; trying them is `python -m tests.mutations`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations.guard import EXPLAINED, MUTATIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise)
def test_a_mutation_fits_the_source(mutation):
    for file, old, new in mutation.edits:
        assert (ROOT / file).read_text().count(old) == 1
        assert old != new


def test_every_promise_has_its_own_name():
    assert len({mutation.promise for mutation in MUTATIONS}) == len(MUTATIONS)
    assert set(EXPLAINED) <= {mutation.promise for mutation in MUTATIONS}
