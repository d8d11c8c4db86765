"""One small JPEG of a key picture, for lines that carry no video. In memory only.

It is made of what the encoder gave, not of what the sensor saw: a picture that was softened before it was encoded is
softened here too, and no camera needs a second way out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import av

from gateway.core.error import CameraFaultError
from gateway.edge.camera_port import EncodedUnit

MOST_BYTES: Final = 10_000
"""At one a second 80 kbit/s: seen after 1.1 s at 100 kbit/s, after 0.5 s at 200 (measured November 2026)."""
WIDTH_PX: Final = 384
_FINEST, _COARSEST = 3, 31
"""libavcodec's quantiser scale of MJPEG: 2 is best, 31 worst."""
_START_SCALE: Final = 8


class StillMaker:
    """For one task. The quality follows what the pictures need: full of detail they become coarser, not larger."""

    def __init__(self) -> None:
        self._scale = _START_SCALE

    def make(self, unit: EncodedUnit, most_bytes: int = MOST_BYTES) -> bytes:
        """The JPEG of a key unit, at most `most_bytes` where the coarsest quality reaches that.

        Raises CameraFaultError for a unit that can't be decoded, ValueError for one that is not key.
        """
        if not unit.key:
            raise ValueError("a still is made of a key unit")
        try:
            frame = self._decode(unit)
            width_px = min(WIDTH_PX, frame.width)
            height_px = max(2, frame.height * width_px // frame.width // 2 * 2)
            small = frame.reformat(width=width_px, height=height_px, format="yuvj420p")
            while True:
                data = _jpeg(small, self._scale)
                if len(data) <= most_bytes or self._scale >= _COARSEST:
                    break
                self._scale = min(_COARSEST, self._scale + 3)
        except av.FFmpegError as error:
            raise CameraFaultError(f"no still could be made: {error}") from error
        if len(data) < most_bytes * 0.7:
            self._scale = max(_FINEST, self._scale - 1)
        return data

    @staticmethod
    def _decode(unit: EncodedUnit) -> av.VideoFrame:
        # A decoder for each: a key unit needs nothing of what came before, and its size may be another.
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        frames = [*decoder.decode(av.Packet(unit.data)), *decoder.decode(None)]
        if not frames:
            raise CameraFaultError("no still could be made: the unit holds no picture")
        return frames[0]


def _jpeg(frame: av.VideoFrame, scale: int) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuvj420p"
    context.time_base = frame.time_base = Fraction(1, 1)
    context.thread_count = 1
    context.options = {"qmin": str(scale), "qmax": str(scale)}
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
