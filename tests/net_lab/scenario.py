"""The networks that the lab tries, what is asked of each, and one check through one of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.net_lab.lab import Lab, LabError, running
from tests.net_lab.onlooker import Onlooker, onlooker

ROUND_TRIP_MS = 40.0
"""Of every scenario that names no other: home and centre in one country."""
WATCH_S = 10.0
FIRST_FRAME_LIMIT_S = 25.0
"""Longer than the home itself waits for a picture: by then it has refused."""


@dataclass(frozen=True)
class Scenario:
    """One network. Limits are promises: a scenario that misses one does not hold."""

    name: str
    words: str
    network: Mapping[str, Any] = field(default_factory=dict)
    line: Mapping[str, Any] = field(default_factory=dict)
    way: str = "up"
    most_first_frame_s: float = 6.0
    least_fps: float = 10.0
    most_gap_s: float = 2.0
    may_refuse: bool = False
    """A plain word instead of a picture is as good."""
    moves: bool = False


SCENARIOS = (
    Scenario("plain", "broadband behind a router"),
    Scenario("udp-blocked", "UDP blocked, TCP 80 and 443 only", network={"udp_blocked": True}, way="fallback"),
    Scenario("carrier-nat", "a carrier's NAT behind the router's", network={"carrier_nat": True}),
    Scenario("loss-1", "1 % of packets lost each way", line={"loss": 0.01}),
    Scenario("loss-5", "5 % lost each way", line={"loss": 0.05}, most_first_frame_s=10.0, least_fps=7.0),
    Scenario(
        "loss-10", "10 % lost each way", line={"loss": 0.10}, most_first_frame_s=15.0, least_fps=7.0, most_gap_s=4.0
    ),
    Scenario("rtt-200", "200 ms round trip", line={"delay_ms": 100.0}, most_first_frame_s=8.0),
    Scenario("rate-1000", "1 Mbit/s each way", line={"rate_bps": 1e6}, least_fps=5.0, most_gap_s=4.0, may_refuse=True),
    Scenario("rate-400", "400 kbit/s each way", line={"rate_bps": 4e5}, least_fps=0.5, most_gap_s=8.0, may_refuse=True),
    Scenario("rate-200", "200 kbit/s each way", line={"rate_bps": 2e5}, least_fps=0.3, most_gap_s=8.0, may_refuse=True),
    Scenario("mtu-1280", "a path of 1280 bytes", network={"mtu_bytes": 1280}),
    Scenario("moved", "broadband gone in the middle, on by mobile network", moves=True, most_gap_s=6.0, least_fps=5.0),
)


@dataclass
class Outcome:
    """What one scenario gave."""

    scenario: Scenario
    way: str = "-"
    first_frame_ms: float | None = None
    fps: float = 0.0
    longest_gap_ms: float = 0.0
    size: str = ""
    words: str = ""
    closed: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.wrong


async def run(scenario: Scenario, directory: Path) -> Outcome:
    """One lab, one check. What does not hold is said in the outcome, with the logs' last lines."""
    outcome = Outcome(scenario)
    try:
        async with running(directory, **scenario.network) as lab:
            await _one(lab, outcome)
            if outcome.wrong:
                outcome.wrong.append(lab.log("home", 20))
    except (LabError, OSError) as exc:
        outcome.wrong.append(str(exc))
    return outcome


async def _one(lab: Lab, outcome: Outcome) -> None:
    scenario = outcome.scenario
    for wire in lab.network.wires.values():
        wire.set(delay_ms=ROUND_TRIP_MS / 4)
    await lab.agree()
    await lab.until_tunnel(scenario.way, 30.0)
    outcome.way = scenario.way
    lab.network.wires["line"].set(**{"delay_ms": ROUND_TRIP_MS / 4} | dict(scenario.line))
    async with onlooker(lab) as operator:
        await operator.ready()
        # An operator reads the page before *Start*; meanwhile the home prepares what can be prepared.
        await asyncio.sleep(2.0)
        await operator.start()
        outcome.first_frame_ms = await operator.first_frame_ms(FIRST_FRAME_LIMIT_S)
        if outcome.first_frame_ms is None:
            outcome.words = await operator.words()
            if not scenario.may_refuse:
                outcome.wrong.append(f"no picture: {outcome.words}")
            elif not outcome.words:
                outcome.wrong.append("neither a picture nor a word")
        else:
            await _watch(lab, operator, outcome)
        await _end(lab, operator, outcome)


async def _watch(lab: Lab, operator: Onlooker, outcome: Outcome) -> None:
    scenario = outcome.scenario
    before, began_ms = await operator.stats(), await operator.now_ms()
    if scenario.moves:
        await asyncio.sleep(WATCH_S / 3)
        lab.network.move_to_mobile()
        await asyncio.sleep(WATCH_S * 2 / 3)
    else:
        await asyncio.sleep(WATCH_S)
    after, ended_ms = await operator.stats(), await operator.now_ms()
    # A page that has ended its check counts from nothing again.
    outcome.fps = max(0.0, (after["decoded"] - before["decoded"]) / (ended_ms - began_ms) * 1000.0)
    shown = [began_ms, *(one for one in await operator.shown_ms() if began_ms < one < ended_ms), ended_ms]
    outcome.longest_gap_ms = max(later - one for one, later in itertools.pairwise(shown))
    outcome.size = f"{after['width']}x{after['height']}"
    outcome.words = await operator.words()
    relay = after["local"]
    wrong = {
        f"first frame after {outcome.first_frame_ms:.0f} ms": (outcome.first_frame_ms or 0.0)
        > scenario.most_first_frame_s * 1000.0,
        f"{outcome.fps:.1f} pictures a second": outcome.fps < scenario.least_fps,
        f"{outcome.longest_gap_ms:.0f} ms without a new picture": outcome.longest_gap_ms > scenario.most_gap_s * 1000.0,
        f"not by the relay: {relay}": not relay.startswith("relay/"),
    }
    said = [words for words, is_wrong in wrong.items() if is_wrong]
    if said and not (scenario.may_refuse and outcome.words):
        outcome.wrong += said


async def _end(lab: Lab, operator: Onlooker, outcome: Outcome) -> None:
    """However it went: sensor off, mount up, and a closing record."""
    if outcome.first_frame_ms is not None:
        await operator.say_if_possible("seen")
    async with asyncio.timeout(30.0):
        while not (lab.safe() and any(record.kind == "closed" for record in lab.records())):
            await asyncio.sleep(0.1)
    outcome.closed = next(str(record.why) for record in lab.records() if record.kind == "closed")
