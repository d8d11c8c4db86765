"""What the guard promises, one history a promise, on the whole real guard with time moved by hand.

The judge of guard_harness.py looks on in every one of them. The mutations are in tests/mutations/guard.py.
"""

from __future__ import annotations

import errno
import shutil
import socket
from datetime import UTC, datetime

import msgspec
import pytest
from guard_harness import (
    AUDIENCE,
    GATEWAY,
    LONG_AGO,
    Link,
    SentOpen,
    World,
    agreement_of,
    answer_of,
    home,
    key,
    line_of,
)

from gateway.check import machine
from gateway.core.interval_clock import ClockState
from gateway.ipc import frame
from gateway.protocol.envelope import sign
from gateway.protocol.message import (
    Accepted,
    Challenge,
    Challenged,
    Close,
    Opened,
    Refused,
    Role,
    TrustPut,
    Verdict,
)
from gateway.services import guard_state


@pytest.fixture
def world():
    with home() as made:
        yield made


def code(reply):
    return reply.code if isinstance(reply, Refused) else reply


def good_open(world, **changes):
    """A challenge and a good opening that is not sent yet."""
    challenged = world.challenge()
    due = world.due_now(challenged)
    return world.open_command(challenged, due, **changes)


def send_again(world, untrusted):
    """The same bytes once more; what they open, they open as a replay."""
    for sent in world.opens.values():
        if sent.untrusted == untrusted:
            sent.dead = True
    return world.deliver(untrusted, wait_s=3.0)


def started(world):
    return world.judge.starts


def last_closed(world):
    return next(body for body in reversed(world.judge.records) if body["kind"] == "closed")


def bring_to(world, state):
    """A check in the given state: opening, watching or closing."""
    world.mend()
    assert world.try_open()
    if state == "opening":
        world.advance(0.6)
        assert isinstance(world.guard.state, machine.Opening)
    else:
        world.advance(3.0)
        assert isinstance(world.guard.state, machine.Watching)
    if state == "closing":
        world.close_check()
        assert isinstance(world.guard.state, machine.Closing)


STATES = ("parked", "opening", "watching", "closing")


def in_state(world, state):
    if state == "parked":
        world.mend()
    else:
        bring_to(world, state)


# A check as it should be


def test_a_good_check_opens_shows_and_ends_parked(world):
    assert world.watch()
    assert world.judge.pictures == 1
    assert isinstance(world.verdict(Verdict.SEEN), Accepted)
    world.advance(3.0)
    assert not world.sensor_on
    assert not world.body.lamp
    assert world.body.place == "up"
    kinds = [body["kind"] for body in world.judge.records]
    assert kinds[-4:] == ["opened", "live", "verdict", "closed"]
    assert world.reports[-1].why == "seen"
    assert world.reports[-1].parked


def test_leases_keep_a_check_open_up_to_the_agreed_length_and_no_longer(world):
    assert world.watch()
    begun_s = world.judge.checks[world.check].started_s
    while world.sensor_on:
        world.lease()
        world.advance(0.5)
    assert world.loop.time() - begun_s == pytest.approx(30.0, abs=0.8)
    world.advance(3.0)
    assert last_closed(world)["why"] == "time-up"


def test_without_a_lease_a_check_ends_within_ten_seconds(world):
    assert world.watch()
    world.advance(10.0)
    assert not world.sensor_on
    assert last_closed(world)["why"] == "lease-lapsed"


def test_a_lease_with_an_old_counter_or_of_another_key_does_not_prolong(world):
    assert world.watch()
    world.lease(counter=5)
    for _ in range(24):
        world.advance(0.5)
        world.lease(counter=5)
        world.lease(counter=9, person=world.person("op-2"))
    assert not world.sensor_on


@pytest.mark.parametrize(("word", "why"), [("seal-broken", "seal-broken"), ("path-lost", "no-picture")])
def test_what_an_eye_says_of_its_way_is_what_the_record_says(world, word, why):
    assert world.watch()
    world.eyes[-1].say(frame.EyeFault(word))
    world.advance(3.0)
    assert not world.sensor_on
    assert last_closed(world)["why"] == why
    assert world.reports[-1].why == why


def test_an_operator_may_say_that_the_seal_is_broken_and_nothing_else(world):
    assert world.watch()
    world.deliver(world.say(Close(AUDIENCE, world.jti(), world.check, "seal-broken"), world.person()))
    world.advance(3.0)
    assert not world.sensor_on
    assert last_closed(world)["why"] == "seal-broken"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"aud": AUDIENCE, "jti": "j-1", "check": "c-1", "why": "bored"}, Close)


# Replays


