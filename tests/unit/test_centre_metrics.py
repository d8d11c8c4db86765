"""What an operations room is told: counts in Prometheus' text form, and no home's name.

Mutations that turn it red, each tried: count open hand-overs as late ones; leave out `stuck_deliveries`; put a gateway
into a label.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from test_centre_app import CLOCK, DUE, NOW_UNIX_S, FakeBroker, make_state

from centre.metrics import make_app
from centre.state import CentreState
from centre.store import HandoverStart
from gateway.protocol.message import Hello

SAMPLE = re.compile(r"(tillsyn_[a-z_]+)(\{[a-z]+=\"[a-z-]+\"\})? ([0-9.e+]+)")


async def scrape(state: CentreState) -> dict[str, float]:
    """Each sample by name and labels; every line is a comment or a sample."""
    transport = httpx.ASGITransport(app=make_app(state))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        response = await client.get("/metrics")
    assert (response.status_code, response.headers["content-type"].split(";")[0]) == (200, "text/plain")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    found = [SAMPLE.fullmatch(line) for line in lines]
    assert all(found), lines
    return {f"{each[1]}{each[2] or ''}": float(each[3]) for each in found if each is not None}


@pytest.mark.slow
def test_the_metrics_count_what_needs_somebody_and_name_nobody(tmp_path: Path) -> None:
    state, _homes = make_state(tmp_path, FakeBroker())
    store = state.store
    hello = Hello("gw-a", 1, "b-1", "0.1", CLOCK, agreement="a-1", version=4, due=[DUE])
    assert store.take_hello(hello, now_unix_s=NOW_UNIX_S)
    for name, created_unix_s in (("h-1", NOW_UNIX_S - 600), ("h-2", NOW_UNIX_S)):
        start = HandoverStart(name, "gw-a", 1, name, "2026-11-18T21:30", "x", "hv-1", [], 5, created_unix_s)
        assert store.put_handover(start)
    store.fan_out({"hv-1": ("email",)}, fallback=None, now_unix_s=NOW_UNIX_S)
    for _ in range(3):
        assert len(store.take_deliveries(now_unix_s=NOW_UNIX_S, lease_s=0, limit=9)) == 2
    store.count_alarm("gw-a", "malformed", now_unix_s=NOW_UNIX_S)
    found = asyncio.run(scrape(state))
    assert found["tillsyn_homes"] == len(state.homes)
    assert found["tillsyn_homes_online"] == 1
    assert (found["tillsyn_handovers_open"], found["tillsyn_handovers_late"]) == (2, 1)
    assert found["tillsyn_deliveries_stuck"] == 2
    assert found['tillsyn_queue{rank="due"}'] == 1
    assert found['tillsyn_alarms_total{code="malformed"}'] == 1
    assert found["tillsyn_resident_bytes"] > 1e6
    store.close()
