"""Where tests find one another's support modules."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

for folder in ("unit", "service", "browser"):
    path = str(Path(__file__).parent / folder)
    if path not in sys.path:
        sys.path.insert(0, path)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import a file that is slow as a whole where nothing slow is asked for: some pull in big libraries."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    slow = re.search(r"^pytestmark = .*\bpytest\.mark\.slow\b", collection_path.read_text(), re.MULTILINE)
    return True if slow else None
