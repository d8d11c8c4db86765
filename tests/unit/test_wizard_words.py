"""The wizard's words: every message has its Swedish one, and no catalogue says what nobody asks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gateway.core.catalogue import read_po
from provisioning.wizard import words
from provisioning.wizard.machine import Step
from provisioning.wizard.network_port import Joining

ROOM = Path(words.__file__).parent
IN_TEMPLATE = re.compile(r'_\("((?:[^"\\]|\\.)*)"\)')


def messages() -> set[str]:
    found: set[str] = set()
    for path in (ROOM / "templates").glob("*.html"):
        found |= set(IN_TEMPLATE.findall(path.read_text(encoding="utf-8")))
    for name in ("words.py", "paper.py", "pages.py"):
        for node in ast.walk(ast.parse((ROOM / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("later", "say"):
                found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


@pytest.mark.parametrize("language", [code for code in words.languages() if code != "en"])
def test_a_catalogue_has_every_message_and_no_other(language):
    entries = read_po((ROOM / "locale" / language / "LC_MESSAGES" / "setup.po").read_text(encoding="utf-8"))
    assert {entry["msgid"] for entry in entries[1:]} == messages()


def test_there_is_swedish_and_a_browser_that_says_nothing_gets_it():
    assert "sv" in words.languages()
    assert words.language_for("") == words.language_for("xx,yy;q=0.4") == "sv"
    assert words.language_for("en-GB,en;q=0.9,sv;q=0.5") == "en"
    assert words.say_in("sv")("Go on") == "Gå vidare"
    assert words.say_in("xx")("Go on") == "Go on"


def test_every_outcome_has_its_sentence():
    assert set(words.JOININGS) == {outcome.value for outcome in Joining} - {"joined"}


def test_every_step_has_its_page():
    assert {path.stem for path in (ROOM / "templates").glob("*.html")} == {step.value for step in Step} | {
        "again",
        "base",
        "form",
    }
