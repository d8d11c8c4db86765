"""The eye's view signals: small pictures of the sensor collected for a second, then judged.

Where a camera gives fewer small pictures than two a second (a film that is passed on gives its key pictures only), a
judgement takes until there are two.
"""

from __future__ import annotations

from typing import Final

from gateway.edge.camera_port import LumaSample
from gateway.protocol.picture import View, ViewSignal
from gateway.view import Judged, Plane, Signature, judge, measure
from gateway.view.measure import MOST_PLANES

SECOND_US: Final = 1_000_000
LEARNT_AFTER: Final = 3
"""Judgements in a row that must be clear before a picture is good enough to be what later ones are compared with."""


class Viewing:
    """One check's signals; from one task."""

    def __init__(self, signature: str | None) -> None:
        """`signature` is the text of the calibration's, where there is one; SignatureError for any other text."""
        self._signature = None if signature is None else Signature.from_text(signature)
        self._judged: Judged | None = None
        self._planes: list[Plane] = []
        self._since_us = self._newest_us = -1
        self._clear = 0
        self.learnt: str | None = None
        """The picture's own signature, once, where there was none to compare with and it was clear for some time."""

    @property
    def signal(self) -> ViewSignal | None:
        """The newest one."""
        return None if self._judged is None else self._judged.signal

    def take(self, sample: LumaSample | None) -> ViewSignal | None:
        """The camera's newest small picture, new or not; a signal when a second is full."""
        if sample is None or sample.pts_us <= self._newest_us:
            return None
        self._newest_us = sample.pts_us
        if not self._planes:
            self._since_us = sample.pts_us
        self._planes = [*self._planes[-(MOST_PLANES - 1) :], sample.plane]
        if len(self._planes) < 2 or sample.pts_us - self._since_us < SECOND_US:
            return None
        measures = measure(self._planes)
        self._judged = judge(measures, self._judged, signature=self._signature, t_us=sample.pts_us)
        # The next second begins with this picture: a change between the two belongs to one of them.
        self._planes, self._since_us = [sample.plane], sample.pts_us
        self._clear = self._clear + 1 if self._judged.view is self._judged.found is View.CLEAR else 0
        if self._signature is None and self._clear >= LEARNT_AFTER:
            self._signature = Signature.of(measures)
            self.learnt = self._signature.to_text()
        return self._judged.signal
