"""Random histories of a whole home on the real guard: whatever happens, the sensor is on only when it may be.

The judge of guard_harness.py looks at every instant of every history and says what it demands; here stand only the
things that can happen. Longer: GUARD_EXAMPLES=2000 pytest tests/unit/test_guard_random.py. The mutations that must turn
this or test_guard_promises.py red are in tests/mutations/guard.py.
"""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime

import pytest
from guard_harness import (
    AUDIENCE,
    LONG_AGO,
    World,
    answer_of,
    line_of,
)
from hypothesis import HealthCheck, Phase, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gateway.ipc import frame
from gateway.protocol.message import Accepted, AgreementPut, Challenged, Role, Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("GUARD_EXAMPLES", "60"))
SHRINK = os.environ.get("GUARD_SHRINK", "1") == "1"
"""A mutation needs no short history."""
STEPS = 40
QUIET_S = 25.0
BASES = (
    datetime(2026, 11, 23, 22, 40, tzinfo=UTC),
    datetime(2027, 3, 28, 0, 40, tzinfo=UTC),  # the clock goes forward at 01:00
    datetime(2027, 10, 31, 0, 20, tzinfo=UTC),  # and back
)
SHORT_S = st.sampled_from((0.1, 0.3, 0.5, 1.0, 1.5, 3.0, 6.0, 11.0, 31.0))
GRANT_FLAWS = ("expired", "future", "long", "home", "role", "issuer", "other-key", "epoch")
COMMAND_FLAWS = {
    "line": {"line": "nobody"},
    "occasion": {"occasion": "2026-11-22T23:39"},
    "attempt": {"attempt": 9},
    "nonce": {"nonce": "A" * 22},
    "agreement": {"agreement": "a-2"},
    "aud": {"aud": "gw-other/3"},
    "installation": {"aud": AUDIENCE[:-1] + "2"},
    "offer": {"offer": "v=0\r\n"},
    "two fingerprints": {"offer": answer_of("two") + answer_of("two", ":".join(["AB"] * 32))},
}

TALLY = {"histories": 0, "opened": 0, "pictures": 0, "starts": 0, "checks_closed": 0, "seconds": 0.0}


