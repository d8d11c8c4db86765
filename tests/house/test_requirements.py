"""docs/requirements.md: every row once, and every test that it names is there.

Mutations that turn a test here red: a row taken out or named twice; a test renamed; a row called held without a test.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "requirements.md"
ROWS = [*(f"R{number:02}" for number in range(1, 65)), *(f"F{number:02}" for number in range(1, 67))]
STATES = ("held", "in part", "open", "board")


@dataclass(frozen=True)
class Row:
    id: str
    state: str
    tests: tuple[str, ...]
    remark: str


def rows(text: str) -> list[Row]:
    found = []
    for line in text.splitlines():
        if match := re.fullmatch(r"\| ([RF]\d\d) \| (.*?) \| (.*?) \| (.*?) \| ?(.*?) ?\|", line):
            identity, _what, state, tests, remark = match.groups()
            found.append(Row(identity, state, tuple(re.findall(r"`([^`]+)`", tests)), remark))
    return found


def offenders(table: list[Row], root: Path = ROOT) -> list[str]:
    found = [f"{row.id}: {row.state} is no state" for row in table if row.state not in STATES]
    found += [f"{row.id}: held by no test" for row in table if row.state == "held" and not row.tests]
    found += [
        f"{row.id}: in part, and it is not said which"
        for row in table
        if row.state == "in part" and not (row.tests or row.remark)
    ]
    found += [f"{row.id}: open, and has a test" for row in table if row.state == "open" and row.tests]
    if (named := [row.id for row in table]) != ROWS:
        found.append(f"rows: {sorted(set(ROWS) ^ set(named)) or 'twice, or out of order'}")
    for row in table:
        for test in row.tests:
            path, _, name = test.partition("::")
            file = root / "tests" / path
            if not file.is_file() or name not in functions(file):
                found.append(f"{row.id}: there is no {test}")
    return found


@functools.cache
def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_is_there_once_and_every_test_it_names_exists():
    assert offenders(rows(TABLE.read_text())) == []


def test_the_count_below_the_table_is_right():
    text = TABLE.read_text()
    table = rows(text)
    held, part, left, board = (sum(row.state == state for row in table) for state in STATES)
    assert f"{len(table)} rows: {held} held, {part} in part, {left} open, {board} on a board only." in text


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("| R20 |", "| R19 |", "rows:"),
        ("::test_a_removed_line_is_refused`", "::test_a_removed_line_is_taken`", "there is no"),
        ("| R54 | secure boot | board |", "| R54 | secure boot | done |", "no state"),
    ],
)  # fmt: skip
def test_a_fault_in_the_table_would_be_found(old, new, word):
    text = TABLE.read_text()
    if old not in text:
        pytest.fail(f"the table has changed: {old!r} is not in it; name another line to break")
    assert any(word in each for each in offenders(rows(text.replace(old, new, 1))))
