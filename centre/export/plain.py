"""A document as plain text of at most 72 columns: the form that every screen reader reads."""

from __future__ import annotations

import textwrap
from typing import Final, assert_never

from centre.export.document import Bullets, Caution, Document, Heading, Paragraph, Part, Signature, Table

COLUMNS: Final = 72


def render(document: Document) -> bytes:
    """UTF-8, newline at the end of each line."""
    lines = [*_wrap(document.title.upper()), "=" * min(COLUMNS, len(document.title))]
    for part in document.parts:
        lines += ["", *_lines(part)]
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()


def _lines(part: Part) -> list[str]:
    match part:
        case Heading(text):
            return ["", text, "-" * min(COLUMNS, len(text))]
        case Paragraph(text):
            return _wrap(text)
        case Caution(text):
            return _wrap(text, "!! ")
        case Bullets(items):
            return [line for item in items for line in _wrap(item, "- ")]
        case Table():
            return _table(part)
        case Signature(labels):
            return [line for label in labels for line in ("", f"{label}:", "_" * 50)]
        case _:
            assert_never(part)


def _table(table: Table) -> list[str]:
    widths = [max(map(len, column)) for column in zip(table.headings, *table.rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= COLUMNS:
        rows = [table.headings, tuple("-" * width for width in widths), *table.rows]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [
        line
        for row in table.rows
        for line in _wrap(
            "; ".join(f"{name}: {cell}" for name, cell in zip(table.headings, row, strict=True) if cell), "- "
        )
    ]


def _wrap(text: str, first: str = "") -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=first, subsequent_indent=" " * len(first)) or [first]
