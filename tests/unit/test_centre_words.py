"""Every message of the console has its Swedish, and the catalogue holds nothing else.

Mutations that turn it red: leave a message out of console.po; leave out a `{name}` in a translation; write a sentence
into a template without `_`; leave a reason of an update out of updates.js.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.requests import Request

from centre.words import CATALOGUE, language_of, words, words_for_browser
from gateway.core.catalogue import read_po
from gateway.edge.installer_rauc import _WHY
from gateway.update.gate import Lack
from gateway.update.slot import Note

CENTRE = CATALOGUE.parents[3]
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_NAMES = re.compile(r"\{\w+\}")


def _in_browser() -> set[str]:
    found: set[str] = set()
    for path in sorted((CENTRE / "static").glob("*.js")):
        source = path.read_text(encoding="utf-8")
        found |= {match[1] for match in re.finditer(rf"\bt\(\s*{_QUOTED}", source)}
        found |= {f"{match[1]}\0{match[2]}" for match in re.finditer(rf"\btn\(\s*{_QUOTED},\s*{_QUOTED}", source)}
    return found


def _in_templates() -> set[str]:
    found: set[str] = set()
    for path in sorted((CENTRE / "templates").glob("*.html")):
        source = path.read_text(encoding="utf-8")
        found |= {match[1] for match in re.finditer(rf"\b_\({_QUOTED}\)", source)}
        found |= {match[1].replace("\\'", "'") for match in re.finditer(r"\b_\('((?:[^'\\]|\\.)*)'\)", source)}
    return found


def _keys() -> dict[str, tuple[str, ...]]:
    entries = read_po(CATALOGUE.read_text(encoding="utf-8"))[1:]
    return {
        f"{entry['msgid']}\0{entry['msgid_plural']}" if "msgid_plural" in entry else entry["msgid"]: tuple(
            value for name, value in entry.items() if name.startswith("msgstr")
        )
        for entry in entries
    }


def test_every_message_is_translated_and_none_is_left_over() -> None:
    used = _in_browser() | _in_templates()
    assert len(used) > 200
    assert used - set(_keys()) == set(), "messages without Swedish"
    assert set(_keys()) - used == set(), "Swedish for nothing"


def test_a_translation_has_the_same_values() -> None:
    for message, translations in _keys().items():
        one, _, many = message.partition("\0")
        for source, translation in zip((one, many or one), translations, strict=False):
            assert set(_NAMES.findall(source)) == set(_NAMES.findall(translation)), source
            assert translation.startswith(" ") == source.startswith(" "), source


class _Bare(HTMLParser):
    """Collects text that stands in a template outside of `{{ }}`."""

    def __init__(self) -> None:
        super().__init__()
        self.bare: list[str] = []
        self._key = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._key = tag
        self.bare += [value for name, value in attrs if name in ("aria-label", "placeholder", "title") and value]

    def handle_data(self, data: str) -> None:
        if self._key not in ("kbd", "code"):
            self.bare.append(data)


@pytest.mark.parametrize("path", sorted((CENTRE / "templates").glob("*.html")), ids=lambda path: path.name)
def test_no_template_holds_words_of_its_own(path: Path) -> None:
    parser = _Bare()
    parser.feed(re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))
    letters = [re.findall(r"[A-Za-zÅÄÖåäö]{2,}", text) for text in parser.bare]
    assert [found for found in letters if found] == []


def _request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_the_chosen_language_comes_first_then_the_browsers_then_swedish() -> None:
    assert language_of(_request()) == "sv"
    assert language_of(_request(accept_language="de, en-GB;q=0.8, sv;q=0.1")) == "en"
    assert language_of(_request(accept_language="en", cookie="tillsyn_language=sv")) == "sv"
    assert language_of(_request(cookie="tillsyn_language=xx")) == "sv"
    assert words("sv")("Not seen") == words_for_browser("sv")["Not seen"] == "Inte sedd"
    assert words("en")("Not seen") == "Not seen"
    assert words_for_browser("en") == {}


def test_every_reason_for_which_an_update_failed_has_its_words() -> None:
    source = (CENTRE / "static" / "updates.js").read_text(encoding="utf-8")
    told = set(re.findall(r'^  "?([a-z-]+)"?: t\(', source[source.index("const WHYS") :], re.MULTILINE))
    gateway = CENTRE.parent / "gateway"
    upkeep = (gateway / "services" / "upkeep.py").read_text(encoding="utf-8")
    of_upkeep = re.findall(r'(?:Refused|Interrupted|return)\(? ?"([a-z-]+)"', upkeep)
    machine = (gateway / "update" / "machine.py").read_text(encoding="utf-8")
    of_machine = re.findall(r'(?:"(?:failed|refused|good)", | or | else )"([a-z-]+)"', machine)
    assert {"size-differs", "broke-off", "wrong-compatible"} <= set(of_upkeep)
    assert {"too-slow", "did-not-boot", "lost", "up-to-date"} <= set(of_machine)
    words = {*Lack, Note.FELL_BACK, Note.GAVE_WAY, *(why for _, why in _WHY), *of_upkeep, *of_machine}
    assert words - told == set(), "reasons without words"
