"""A still is small, is of the newest key picture, and is what was encoded: softened, where the picture is.

Mutations that turn these red, each tried: `most_bytes` not asked in `make`; the width not bounded; the still made of
another unit than the one given.
"""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from gateway.core.error import CameraFaultError
from gateway.edge.camera_port import CameraSettings, EncodedUnit
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.still_av import MOST_BYTES, WIDTH_PX, StillMaker

SIZE_PX = (640, 360)


def unit_of(luma: np.ndarray, *, bps: int = 4_000_000) -> EncodedUnit:
    width_px, height_px = SIZE_PX
    encoder = Libx264Encoder(width_px, height_px, CameraSettings(width_px, height_px, 15, bps))
    grey = np.full((height_px // 2, width_px), 128, np.uint8)
    return encoder.encode(np.vstack([luma, grey]), pts_us=1, key=True)


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 230, (SIZE_PX[1], SIZE_PX[0]), np.uint8)


def read(jpeg: bytes) -> np.ndarray:
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        return next(container.decode(video=0)).to_ndarray(format="gray")


@pytest.mark.parametrize("most", [MOST_BYTES, 5_000])
def test_a_picture_full_of_detail_becomes_coarser_and_not_larger(most):
    maker = StillMaker()
    for _ in range(3):
        assert 500 < len(maker.make(unit_of(noise()), most)) <= most


def test_it_is_the_picture_that_was_given():
    luma = np.full((SIZE_PX[1], SIZE_PX[0]), 40, np.uint8)
    luma[:, SIZE_PX[0] // 2 :] = 200
    maker = StillMaker()
    maker.make(unit_of(noise()))
    picture = read(maker.make(unit_of(luma)))
    assert picture.shape[1] <= WIDTH_PX
    assert picture.shape[0] * SIZE_PX[0] == pytest.approx(picture.shape[1] * SIZE_PX[1], rel=0.02)
    # A JPEG has the full range of values, 0 to 255, where video has 16 to 235.
    assert float(picture[:, :100].mean()) == pytest.approx((40 - 16) * 255 / 219, abs=4)
    assert float(picture[:, -100:].mean()) == pytest.approx((200 - 16) * 255 / 219, abs=4)


def test_what_is_no_key_picture_is_refused():
    unit = unit_of(noise())
    with pytest.raises(ValueError, match="key"):
        StillMaker().make(EncodedUnit(unit.data, 1, key=False))
    with pytest.raises(CameraFaultError):
        StillMaker().make(EncodedUnit(b"\0\0\0\1\x65" + bytes(200), 1, key=True))