def test_a_replayed_opening_does_not_open_again(world):
    assert world.watch()
    untrusted = next(iter(world.opens.values())).untrusted
    world.close_check()
    world.advance(3.0)
    assert code(send_again(world, untrusted)) == "nonce-used"
    assert started(world) == 1


@pytest.mark.parametrize("again", ["restart", "kill", "reboot"])
def test_an_opening_from_before_a_start_does_not_open_after_it(world, again):
    command = good_open(world)
    untrusted = world.say(command, world.person())
    if again == "restart":
        world.restart()
    elif again == "kill":
        world.kill()
        world.up()
    else:
        world.power_cut()
        world.boot()
        world.join_link()
    world.advance(1.0)
    assert code(world.deliver(untrusted, wait_s=3.0)) == "nonce-unknown"
    assert started(world) == 0


def test_an_opening_that_was_used_does_not_open_after_a_reboot(world):
    assert world.watch()
    untrusted = next(iter(world.opens.values())).untrusted
    world.power_cut()
    world.boot()
    world.join_link()
    world.advance(1.0)
    assert code(send_again(world, untrusted)) == "nonce-unknown"
    assert started(world) == 1


def test_a_duplicate_delivered_at_once_opens_one_check(world):
    command = good_open(world)
    untrusted = world.say(command, world.person())
    world.open(command)
    world.deliver(untrusted)
    world.advance(3.0)
    assert started(world) == 1
    assert len([body for body in world.judge.records if body["kind"] == "opened"]) == 1


def test_a_nonce_opens_once_even_under_another_signature(world):
    command = good_open(world)
    world.open(command)
    world.advance(3.0)
    world.close_check()
    world.advance(3.0)
    other = world.open_command(
        Challenged(GATEWAY, "x", command.nonce, 30.0, None, "a-1", command.version, []),
        type("Due", (), {"line": command.line, "occasion": command.occasion, "attempt": 2}),
    )
    assert code(world.open(other, flaw="nonce used before")[1]) == "nonce-used"


@pytest.mark.parametrize(("age_s", "opens"), [(29.0, True), (30.5, False), (200.0, False)])
def test_a_nonce_lives_thirty_seconds(world, age_s, opens):
    command = good_open(world)
    world.advance(age_s)
    reply = world.open(command)[1]
    world.advance(2.0)
    assert started(world) == int(opens)
    if not opens:
        assert code(reply) in ("nonce-expired", "nonce-unknown")


def test_a_nonce_belongs_to_the_key_that_asked(world):
    command = good_open(world)
    assert code(world.open(command, world.person("op-2"), flaw="another key")[1]) == "nonce-unknown"
    assert started(world) == 0


# Time


def test_nothing_opens_while_no_time_is_known():
    world = World()
    try:
        world.centre = "silent"
        world.boot()
        world.join_link()
        world.put(agreement_of(world.next_version(), [line_of("now", world.local_minute(-1))]))
        challenged = world.challenge()
        assert challenged.clock.state == "floor"
        line = world.judge.agreement["lines"][0]
        occasion = f"2026-11-23T{line['start']}"
        due = type("Due", (), {"line": line["id"], "occasion": occasion, "attempt": 1})
        assert code(world.open(world.open_command(challenged, due))[1]) == "clock-untrusted"
        world.advance(3.0)
        assert started(world) == 0
    finally:
        world.close()


@pytest.mark.parametrize("centre", ["wrong-nonce", "late", "silent"])
def test_a_time_statement_without_our_nonce_or_too_late_does_not_attest(centre):
    world = World()
    try:
        world.centre = centre
        world.boot()
        world.join_link()
        world.advance(25.0)
        assert world.guard.gate.clock.state(world.now_s) is ClockState.FLOOR
    finally:
        world.close()


@pytest.mark.parametrize("first", [True, False])
def test_a_centre_that_lies_by_three_hours_against_an_independent_source_opens_nothing(first):
    world = World()
    try:
        world.boot()
        world.set_independent(True)
        world.join_link()
        world.put(agreement_of(world.next_version(), [line_of("late", world.local_minute(180), window_min=60)]))
        world.centre = "lying"
        world.ask_again()
        assert world.guard.gate.clock.state(world.now_s) is ClockState.CONTRADICTED
        challenged = world.challenge()
        due = type("Due", (), {"line": "late", "occasion": "2026-11-24T02:40", "attempt": 1})
        assert code(world.open(world.open_command(challenged, due))[1]) == "clock-untrusted"
        assert started(world) == 0
        # The lie did not raise the floor: the truth is taken again.
        world.centre = "honest"
        world.ask_again()
        assert world.watch()
    finally:
        world.close()


