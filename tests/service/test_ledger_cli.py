"""What an auditor does with a copy of the demo's ledger: verify it, then change it, then verify again.

Mutations that turn these red: leave `prev` or the CRC out of the reading; return 0 from `_verify` when it is refused.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.service


def _tillsyn(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "kept"
    done = _tillsyn("demo", "--once", "--keep", str(folder), "--watch-s", "0.5")
    assert done.returncode == 0, done.stderr
    return folder / "home" / "state" / "ledger"


def _one_byte(lines: list[bytes]) -> list[bytes]:
    at = lines[3].index(b"op-demo")
    return [*lines[:3], lines[3][:at] + b"x" + lines[3][at + 1 :], *lines[4:]]


def _line_removed(lines: list[bytes]) -> list[bytes]:
    return lines[:3] + lines[4:]


def _last_line_removed(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def _two_swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def test_the_demos_ledger_verifies(ledger: Path):
    done = _tillsyn("ledger", "verify", str(ledger))
    assert done.returncode == 0, done.stderr
    assert "none changed, removed, added or moved" in done.stdout
    vkey = (ledger / "ledger.pub").read_text().strip()
    assert _tillsyn("ledger", "verify", str(ledger), "--key", vkey).returncode == 0


@pytest.mark.parametrize("change", [_one_byte, _line_removed, _last_line_removed, _two_swapped])
def test_a_changed_copy_is_refused_and_the_reason_is_said(
    ledger: Path, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]
):
    copy = tmp_path / "copy"
    shutil.copytree(ledger, copy)
    segment = copy / "segments" / "000000.log"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(change(lines)))
    done = _tillsyn("ledger", "verify", str(copy), "--json")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert json.loads(done.stdout)["verified"] is False


def test_the_log_is_shown_with_when_how_long_and_who(ledger: Path):
    done = _tillsyn("ledger", "show", str(ledger))
    assert done.returncode == 0
    (closed,) = (line for line in done.stdout.splitlines() if " closed " in line)
    assert "op-demo" in closed
    assert " s  seen" in closed
