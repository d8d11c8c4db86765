"""Who may use a private file; systemd's credentials have their own mode.

Mutations that turn it red: allow 0440 everywhere; take any folder for the credentials'; let others read a credential.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.core.secret_mode import is_open_to_others

FOLDER = Path("/run/credentials/tillsyn-relay.service")


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o400, False), (0o440, True), (0o604, True)])
def test_a_file_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch, mode: int, is_open: bool) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert is_open_to_others(FOLDER / "secret", stat.S_IFREG | mode) is is_open


@pytest.mark.parametrize(("mode", "is_open"), [(0o440, False), (0o400, False), (0o444, True), (0o442, True)])
def test_a_credential_may_have_its_access_lists_mask(monkeypatch: pytest.MonkeyPatch, mode: int, is_open: bool) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(FOLDER))
    assert is_open_to_others(FOLDER / "secret", stat.S_IFREG | mode) is is_open
    assert is_open_to_others(FOLDER.parent / "secret", stat.S_IFREG | 0o440), "only what lies in it"
