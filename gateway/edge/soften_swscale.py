"""The softened picture: detail taken away on the device, before anything is encoded.

A picture becomes 48 x 28 means and is drawn from these alone at its old size. So nothing finer than a 48th of its width
can be in what leaves, whatever the other side does with it; a head that is 100 of 1280 pixels wide is four means wide.
What stays is what the check asks for: whether there is somebody in the bed. libswscale does both steps (0.6 ms for
1280 x 720, measured November 2026 on x86_64), in averages, so that no fine pattern comes back as a coarse one.
"""

from __future__ import annotations

from typing import Final

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

SOFT_WIDTH_PX: Final = 48
SOFT_HEIGHT_PX: Final = 28


class Softener:
    """For one thread and any size of picture."""

    def __init__(self) -> None:
        # One scaler for each way: a scaler that changes its sizes is built anew for every picture.
        self._down = VideoReformatter()
        self._up = VideoReformatter()

    def soften(self, picture: NDArray[np.uint8] | av.VideoFrame) -> av.VideoFrame:
        """A new picture of the same size, in yuv420p, from 48 x 28 means of this one (as Libx264Encoder takes it)."""
        frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, "yuv420p")
        means = self._down.reformat(
            frame, width=SOFT_WIDTH_PX, height=SOFT_HEIGHT_PX, format="yuv420p", interpolation=Interpolation.AREA
        )
        return self._up.reformat(
            means, width=frame.width, height=frame.height, format="yuv420p", interpolation=Interpolation.BICUBIC
        )
