"""The update's way and its gate: what is never skipped, whatever happens in between.

Mutations that turn these red, each tried:
  gate.watch: STEADY_S compared with `since_s` instead of `steady_since_s`   -> ten minutes without a break
  gate.watch: without `restarts == state.restarts`                         -> a restart begins the ten minutes anew
  gate.lacks: without `or not before.broker`                               -> a home whose router is off
  gate.lacks: without `parked`                                             -> each check is asked for
  machine: `Offered, Looked()` without may_install                         -> nothing begins unasked
  machine: `Installed, Looked()` without may_restart                       -> nothing restarts unasked
  machine._good: without `floor=`                                          -> what was good is the floor
  machine._gated: MarkGood after Keep                                      -> the slot first
  machine._fell_back: without counting                                     -> a bundle that fell back
  machine._taken: without the statement's high-water mark                  -> a statement is taken once
  machine._rebooted: without `event.boot == state.boot`                    -> a restarted service is no fall-back
  machine._gated: BAD restarts whatever may_restart says                   -> a check that could be had
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from update_support import offer

from gateway.update.gate import LIMIT_S, STEADY_S, Facts, Judged, Lack, Reach, Watch, lacks, watch
from gateway.update.machine import (
    MAX_INTERRUPTIONS,
    AnyState,
    Booted,
    Downloading,
    Finished,
    Idle,
    Install,
    Installed,
    Interrupted,
    Keep,
    Looked,
    MarkGood,
    Offered,
    Progressed,
    Rebooting,
    Refused,
    Report,
    Restart,
    RestartBack,
    StopInstalling,
    Taken,
    step,
)

WELL = Facts(
    parked=True, guard_well=True, ledger_verifies=True, eye_well=True, reach=Reach(broker=True, tunnel=True), restarts=0
)
ALL = Reach(broker=True, tunnel=True)
O = offer(statement=5)  # noqa: E741


def look(*, install=True, restart=True, over=False, facts=WELL, boot="b1") -> Looked:
    return Looked(boot, install, restart, over, facts)


def reports(effects) -> list[tuple[str, str | None]]:
    return [(effect.phase, effect.why) for effect in effects if isinstance(effect, Report)]


# The gate


def test_all_well_for_ten_minutes_without_a_break_is_good():
    state, judged = Watch(0.0, ALL), None
    for now_s in range(0, int(STEADY_S) + 10, 10):
        assert judged is None
        state, judged = watch(state, WELL, now_s=float(now_s))
        if judged:
            break
    assert (judged, now_s) == (Judged.GOOD, int(STEADY_S))


@pytest.mark.parametrize(
    ("change", "lack"),
    [
        ({"parked": False}, Lack.NOT_PARKED),
        ({"guard_well": False}, Lack.GUARD_UNWELL),
        ({"ledger_verifies": False}, Lack.LEDGER_BROKEN),
        ({"eye_well": False}, Lack.EYE_UNWELL),
        ({"reach": Reach(broker=False, tunnel=True)}, Lack.NO_BROKER),
        ({"reach": Reach(broker=True, tunnel=False)}, Lack.NO_TUNNEL),
    ],
)
def test_each_check_is_asked_for_and_its_lack_has_a_name(change, lack):
    facts = msgspec.structs.replace(WELL, **change)
    assert lacks(facts, ALL) is lack
    state = Watch(0.0, ALL)
    for now_s in range(0, int(LIMIT_S), 10):
        state, judged = watch(state, facts, now_s=float(now_s))
        assert judged is None
    state, judged = watch(state, facts, now_s=LIMIT_S)
    assert (judged, state.lack) == (Judged.BAD, lack)


def test_a_guard_that_says_nothing_lacks_everything():
    assert lacks(None, Reach()) is Lack.NO_GUARD


def test_a_home_whose_router_is_off_does_not_lose_an_update_for_it():
    facts = msgspec.structs.replace(WELL, reach=Reach())
    assert lacks(facts, Reach()) is None
    assert lacks(facts, Reach(broker=True)) is Lack.NO_BROKER


def test_a_restart_or_one_bad_look_begins_the_ten_minutes_anew():
    for upset in (msgspec.structs.replace(WELL, restarts=1), msgspec.structs.replace(WELL, parked=False), None):
        state, _ = watch(Watch(0.0, ALL), WELL, now_s=0.0)
        state, _ = watch(state, WELL, now_s=300.0)
        state, judged = watch(state, upset, now_s=590.0)
        calm = WELL if upset is None or not upset.parked else upset
        state, judged = watch(state, calm, now_s=STEADY_S + 1)
        assert judged is None
        state, judged = watch(state, calm, now_s=2 * STEADY_S + 2)
        assert judged is Judged.GOOD


# The way


def run(state: AnyState, *events: tuple[float, object]) -> tuple[AnyState, list]:
    told = []
    for now_s, event in events:
        state, effects = step(state, event, now_s=now_s)
        told += effects
    return state, told


OFFERED = step(Idle(statement=4), Taken(O, is_newer=True), now_s=0.0)[0]
GATED = run(
    OFFERED, (1, look()), (2, Finished()), (3, look()), (4, Booted("b2", by_try=True, running="0.2.0"))
)[0]  # fmt: skip


def test_the_whole_way_to_good():
    state, told = run(
        Idle(statement=4, floor="0.1.0"),
        (0, Taken(O, is_newer=True)),
        (1, look(install=False)),
        (2, look()),
        (3, Progressed(10)),
        (4, Finished()),
        (5, look(restart=False)),
        (6, look()),
        (10, Booted("b2", by_try=True, running="0.2.0")),
        *[(float(now_s), look(boot="b2")) for now_s in range(12, 700, 5)],
    )
    assert isinstance(state, Idle)
    assert (state.phase, state.floor, state.statement) == ("good", "0.2.0", 5)
    phases = [phase for phase, _ in reports(told)]
    assert phases == ["offered", "downloading", "downloading", "installed", "rebooting", "gate", "good"]
    assert [type(effect) for effect in told].count(MarkGood) == 1
    at = next(index for index, effect in enumerate(told) if isinstance(effect, MarkGood))
    assert isinstance(told[at + 1], Keep)  # the slot first, then our own word of it


@pytest.mark.parametrize("statement", [1, 4, 5])
def test_a_statement_is_taken_once(statement):
    state = Idle(statement=5)
    assert step(state, Taken(offer(statement=statement), is_newer=True), now_s=0.0) == (state, ())


def test_nothing_begins_unasked():
    for allowed in (look(install=False), look(install=False, facts=None)):
        assert step(OFFERED, allowed, now_s=5.0) == (OFFERED, ())
    begun, effects = step(OFFERED, look(restart=False), now_s=5.0)
    assert isinstance(begun, Downloading)
    assert isinstance(effects[-1], Install)


def test_nothing_restarts_unasked_or_without_knowing_what_was_reached_before():
    installed = Installed(statement=5, offer=O)
    for event in (look(restart=False), look(facts=None)):
        assert step(installed, event, now_s=5.0) == (installed, ())
    after, effects = step(installed, look(), now_s=5.0)
    assert isinstance(after, Rebooting)
    assert (after.before, type(effects[-1])) == (ALL, Restart)


def test_what_fell_back_tells_why_and_is_not_tried_again():
    state, told = run(GATED, (5, look(boot="b2", facts=None)), (LIMIT_S + 6, look(boot="b2", facts=None)))
    assert any(isinstance(effect, RestartBack) for effect in told)
    state, told = run(state, (9, Booted("b3", by_try=False, running="0.1.0")))
    assert reports(told) == [("fell-back", "no-guard")]
    again, told = run(state, (10, Taken(offer(statement=6), is_newer=True)))
    assert reports(told) == [("refused", "fell-back-before")]
    assert isinstance(again, Idle)
    again, told = run(state, (10, Taken(offer(statement=6, tries=2), is_newer=True)))
    assert isinstance(again, Offered)
    other, told = run(state, (10, Taken(offer(statement=6, manifest_sha256="cd" * 32), is_newer=True)))
    assert isinstance(other, Offered)


def test_a_system_that_does_not_boot_is_told_by_the_old_one():
    rebooting = run(OFFERED, (1, look()), (2, Finished()), (3, look()))[0]
    for reason, why in ((None, "did-not-boot"), ("gave-way", "gave-way")):
        state, told = run(rebooting, (9, Booted("b2", by_try=False, running="0.1.0", reason=reason)))
        assert reports(told) == [("fell-back", why)]
        assert state.given_up[-1].times == 1


def test_a_restarted_service_is_no_fall_back_and_a_restart_that_did_not_come_is_asked_for_again():
    rebooting = run(OFFERED, (1, look()), (2, Finished()), (3, look()))[0]
    state, told = run(rebooting, (4, Booted("b1", by_try=False, running="0.1.0")))
    assert isinstance(state, Rebooting)
    assert told == []
    assert run(state, (200, look(restart=False)))[1] == []
    assert run(state, (200, look()))[1] == [Restart()]


def test_power_cut_after_the_slot_was_marked_good_still_ends_well():
    state, told = run(GATED, (9, Booted("b3", by_try=False, running="0.2.0")))
    assert reports(told) == [("good", None)]
    assert state.floor == "0.2.0"


def test_power_cut_in_the_gate_is_a_fall_back():
    _, told = run(GATED, (20, look(boot="b2")), (30, Booted("b3", by_try=False, running="0.1.0")))
    assert [phase for phase, _ in reports(told)] == ["fell-back"]


def test_a_check_that_could_be_had_is_not_disturbed_by_a_fall_back():
    no_tunnel = msgspec.structs.replace(WELL, reach=Reach(broker=True))
    state, told = run(GATED, (LIMIT_S + 9, look(boot="b2", restart=False, facts=no_tunnel)))
    assert not any(isinstance(effect, RestartBack) for effect in told)
    _, told = run(state, (LIMIT_S + 99, look(boot="b2", facts=no_tunnel)))
    assert any(isinstance(effect, RestartBack) for effect in told)
    for facts in (None, msgspec.structs.replace(WELL, guard_well=False), msgspec.structs.replace(WELL, reach=Reach())):
        _, told = run(GATED, (LIMIT_S + 9, look(boot="b2", restart=False, facts=facts)))
        assert any(isinstance(effect, RestartBack) for effect in told), facts


def test_a_download_that_breaks_off_goes_on_and_is_given_up_in_the_end():
    state = OFFERED
    for number in range(MAX_INTERRUPTIONS):
        state, told = run(state, (number, look()), (number + 0.5, Interrupted("no-network")))
        assert isinstance(state, Offered if number + 1 < MAX_INTERRUPTIONS else Idle)
    assert reports(told)[-1] == ("failed", "no-network")


def test_whoever_feeds_it_drop_by_drop_is_given_up():
    _, told = run(OFFERED, (0, look()), (86_400, look()))
    assert any(isinstance(effect, StopInstalling) for effect in told)
    assert reports(told)[-1] == ("failed", "too-slow")


def test_after_its_deadline_an_offer_is_not_begun():
    _, told = run(OFFERED, (1, look(over=True)))
    assert reports(told) == [("failed", "deadline")]


def test_a_release_that_is_taken_back_is_stopped():
    state, told = run(OFFERED, (1, look()), (2, Taken(offer(statement=6, version="0.1.0"), is_newer=False)))
    assert isinstance(state, Idle)
    assert isinstance(told[-3], StopInstalling)


def test_what_the_bundle_is_refused_for_is_told():
    state, told = run(OFFERED, (1, look()), (2, Refused("manifest-differs")))
    assert reports(told)[-1] == ("refused", "manifest-differs")
    assert isinstance(state, Idle)


EVERY_STATE = (
    Idle(statement=4),
    OFFERED,
    Downloading(statement=5, offer=O, since_s=0.0),
    Installed(statement=5, offer=O),
    Rebooting(statement=5, offer=O, before=ALL, boot="b1", since_s=0.0),
    GATED,
)


@pytest.mark.parametrize("state", EVERY_STATE, ids=lambda state: type(state).__name__)
def test_what_is_kept_reads_back_as_it_was(state):
    assert msgspec.json.decode(msgspec.json.encode(state), type=AnyState) == state


class Histories(RuleBasedStateMachine):
    """Random histories: what leads into the effects that matter is kept beside, in plain words."""

    def __init__(self) -> None:
        super().__init__()
        self.state: AnyState = Idle(floor="0.1.0")
        self.kept: AnyState = self.state
        self.now = 0.0
        self.boot = 1
        self.on_new = self.asked = False
        self.well_since: float | None = None
        self.last_restarts = 0
        self.statement = 0

    def feed(self, event) -> list:
        floor, statement = self.state.floor, self.state.statement
        self.state, effects = step(self.state, event, now_s=self.now)
        for effect in effects:
            match effect:
                case Keep(state):
                    self.kept = state
                case Install():
                    assert isinstance(event, Looked)
                    assert event.may_install
                    assert not event.is_over
                case Restart():
                    assert isinstance(event, Looked)
                    assert event.may_restart
                    assert isinstance(self.kept, Rebooting)
                    self.asked = True
                case MarkGood():
                    assert self.on_new
                    assert self.well_since is not None
                    assert self.now - self.well_since >= STEADY_S
                    self.on_new = False
                    self.committed = True
                case _:
                    pass
        assert self.state.statement >= statement
        assert self.state.floor >= floor
        return list(effects)

    @rule(newer=st.booleans(), version=st.integers(2, 9), bundle=st.integers(0, 3))
    def offer_comes(self, newer, version, bundle):
        self.statement += 1
        self.feed(
            Taken(offer(statement=self.statement, version=f"0.{version}.0", manifest_sha256=f"{bundle:064x}"), newer)
        )

    @rule(
        passes=st.sampled_from([5.0, 60.0, 300.0]),
        install=st.booleans(),
        restart=st.booleans(),
        facts=st.sampled_from([WELL, WELL, WELL, None, msgspec.structs.replace(WELL, restarts=1),
                               msgspec.structs.replace(WELL, parked=False)]),
    )  # fmt: skip
    def time_passes(self, passes, install, restart, facts):
        self.now += passes
        if facts is None or not facts.parked:
            self.well_since = None
        elif self.well_since is None or facts.restarts != self.last_restarts:
            self.well_since = self.now
        if facts is not None:
            self.last_restarts = facts.restarts
        self.feed(look(install=install, restart=restart, facts=facts, boot=f"b{self.boot}"))

    @rule(times=st.integers(1, 60))
    def all_is_well_for_a_while(self, times):
        for _ in range(times):
            self.time_passes(15.0, True, True, WELL)

    @rule(event=st.sampled_from([Finished(), Refused("bad-signature"), Interrupted("no-network"), Progressed(50)]))
    def rauc_speaks(self, event):
        self.feed(event)

    @rule(power_cut=st.booleans())
    def it_boots(self, power_cut):
        self.boot += 1
        self.now += 30.0
        self.well_since = None
        try_it = self.asked and not power_cut
        self.asked = False
        self.state = self.kept
        offered = getattr(self.state, "offer", None)
        on_new = try_it and offered is not None
        self.on_new = on_new
        self.feed(Booted(f"b{self.boot}", on_new, offered.version if on_new else "0.1.0"))

    @invariant()
    def what_is_kept_is_what_matters(self):
        assert type(self.kept) is type(self.state)
        assert self.kept.statement == self.state.statement
        assert self.kept.given_up == self.state.given_up


TestHistories = pytest.mark.slow(Histories.TestCase)
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
