"""H.264 in software by libx264, for boards without an encoder, for files and for the bench.

One picture in, one unit out, at once: no B-frames, no look-ahead, one thread (frame threads would delay by 2 to 5
pictures; measured, see docs "Media").
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from gateway.core.error import CameraFaultError
from gateway.edge.camera_port import NAL_IDR, CameraSettings, EncodedUnit, nal_types


class Libx264Encoder:
    """Constrained baseline, SPS and PPS in every key unit. For one thread. Raises CameraFaultError.

    `width_px` and `height_px` are even; rate, key interval and fps come from `settings`. The first unit is key, and so
    is the first one of another size.
    """

    def __init__(self, width_px: int, height_px: int, settings: CameraSettings) -> None:
        self._size_px = (width_px, height_px)
        self._settings = settings
        self._bit_rate_bps = settings.bit_rate_bps
        self._ceiling_bps = 0
        self._frames = 0
        self._context = self._make_context()

    @property
    def bit_rate_bps(self) -> int:
        return self._bit_rate_bps

    def set_bit_rate_bps(self, bit_rate_bps: int) -> None:
        """Aim at this rate from the next picture on.

        Up to the rate it began with x264 changes course without a key frame; above that the encoder starts anew, and
        the next unit is key. Measured, x264 in libavcodec 62: 1.5 M → 0.5 M gave 0.43 M, back gave 1.49 M; asked for
        3 M it stayed at 1.5 M, because libavcodec's VBV limit is not to be changed through PyAV.
        """
        if bit_rate_bps == self._bit_rate_bps:
            return
        self._bit_rate_bps = bit_rate_bps
        if bit_rate_bps > self._ceiling_bps:
            self._context = self._make_context()
        else:
            self._context.bit_rate = bit_rate_bps

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the pictures that `encode` takes."""
        return self._size_px

    def set_size_px(self, size_px: tuple[int, int]) -> bool:
        """Take pictures of this size from the next one on; True if it is another than before."""
        if size_px == self._size_px:
            return False
        self._size_px = size_px
        self._context = self._make_context()
        return True

    def encode(self, picture: NDArray[np.uint8] | av.VideoFrame, *, pts_us: int, key: bool = False) -> EncodedUnit:
        """Encode one picture; `key` forces an IDR with SPS and PPS.

        `picture` is an av.VideoFrame in yuv420p (its picture type and time are overwritten), or the same as one array:
        uint8, shape (height_px * 3 / 2, width_px), rows of Y, then U, then V, as PyAV's from_ndarray takes it.
        Its size is `size_px`.
        """
        frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, "yuv420p")
        # A decoded frame brings its own type and time; x264 would obey the first and stumble over the second.
        frame.pict_type = PictureType.I if key else PictureType.NONE
        frame.time_base = self._time_base
        frame.pts = self._frames
        self._frames += 1
        try:
            packets = self._context.encode(frame)
        except av.FFmpegError as error:
            raise CameraFaultError(f"libx264 failed: {error}") from error
        data = b"".join(bytes(packet) for packet in packets)
        if not data:
            raise CameraFaultError("libx264 kept a picture back")
        return EncodedUnit(data, pts_us, NAL_IDR in nal_types(data))

    @property
    def _time_base(self) -> Fraction:
        return Fraction(1, self._settings.fps)

    def _make_context(self) -> av.VideoCodecContext:
        rate_bps = self._ceiling_bps = self._bit_rate_bps
        try:
            context = av.CodecContext.create("libx264", "w")
            context.width, context.height = self._size_px
            context.pix_fmt = "yuv420p"
            context.time_base = self._time_base
            context.framerate = Fraction(self._settings.fps, 1)
            context.bit_rate = rate_bps
            context.gop_size = self._settings.key_interval_frames
            context.max_b_frames = 0
            context.thread_count = 1
            context.options = {
                "preset": "ultrafast",
                "tune": "zerolatency",
                "profile": "baseline",
                "forced-idr": "1",
                "sc_threshold": "0",
                # Half a second of buffer: a key frame may not fill a slow line for longer than that. Both have to be
                # there before the first picture, or a later change of the rate does nothing (measured).
                "maxrate": str(rate_bps),
                "bufsize": str(rate_bps // 2),
            }
            context.open()
        except av.FFmpegError as error:
            raise CameraFaultError(f"libx264 could not be opened: {error}") from error
        return context
