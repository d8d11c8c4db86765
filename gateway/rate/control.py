"""From what the receiver reports to what the camera is asked for. One pure function; time is passed in.

Theory of operation. Two estimates, and the smaller one counts. The receiver's own (REMB) follows delay and is blind to
loss; ours follows loss and round trip, halves when nobody reports, and serves alone where no REMB comes. While nothing
is lost ours is pulled towards the receiver's: it has nothing to say then. The target moves between the least that is
still a moving picture and the most that was agreed with the camera.

A low REMB alone proves nothing: a still bedroom makes few bytes, and the receiver's word is bound to what it gets. So
video is given up only when the estimate is below `LEAST_VIDEO_BPS` *and* something shows strain: loss, a round trip
that grew, silence, or our own queue. Then a still a second goes over the data channel, which needs about 80 kbit/s. The
first words of a receiver are guesses made of one burst, the first picture: they slow us, and never end the video.

Who gives no REMB reports by RFC 3550's rule, every 2 to 6 s (GStreamer): its silence means nothing for longer.

Silence is a path that is gone, not one that is narrow. It slows us and does not end the video, or a cut of 3 s would
cost 5 s of stills after it; only where nobody is heard for long is the video given up. At the first word after it, what
was known of the line is known again, all but half of it, and what the cut swallowed is held against nobody.

Way back. Where no video is sent nothing estimates the line, so stills do: one that was seen soon shows room. Then a
trial of 3 s sends video beside the stills; unstrained, it stays. Trials that fail come ever more seldom.

Source of the loss rule (2 % and 10 %): draft-ietf-rmcat-gcc-02 §6. The other constants are ours, tried in
tests/stress.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

START_BPS: Final = 500_000
LEAST_VIDEO_BPS: Final = 200_000
TRIAL_BPS: Final = 250_000
LEAST_BPS: Final = 50_000
LARGE_FROM_BPS: Final = 900_000
SMALL_BELOW_BPS: Final = 600_000
LARGE_AFTER_S: Final = 2.0
SMALL_AFTER_S: Final = 1.0
SILENT_S: Final = 2.0
SILENT_WITHOUT_REMB_S: Final = 8.0
"""RFC 3550 §6.3.1: 5 s, times 0.5 to 1.5, over 1.22; the longest pause of a healthy receiver is 6.2 s."""
GONE_TIMES: Final = 3
"""Silence so many times as long as means something ends the video."""
RESUMED_S: Final = 2.0
"""After a cut, the first report that says so counts what the cut swallowed. Browsers report once a second."""
ESTIMATES_ARE_TRUE_FROM: Final = 3
"""So many words of the receiver before one of them may end the video. Browsers give about one a second."""
CLEAN_FOR_S: Final = 2.0
PULL_PER_S: Final = 0.5
"""Of what lies between our estimate and the receiver's, while nothing is lost."""
POOR_FOR_S: Final = 1.5
LOSS_HIGH: Final = 0.10
LOSS_LOW: Final = 0.02
GROWTH_PER_S: Final = 1.2
SWOLLEN_S: Final = 0.2
"""A round trip this much longer than the shortest is a queue that we fill."""
QUEUE_STRAIN_S: Final = 0.6
TRIAL_S: Final = 3.0
TRIALS_EVERY_S: Final = 5.0
TRIALS_SELDOM_S: Final = 60.0
QUICK_STILLS: Final = 2
QUICK_STILL_BPS: Final = 220_000
"""What a still's bytes and time must show before video is tried again."""
PACE: Final = 1.5
"""A picture leaves in two thirds of the time that its bytes would take on average: smooth, and not late."""
ENCODER_SHARE: Final = 0.9
"""Of the target; the rest is headers (40 of 1200 bytes), reports and the data channel."""


class Mode(enum.Enum):
    VIDEO = "video"
    STILLS = "stills"
    TRIAL = "trial"
    """Stills are shown; video is sent beside them, to see whether the line carries it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the source can do. `fixed`: its rate is its own (a film passed through); `large`: it has two sizes."""

    start_bps: int = START_BPS
    most_bps: int = 1_500_000
    fixed: bool = False
    large: bool = True