def test_where_a_second_source_is_demanded_the_centres_word_alone_opens_nothing():
    world = World(demand_cross_check=True)
    try:
        world.boot()
        world.mend()
        assert code(world.open(good_open(world))[1]) == "clock-untrusted"
        assert started(world) == 0
        world.set_independent(True)
        assert world.watch()
    finally:
        world.close()


@pytest.mark.slow
@pytest.mark.parametrize(("offset_s", "opens"), [(0.2, False), (1.0, True), (59.0, True), (59.8, False)])
def test_an_opening_needs_the_whole_clock_interval_in_the_window(world, offset_s, opens):
    """The centre's radius is 0.5 s."""
    start = world.local_minute(2)
    world.put(agreement_of(world.next_version(), [line_of("soon", start, window_min=1)]))
    start_unix_s = (world.true_unix_s // 60 + 2) * 60
    world.advance(start_unix_s + offset_s - 0.1 - world.true_unix_s)
    challenged = world.challenge()
    world.advance(start_unix_s + offset_s - world.true_unix_s)
    due = type("Due", (), {"line": "soon", "occasion": f"2026-11-23T{start}", "attempt": 1})
    reply = world.open(world.open_command(challenged, due))[1]
    world.advance(2.0)
    assert started(world) == int(opens)
    assert opens or code(reply) == "outside-window"


# The resident


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_the_residents_stop_ends_it_within_a_second_and_holds(world, state):
    in_state(world, state)
    assert world.stop_for_good()
    world.advance(0.9)
    assert not world.sensor_on
    world.advance(5.0)
    assert world.body.place == "up"
    before = started(world)
    assert not world.try_open(fresh=False)
    assert started(world) == before
    world.advance(3.0)
    # The centre's side may not lift it with what it had: not again, not under a new version, not by a new name alone.
    old = {"given": LONG_AGO, "how": "signed", "ref": "c-1"}
    renamed = {"given": LONG_AGO, "how": "signed", "ref": "c-2"}
    known = world.judge.agreement["consent"]["resident"]
    for resident in (old, renamed, known, None, known):
        consent = {"resident": resident, "cohabitant": None}
        line = line_of("again", world.local_minute(-1))
        assert isinstance(world.put(agreement_of(world.next_version(), [line], consent=consent)), Accepted)
        assert world.guard.gate.local.withdrawn
        challenged = world.challenge()
        due = type("Due", (), {"line": "again", "occasion": f"2026-11-23T{line['start']}", "attempt": 1})
        assert code(world.open(world.open_command(challenged, due))[1]) == "withdrawn"
    world.power_cut()
    world.boot()
    world.join_link()
    assert world.guard.gate.local.withdrawn
    # A fresh consent does.
    assert isinstance(world.put(world.fresh_agreement()), Accepted)
    assert not world.guard.gate.local.withdrawn
    assert world.watch()


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_a_pause_ends_a_check_and_holds_until_its_end(world, state):
    in_state(world, state)
    before = started(world)
    assert world.pause(1800.0)
    world.advance(0.9)
    assert not world.sensor_on
    world.advance(10.0)
    world.put(world.fresh_agreement())
    assert not world.try_open()
    world.power_cut()
    world.boot()
    world.join_link()
    world.ask_again()
    assert not world.try_open()
    assert started(world) == before
    world.sleep_long(1800.0)
    assert world.try_open()


def test_a_pause_made_while_no_time_was_known_holds_over_a_reboot_for_twelve_hours_of_known_time(world):
    world.centre = "silent"
    world.restart()
    assert world.hand(frame.AskState()).clock == "floor"
    assert world.pause(600.0)
    world.power_cut()
    world.sleep_long(3600.0)
    world.boot()
    world.join_link()
    assert world.guard.gate.local.paused_until_unix_s == float("inf")
    world.centre = "honest"
    world.ask_again()
    attested_unix_s = world.true_unix_s
    until_unix_s = world.guard.gate.local.paused_until_unix_s
    assert until_unix_s == pytest.approx(attested_unix_s + 12 * 3600.0, abs=3.0)
    world.put(world.fresh_agreement())
    assert not world.try_open()
    world.sleep_long(11 * 3600.0)
    assert not world.try_open()
    world.sleep_long(3600.0)
    assert world.try_open()


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
def test_a_signed_withdrawal_ends_it_in_every_state_and_holds(world, state):
    in_state(world, state)
    before = started(world)
    assert isinstance(world.withdraw_signed(), Accepted)
    world.advance(0.9)
    assert not world.sensor_on
    assert isinstance(world.withdraw_signed(), Accepted)
    world.advance(5.0)
    world.restart()
    world.ask_again()
    assert not world.try_open(fresh=False)
    assert started(world) == before


def test_a_withdrawal_under_a_revoked_grant_is_still_obeyed(world):
    steward = world.person("st-1", Role.STEWARD)
    assert isinstance(world.raise_trust(), Accepted)
    assert isinstance(world.withdraw_signed(steward), Accepted)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PLANNER, Role.STEWARD])
