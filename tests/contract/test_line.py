"""The test of the line against a real enrolment service, and what it says of a clock that is wrong.

Mutation that turns it red: `MOST_OFF_S` of a year.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from est_support import est_centre

from provisioning.enrolment.est_client import EstClient
from provisioning.wizard import line

pytestmark = pytest.mark.slow


def test_each_line_says_by_itself_what_works(tmp_path):
    with est_centre(tmp_path) as centre:
        client = centre.client(knows_time=False)
        found = {one.name: one for one in asyncio.run(line.measure(client))}
        assert [name for name, one in found.items() if one.is_good] == [
            "dns", "centre", "time", "relay", "loss-percent", "width-kbps",
        ]  # fmt: skip
        assert found["broker"].value == "connect"  # there is none
        assert int(found["width-kbps"].value or 0) > 300

        build = datetime.now(UTC) - timedelta(days=200)
        late = {one.name: one for one in asyncio.run(line.measure(client, now=lambda: build))}
        assert not late["time"].is_good
        assert late["centre"].is_good
        assert not line.is_good(list(late.values()))


def test_what_can_not_be_reached_is_not_tried_further(tmp_path):
    with est_centre(tmp_path) as centre:
        ca = centre.authority.pem()
    lines = asyncio.run(line.measure(EstClient("https://localhost:9", ca)))
    assert [one.is_good for one in lines] == [True, False, False, False, False, False, False]
    assert lines[1].value == "connect"
