"""The network lab's first scenario, as a smoke test: a check through router, tunnel and relay in a real Chromium.

The whole lab is `make net-lab`; this holds that it still runs. Where a machine has no namespaces or no /dev/net/tun it
fails with that reason: what was not tried is not said to work.

Mutation that turns it red, tried: `ice_addresses` of the machine instead of the tunnel's interface in link.toml.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]


def test_a_check_through_a_router_the_tunnel_and_the_relay_shows_a_picture():
    done = subprocess.run(
        [sys.executable, "-m", "tests.net_lab", "--only", "plain", "--keep-docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "everything holds" in done.stdout