def test_a_close_is_obeyed_from_whoever_may_close_also_repeated(world, role):
    assert world.watch()
    check = world.check
    other = world.person("somebody", role)
    untrusted = world.say(Close(AUDIENCE, world.jti(), check), other)
    assert isinstance(world.deliver(untrusted), Accepted)
    world.advance(0.5)
    assert not world.sensor_on
    world.advance(3.0)
    assert isinstance(world.deliver(untrusted), Accepted)
    assert world.body.place == "up"


def test_an_old_close_does_not_end_another_check(world):
    assert world.watch()
    untrusted = world.say(Close(AUDIENCE, world.jti(), world.check), world.person())
    world.deliver(untrusted)
    assert world.watch() or world.watch()
    assert isinstance(world.deliver(untrusted), Accepted)
    assert world.sensor_on


def test_a_verdict_with_an_old_counter_changes_nothing_and_is_not_recorded(world):
    assert world.watch()
    world.lease(counter=7)
    assert code(world.verdict(Verdict.SEEN, counter=7)) == "stale-version"
    world.advance(0.5)
    assert world.sensor_on
    assert not [body for body in world.judge.records if body["kind"] == "verdict"]


def test_a_verdict_of_another_key_changes_nothing(world):
    assert world.watch()
    assert code(world.verdict(Verdict.SEEN, person=world.person("op-2"))) == "wrong-role"
    assert world.sensor_on


# Trust and agreement


def test_an_epoch_that_rises_in_a_check_ends_it_at_once(world):
    assert world.watch()
    assert isinstance(world.raise_trust(), Accepted)
    world.advance(0.5)
    assert not world.sensor_on
    world.advance(3.0)
    assert last_closed(world)["why"] == "revoked"


def test_a_grant_of_a_revoked_epoch_opens_nothing_also_after_a_reboot(world):
    old = world.person()
    world.raise_trust()
    for _ in range(2):
        assert code(world.deliver(world.say(Challenge(AUDIENCE, world.jti()), old))) == "unknown-key"
        world.power_cut()
        world.boot()
        world.join_link()


def test_an_older_trust_statement_is_refused_also_after_a_reboot(world):
    first = world.trust_statement(2, 0)
    world.raise_trust()
    world.raise_trust()
    for _ in range(2):
        assert code(world.deliver(first)) == "stale-version"
        assert code(world.deliver(world.trust_statement(9, 1))) == "stale-version"
        world.power_cut()
        world.boot()
        world.join_link()
        assert world.guard.gate.trust.epoch == 2


def test_a_trust_statement_of_another_root_is_refused(world):
    jwk = key("thief").verifying.jwk()
    forged = sign(TrustPut(7, 0, [jwk], [jwk]), key("thief"))
    assert code(world.deliver(forged)) == "unknown-key"
    assert code(world.deliver(forged + b"~" + forged)) == "unknown-key"


@pytest.mark.parametrize("what", ["gone", "cut", "garbage"])
def test_trust_files_that_are_not_what_was_written_disable_the_camera_and_the_guard_says_so(world, what):
    world.raise_trust()
    world.raise_trust()
    world.power_cut()
    path = world.state_dir / "trust-statements"
    if what == "gone":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes().splitlines()[0] + b"\n")
    else:
        path.write_bytes(b"no statement\n")
    world.judge.tampered = True
    assert world.boot()
    world.join_link()
    world.ask_again()
    assert world.guard.gate.obstacle == "integrity-alarm"
    assert world.hand(frame.AskState()).obstacle == "integrity-alarm"
    world.trust_epoch = world.guard.gate.trust.epoch
    assert code(world.open(good_open(world))[1]) == "integrity-alarm"
    assert started(world) == 0


def test_a_trust_statement_that_was_kept_but_not_answered_may_come_again(world):
    """The directory's sync failed after the rename: the file has it, the centre sends it once more."""
    statement = world.trust_statement(2, 1)
    world.judge.epochs[2] = 1
    guard_state.store_trust(world.config, statement)
    assert isinstance(world.deliver(statement), Accepted)
    world.trust_version, world.trust_epoch = 2, 1
    world.power_cut()
    assert world.boot()
    world.join_link()
    assert world.guard.gate.obstacle is None
    assert world.guard.gate.trust.version == 2


