"""The words of the exports, in Swedish and English.

Messages are written in English in the code and translated by gettext from locale/sv/LC_MESSAGES/export.po.
"""

from __future__ import annotations

import gettext
import io
from functools import cache
from pathlib import Path
from typing import Any, Final

from gateway.core.catalogue import Language, compile_po

__all__ = ["CATALOGUE", "Language", "Words", "later"]

CATALOGUE: Final = Path(__file__).parent / "locale" / "sv" / "LC_MESSAGES" / "export.po"


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
