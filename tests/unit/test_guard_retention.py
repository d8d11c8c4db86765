"""Payloads go N days after the witness has seen them, and a start knows the same before and after.

Mutations tried, each red here: in guard_witness.py the restatements out, `retention_days` taken for 1, `size_before` by
the newest cosigned size; in standing.py each of the four kinds out, `LIFTED` by `RESTATED`; in guard_state.py
`since_unix_s` not read, `LIFTED` not read; in occasion_book.py the `since_unix_s` of an agreement not read; in
ledger.py the skipping of segments that are done turned round.
"""

from __future__ import annotations

import pytest
from guard_harness import home, ledger_signer, line_of

from gateway.ledger import read_records, verify_directory
from gateway.protocol.message import Accepted, Verdict

pytestmark = pytest.mark.slow

DAY_S = 86_400


@pytest.fixture
def world():
    with home() as made:
        yield made


def a_checked_night(world):
    assert world.watch()
    world.verdict(Verdict.SEEN)
    world.advance(4.0)


def let_days_pass(world, days, *, cosign=True):
    for _ in range(days):
        world.sleep_long(DAY_S)
        world.ask_again()
        world.advance(2.0)
        if cosign:
            world.cosign()
    world.advance(2.0)


def bodies(world):
    return [(stored.seq, stored.body) for stored in read_records(world.ledger_dir)]


def erased(world):
    return sum(body is None for _, body in bodies(world))


def known(world):
    """What a guard decides by, as far as it comes from the ledger."""
    gate, book = world.guard.gate, world.guard.chronicle.book
    return (
        gate.agreement,
        gate.version_floor,
        gate.trust.version,
        gate.local,
        gate.withdrawn_unix_s,
        gate.withdrawn_consents,
        book.agreed_unix_s,
        [quiet for quiet in book.quiet if quiet.last_unix_s > world.true_unix_s],
    )


def restart(world):
    world.stop()
    world.boot()
    world.join_link()
    world.ask_again()


def test_payloads_go_thirty_days_after_the_cosignature_and_not_before(world):
    a_checked_night(world)
    world.cosign()
    size = world.guard.chronicle.size
    let_days_pass(world, 29)
    assert erased(world) == 0
    let_days_pass(world, 4)
    assert size <= erased(world) < world.guard.chronicle.size
    assert all(body is None for _, body in bodies(world)[:size])
    assert not any(body is None for _, body in bodies(world)[erased(world) :])
    report = verify_directory(world.ledger_dir, str(ledger_signer().verifier))
    assert (report.size, report.erased) == (world.guard.chronicle.size, erased(world))
    restart(world)
    assert world.guard.gate.obstacle is None
    a_checked_night(world)


def test_what_no_witness_has_seen_stays(world):
    a_checked_night(world)
    seen = world.guard.chronicle.cosigned.checkpoint.size
    let_days_pass(world, 40, cosign=False)
    assert erased(world) == seen < world.guard.chronicle.size


@pytest.mark.parametrize("state", ["agreed", "withdrawn", "withdrawn and agreed anew", "new trust", "paused"])
def test_a_start_after_it_knows_what_a_start_before_it_knew(world, state):
    if state.startswith("withdrawn"):
        world.stop_for_good()
        if state.endswith("anew"):
            assert isinstance(world.put(world.fresh_agreement()), Accepted)
    elif state == "new trust":
        assert isinstance(world.raise_trust(), Accepted)
    a_checked_night(world) if state != "withdrawn" else None
    world.cosign()
    let_days_pass(world, 26)
    if state == "paused":
        world.pause(14 * DAY_S)
        world.advance(1.0)
    restart(world)
    before = known(world)
    let_days_pass(world, 7)
    assert erased(world)
    restart(world)
    assert known(world) == before
    assert erased(world)


def test_an_older_trust_file_is_an_alarm_also_when_its_record_has_gone(world):
    assert isinstance(world.raise_trust(), Accepted)
    world.cosign()
    let_days_pass(world, 34)
    assert erased(world)
    world.stop()
    (world.state_dir / "trust-statements").unlink()
    world.judge.tampered = True
    world.boot()
    assert world.guard.gate.obstacle == "integrity-alarm"


def test_a_pause_of_an_unknown_end_is_written_down_again(world):
    world.centre = "silent"
    world.power_cut()
    world.boot()
    world.join_link()
    world.pause(3600.0)
    world.advance(1.0)
    for _ in range(34):
        world.sleep_long(DAY_S)
        world.cosign(unix_s=world.true_unix_s)
    world.advance(5.0)
    assert erased(world)
    assert world.guard.gate.local.paused_until_unix_s == float("inf")
    world.stop()
    world.boot()
    assert world.guard.gate.local.paused_until_unix_s == float("inf")


def test_a_withdrawn_consent_stays_dead_when_its_record_has_gone(world):
    agreement = world.fresh_agreement()
    assert isinstance(world.put(agreement), Accepted)
    world.stop_for_good()
    world.cosign()
    let_days_pass(world, 34)
    assert erased(world)
    restart(world)
    again = agreement | {"version": world.next_version()}
    world.put(again)
    assert world.guard.gate.local.withdrawn
    assert not world.try_open(fresh=False)


def test_a_missed_occasion_is_not_told_again_when_its_record_has_gone(world):
    agreement = world.fresh_agreement()
    agreement["lines"] = [line_of("night", world.local_minute(5), window_min=30)]
    world.put(agreement)
    let_days_pass(world, 34)
    assert erased(world)
    told = [report.occasion for report in world.missed if report.line == "night"]
    assert len(told) == len(set(told)) >= 33
    restart(world)
    world.advance(20.0)
    again = [report.occasion for report in world.missed if report.line == "night"]
    assert again == told