def test_an_older_agreement_is_refused_also_after_a_reboot(world):
    older = agreement_of(world.next_version(), [line_of("x", world.local_minute(-1))])
    for _ in range(2):
        world.put(agreement_of(world.next_version(), [line_of("x", world.local_minute(-1))]))
        assert code(world.put(older)) == "stale-version"
        assert code(world.put(world.judge.agreement)) == "stale-version"
        world.power_cut()
        world.boot()
        world.join_link()
        assert code(world.put(older)) == "stale-version"


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_an_agreement_file_that_is_not_what_was_recorded_disables_the_camera(world, what):
    older = agreement_of(world.agreement_version, [line_of("x", world.local_minute(-1))])
    world.put(world.fresh_agreement())
    (path,) = world.state_dir.glob("agreement-*.json")
    world.power_cut()
    if what == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b'"max_s":30', b'"max_s":90'))
    world.judge.tampered = True
    assert world.boot()
    world.join_link()
    world.ask_again()
    assert world.guard.gate.obstacle == "integrity-alarm"
    assert code(world.put(older)) == "integrity-alarm" or code(world.put(older)) == "stale-version"
    assert code(world.put(world.fresh_agreement())) == "integrity-alarm"
    assert code(world.challenge()) == "not-agreed"
    assert started(world) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 2}, "stale-version"),
        ({"agreement": "a-2"}, "not-agreed"),
        ({"line": "nobody"}, "not-agreed"),
        ({"occasion": "2026-11-22T23:39"}, "outside-window"),
        ({"attempt": 2}, "budget-spent"),
        ({"nonce": "A" * 22}, "nonce-unknown"),
    ],
)
def test_an_opening_of_something_else_than_what_is_due_and_in_force_is_refused(world, changes, expected):
    assert code(world.open(good_open(world, **changes), flaw=str(changes))[1]) == expected
    world.advance(3.0)
    assert started(world) == 0


@pytest.mark.slow
def test_in_an_agreed_pause_nothing_opens(world):
    line = line_of("p", world.local_minute(-1))
    pause = {"from": "2026-11-23T20:00", "until": "2026-11-23T23:50"}
    world.put(agreement_of(world.next_version(), [line], pauses=[pause]))
    due = type("Due", (), {"line": "p", "occasion": f"2026-11-23T{line['start']}", "attempt": 1})
    assert code(world.open(world.open_command(world.challenge(), due))[1]) == "paused"
    world.advance(660.0)
    world.open(world.open_command(world.challenge(), due))
    world.advance(2.0)
    assert started(world) == 1


def test_a_second_opening_is_refused_and_leaves_the_first_as_it_is(world):
    lines = [line_of(name, world.local_minute(-1)) for name in ("one", "two")]
    world.put(agreement_of(world.next_version(), lines))
    assert world.watch()
    first = world.check
    second = type("Due", (), {"line": "two", "occasion": f"2026-11-23T{lines[1]['start']}", "attempt": 1})
    assert code(world.open(world.open_command(world.challenge(), second))[1]) == "busy"
    for _ in range(3):
        world.lease()
        world.advance(5.0)
    assert world.sensor_on
    assert world.check == first
    assert isinstance(world.verdict(Verdict.SEEN), Accepted)
    assert code(world.put(world.fresh_agreement())) == "busy"


def test_a_missing_consent_of_whoever_is_named_opens_nothing(world):
    person = {"given": LONG_AGO, "how": "signed", "ref": "c-1"}
    missing = {"given": None, "how": None, "ref": None}
    for number, (resident, cohabitant) in enumerate([(None, None), (missing, None), (person, missing)]):
        line = line_of(f"n{number}", world.local_minute(-1))
        consent = {"resident": resident, "cohabitant": cohabitant}
        assert isinstance(world.put(agreement_of(world.next_version(), [line], consent=consent)), Accepted)
        due = type("Due", (), {"line": line["id"], "occasion": f"2026-11-23T{line['start']}", "attempt": 1})
        assert code(world.open(world.open_command(world.challenge(), due))[1]) == "no-consent"
    assert started(world) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        ("expired", "unknown-key"),
        ("future", "unknown-key"),
        ("home", "wrong-role"),
        ("role", "wrong-role"),
        ("issuer", "bad-signature"),
        ("other-key", "unknown-key"),
        ("long", "malformed"),
    ],
)
def test_a_grant_that_is_not_for_now_here_and_this_opens_nothing(world, flaw, expected):
    person = world.person("op-1", flaw=flaw)
    challenged = world.challenge()
    reply = world.open(world.open_command(challenged, world.due_now(challenged)), person, flaw=flaw)[1]
    if flaw == "issuer":  # under a kid that nobody here trusts
        expected = "unknown-key"
    assert code(reply) == expected
    world.advance(3.0)
    assert started(world) == 0