@dataclass(frozen=True, slots=True)
class Begun:
    """The path is up: from here on silence counts."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """REMB. `bps` is what the receiver takes the line to carry."""

    bps: int


@dataclass(frozen=True, slots=True)
class Reported:
    """A receiver report: share lost since the last one (0 to 1), and the round trip where it can be told."""

    lost: float
    round_trip_s: float | None


@dataclass(frozen=True, slots=True)
class Heard:
    """Any other word of the receiver, as that a packet is missing: it is there."""


@dataclass(frozen=True, slots=True)
class StillSeen:
    """The page has shown a still, this long after it was handed to the data channel."""

    size_bytes: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; `queue_s` is how long what waits to be sent will take. At least twice a second."""

    queue_s: float = 0.0


Event = Begun | Estimated | Reported | Heard | StillSeen | Tick


@dataclass(frozen=True, slots=True)
class Control:
    """Everything known about the line, and what follows from it."""

    limits: Limits
    mode: Mode = Mode.VIDEO
    large: bool = False
    encoder_bps: int = int(START_BPS * ENCODER_SHARE)
    loss_bps: float = START_BPS
    remb_bps: float | None = None
    estimates: int = 0
    clean_since_s: float | None = None
    lost: float = 0.0
    round_trip_s: float | None = None
    shortest_s: float | None = None
    heard_s: float | None = None
    reported_s: float | None = None
    halved_s: float = 0.0
    before_cut_bps: float | None = None
    resumed_s: float | None = None
    queue_s: float = 0.0
    changed_s: float = 0.0
    poor_since_s: float | None = None
    size_since_s: float | None = None
    trial_s: float = 0.0
    next_trial_s: float = 0.0
    trials_every_s: float = TRIALS_EVERY_S
    quick_stills: int = 0

    @classmethod
    def start(cls, limits: Limits) -> Control:
        first_bps = min(limits.start_bps, limits.most_bps)
        return cls(
            limits,
            large=limits.fixed,
            encoder_bps=int(first_bps * ENCODER_SHARE),
            loss_bps=float(first_bps),
        )

    @property
    def estimate_bps(self) -> float:
        """What the line is taken to carry; may be less than is sent."""
        return self.loss_bps if self.remb_bps is None else min(self.loss_bps, self.remb_bps)

    @property
    def believed_bps(self) -> float:
        """The estimate, as far as it may end the video."""
        return self.estimate_bps if self.estimates >= ESTIMATES_ARE_TRUE_FROM else self.loss_bps

    @property
    def silent_s(self) -> float:
        """How long nobody may report before that means something."""
        return SILENT_S if self.estimates else SILENT_WITHOUT_REMB_S

    @property
    def target_bps(self) -> float:
        """What video may take of it, resends included."""
        if self.mode is not Mode.VIDEO:
            return TRIAL_BPS
        return min(max(self.estimate_bps, LEAST_VIDEO_BPS), self.limits.most_bps)

    @property
    def pace_bps(self) -> float:
        return PACE * self.target_bps

    @property
    def sends_video(self) -> bool:
        return self.mode is not Mode.STILLS

    @property
    def sends_stills(self) -> bool:
        return self.mode is not Mode.VIDEO

    def strained(self, now_s: float) -> bool:
        """Whether anything but the receiver's word shows that the line is full or gone."""
        return (
            self.lost >= LOSS_HIGH
            or _swollen(self.round_trip_s, self.shortest_s)
            or self.queue_s >= QUEUE_STRAIN_S
            or self.unheard(now_s, times=1 if self.mode is Mode.TRIAL else GONE_TIMES)
        )

    def unheard(self, now_s: float, *, times: int = 1) -> bool:
        """Whether nobody was heard for `times` as long as means something."""
        return self.heard_s is not None and now_s - self.heard_s >= times * self.silent_s


