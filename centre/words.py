"""The console's words: which language a request wants, and the catalogue for templates and browser.

Messages stand in the code in English, in templates as `_("…")`, in the browser's modules as `t("…")` and
`tn("…", "…", n)`; the Swedish ones in locale/sv/LC_MESSAGES/console.po. `tests/unit/test_centre_words.py` compares
them.
"""

from __future__ import annotations

import gettext
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request

from gateway.core.catalogue import LANGUAGES, Language, compile_po, read_po

CATALOGUE: Final = Path(__file__).parent / "locale" / "sv" / "LC_MESSAGES" / "console.po"
COOKIE: Final = "tillsyn_language"


def language_of(request: Request) -> Language:
    """The one that was chosen, else the first of the browser's that we have, else Swedish."""
    chosen = request.cookies.get(COOKIE)
    if chosen in LANGUAGES:
        return chosen
    for each in request.headers.get("accept-language", "").split(","):
        code = each.partition(";")[0].strip().partition("-")[0].lower()
        if code in LANGUAGES:
            return code
    return "sv"


@cache
def words(language: Language) -> Callable[[str], str]:
    """What templates call as `_`."""
    if language == "en":
        return gettext.NullTranslations().gettext
    return gettext.GNUTranslations(io.BytesIO(compile_po(CATALOGUE.read_text(encoding="utf-8")))).gettext


@cache
def words_for_browser(language: Language) -> dict[str, Any]:
    """What `centre/static/say.js` fetches: each message with its translation, or its two by number."""
    if language == "en":
        return {}
    found: dict[str, Any] = {}
    for entry in read_po(CATALOGUE.read_text(encoding="utf-8"))[1:]:
        if "msgid_plural" in entry:
            found[f"{entry['msgid']}\0{entry['msgid_plural']}"] = [entry["msgstr[0]"], entry["msgstr[1]"]]
        else:
            found[entry["msgid"]] = entry["msgstr"]
    return found


def in_words(request: Request, **values: Any) -> dict[str, Any]:
    """A template's context: its own values, the language, and `_`."""
    language = language_of(request)
    return values | {"language": language, "_": words(language)}
