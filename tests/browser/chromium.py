"""A real Chromium: Debian's, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def program() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "no Chromium on this machine: apt-get install chromium (`make test` does it)"
    return found


def artefacts(fallback: Path) -> Path:
    """Where screenshots are kept: outside the tree, by TILLSYN_ARTEFACTS or the test's own directory."""
    folder = Path(os.environ.get("TILLSYN_ARTEFACTS", fallback))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
