"""The words of the exports, in Swedish and English.

Messages are written in English in the code and translated by gettext. The catalogue is committed as text
(locale/sv/LC_MESSAGES/export.po) and compiled in memory when it is used, so that no compiled file can differ from what
was reviewed. The loader is strict: it knows the part of the PO format that we write and refuses the rest.
"""

from __future__ import annotations

import ast
import gettext
import io
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

Language = Literal["sv", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("sv", "en")
CATALOGUE: Final = Path(__file__).parent / "locale" / "sv" / "LC_MESSAGES" / "export.po"
_LINE = re.compile(r'(msgid|msgid_plural|msgstr(?:\[[01]\])?) (".*")')
_TEXT = re.compile(r'"(?:[^"\\]|\\["\\nt])*"')
_MO_MAGIC = 0x950412DE


def later(message: str) -> str:
    """Mark a message that stands in a table and is translated where it is used."""
    return message


class Words:
    """Say a message in one language. Values are filled in after translation, by name."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._catalogue = gettext.NullTranslations() if language == "en" else _swedish()

    def __call__(self, message: str, **values: Any) -> str:
        return self._catalogue.gettext(message).format(**values)

    def plural(self, one: str, many: str, count: int, **values: Any) -> str:
        """`count` chooses the form and is itself the value {n}."""
        return self._catalogue.ngettext(one, many, count).format(n=count, **values)


@cache
def _swedish() -> gettext.NullTranslations:
    return gettext.GNUTranslations(io.BytesIO(compile_po(CATALOGUE.read_text(encoding="utf-8"))))


def read_po(text: str) -> list[dict[str, str]]:
    """Entries as {msgid, msgstr} or {msgid, msgid_plural, msgstr[0], msgstr[1]}; the first is the header.

    Raises ValueError on anything that we don't write: fuzzy marks, contexts, an entry twice or without a translation.
    """
    entries: list[dict[str, str]] = []
    field = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#,") and "fuzzy" in line:
            raise ValueError(f"line {number}: a fuzzy translation")
        if not line or line.startswith("#"):
            field = ""
        elif match := _LINE.fullmatch(line):
            field = match[1]
            if field == "msgid":
                entries.append({})
            if not entries or field in entries[-1]:
                raise ValueError(f"line {number}: {field} stands where it can't")
            entries[-1][field] = _text(number, match[2])
        elif field:
            entries[-1][field] += _text(number, line)
        else:
            raise ValueError(f"line {number}: not a line of a catalogue")
    for entry in entries:
        whole = {"msgid", "msgid_plural", "msgstr[0]", "msgstr[1]"} if "msgid_plural" in entry else {"msgid", "msgstr"}
        if set(entry) != whole or not all(value for name, value in entry.items() if name != "msgid"):
            raise ValueError(f"{entry.get('msgid')!r}: not translated whole")
    if len({entry["msgid"] for entry in entries}) != len(entries) or not entries or entries[0]["msgid"]:
        raise ValueError("a message stands twice, or there is no header")
    return entries


def _text(number: int, quoted: str) -> str:
    if not _TEXT.fullmatch(quoted):
        raise ValueError(f"line {number}: not a quoted text")
    return str(ast.literal_eval(quoted))


def compile_po(text: str) -> bytes:
    """The catalogue in gettext's binary form. Source: GNU gettext manual, "The Format of GNU MO Files"."""
    pairs: list[tuple[bytes, bytes]] = []
    for entry in read_po(text):
        if "msgid_plural" in entry:
            key = f"{entry['msgid']}\0{entry['msgid_plural']}"
            pairs.append((key.encode(), f"{entry['msgstr[0]']}\0{entry['msgstr[1]']}".encode()))
        else:
            pairs.append((entry["msgid"].encode(), entry["msgstr"].encode()))
    pairs.sort()
    count = len(pairs)
    tables, content, offset = b"", b"", 28 + 16 * count
    for side in (0, 1):
        for pair in pairs:
            tables += struct.pack("<II", len(pair[side]), offset + len(content))
            content += pair[side] + b"\0"
    return struct.pack("<7I", _MO_MAGIC, 0, count, 28, 28 + 8 * count, 0, 28 + 16 * count) + tables + content
