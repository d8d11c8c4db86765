"""Where tests find one another's support modules."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("unit", "service", "browser"):
    path = str(Path(__file__).parent / folder)
    if path not in sys.path:
        sys.path.insert(0, path)