def step(control: Control, event: Event, *, now_s: float) -> Control:
    """What is known after `event`."""
    match event:
        case Begun():
            return replace(control, heard_s=now_s, reported_s=now_s, halved_s=now_s, changed_s=now_s)
        case Estimated(bps):
            known = replace(_hear(control, now_s), remb_bps=float(max(LEAST_BPS, bps)))
            return replace(known, estimates=min(ESTIMATES_ARE_TRUE_FROM, control.estimates + 1))
        case Reported():
            return _report(_hear(control, now_s), event, now_s)
        case Heard():
            return _hear(control, now_s)
        case StillSeen(size_bytes, took_s):
            # Two round trips belong to the data channel's own beginning and to the page's answer.
            on_line_s = max(0.01, took_s - 2.0 * (control.shortest_s or 0.0))
            is_quick = size_bytes * 8.0 / on_line_s >= QUICK_STILL_BPS
            return replace(control, quick_stills=control.quick_stills + 1 if is_quick else 0)
        case Tick(queue_s):
            ticked = replace(control, queue_s=queue_s)
            return _encoder(_size(_mode(_silence(ticked, now_s), now_s), now_s), now_s)


def _hear(control: Control, now_s: float) -> Control:
    """The receiver is there; after a silence it is there again."""
    if control.heard_s is None or not control.unheard(now_s):
        return replace(control, heard_s=now_s, before_cut_bps=None)
    known_bps = control.loss_bps if control.before_cut_bps is None else control.before_cut_bps / 2.0
    return replace(
        control,
        heard_s=now_s,
        before_cut_bps=None,
        resumed_s=now_s,
        loss_bps=max(control.loss_bps, _clamp(known_bps, control.limits)),
        lost=0.0,
        clean_since_s=None,
        poor_since_s=None,
    )


def _report(control: Control, report: Reported, now_s: float) -> Control:
    since_s = 1.0 if control.reported_s is None else min(2.0, max(0.0, now_s - control.reported_s))
    trip_s, shortest_s = control.round_trip_s, control.shortest_s
    if report.round_trip_s is not None:
        trip_s = report.round_trip_s
        # Another path, as from Wi-Fi to mobile, may be longer for good: the shortest follows slowly.
        slowly_s = trip_s if shortest_s is None else shortest_s + 0.02 * since_s * (trip_s - shortest_s)
        shortest_s = min(trip_s, slowly_s)
    swollen = _swollen(trip_s, shortest_s)
    if control.resumed_s is not None and now_s - control.resumed_s < RESUMED_S and not swollen:
        # It counts what a cut swallowed, which is over: it says neither that the line is full nor that it is free.
        resumed_s = None if report.lost >= LOSS_LOW else control.resumed_s
        known = replace(control, round_trip_s=trip_s, shortest_s=shortest_s, reported_s=now_s)
        return replace(known, lost=0.0, clean_since_s=None, resumed_s=resumed_s)
    if report.lost > LOSS_HIGH:
        loss_bps = control.loss_bps * (1.0 - 0.5 * report.lost)
    elif swollen:
        loss_bps = control.loss_bps * 0.85
    elif report.lost < LOSS_LOW:
        loss_bps = control.loss_bps * GROWTH_PER_S**since_s
    else:
        loss_bps = control.loss_bps
    clean_since_s = control.clean_since_s
    if report.lost > 0.0 or swollen:
        clean_since_s = None
    elif clean_since_s is None:
        clean_since_s = now_s
    if clean_since_s is not None and now_s - clean_since_s >= CLEAN_FOR_S and control.remb_bps is not None:
        pulled_bps = control.loss_bps + min(1.0, PULL_PER_S * since_s) * (control.remb_bps - control.loss_bps)
        loss_bps = max(loss_bps, pulled_bps)
    return replace(
        control,
        loss_bps=_clamp(loss_bps, control.limits),
        clean_since_s=clean_since_s,
        lost=report.lost,
        round_trip_s=trip_s,
        shortest_s=shortest_s,
        reported_s=now_s,
    )


