"""What the eye shows, and in which form: camera and peer joined by the state of the rate.

The line decides: bit rate and size of the video, and below what carries video one still a second instead. No more than
one still is on its way at a time, so that a slow line shows an old picture at most once, and never a queue of them.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.core.boottime import boottime_s
from gateway.core.refusal import RefusedError
from gateway.edge.camera_port import CameraPort, EncodedUnit
from gateway.edge.media_aiortc import Peer
from gateway.edge.still_av import MOST_BYTES, StillMaker
from gateway.protocol.picture import (
    AskClock,
    ClockWord,
    Form,
    FormWord,
    StillShown,
    StillWord,
    decode_page,
    encode,
)
from gateway.rate import Control, StillSeen

LOG = logging.getLogger("tillsyn.eye")

STILL_EVERY_S: Final = 1.0
LEAST_STILL_BYTES: Final = 3000
SLOW_STILL_S: Final = 0.7
"""A still that takes longer makes the next one smaller: it is old when it comes, and at 2 s the page covers it."""
FAST_STILL_S: Final = 0.4
STILL_LOST_S: Final = 8.0
"""A still that was not shown by then is given up; the lease ends the check soon after."""


class Showing:
    """One picture for one check; all calls from the loop's thread."""

    def __init__(self, camera: CameraPort, peer: Peer) -> None:
        self._camera, self._peer = camera, peer
        self._maker = StillMaker()
        self._asked_bps = 0
        self._small: bool | None = None
        self._said: Form | None = None
        self._still_number = 0
        self._still_s = 0.0
        self._still_bytes = 0
        self._most_bytes = MOST_BYTES
        self._on_its_way: int | None = None
        self._key_asked_s = 0.0

    @property
    def frames(self) -> int:
        """Pictures that left, of either form."""
        return self._peer.taken + self._still_number

    def follow(self, control: Control) -> None:
        """Ask the camera for what the line carries, and tell the page in which form it comes."""
        if control.encoder_bps != self._asked_bps:
            self._asked_bps = control.encoder_bps
            self._camera.set_bit_rate_bps(control.encoder_bps)
        small = control.limits.large and not control.large
        if small is not self._small:
            self._small = small
            self._camera.set_small(small)
        form = Form.STILLS if control.sends_stills else Form.VIDEO
        # The page begins with video; a word that found no room is said again a quarter of a second later.
        if form is not (self._said or Form.VIDEO) and self._peer.say(encode(FormWord(form))):
            LOG.info("the picture goes on as %s: the line carries %.0f kbit/s", form, control.estimate_bps / 1000)
            self._said = form

    def take(self, unit: EncodedUnit) -> None:
        """A unit of the camera: to the sender, or made a still of."""
        control = self._peer.sender.control
        if control.sends_video:
            self._peer.push(unit)
        if control.sends_stills:
            self._still(unit, boottime_s())

    def hear(self, untrusted: bytes) -> bool:
        """A message of the page; False when it is none for us. What is malformed is dropped: it asks for nothing."""
        if not untrusted.startswith(b"{"):
            return False
        try:
            word = decode_page(untrusted)
        except RefusedError as exc:
            LOG.info("a word of the page: %s", exc)
            return True
        match word:
            case AskClock(asked):
                rtp, rtp_us = self._peer.sender.capture_of() or (None, None)
                self._peer.say(encode(ClockWord(asked, int(boottime_s() * 1e6), rtp, rtp_us)))
            case StillShown(number):
                if number == self._on_its_way:
                    self._on_its_way = None
                    self._note_still(boottime_s() - self._still_s)
        return True

    def _note_still(self, took_s: float) -> None:
        self._peer.sender.tell(StillSeen(self._still_bytes, took_s))
        if took_s > SLOW_STILL_S:
            self._most_bytes = max(LEAST_STILL_BYTES, int(0.75 * self._most_bytes))
        elif took_s < FAST_STILL_S:
            self._most_bytes = min(MOST_BYTES, int(1.2 * self._most_bytes))

    def _still(self, unit: EncodedUnit, now_s: float) -> None:
        if self._on_its_way is not None and now_s - self._still_s > STILL_LOST_S:
            self._on_its_way = None
        if self._on_its_way is not None or now_s - self._still_s < STILL_EVERY_S:
            return
        if not unit.key:
            if now_s - self._key_asked_s >= STILL_EVERY_S:
                self._key_asked_s = now_s
                self._camera.request_key_frame()
            return
        picture = self._maker.make(unit, self._most_bytes)
        number = self._still_number + 1
        if self._peer.show(encode(StillWord(number, unit.pts_us, len(picture))), picture):
            self._still_number, self._on_its_way = number, number
            self._still_s, self._still_bytes = now_s, len(picture)