def test_a_command_for_another_device_or_an_earlier_installation_opens_nothing(world):
    for aud in ("gw-other/3", f"{GATEWAY}/2"):
        assert code(world.open(good_open(world, aud=aud), flaw="aud")[1]) == "wrong-device"


def test_an_offer_with_two_fingerprints_or_none_opens_nothing(world):
    two = answer_of("two") + answer_of("two", "AA:" + answer_of("x").split("sha-256 ")[1].split("\r")[0][3:])
    for offer in (two, "v=0\r\n"):
        assert code(world.open(good_open(world, offer=offer), flaw="offer")[1]) == "malformed"


def test_the_resident_who_was_seen_is_not_looked_at_again_also_when_power_went_before_the_record(world):
    assert world.watch()
    assert isinstance(world.verdict(Verdict.SEEN), Accepted)
    assert isinstance(world.guard.state, machine.Closing)
    sent = next(iter(world.opens.values())).command
    world.power_cut()
    world.boot()
    world.join_link()
    world.ask_again()
    world.advance(150.0)
    due = type("Due", (), {"line": sent.line, "occasion": sent.occasion, "attempt": 2})
    for _ in range(2):
        assert code(world.open(world.open_command(world.challenge(), due))[1]) == "budget-spent"
        world.restart()
        world.ask_again()
    assert started(world) == 1


def test_a_look_that_a_service_stop_ends_counts_with_its_length(world):
    assert world.watch()
    for _ in range(3):
        world.lease()
        world.advance(4.0)
    world.restart()
    closed = last_closed(world)
    assert closed["why"] == "service-stopped"
    assert closed["watched_s"] > 10.0
    world.ask_again()
    # Hence it is a look, which is not repeated at once.
    assert world.due_now(world.challenge()) is None


def test_a_service_stop_while_a_verdict_is_being_closed_keeps_the_verdict(world):
    assert world.watch()
    world.verdict(Verdict.NOT_SEEN)
    world.restart()
    assert last_closed(world)["why"] == "not-seen"


def test_broken_looks_are_repeated_twice_and_then_no_more(world):
    for _ in range(3):
        world.mend()
        assert world.try_open()
        world.advance(1.0)
        world.eye.die()
        world.advance(10.0)
    challenged = world.challenge()
    assert world.due_now(challenged) is None
    sent = next(iter(world.opens.values())).command
    due = type("Due", (), {"line": sent.line, "occasion": sent.occasion, "attempt": 4})
    assert code(world.open(world.open_command(challenged, due))[1]) == "budget-spent"
    assert started(world) == 3


def test_a_recheck_waits_its_minutes_and_comes_once(world):
    assert world.watch()
    world.verdict(Verdict.NOT_SEEN)
    world.advance(4.0)
    sent = next(iter(world.opens.values())).command
    due = type("Due", (), {"line": sent.line, "occasion": sent.occasion, "attempt": 2})
    world.advance(100.0)
    assert code(world.open(world.open_command(world.challenge(), due))[1]) == "outside-window"
    world.advance(30.0)
    assert world.watch()
    world.verdict(Verdict.UNSURE)
    world.advance(130.0)
    assert world.due_now(world.challenge()) is None


# Cards and disks


def test_what_a_restored_card_knows_holds_and_what_it_lost_is_the_witnesss_to_find(world):
    """Locally an old card is whole: its ledger verifies, and its agreement is in force again. What is told here:

    * not detected: that records, a newer agreement, a raised epoch or a stop are missing. The centre's witness finds
      the fork and does not cosign this start, so nothing opens (test_guard_witness.py). Here it cosigns everything.
    * detected: an old agreement or trust file beside the newer ledger, and the other way round (tests above).
    """
    card = world.copy_card()
    version = world.guard.gate.agreement.version
    assert world.watch()
    untrusted = next(iter(world.opens.values())).untrusted
    world.close_check()
    world.advance(3.0)
    world.put(world.fresh_agreement())
    world.stop_for_good()
    size = world.guard.chronicle.size
    world.restore_card(card)
    world.boot()
    world.join_link()
    world.ask_again()
    assert world.guard.chronicle.size < size
    assert world.guard.gate.obstacle is None
    assert world.guard.gate.agreement.version == version
    # Even so: no nonce comes back with a card.
    assert code(send_again(world, untrusted)) == "nonce-unknown"
    # The newer agreement, which the centre still has, comes into force again.
    assert isinstance(world.put(world.fresh_agreement()), Accepted)