class GuardHistories(RuleBasedStateMachine):
    """One home, from its first boot on."""

    def __init__(self):
        super().__init__()
        self.world = None
        self.cards = []

    @initialize(base=st.sampled_from(BASES), bare=st.integers(0, 5), independent=st.booleans())
    def begin(self, base, bare, independent):
        self.world = World(base)
        self.world.set_independent(independent)
        self.world.boot()
        if bare:
            self.world.mend()
        if bare > 1:
            assert self.world.watch()

    # Everything right

    @rule(then=st.sampled_from(("opening", "watching", "leased", "seen", "not_seen", "closed")), wait_s=SHORT_S)
    def check_as_it_should_be(self, then, wait_s):
        world = self.world
        world.mend()
        if world.guard is None or not world.try_open() or then == "opening":
            return
        world.advance(3.0)
        if then == "leased":
            for _ in range(4):
                world.lease()
                world.advance(min(wait_s, 5.0))
        elif then in ("seen", "not_seen"):
            world.verdict(Verdict(then))
        elif then == "closed":
            world.close_check()

    @rule()
    def mended(self):
        self.world.mend()

    # Time

    @rule(duration_s=SHORT_S)
    def time_passes(self, duration_s):
        self.world.advance(duration_s)

    @rule(duration_s=st.sampled_from((120.0, 1200.0, 3600.0, 8 * 3600.0, 23 * 3600.0)))
    def long_time_passes(self, duration_s):
        self.world.sleep_long(duration_s)

    @rule()
    def quiet(self):
        self.world.advance(QUIET_S)
        self.world.judge.look_at_quiet()

    @rule(
        mode=st.sampled_from(("honest", "honest", "silent", "wrong-nonce", "late")), wait_s=st.sampled_from((0.5, 8.0))
    )
    def centre_tells_the_time(self, mode, wait_s):
        self.world.centre = mode
        self.world.ask_again()
        self.world.advance(wait_s)

    @rule()
    def centre_lies_against_an_independent_source(self):
        self.world.set_independent(True)
        self.world.centre = "lying"
        self.world.ask_again()

    # Agreement and trust

    @rule(
        kind=st.sampled_from(
            ("fresh", "old-consent", "no-resident", "not-given", "cohabitant", "paused", "other-times")
        ),
        max_s=st.sampled_from((5, 20, 180)),
        times=st.integers(0, 2),
    )
    def agreement_is_put(self, kind, max_s, times):
        world = self.world
        agreement = world.fresh_agreement()
        person = {"given": LONG_AGO, "how": "signed", "ref": "c-1"}
        missing = {"given": None, "how": None, "ref": None}
        match kind:
            case "old-consent":
                agreement["consent"]["resident"] = person
            case "no-resident":
                agreement["consent"]["resident"] = None
            case "not-given":
                agreement["consent"]["resident"] = missing
            case "cohabitant":
                agreement["consent"]["cohabitant"] = missing
            case "paused":
                day = datetime.fromtimestamp(world.true_unix_s, UTC).date().isoformat()
                agreement["pauses"] = [{"from": f"{day}T00:00", "until": f"{day}T23:59"}]
            case "other-times":
                offsets = (-40, -5, 10)
                agreement["lines"] = [
                    line_of(f"x{number}", world.local_minute(offset), max_s=max_s, times=times, after_min=1)
                    for number, offset in enumerate(offsets)
                ]
        agreement["lines"][0]["max_s"] = max_s
        world.put(agreement)

    @rule(number=st.integers(0, 5))
    def older_agreement_is_put(self, number):
        world = self.world
        known = [a for a in world.judge.agreements.values() if a["version"] <= world.guard_version]
        if known and world.guard is not None:
            older = known[number % len(known)]
            command = AgreementPut(AUDIENCE, world.jti(), older)
            reply = world.deliver(world.say(command, world.person("pl-1", Role.PLANNER)))
            assert not isinstance(reply, Accepted)

    @rule()
    def agreement_by_an_operator(self):
        world = self.world
        assert not isinstance(world.put(world.fresh_agreement(), world.person()), Accepted)

    @rule()
    def trust_is_raised(self):
        self.world.raise_trust()

    @rule(epoch=st.integers(0, 1))
    def older_trust_arrives(self, epoch):
        world = self.world
        if world.trust_version > 1 and world.guard is not None and world.guard.gate.trust.version > 1:
            assert not isinstance(world.deliver(world.trust_statement(1, epoch)), Accepted)

    # Openings

    @rule(
        flaw=st.sampled_from((None, None, *GRANT_FLAWS, *COMMAND_FLAWS, "version", "other key's nonce")),
        wait_s=SHORT_S,
        mended=st.booleans(),
    )
    def opening(self, flaw, wait_s, mended):
        """Right, or wrong in one thing; where all was mended before, that one thing is all that speaks against it."""
        world = self.world
        if mended:
            world.mend()
            world.close_check()
            world.advance(3.0)
            world.put(world.fresh_agreement())
        if flaw == "epoch" and world.trust_epoch == 0:
            flaw = None
        challenged = world.challenge()
        due = world.due_now(challenged)
        if not isinstance(challenged, Challenged) or due is None:
            return
        person = world.person("op-1", flaw=flaw) if flaw in GRANT_FLAWS else world.person()
        changes = dict(COMMAND_FLAWS.get(flaw, {}))
        if flaw == "version":
            changes["version"] = challenged.version + 1
        elif flaw == "other key's nonce":
            person = world.person("op-2")
        elif flaw is None:
            world.advance(wait_s if wait_s > 20 else 0.0)  # a nonce may grow too old
        world.counter = 0
        world.open(world.open_command(challenged, due, **changes), person, flaw=flaw)
        world.advance(0.5)

    @rule()
    def opening_guessed(self):
        """Without asking what is due: the next attempt of the newest line, whatever the device thinks of it."""
        world = self.world
        challenged = world.challenge()
        agreement = world.judge.agreement
        if not isinstance(challenged, Challenged) or agreement is None:
            return
        line = agreement["lines"][0]
        day = datetime.fromtimestamp(world.true_unix_s, UTC).date().isoformat()
        for attempt in (1, 2, 3):
            due = type("Due", (), {"line": line["id"], "occasion": f"{day}T{line['start']}", "attempt": attempt})
            challenged = world.challenge()
            if isinstance(challenged, Challenged):
                world.open(world.open_command(challenged, due))
        world.advance(0.5)

    @rule(number=st.integers(0, 30), wait_s=st.sampled_from((0.05, 2.0)))
    def opening_again(self, number, wait_s):
        world = self.world
        sent = list(world.opens.values())
        if sent and world.link is not None:
            again = sent[-1 - number % len(sent)]
            again.dead = True
            starts = again.starts
            world.deliver(again.untrusted, wait_s=wait_s)
            assert again.starts == starts

    @rule()
    def challenge_alone(self):
        self.world.challenge()

    # In a check

    @precondition(lambda self: self.world is not None and self.world.eye is not None)
    @rule(flaw=st.sampled_from((None, None, None, "counter", "key", "check")), times=st.integers(1, 3), wait_s=SHORT_S)
    def lease(self, flaw, times, wait_s):
        world = self.world
        for _ in range(times):
            if flaw == "counter":
                world.lease(counter=1)
            elif flaw == "key":
                world.lease(person=world.person("op-2"))
            elif flaw == "check":
                world.lease(check="c-other")
            else:
                world.lease()
            world.advance(min(wait_s, 6.0))

    @precondition(lambda self: self.world is not None and self.world.eye is not None)
    @rule(verdict=st.sampled_from(list(Verdict)), flaw=st.sampled_from((None, None, "counter", "key")))
    def verdict(self, verdict, flaw):
        world = self.world
        if flaw == "counter":
            world.verdict(verdict, counter=1)
        else:
            world.verdict(verdict, person=world.person("op-2") if flaw == "key" else None)

    @rule(old=st.booleans(), role=st.sampled_from((Role.OPERATOR, Role.STEWARD)))
    def close(self, old, role):
        world = self.world
        checks = list(world.judge.checks)
        world.close_check(checks[0] if old and checks else None, world.person("x-1", role))

    # The resident

    @rule()
    def resident_stops(self):
        self.world.stop_for_good()

    @rule(duration_s=st.sampled_from((60.0, 1800.0, 8 * 3600.0)))
    def resident_pauses(self, duration_s):
        self.world.pause(duration_s)

    @rule()
    def resident_ends_the_pause(self):
        self.world.end_pause()

    @rule()
    def resident_asks(self):
        self.world.hand(frame.AskState())

    @rule()
    def withdrawn_by_signature(self):
        self.world.withdraw_signed()

    # What fails

    @rule(what=st.sampled_from(("gone", "silent", "back", "broker-down", "broker-up")))
    def link_changes(self, what):
        world = self.world
        if what == "back":
            world.join_link()
        elif world.link is None:
            return
        elif what == "gone":
            world.lose_link()
        elif what == "silent":
            world.link_silent = True
        else:
            world.link.set_broker(what == "broker-up")
        world.advance(0.1)

    @rule(mode=st.sampled_from(("good", "stuck", "mute", "eager", "deaf", "blind")))
    def next_eye_is(self, mode):
        self.world.eye_mode = mode

    @precondition(lambda self: self.world is not None and self.world.eye is not None)
    @rule(what=st.sampled_from(("dies", "stands still", "deaf")))
    def eye_fails(self, what):
        eye = self.world.eye
        if what == "dies":
            eye.die()
        elif what == "deaf":
            eye.mode = "deaf"
        else:
            eye.freeze()
        self.world.advance(0.1)

    @rule(mount=st.sampled_from(("good", "stuck", "faulty")))
    def mount_is(self, mount):
        self.world.body.mount_mode = mount

    @rule(broken=st.booleans())
    def lamp_is(self, broken):
        self.world.body.lamp_broken = broken

    @rule(fault=st.sampled_from(("sync fails", "second sync fails", "full", "slow", "room again")))
    def disk_is(self, fault):
        disk = self.world.disk
        disk.full, disk.slow_s, disk.faults = fault == "full", 3.5 if fault == "slow" else 0.0, []
        if "sync fails" in fault:
            disk.faults = [errno.EIO] if fault == "sync fails" else [0, errno.EIO]

    # Ends and starts

    @rule(how=st.sampled_from(("stop", "kill", "power")), off_s=st.sampled_from((0.0, 3.0, 600.0)), link=st.booleans())
    def ends_and_starts(self, how, off_s, link):
        world = self.world
        if how == "stop":
            world.stop()
        elif how == "kill":
            world.kill()
        else:
            world.power_cut()
        world.advance(off_s)
        if world.guard is None and (world.boot() if how == "power" else world.start()) and link:
            world.join_link()

    @rule()
    def card_is_copied(self):
        self.cards.append(self.world.copy_card())

    @precondition(lambda self: bool(self.cards))
    @rule(number=st.integers(0, 3))
    def card_is_restored(self, number):
        world = self.world
        world.restore_card(self.cards[number % len(self.cards)])
        world.boot()
        world.join_link()

    def teardown(self):
        if self.world is None:
            return
        world = self.world
        try:
            world.lose_link()
            world.advance(QUIET_S)
            world.judge.look_at_quiet()
            TALLY["histories"] += 1
            TALLY["opened"] += world.judge.starts > 0
            TALLY["starts"] += world.judge.starts
            TALLY["pictures"] += world.judge.pictures
            TALLY["checks_closed"] += sum(body["kind"] == "closed" for body in world.judge.records)
            TALLY["seconds"] += world.loop.time()
            target(float(world.judge.pictures), label="pictures")
        finally:
            world.close()


def test_in_every_history_the_sensor_is_on_only_when_it_may_be():
    for name in TALLY:
        TALLY[name] = 0
    run_state_machine_as_test(
        GuardHistories,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=tuple(Phase) if SHRINK else (Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
    # A run in which little was opened would say little.
    assert TALLY["opened"] >= 0.6 * TALLY["histories"], TALLY
    assert TALLY["pictures"] >= TALLY["histories"], TALLY
    print(TALLY)
