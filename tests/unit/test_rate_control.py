"""The rate follows the line, and gives video up only with a reason.

Two kinds of test: tables of one step, and whole minutes on a line that is simulated here (a queue with a cap, a delay
and random loss, and a receiver that estimates as browsers do, roughly). What real browsers do is in tests/stress.

Mutations that turn these red, each tried: loss not asked in `_report`; GROWTH_PER_S = 1.0; no `_silence`; `strained`
always true, or always false, in `_mode`; `believed_bps` the estimate from the first word on; `silent_s` always
SILENT_S; no pull, or one that a loss does not end; the first report after a silence taken as any other, or that only
where a REMB came before it; its round trip not looked at; what was known before a silence forgotten; GONE_TIMES = 1;
`quick_stills` not asked; trials_every_s not doubled; the two size limits equal and no time asked; encoder rises asked
at each tick.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rate import Begun, Control, Estimated, Heard, Limits, Mode, Reported, StillSeen, Tick, step
from gateway.rate.control import (
    CLEAN_FOR_S,
    ENCODER_SHARE,
    ESTIMATES_ARE_TRUE_FROM,
    LEAST_BPS,
    LEAST_VIDEO_BPS,
    SILENT_WITHOUT_REMB_S,
    START_BPS,
    TRIALS_EVERY_S,
    TRIALS_SELDOM_S,
)


def begun(limits: Limits | None = None) -> Control:
    return step(Control.start(limits or Limits()), Begun(), now_s=100.0)


def after(control: Control, *events: tuple[float, object]) -> Control:
    for at_s, event in events:
        control = step(control, event, now_s=at_s)
    return control


# One step


def test_it_begins_small_and_at_half_a_megabit():
    control = begun()
    assert (control.mode, control.large, control.target_bps) == (Mode.VIDEO, False, START_BPS)
    assert control.encoder_bps == int(START_BPS * ENCODER_SHARE)


@pytest.mark.parametrize(
    ("lost", "trip_s", "least", "most"),
    [
        (0.0, 0.04, 1.19, 1.21),  # clean: up
        (0.05, 0.04, 1.0, 1.0),  # radio: hold
        (0.20, 0.04, 0.89, 0.91),  # too much: down by half the share lost
        (1.0, 0.04, 0.49, 0.51),
        (0.0, 0.5, 0.84, 0.86),  # a queue that we fill
    ],
)
def test_a_report_moves_the_estimate(lost, trip_s, least, most):
    control = after(begun(), (101.0, Reported(0.0, 0.04)))
    before = control.loss_bps
    control = after(control, (102.0, Reported(lost, trip_s)))
    assert least <= control.loss_bps / before <= most


def test_the_smaller_of_the_two_estimates_counts():
    assert after(begun(), (101.0, Estimated(300_000))).target_bps == 300_000
    assert after(begun(), (101.0, Estimated(9_000_000))).target_bps == START_BPS


def test_two_seconds_of_silence_halve_it_each_time():
    control = step(begun(), Estimated(9_000_000), now_s=100.0)
    seen = []
    modes = []
    for tick in range(32):
        control = step(control, Tick(), now_s=100.0 + tick / 4)
        seen.append(control.loss_bps)
        modes.append(control.mode)
    assert seen[7] == START_BPS
    assert seen[8] == START_BPS / 2
    assert seen[16] == START_BPS / 4
    assert set(modes[: 4 * 6]) == {Mode.VIDEO}, "a path that is gone is not a narrow one"
    assert modes[-1] is Mode.STILLS
    assert control.loss_bps >= LEAST_BPS


def test_who_never_gives_an_estimate_may_be_silent_as_long_as_rfc_3550_lets_it():
    control = begun()
    ticks = [(100.0 + tick / 4, Tick()) for tick in range(int(4 * SILENT_WITHOUT_REMB_S))]
    assert after(control, *ticks).loss_bps == START_BPS
    assert after(control, *ticks, (100.0 + SILENT_WITHOUT_REMB_S, Tick())).loss_bps == START_BPS / 2


@pytest.mark.parametrize("first", [Heard(), Estimated(900_000), Tick()])
def test_what_a_cut_of_three_seconds_swallowed_is_not_held_against_the_line_after_it(first):
    control = after(begun(), (100.5, Estimated(900_000)), (101.0, Reported(0.0, 0.04)))
    silence = [(101.25 + tick / 4, Tick()) for tick in range(12)]
    control = after(control, *silence)
    halved_bps = control.loss_bps
    # Whatever word comes first, the report that counts the cut comes after it.
    control = after(control, (104.05, first), (104.1, Reported(0.95, 0.04)))
    assert control.loss_bps == halved_bps
    assert control.lost == 0.0
    later = [(104.25 + tick / 4, Tick()) for tick in range(3)]
    control = after(control, *later, (105.0, Reported(0.0, 0.04)), (105.1, Tick()), (106.0, Reported(0.0, 0.04)))
    assert control.mode is Mode.VIDEO
    assert control.loss_bps > halved_bps
    # The next one counts again.
    assert after(control, (107.0, Reported(0.95, 0.04))).loss_bps < control.loss_bps


def test_a_cut_costs_half_of_what_was_known_however_long_it_was():
    control = after(begun(), *((100.5 + second, Estimated(400_000)) for second in range(4)))
    silence = [(103.75 + tick / 4, Tick()) for tick in range(20)]
    control = after(control, *silence)
    assert control.loss_bps == 400_000 / 4
    again = after(control, (108.6, Heard()))
    assert again.loss_bps == 400_000 / 2
    assert again.mode is Mode.VIDEO
    # A word without a silence before it changes nothing.
    assert after(again, (108.7, Heard())).loss_bps == again.loss_bps


def test_a_line_that_came_back_narrow_is_seen_by_its_round_trip_at_once():
    control = after(begun(), (100.5, Estimated(900_000)), (101.0, Reported(0.0, 0.04)))
    control = after(control, *((101.25 + tick / 4, Tick()) for tick in range(12)), (104.1, Heard()))
    assert after(control, (104.5, Reported(0.0, 0.6))).loss_bps < control.loss_bps


def test_a_clean_line_pulls_ours_to_the_receivers_and_one_loss_ends_that():
    control = after(begun(), (101.0, Estimated(1_500_000)))
    seen = []
    for second in range(1, 5):
        control = after(control, (100.0 + second, Reported(0.0, 0.04)))
        seen.append(control.loss_bps)
    assert seen[1] == pytest.approx(START_BPS * 1.2**2), "grown by the rule until it was clean for long enough"
    assert CLEAN_FOR_S == 2.0
    assert seen[2] == pytest.approx((seen[1] + 1_500_000) / 2)
    lossy = after(control, (105.0, Reported(0.05, 0.04)))
    assert lossy.loss_bps == control.loss_bps
    again = after(lossy, (106.0, Reported(0.0, 0.04)))
    assert again.loss_bps == pytest.approx(min(1_500_000, lossy.loss_bps * 1.2))
    assert again.clean_since_s == 106.0


def test_the_receivers_first_words_slow_the_video_and_do_not_end_it():
    control = begun()
    for word in range(ESTIMATES_ARE_TRUE_FROM - 1):
        control = after(control, (100.5 + word / 10, Estimated(60_000)))
    trouble = [(101.0 + tick / 4, Tick(1.0)) for tick in range(7)]
    slowed = after(control, *trouble)
    assert slowed.mode is Mode.VIDEO
    assert slowed.target_bps == LEAST_VIDEO_BPS
    believed = after(control, (101.0, Estimated(60_000)), *trouble)
    assert believed.mode is Mode.STILLS, "the same word, often enough"


def test_a_low_word_of_the_receiver_alone_does_not_end_the_video():
    control = begun()
    for second in range(30):
        control = after(
            control, *((100.0 + second, event) for event in (Estimated(60_000), Reported(0.0, 0.03), Tick()))
        )
    assert control.mode is Mode.VIDEO
    assert control.target_bps == LEAST_VIDEO_BPS, "never less than is still a moving picture"


def strained(seconds: int, *, start_s: float = 100.0) -> list[tuple[float, object]]:
    events: list[tuple[float, object]] = []
    for second in range(seconds):
        at_s = start_s + 1.0 + second
        events += [(at_s, Estimated(90_000)), (at_s, Reported(0.3, 0.9)), (at_s, Tick()), (at_s + 0.5, Tick())]
    return events


def test_a_low_estimate_with_strain_becomes_stills_after_a_moment():
    assert after(begun(), *strained(1)).mode is Mode.VIDEO
    control = after(begun(), *strained(4))
    assert control.mode is Mode.STILLS
    assert control.sends_stills
    assert not control.sends_video


def test_a_still_that_is_seen_late_starts_no_trial_and_quick_ones_do():
    control = after(begun(), (100.5, Reported(0.0, 0.05)), *strained(4))
    late = after(control, *((110.0 + second, StillSeen(9_000, 0.9)) for second in range(20)), (140.0, Tick()))
    assert late.mode is Mode.STILLS
    quick = after(control, (110.0, StillSeen(9_000, 0.2)), (111.0, StillSeen(9_000, 0.2)), (111.1, Tick()))
    assert quick.mode is Mode.TRIAL
    assert quick.sends_video
    assert quick.sends_stills, "what was seen stays until the video is"


def test_a_trial_without_strain_brings_the_video_back():
    control = after(begun(), (100.5, Reported(0.0, 0.05)), *strained(4))
    control = after(control, (110.0, StillSeen(9_000, 0.2)), (111.0, StillSeen(9_000, 0.2)), (111.1, Tick()))
    for quarter in range(14):
        at_s = 111.25 + quarter / 4
        control = after(control, (at_s, Reported(0.0, 0.05)), (at_s, Estimated(120_000)), (at_s, Tick()))
    assert control.mode is Mode.VIDEO


def test_trials_that_fail_come_ever_more_seldom():
    control = after(begun(), (100.5, Reported(0.0, 0.05)), *strained(4))
    gaps = []
    now_s = 110.0
    for _ in range(6):
        while control.mode is not Mode.TRIAL:
            control = after(control, (now_s, StillSeen(9_000, 0.1)), (now_s, Tick()))
            now_s += 0.25
        control = after(control, (now_s, Reported(0.4, 0.9)), (now_s, Tick()))
        assert control.mode is Mode.STILLS
        gaps.append(control.next_trial_s - now_s)
    assert gaps[0] >= TRIALS_EVERY_S
    assert gaps == sorted(gaps)
    assert gaps[-1] == TRIALS_SELDOM_S


def test_the_size_changes_late_and_not_back_and_forth():
    control = replace(begun(), loss_bps=1_000_000.0, heard_s=1e9)
    control = after(control, (101.0, Tick()), (102.9, Tick()))
    assert not control.large
    control = after(control, (103.1, Tick()))
    assert control.large
    # Anything between the two limits leaves it as it is.
    between = replace(control, loss_bps=700_000.0)
    assert after(between, *((103.0 + second, Tick()) for second in range(1, 30))).large
    down = replace(control, loss_bps=500_000.0)
    assert after(down, (104.0, Tick())).large
    assert not after(down, (104.0, Tick()), (105.1, Tick())).large


def test_the_encoder_is_asked_for_more_at_most_once_a_second():
    control, rises = begun(), []
    for quarter in range(40):
        now_s = 100.25 + quarter / 4
        was = control
        control = after(control, (now_s, Reported(0.0, 0.04)), (now_s, Estimated(400_000 + 30_000 * quarter)))
        control = replace(control, loss_bps=400_000.0 + 30_000.0 * quarter)
        control = after(control, (now_s, Tick()))
        if control.encoder_bps > was.encoder_bps:
            rises.append(now_s)
    assert len(rises) >= 3
    assert min(later - earlier for earlier, later in itertools.pairwise(rises)) >= 1.0


def test_a_film_that_is_passed_through_keeps_its_size():
    control = replace(begun(Limits(4_000_000, 8_000_000, fixed=True)), loss_bps=100_000.0)
    assert after(control, *((100.0 + second, Tick()) for second in range(9))).large


# Whole histories

EVENTS = st.one_of(
    st.builds(Estimated, st.integers(0, 20_000_000)),
    st.builds(Reported, st.floats(0.0, 1.0), st.none() | st.floats(0.0, 5.0)),
    st.just(Heard()),
    st.builds(StillSeen, st.integers(1, 32_000), st.floats(0.0, 10.0)),
    st.builds(Tick, st.floats(0.0, 5.0)),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 3.0), EVENTS), max_size=80))
def test_no_history_leaves_the_bounds_or_flips_the_size_within_a_second(history):
    control, now_s = begun(), 100.0
    resized_s, rose_s = -1e9, -1e9
    for wait_s, event in history:
        now_s += wait_s
        was = control
        control = step(control, event, now_s=now_s)
        assert LEAST_VIDEO_BPS <= control.target_bps <= control.limits.most_bps
        assert LEAST_BPS <= control.encoder_bps <= control.limits.most_bps
        assert LEAST_BPS <= control.loss_bps <= control.limits.most_bps
        if was.large != control.large and control.mode is was.mode:
            assert now_s - resized_s >= 1.0
            resized_s = now_s
        if control.encoder_bps > was.encoder_bps:
            assert now_s - rose_s >= 1.0
            rose_s = now_s
        if was.mode is Mode.VIDEO and control.mode is Mode.STILLS:
            assert control.poor_since_s is None


class Line:
    """A line with a cap, a delay and losses; at its end a receiver that reports each second."""

    def __init__(self, cap_bps: float, *, trip_s: float = 0.04, lost: float = 0.0, buffer_s: float = 1.0) -> None:
        self.cap_bps, self.trip_s, self.lost, self.buffer_s = cap_bps, trip_s, lost, buffer_s
        self.backlog_bits = 0.0
        self.random = random.Random(7)
        self.remb_bps = 300_000.0
        self.delays: deque[float] = deque(maxlen=2)

    def second(self, sent_bps: float) -> tuple[Reported, Estimated, float]:
        """One second of sending; gives the reports of it, and the longest delay of the queue."""
        arriving = sent_bps
        self.backlog_bits += arriving - min(self.cap_bps, self.backlog_bits + arriving)
        over = max(0.0, self.backlog_bits - self.buffer_s * self.cap_bps)
        self.backlog_bits -= over
        delay_s = self.backlog_bits / self.cap_bps
        received_bps = min(self.cap_bps, arriving) * (1 - self.lost)
        growing = bool(self.delays) and delay_s > self.delays[-1] + 0.01
        self.delays.append(delay_s)
        if growing or delay_s > 0.3:
            self.remb_bps = 0.85 * received_bps
        else:
            self.remb_bps = max(self.remb_bps, min(self.remb_bps * 1.08, 1.5 * received_bps + 10_000))
        lost = min(1.0, self.lost * self.random.uniform(0.8, 1.2) + over / max(1.0, arriving))
        return Reported(lost, self.trip_s + delay_s), Estimated(int(self.remb_bps)), delay_s


def play(line: Line, seconds: int, control: Control | None = None, *, start_s: float = 100.0):
    """Run the control over the line; gives it at the end, and for each second what was sent and the delay."""
    control = control or begun()
    sent, delays, modes = [], [], []
    for second in range(seconds):
        now_s = start_s + second
        video_bps = control.encoder_bps / ENCODER_SHARE if control.sends_video else 0.0
        still_bps = 80_000.0 if control.sends_stills else 0.0
        report, remb, delay_s = line.second(video_bps + still_bps)
        control = after(control, (now_s + 0.9, report), (now_s + 0.9, remb))
        if control.sends_stills:
            took_s = line.trip_s + delay_s + 80_000.0 / line.cap_bps
            control = step(control, StillSeen(10_000, took_s), now_s=now_s + 0.9)
        for quarter in range(4):
            control = step(control, Tick(), now_s=now_s + 0.92 + quarter / 50)
        sent.append(video_bps + still_bps)
        delays.append(delay_s)
        modes.append(control.mode)
    return control, sent, delays, modes


@pytest.mark.parametrize(
    ("cap_bps", "lost", "trip_s", "least", "most"),
    [
        (5_000_000, 0.0, 0.04, 1_400_000, 1_500_000),
        (5_000_000, 0.05, 0.2, 450_000, 1_500_000),
        (1_000_000, 0.0, 0.04, 600_000, 1_000_000),
        (400_000, 0.0, 0.04, 230_000, 420_000),
        (400_000, 0.05, 0.2, 230_000, 420_000),
    ],
)
def test_it_settles_below_the_cap_and_near_it(cap_bps, lost, trip_s, least, most):
    _, sent, delays, modes = play(Line(cap_bps, lost=lost, trip_s=trip_s), 90)
    settled = sent[30:]
    assert least <= sum(settled) / len(settled) <= most
    assert sum(delays[30:]) / len(delays[30:]) < 0.35
    assert set(modes) == {Mode.VIDEO}


def test_a_hundred_kilobit_end_in_stills_and_a_better_line_brings_video_back():
    line = Line(100_000)
    control, _, _, modes = play(line, 60)
    assert modes[8] is not Mode.VIDEO, "within nine seconds"
    assert control.mode is not Mode.VIDEO
    assert modes.count(Mode.TRIAL) <= 12, "and it does not fill the line with trials"
    line.cap_bps = 2_000_000
    control, _, _, modes = play(line, 90, control, start_s=160.0)
    assert control.mode is Mode.VIDEO
    assert control.target_bps > 500_000
    assert Mode.STILLS not in modes[modes.index(Mode.VIDEO) :], "it stays"


def test_a_still_bedroom_on_a_good_line_is_never_made_stills():
    line = Line(5_000_000)
    control = begun()
    for second in range(120):
        # The picture needs 30 kbit/s, whatever the encoder may use; the receiver's word follows what it gets.
        report, _, _ = line.second(30_000)
        now_s = 100.0 + second
        control = after(control, (now_s, report), (now_s, Estimated(55_000)), (now_s + 0.1, Tick()))
        assert control.mode is Mode.VIDEO


def test_a_receiver_that_reports_every_five_seconds_and_estimates_nothing_keeps_its_video():
    """As GStreamer does."""
    line = Line(5_000_000)
    control = begun()
    for second in range(120):
        now_s = 100.0 + second
        report, _, _ = line.second(control.encoder_bps / ENCODER_SHARE)
        if second % 5 == 4:
            control = after(control, (now_s + 0.9, report))
        control = after(control, *((now_s + 0.9 + quarter / 50, Tick()) for quarter in range(4)))
        assert control.mode is Mode.VIDEO
    assert control.target_bps > 1_400_000


def test_who_estimates_nothing_and_is_gone_is_given_up_all_the_same():
    control = begun()
    modes = [(control := step(control, Tick(), now_s=100.0 + tick / 4)).mode for tick in range(4 * 4 * 8)]
    assert modes[-1] is Mode.STILLS
