"""No picture reaches anything that the gateway's processes can write to. The long version: `make marker-scan`.

That the scan finds what is there is shown in the same run: it plants needles, and all must be found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service

SCAN = Path(__file__).parents[1] / "marker_scan"


def test_no_picture_is_found_in_what_the_gateway_wrote_and_every_planted_one_is():
    done = subprocess.run(
        [sys.executable, str(SCAN), "--seconds", "6", "--checks", "passed", "room", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["hits"] == []
    # What an undumpable process holds open only root may see.
    assert report["unreadable"] == [] or os.geteuid() != 0
    assert report["planted_found"] == report["planted"] >= 10
    assert report["planted_missed"] == []
    assert min(report["frames"].values()) > 20
    assert report["files"] > 40
    assert report["bytes_read"] > 300_000
    assert report["needles"] > 1000
    assert report["scans"] == 4
