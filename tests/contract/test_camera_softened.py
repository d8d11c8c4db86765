"""A softened picture has lost its detail when it leaves the camera; a clear one is as it was.

Mutations that turn these red, each tried: `softener.soften(scaled)` → `scaled` (camera_room.py); `_softened` not asked
in `_encode_picture`, and not asked before `passable` (camera_file.py); `self._softened = softened` dropped
(camera_port.py); AREA → POINT, SOFT_WIDTH_PX 48 → 160 (soften_swscale.py).
"""

from __future__ import annotations

import asyncio

import av
import numpy as np
import pytest
from picture_detail import fine_energy, steepest_edge
from test_camera_port import decode, make_film, read_units

from gateway.edge.bench_world import BenchWorld
from gateway.edge.camera_file import luma_plane
from gateway.edge.camera_open import make_camera
from gateway.edge.camera_port import CameraSettings
from gateway.edge.camera_room import find_marker
from gateway.edge.soften_swscale import SOFT_HEIGHT_PX, SOFT_WIDTH_PX, Softener

pytestmark = pytest.mark.slow

SETTINGS = CameraSettings(width_px=640, height_px=360)
FINE_LEFT = 0.02
"""How much of the clear picture's fine detail may be left: the encoder's own traces."""


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    small = {"fps": 15, "frames": 30, "size": (640, 360)}
    return {
        "passed": make_film(folder / "as-sent.mp4", options={"profile": "baseline"}, gop=15, **small),
        "encoded": make_film(folder / "high.mkv", options={"bf": "2", "preset": "veryfast"}, gop=30, **small),
    }


@pytest.fixture(params=["room", "passed", "encoded"])
def spec(request, films):
    return "room" if request.param == "room" else f"file:{films[request.param]}"


def shown(spec, world, *, softened: bool):
    """The newest picture of half a second, decoded, and the luma sample of that time."""

    async def work():
        camera = make_camera(spec, SETTINGS, world)
        world.place_pan(10.0, camera.calibration) if spec == "room" else None
        await camera.open(softened=softened)
        try:
            units = await read_units(camera, 8)
            return luma_plane(decode(units)[-1]), camera.luma().plane
        finally:
            await camera.close()

    return asyncio.run(work())


def test_a_softened_picture_has_no_detail_and_a_clear_one_keeps_it(spec, tmp_path):
    world = BenchWorld(tmp_path / "world")
    clear, clear_sample = shown(spec, world, softened=False)
    soft, soft_sample = shown(spec, world, softened=True)
    assert find_marker(clear)
    assert not find_marker(soft)
    assert steepest_edge(clear) > 60
    assert steepest_edge(soft) < 25
    assert fine_energy(soft) < FINE_LEFT * fine_energy(clear)
    # What the operator needs stays: light and dark are where they were.
    assert soft.shape == clear.shape
    assert np.corrcoef(_coarse(soft), _coarse(clear))[0, 1] > 0.98
    # The view signals are made from the sensor's picture in both modes, or a softened one would be called blurred.
    assert fine_energy(soft_sample) > 0.5 * fine_energy(clear_sample)


def test_a_clear_film_that_may_pass_is_passed_on_byte_for_byte_and_a_softened_one_never(films, tmp_path):
    sent = {bytes(packet)[-200:] for packet in _packets(films["passed"])}

    async def tails(*, softened: bool):
        camera = make_camera(f"file:{films['passed']}", SETTINGS, BenchWorld(tmp_path / "world"))
        await camera.open(softened=softened)
        try:
            return camera.passes_through, {unit.data[-200:] for unit in await read_units(camera, 10)}
        finally:
            await camera.close()

    passes, clear = asyncio.run(tails(softened=False))
    assert passes
    assert clear <= sent
    passes, soft = asyncio.run(tails(softened=True))
    assert not passes
    assert not soft & sent


def test_what_leaves_is_made_of_the_means_alone():
    """Two pictures that differ in all their detail, and in no mean, are the same when softened."""
    side = 24
    rng = np.random.default_rng(1)
    cells = rng.integers(0, 256, (SOFT_HEIGHT_PX, side, SOFT_WIDTH_PX, side), dtype=np.uint8)
    shuffled = rng.permuted(cells.swapaxes(1, 2).reshape(SOFT_HEIGHT_PX, SOFT_WIDTH_PX, -1), axis=2)
    other = shuffled.reshape(SOFT_HEIGHT_PX, SOFT_WIDTH_PX, side, side).swapaxes(1, 2)
    softener = Softener()
    one, two = (luma_plane(softener.soften(_i420(picture))).astype(int) for picture in (cells, other))
    assert np.abs(cells.astype(int) - other).mean() > 50
    # 2 of 255: the scaler rounds once down and once up.
    assert np.abs(one - two).max() <= 2


def _i420(cells):
    luma = cells.reshape(cells.shape[0] * cells.shape[1], -1)
    return np.vstack([luma, np.full((luma.shape[0] // 2, luma.shape[1]), 128, np.uint8)])


def _coarse(luma):
    return luma[: 360 // 20 * 20, : 640 // 20 * 20].reshape(18, 20, 32, 20).mean((1, 3)).ravel()


def _packets(path):
    with av.open(str(path)) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)