def _silence(control: Control, now_s: float) -> Control:
    if control.heard_s is None or now_s - max(control.heard_s, control.halved_s) < control.silent_s:
        return control
    # Halve what is sent, not what it might have been: an estimate far above it would take long to come down.
    known_bps = control.estimate_bps if control.before_cut_bps is None else control.before_cut_bps
    halved_bps = _clamp(control.estimate_bps / 2.0, control.limits)
    return replace(control, loss_bps=halved_bps, halved_s=now_s, before_cut_bps=known_bps)


def _mode(control: Control, now_s: float) -> Control:
    strained = control.strained(now_s)
    match control.mode:
        case Mode.VIDEO:
            if not (strained and control.believed_bps < LEAST_VIDEO_BPS):
                return replace(control, poor_since_s=None)
            if control.poor_since_s is None:
                return replace(control, poor_since_s=now_s)
            if now_s - control.poor_since_s < POOR_FOR_S:
                return control
            return _to_stills(control, now_s)
        case Mode.STILLS:
            if control.quick_stills < QUICK_STILLS or now_s < control.next_trial_s:
                return control
            # What was said of the line before is of another time.
            return replace(
                control,
                mode=Mode.TRIAL,
                trial_s=now_s,
                loss_bps=float(TRIAL_BPS),
                remb_bps=None,
                clean_since_s=None,
                lost=0.0,
                round_trip_s=None,
                heard_s=now_s,
                reported_s=None,
            )
        case Mode.TRIAL:
            if strained:
                return _to_stills(control, now_s)
            if now_s - control.trial_s < TRIAL_S or control.reported_s is None:
                return control
            return replace(control, mode=Mode.VIDEO, poor_since_s=None, loss_bps=float(TRIAL_BPS))


def _to_stills(control: Control, now_s: float) -> Control:
    # Back from a trial at once or soon after one: wait longer before the next.
    failed = control.trial_s > 0.0 and now_s - control.trial_s < TRIALS_SELDOM_S
    every_s = min(TRIALS_SELDOM_S, 2.0 * control.trials_every_s) if failed else TRIALS_EVERY_S
    return replace(
        control,
        mode=Mode.STILLS,
        large=control.limits.fixed,
        next_trial_s=now_s + every_s,
        trials_every_s=every_s,
        poor_since_s=None,
        size_since_s=None,
        quick_stills=0,
        queue_s=0.0,
    )


def _size(control: Control, now_s: float) -> Control:
    if control.limits.fixed or not control.limits.large or control.mode is not Mode.VIDEO:
        return control
    wants = control.target_bps < SMALL_BELOW_BPS if control.large else control.target_bps >= LARGE_FROM_BPS
    if not wants:
        return replace(control, size_since_s=None)
    if control.size_since_s is None:
        return replace(control, size_since_s=now_s)
    if now_s - control.size_since_s < (SMALL_AFTER_S if control.large else LARGE_AFTER_S):
        return control
    return replace(control, large=not control.large, size_since_s=None)


def _encoder(control: Control, now_s: float) -> Control:
    """Down at once, up in few steps: above the rate it began with a software encoder starts anew, by a key frame."""
    wanted_bps = max(LEAST_BPS, int(control.target_bps * ENCODER_SHARE * (1.0 - min(0.3, control.lost))))
    falls = wanted_bps < 0.92 * control.encoder_bps
    at_most = wanted_bps > control.encoder_bps and control.target_bps >= control.limits.most_bps
    rises = (wanted_bps > 1.2 * control.encoder_bps or at_most) and now_s - control.changed_s >= 1.0
    if not (falls or rises):
        return control
    return replace(control, encoder_bps=wanted_bps, changed_s=now_s)


def _swollen(trip_s: float | None, shortest_s: float | None) -> bool:
    return trip_s is not None and shortest_s is not None and trip_s - shortest_s > SWOLLEN_S


def _clamp(bps: float, limits: Limits) -> float:
    return min(max(bps, LEAST_BPS), limits.most_bps)
