"""The board's own clock is asked, and not believed when it has lost its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.edge.clock_sysfs import read_unix_s

FLOOR = 1_795_000_000.0


def _rtc(tmp_path: Path, text: str) -> Path:
    (tmp_path / "since_epoch").write_text(text)
    return tmp_path


def test_a_clock_with_its_battery_says_the_time(tmp_path: Path):
    assert read_unix_s(_rtc(tmp_path, "1795000500\n"), floor_unix_s=FLOOR) == 1_795_000_500.0


@pytest.mark.parametrize("text", ["0\n", "946684800\n", "1794999000\n"])
def test_a_clock_without_memory_has_no_opinion(tmp_path: Path, text: str):
    # Mutation: return `unix_s` without looking at the floor: every board with a flat battery would be contradicted.
    assert read_unix_s(_rtc(tmp_path, text), floor_unix_s=FLOOR) is None


@pytest.mark.parametrize("text", ["", "soon\n", "1e400\n"])
def test_what_is_no_number_has_no_opinion(tmp_path: Path, text: str):
    assert read_unix_s(_rtc(tmp_path, text), floor_unix_s=FLOOR) is None


def test_a_board_without_such_a_clock_has_no_opinion(tmp_path: Path):
    assert read_unix_s(tmp_path / "rtc0", floor_unix_s=FLOOR) is None
