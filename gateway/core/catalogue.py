"""Catalogues of translations, committed as text and compiled in memory when they are used.

So no compiled file can differ from what was reviewed. The loader is strict: it knows the part of the PO format that we
write and refuses the rest.
"""

from __future__ import annotations

import ast
import re
import struct
from typing import Final, Literal

Language = Literal["sv", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("sv", "en")
_LINE = re.compile(r'(msgid|msgid_plural|msgstr(?:\[[01]\])?) (".*")')
_TEXT = re.compile(r'"(?:[^"\\]|\\["\\nt])*"')
_MO_MAGIC = 0x950412DE


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
