"""Where the link looks for the broker: a new address is tried, and left again where no centre answers.

Mutations that turn these red, each tried: `>` → `>=` at the high-water mark; no `Elapsed` branch; `high_water` set back
when a trial is left; an unchanged fallback taken for proof; the state not written; another provisioning not
noticed; `Answered` taken while the link is still on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_link_way import black_hole, tiny_broker

from gateway.config import LinkConfig, load
from gateway.core.log_digest import LogDigest
from gateway.edge.broker_paho import Broker
from gateway.edge.outbox_sqlite import Outbox
from gateway.ipc import frame
from gateway.ipc.channel import Channel
from gateway.protocol.message import FallbackSettings, LinkSettings
from gateway.services.link import Link
from gateway.services.link_address import (
    NAME,
    TRIAL_S,
    Address,
    Answered,
    Elapsed,
    Event,
    Ordered,
    State,
    provisioned,
    step,
)
from gateway.services.link_way import WayOut, broker_addresses
from provisioning import bench_home

FALLBACK = FallbackSettings("broker.example", 443, "relay.example", 443)
OTHER = FallbackSettings("elsewhere.example", 443, "relay.example", 443)


def at(version: int, host: str = "10.90.0.1", fallback: FallbackSettings | None = FALLBACK) -> LinkSettings:
    return LinkSettings(version, host, 8883, "broker.example", fallback)


FIRST = at(1)
AT_REST = State(FIRST, FIRST, 1)
TRIAL = State(FIRST, FIRST, 2, at(2, "10.90.0.9"))


def test_a_newer_address_is_tried_and_kept_once_the_centre_answers_there() -> None:
    assert step(AT_REST, Ordered(at(2, "10.90.0.9"))) == TRIAL
    after = step(TRIAL, Answered(by_fallback=False))
    assert after == State(FIRST, at(2, "10.90.0.9"), 2)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_address_that_is_not_newer_than_any_that_was_taken_changes_nothing(version: int) -> None:
    left = State(FIRST, FIRST, 3)  # version 3 was tried and left
    assert step(left, Ordered(at(version, "10.90.0.9"))) == left


def test_where_nobody_answers_for_ten_minutes_the_old_one_comes_back() -> None:
    assert step(TRIAL, Elapsed(TRIAL_S - 0.1)) == TRIAL
    assert step(TRIAL, Elapsed(TRIAL_S)) == State(FIRST, FIRST, 2)


def test_a_fallback_that_was_there_before_proves_nothing_of_the_new_address() -> None:
    assert step(TRIAL, Answered(by_fallback=True)) == TRIAL
    moved = State(FIRST, FIRST, 2, at(2, fallback=OTHER))
    assert step(moved, Answered(by_fallback=True)).trial is None


EVENTS = st.one_of(
    st.builds(lambda version, fallback: Ordered(at(version, f"10.90.0.{version}", fallback)),
              st.integers(1, 6), st.sampled_from([None, FALLBACK, OTHER])),
    st.builds(Answered, st.booleans()),
    st.sampled_from([Elapsed(1.0), Elapsed(TRIAL_S)]),
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(EVENTS, max_size=20))
def test_whatever_happens_there_is_a_way_back_to_where_the_centre_answered(events: list[Event]) -> None:
    state, answered = AT_REST, [FIRST]
    for event in events:
        before = state
        state = step(state, event)
        if isinstance(event, Answered) and before.trial is not None:
            answered.append(before.trial)
        assert state.in_force in answered
        assert state.high_water >= max(before.high_water, state.current.version)


def test_every_state_meets_every_event() -> None:
    states = (AT_REST, State(FIRST, FIRST, 3), TRIAL)
    events: tuple[Event, ...] = (Ordered(at(2)), Ordered(at(9)), Answered(True), Answered(False), Elapsed(TRIAL_S))
    for state, event in itertools.product(states, events):
        assert step(state, event).provisioned == FIRST


def test_a_trial_outlives_the_process_and_its_time_begins_anew(tmp_path: Path) -> None:
    now_s = 100.0
    outbox = Outbox(tmp_path / "outbox.sqlite")
    address = Address(outbox, FIRST, lambda: now_s)
    assert address.take(Ordered(at(2, "10.90.0.9")))
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.sqlite")
    again = Address(outbox, FIRST, lambda: now_s)
    assert again.state == TRIAL
    now_s += TRIAL_S - 1
    assert not again.look()
    now_s += 2
    assert again.look()
    assert again.state == State(FIRST, FIRST, 2)
    outbox.close()


def test_another_provisioning_ends_what_was_ordered_before_it_and_keeps_the_mark(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    Address(outbox, FIRST).take(Ordered(at(7, "10.90.0.9")))
    new = at(1, "10.90.0.77")
    assert Address(outbox, new).state == State(new, new, 7)
    outbox.close()


@pytest.mark.parametrize("damaged", [b"", b"{}", b"\xff", msgspec.json.encode(TRIAL)[:-3]])
def test_a_state_that_cannot_be_read_leaves_the_enrolments_address(tmp_path: Path, damaged: bytes) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.keep_state(NAME, damaged)
    assert Address(outbox, FIRST).state == AT_REST
    outbox.close()


# The running link: a guard's end of its channel, and two brokers.


@dataclasses.dataclass
class Play:
    link: Link
    guard: Channel[frame.ToGuardFromLink]
    heard: list[frame.Frame]
    clock_s: list[float]

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not what():
                got, _ = await self.guard.receive()
                self.heard.append(got)

    def is_up(self) -> bool:
        return self.changes()[-1:] == [True]

    def changes(self) -> list[bool]:
        return [word.up for word in self.heard if isinstance(word, frame.BrokerChanged)]

    def settings(self) -> frame.LinkSettingsAre:
        return [word for word in self.heard if isinstance(word, frame.LinkSettingsAre)][-1]


@contextlib.asynccontextmanager
async def playing(config: LinkConfig, outbox: Outbox) -> AsyncIterator[Play]:
    Path(config.guard_socket).parent.mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(config.guard_socket)
    listener.listen(1)
    listener.setblocking(False)
    clock_s = [0.0]
    known = Address(outbox, provisioned(config), lambda: clock_s[0])
    address, fallback = broker_addresses(config, known.state.current)
    broker = Broker(address, client_id=config.gateway, subscriptions=["x"], fallback=fallback)
    link = Link(config, broker, outbox, WayOut(config, known.state.current), known, digest=LogDigest("link"))
    task = asyncio.create_task(link.run())
    sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    play = Play(link, Channel(sock, frame.ToGuardFromLink), [], clock_s)
    try:
        yield play
    finally:
        play.guard.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        outbox.close()


def order(port: int, version: int = 2) -> frame.LinkOrdered:
    return frame.LinkOrdered(msgspec.json.encode(LinkSettings(version, "127.0.0.1", port, "localhost")))


@pytest.mark.slow
def test_the_link_moves_and_stays_where_the_centre_answers(tmp_path: Path) -> None:
    home = bench_home.make(tmp_path / "bench", isolate=False)
    outbox = Outbox(tmp_path / "outbox.sqlite")

    async def work() -> None:
        folder = home.directory / "broker"
        with tiny_broker(folder) as old, tiny_broker(folder) as new:
            path = home.directory / "home" / "link.toml"
            config = msgspec.structs.replace(load(path, LinkConfig), broker_host="127.0.0.1", broker_port=old)
            async with playing(config, outbox) as play:
                await play.until(play.is_up)
                play.guard.send(order(new))
                play.guard.send(frame.CentreAnswered())  # what the old broker had still brought
                await play.until(lambda: not play.is_up())
                assert play.settings() == frame.LinkSettingsAre(2, on_trial=True, high_water=2)
                assert msgspec.json.decode(outbox.state(NAME) or b"", type=State).trial is not None
                await play.until(play.is_up)
                assert play.link.address.state.trial is not None, "a broker alone proves nothing"
                play.guard.send(frame.CentreAnswered())
                await play.until(lambda: not play.settings().on_trial)
                assert play.settings() == frame.LinkSettingsAre(2, on_trial=False, high_water=2)
                assert msgspec.json.decode(outbox.state(NAME) or b"", type=State).in_force.broker_port == new

    asyncio.run(work())


@pytest.mark.slow
def test_the_link_comes_back_from_where_nobody_is(tmp_path: Path) -> None:
    home = bench_home.make(tmp_path / "bench", isolate=False)
    outbox = Outbox(tmp_path / "outbox.sqlite")

    async def work() -> None:
        with tiny_broker(home.directory / "broker") as old, black_hole() as nobody:
            path = home.directory / "home" / "link.toml"
            config = msgspec.structs.replace(load(path, LinkConfig), broker_host="127.0.0.1", broker_port=old)
            async with playing(config, outbox) as play:
                await play.until(play.is_up)
                play.guard.send(order(nobody))
                await play.until(lambda: play.settings().on_trial and not play.is_up())
                play.clock_s[0] += TRIAL_S + 1
                await play.until(lambda: not play.settings().on_trial)
                assert play.settings() == frame.LinkSettingsAre(1, on_trial=False, high_water=2)
                await play.until(play.is_up)

    asyncio.run(work())
