"""The fuzzing targets without a fuzzer: every seed, and some hundred changed ones, keep every promise.

`make fuzz` looks for new inputs; this keeps the targets running and shows that they reach what they are for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))

from fuzz_limit import BrokenPromiseError, Doors
from fuzz_target import TARGETS, changed_input

pytestmark = pytest.mark.slow

CHANGED = 200
OPEN_DOORS = {
    "envelope": {"split", "verify", "verify_command", "make_trust"},
    "commands": {"strict_json.loads", "strict_json.dumps", "to_message"},
    "agreement": {"parse_agreement(bytes)", "parse_agreement(dict)", "occasions_between", "due", "decide", "next_step"},
    "recurrence": {"parse_recurrence", "dates_of"},
    "ipc": {"Channel.receive"},
    "media": {"from_eye", "from_link"},
    "sdp": {"only_fingerprint"},
    "ledger": {"parse_line", "parse_ledger_line", "verify_checkpoint", "parse_checkpoint", "VerifierKey.parse"},
    "gate": {"Gate.receive", "Gate.hear_time"},
}


@pytest.mark.parametrize("name", TARGETS)
def test_no_seed_and_no_changed_seed_breaks_a_promise_and_every_door_opens_for_some(name):
    target, doors, random = TARGETS[name], Doors(sample_every=100), Random(name)
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed, doors)
    opened = {door for door, count in doors.accepted.items() if count}
    assert opened >= OPEN_DOORS[name], "what never opens hides what is behind it"
    for _ in range(CHANGED):
        target.run(changed_input(target, random.choice(seeds), random), doors)
    assert doors.most_bytes


def test_an_error_that_was_not_promised_goes_through():
    with pytest.raises(KeyError):
        Doors().knock("door", lambda _: {}["x"], ValueError)


def test_a_call_that_takes_too_long_three_times_is_found():
    calls = []

    def slow(_):
        calls.append(1)
        return sum(range(20_000_000))

    with pytest.raises(BrokenPromiseError, match=" ms, at most 50"):
        Doors().knock("door", slow)
    assert len(calls) == 3


def test_a_call_that_was_only_slow_once_is_forgiven():
    costs = iter((20_000_000, 10, 10))
    doors = Doors(sample_every=0)
    assert doors.knock("door", lambda _: sum(range(next(costs)))).accepted
    assert doors.slowest_s["door"] < 0.05


def test_a_call_that_takes_too_much_memory_is_found():
    with pytest.raises(BrokenPromiseError, match="MiB"):
        Doors(sample_every=1).knock("door", lambda _: bytes(21 * 2**20))
