"""What each of several workers hears, and that hearing it twice changes nothing.

A broker that shares messages out gives a dead worker its turn for as long as its session lasts: what says how a home is
must not be shared out.

Mutations that turn it red: put `Branch.HEALTH` into `centre.intake._ONE_WORKER`; leave the comparison with what
was said before out of `HomeRows.take_hello`, or the `online` in it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from centre.intake import subscriptions
from centre.store import Store
from gateway.protocol.message import ClockFact, DueFact, Hello
from gateway.protocol.topic import Branch

RUNNING = DueFact("night-1", "2026-11-29T01:00", "due", 0, 1000.0, 2000.0, 60)
HELLO = Hello("gw-a", 1, "b-1", "0.1", ClockFact("attested", 1000.0, 1001.0), None, None, [RUNNING], None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "centre.sqlite")
    store.put_home("gw-a", install_epoch=1, device_kid="k")
    return store


def test_only_what_a_home_repeats_until_it_is_answered_and_counts_are_shared_out() -> None:
    heard = subscriptions(shares=True)
    shared = {name for name in heard if name.startswith("$share/")}
    assert shared == {"$share/centre/tillsyn/v1/+/ask", "$share/centre/tillsyn/v1/+/log"}
    assert f"tillsyn/v1/+/{Branch.HEALTH.value}" in heard
    assert {name.removeprefix("$share/centre/") for name in heard} == set(subscriptions(shares=False))


def test_the_same_hello_by_another_worker_is_no_news(store: Store) -> None:
    assert store.take_hello(HELLO, now_unix_s=1000.5)
    assert not store.take_hello(HELLO, now_unix_s=1001.5)
    assert store.home_states()["gw-a"]["heard_unix_s"] == 1000.5


def test_a_hello_of_a_home_that_seemed_gone_is_news(store: Store) -> None:
    store.take_hello(HELLO, now_unix_s=1000.5)
    store.set_online("gw-a", online=False, now_unix_s=1001.0)
    assert store.take_hello(HELLO, now_unix_s=1002.0)
    assert store.home_states()["gw-a"]["online"]


def test_a_hello_of_the_same_moment_that_says_something_else_is_news(store: Store) -> None:
    store.take_hello(HELLO, now_unix_s=1000.5)
    ended = msgspec.structs.replace(HELLO, due=[msgspec.structs.replace(RUNNING, attempt=2)])
    assert store.take_hello(ended, now_unix_s=1001.5)
    assert store.home_states()["gw-a"]["due"][0]["attempt"] == 2
