"""A rollout over played gateways with a real broker and a real centre, small enough for every run; `make fleet-rollout`
is the same with 2,000.

Its rules and their mutations are in tests/unit/test_rollout.py.
"""

from __future__ import annotations

import asyncio

import pytest

from provisioning.fleet.simulate import simulate
from provisioning.fleet.storm import storm

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]


def test_a_rollout_halts_at_its_threshold_resumes_and_accounts_for_every_gateway():
    told = asyncio.run(simulate(80, failing_percent=8.0, limit_s=200.0, soak_s=1.0, silent_s=15.0))
    assert told["accounted"] == 80
    assert told["status"] == {"succeeded": 74, "failed": 4, "timed-out": 2}
    assert told["halts"], "more than the threshold failed, and nothing stopped it"
    assert all(halt["bad"] * 100 > 2 * halt["given"] for halt in told["halts"])
    assert told["messages_from_homes"] >= 74 * 7


def test_after_a_brokers_restart_the_homes_come_back_spread_and_nothing_is_lost():
    told = asyncio.run(storm(40, limit_s=200.0, spread_s=5.0, away_s=4.2))
    assert told["lines_heard"] == told["lines"] == 40
    assert told["connected_after"] == 40
    # Evenly would be 8 a second; chance alone makes it 20 in one of 100,000 runs.
    assert told["most_in_one_second"] < 20, told["back_by_second"]