@pytest.mark.parametrize("what", ["old ledger", "old agreement"])
def test_half_a_restored_card_is_an_integrity_alarm(world, what):
    card, _ = world.copy_card()
    world.put(world.fresh_agreement())
    world.power_cut()
    newer = world.directory / "newer"
    shutil.copytree(world.state_dir, newer)
    shutil.rmtree(world.state_dir)
    shutil.copytree(card if what == "old agreement" else newer, world.state_dir)
    shutil.rmtree(world.state_dir / "ledger")
    shutil.copytree((newer if what == "old agreement" else card) / "ledger", world.state_dir / "ledger")
    world.judge.tampered = True
    world.boot()
    assert world.guard.gate.obstacle == "integrity-alarm"


def test_a_record_that_was_changed_on_the_disk_is_an_integrity_alarm(world):
    assert world.watch()
    world.close_check()
    world.advance(3.0)
    world.power_cut()
    (path,) = (world.ledger_dir / "segments").glob("*.log")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    world.judge.tampered = True
    assert world.boot()
    world.join_link()
    world.ask_again()
    assert world.guard.gate.obstacle == "integrity-alarm"
    assert code(world.challenge()) == "not-agreed"


def test_a_failed_sync_of_the_opened_record_means_no_sensor_and_no_further_opening(world):
    command = good_open(world)
    world.disk.faults = [errno.EIO]
    assert code(world.open(command)[1]) == "ledger-unwritable"
    assert not world.body.lamp
    assert not world.try_open(fresh=False)
    world.advance(2.0)
    assert world.guard.gate.obstacle == "ledger-unwritable"
    world.advance(4.0)
    assert world.guard is None  # it ends, for systemd to start it anew
    assert started(world) == 0


def test_a_record_that_takes_longer_than_three_seconds_does_not_open(world):
    command = good_open(world)
    world.disk.slow_s = 3.5
    assert code(world.open(command)[1]) == "ledger-unwritable"
    world.disk.slow_s = 0.0
    world.advance(3.0)
    assert started(world) == 0
    world.up()
    assert last_closed(world)["watched_s"] == 0.0


def test_a_failed_sync_of_the_closed_record_disables(world):
    assert world.watch()
    world.disk.faults = [errno.EIO]
    world.close_check()
    world.advance(1.9)
    assert not world.sensor_on
    assert world.guard.gate.obstacle == "ledger-unwritable"
    assert not world.try_open()
    world.advance(4.0)
    assert world.guard is None
    assert world.up()
    assert last_closed(world)["why"] in ("recovered", "operator-closed")


def test_a_full_disk_opens_nothing_but_a_running_check_is_still_closed_on_record(world):
    assert world.watch()
    world.disk.full = True
    (world.ledger_dir / "reserve").unlink()
    world.disk.full = False
    world.close_check()
    world.advance(3.0)
    assert last_closed(world)["why"] == "operator-closed"
    world.disk.full = True
    assert not world.sensor_on
    assert not world.try_open()


@pytest.mark.parametrize("state", ["parked", "watching"])
def test_a_stop_on_a_full_disk_is_confirmed_and_kept(world, state):
    in_state(world, state)
    world.disk.full = True
    assert world.stop_for_good()  # its record takes the reserve's room
    world.advance(5.0)
    assert not world.sensor_on
    world.disk.full = False
    world.restart()
    assert world.guard.gate.local.withdrawn


# Peers that fail


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("eye dies", "eye-lost"),
        ("eye stands still", "eye-lost"),
        ("link goes", "link-lost"),
        ("link is silent", "link-lost"),
        ("broker goes", "broker-lost"),
    ],
)
def test_a_peer_that_fails_ends_the_check(world, fault, why):
    assert world.watch()
    if fault == "eye dies":
        world.eye.die()
    elif fault == "eye stands still":
        world.eye.freeze()
    elif fault == "link goes":
        world.lose_link()
    elif fault == "link is silent":
        world.link_silent = True
    else:
        world.link.set_broker(False)
    world.advance(7.0)
    assert not world.sensor_on
    assert world.body.place == "up"
    assert last_closed(world)["why"] == why


@pytest.mark.parametrize("mode", ["mute", "eager", "blind", "stuck"])
def test_an_eye_that_does_not_do_its_part_shows_nothing_and_ends(world, mode):
    world.eye_mode = mode
    assert world.try_open()
    world.advance(25.0)
    assert not world.sensor_on
    assert world.body.place == "up"
    assert not [body for body in world.judge.records if body["kind"] == "live"] or mode == "mute"


def test_an_eye_that_does_not_stop_has_lost_its_way_out_and_ends_with_the_guard(world):
    world.eye_mode = "deaf"
    assert world.try_open()
    world.advance(3.0)
    world.close_check()
    world.advance(7.5)
    assert world.sensor_on
    assert code(world.challenge()) != "busy"
    assert not world.try_open()
    world.advance(5.0)
    assert not world.sensor_on
    assert world.guard is None


