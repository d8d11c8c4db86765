"""Whether a check is under way in a home, from what the home said and how long ago that was. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CLOSES_WITHIN_S: Final = 60.0
"""From a check's last second until its home has closed it (at most 8 s) and said so."""


def is_running(one: Mapping[str, Any], heard_unix_s: float | None, *, now_unix_s: float) -> bool:
    """`one` is a line of the list that the home said at `heard_unix_s`; attempt 0 of what is open is a running check.

    No check lasts longer than agreed (`max_s`). So that word holds for that long and a minute: a home that has said
    nothing since has lost its power or its line, and the check is to be made like any other that nobody has made.
    Source: docs/protocol.md, "due"; centre/static/due.js does the same.
    """
    is_said = one["status"] in ("soon", "due", "recheck") and one["attempt"] < 1
    return is_said and now_unix_s <= (heard_unix_s or 0.0) + (one.get("max_s") or 0) + CLOSES_WITHIN_S
