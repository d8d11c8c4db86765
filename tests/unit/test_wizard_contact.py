"""Who is let in. Mutations: `is_spent` always False (test_a_code_is_spent_with_its_first_use); `WINDOW_S` times ten.

That a try is counted before it is looked at is in tests/browser/test_wizard.py.
"""

from __future__ import annotations

import os

import pytest

from gateway.core.error import ConfigError
from provisioning.wizard.contact import MAX_WRONG, Contact, Window, after_act, counted, csrf, is_csrf, knows, let_in
from provisioning.wizard.keep import Keep
from provisioning.wizard.machine import Progress, Step


def test_five_tries_and_then_the_door_is_locked():
    contact = Contact()
    for _ in range(MAX_WRONG):
        assert not contact.is_locked
        contact = counted(contact)
    assert MAX_WRONG == 5
    assert contact.is_locked
    assert not after_act().is_locked


def test_a_code_is_spent_with_its_first_use():
    contact = let_in(counted(Contact()), "token")
    assert contact.is_spent
    assert contact.wrong == 0
    assert knows(contact, "token")
    assert not knows(contact, "other")
    assert not knows(Contact(), "token")
    assert not knows(after_act(), "token")


def test_the_window_closes_after_fifteen_minutes_without_anybody():
    window = Window(100.0)
    assert not window.is_over(100.0 + 15 * 60)
    assert window.is_over(100.0 + 15 * 60 + 0.1)
    window.touch(500.0)
    assert not window.is_over(500.0 + 15 * 60)


def test_a_forms_token_belongs_to_one_session():
    assert is_csrf("token", csrf("token"))
    assert not is_csrf("token", csrf("other"))
    assert not is_csrf("token", "")
    assert not is_csrf("token", "\ud800")


def test_tries_and_progress_survive_the_power(tmp_path):
    keep = Keep(tmp_path)
    keep.put(counted(counted(Contact())))
    keep.put(Progress(step=Step.LINE, network="wifi"))
    assert Keep(tmp_path).contact().wrong == 2
    assert Keep(tmp_path).progress() == Progress(step=Step.LINE, network="wifi")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_that_is_not_ours_ends_the_process(tmp_path):
    (tmp_path / "progress.json").write_bytes(os.urandom(40))
    with pytest.raises(ConfigError):
        Keep(tmp_path).progress()
