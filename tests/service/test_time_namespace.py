"""A gateway that has been up for longer than 2³² ms works as on its first day: no limit on BOOTTIME overflows.

Mutation that turns it red: keep BOOTTIME anywhere in 32 bits of milliseconds, or reckon a limit from zero.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.service

UP_S = 2**32 // 1000 + 60
"""49.7 days and a minute."""


def test_a_whole_check_after_fifty_days_of_uptime():
    seen = subprocess.run(
        ["unshare", "--time", "--fork", "--boottime", str(UP_S), "--", "cat", "/proc/uptime"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert seen.returncode == 0, f"no time namespace on this machine: {seen.stderr}"
    assert float(seen.stdout.split()[0]) > UP_S
    done = subprocess.run(
        ["unshare", "--time", "--fork", "--boottime", str(UP_S), "--", sys.executable, "-m", "gateway.cli"]
        + ["demo", "--once"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcome"] == "seen"
    assert 1.0 <= result["watched_s"] <= 10.0