@pytest.mark.parametrize("mode", ["stuck", "faulty"])
def test_a_mount_that_does_not_park_ends_with_the_sensor_off_and_nothing_opens(world, mode):
    assert world.watch()
    world.body.mount_mode = mode
    world.close_check()
    world.advance(0.5)
    assert not world.sensor_on
    world.advance(8.5)
    assert world.guard is None or world.guard.gate.obstacle == "mount-fault"
    world.advance(3.0)
    assert world.guard is None
    assert not world.up()


def test_no_lamp_no_picture(world):
    world.body.lamp_broken = True
    assert world.try_open()
    world.advance(5.0)
    assert started(world) == 0
    assert last_closed(world)["why"] == "camera-fault"


def test_a_new_link_ends_the_check_of_the_old_one_and_says_for_itself_that_its_broker_is_there(world):
    assert world.watch()
    second = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    second.connect(world.config.guard_socket)
    world.link = Link(world, second)
    world.advance(4.0)
    assert not world.sensor_on
    assert code(world.open(good_open_of(world))[1]) == "busy"
    world.link.set_broker(True)


def good_open_of(world):
    challenged = world.challenge()
    sent = next(iter(world.opens.values())).command
    due = type("Due", (), {"line": sent.line, "occasion": sent.occasion, "attempt": 2})
    return world.open_command(challenged, due)


@pytest.mark.parametrize("state", ["opening", "watching", "closing"])
def test_a_service_stop_ends_a_check_in_order(world, state):
    bring_to(world, state)
    world.stop()
    assert not world.sensor_on
    assert world.body.place == "up"
    assert not world.body.lamp
    world.up()
    assert last_closed(world)["why"] in ("service-stopped", "operator-closed")


# Floods


@pytest.mark.slow
def test_a_flood_of_openings_is_recorded_compactly_and_time_goes_on_and_a_good_one_gets_through(world):
    command = good_open(world)
    untrusted = world.say(command, world.person())
    broken = untrusted[:-4] + (b"AAAA" if not untrusted.endswith(b"AAAA") else b"BBBB")
    replies, records = len(world.replies), len(world.judge.records)
    before_s = world.guard.now()
    for burst in range(10):
        for number in range(100):
            # A quarter is new each time, so that remembering what was refused does not help.
            message = broken if number % 4 else broken + b"x" * (1 + burst) + str(number).encode()
            world.link.sock.setblocking(True)
            world.link.send(frame.CommandArrived(message, b"f%d" % (burst * 100 + number)))
            world.link.sock.setblocking(False)
            world.loop.until_s = world.loop.time()
            if number % 20 == 19:
                world.loop.run_forever()
        world.advance(0.3)
    assert world.guard.now() - before_s == pytest.approx(3.0, abs=0.1)
    assert world.guard.gate.obstacle is None
    assert len(world.replies) - replies <= 50 * 5
    world.opens[command.offer] = SentOpen(untrusted, world.person(), command, None)
    world.deliver(untrusted)
    world.advance(3.0)
    assert started(world) == 1
    world.close_check()
    world.advance(15.0)
    refused = [body for body in world.judge.records[records:] if body["kind"] == "refused"]
    assert len(refused) <= 6
    assert sum(body["count"] for body in refused) == 1000


def test_many_challenges_do_not_push_out_anothers_nonce(world):
    command = good_open(world)
    for _ in range(30):
        world.challenge(world.person("op-2"))
    world.open(command)
    world.advance(2.0)
    assert started(world) == 1


# DST


@pytest.mark.slow
@pytest.mark.parametrize(
    "base",
    [datetime(2027, 3, 28, 0, 50, tzinfo=UTC), datetime(2027, 10, 31, 0, 20, tzinfo=UTC)],
    ids=["gap", "fold"],
)
def test_on_the_nights_of_the_clock_change_a_check_opens_at_its_first_instant_only(base):
    with home(base) as world:
        # 02:30 does not exist on the one night, when its first instant is 01:00 UTC, and is there twice on the other.
        world.put(agreement_of(world.next_version(), [line_of("odd", "02:30", window_min=20)]))
        due = type("Due", (), {"line": "odd", "occasion": f"{base.date().isoformat()}T02:30", "attempt": 1})
        for _ in range(14):
            world.open(world.open_command(world.challenge(), due))
            world.advance(2.0)
            if started(world):
                break
            world.advance(58.0)
        assert 600.0 <= world.loop.time() <= 600.0 + 70.0


def test_a_picture_reaches_nobody_before_the_answer_is_given(world):
    assert world.try_open()
    world.advance(0.4)
    assert not [reply for reply in world.replies.values() if isinstance(reply, Opened)]
    assert not world.eye.released
