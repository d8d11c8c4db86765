"""Below which measure which word is said. Chosen by `python tests/unit/view_table.py` on one half of its scenes.

What they do on the other half stands in docs/view-signals.md; a test holds the numbers here, the choice and the page
together.
"""

from __future__ import annotations

from typing import Final

DARK_LUMA: Final = 0.092
FROZEN_CHANGE: Final = 0.0095
COVERED_STRUCTURE: Final = 0.016
MISAIMED_LIKENESS: Final = 0.6
BLURRED_SHARPNESS: Final = 0.15
