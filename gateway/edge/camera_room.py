"""A bedroom at night in infrared, drawn: the camera of the demo and of the tests.

One tall picture holds ceiling, wall and bed; where the bench's servo points decides which part of it is seen, so that
a viewer sees the camera travel. Per picture there is only a crop, one patch (the blanket that breathes), two additions
(noise, vignette) and the marker: about 1 ms. All additions are modulo 256 on uint8; the ranges of scene, vignette and
noise are chosen so that none ever wraps (asserted in the tests).
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.core.boottime import boottime_s
from gateway.core.error import CameraFaultError, ConfigError
from gateway.edge.bench_world import BenchWorld, RoomScene
from gateway.edge.camera_port import CameraSettings, Pacer, ThreadedCamera
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.soften_swscale import Softener
from gateway.mount.calibration import Calibration

WIDTH_PX, HEIGHT_PX = 1280, 720
CEILING_TOP_PX, BED_TOP_PX = 60, 1500
"""First row of the picture when parked and when aimed."""
SCENE_ROWS_PX = 2280

MARKER_SEED = 20261101
MARKER_PX = 64
MARKER_CELLS = 8
_MARKER_DARK, _MARKER_BRIGHT = 56, 200

_BREATHS = 16
_BREATH_S = 4.5
_PATCH = (slice(BED_TOP_PX + 60, BED_TOP_PX + 780), slice(400, 880))
_LEAST, _MOST = 70, 214
_BLACK, _COVERED = 16, 24
_VIGNETTE, _NOISE = 40, 7

Plane = NDArray[np.uint8]


def marker_luma() -> Plane:
    """The marker: uint8, 64 x 64, 8 x 8 cells of 8 x 8 px, half of them dark and half bright; always the same."""
    cells = np.repeat(np.array([_MARKER_DARK, _MARKER_BRIGHT], np.uint8), MARKER_CELLS * MARKER_CELLS // 2)
    np.random.default_rng(MARKER_SEED).shuffle(cells)
    side = MARKER_PX // MARKER_CELLS
    return cells.reshape(MARKER_CELLS, MARKER_CELLS).repeat(side, 0).repeat(side, 1)


def find_marker(luma: Plane) -> bool:
    """Whether the marker is in the bottom-left corner of a luma plane (uint8, 2-D), at any size from 320 x 180 up.

    The cells' means must correlate with the marker's by more than 0.8, which a picture without it does not reach by
    chance (64 cells; about 1 in 10^15).
    """
    height_px = luma.shape[0]
    side_px = MARKER_PX / MARKER_CELLS * height_px / HEIGHT_PX
    if side_px < 2.0 or luma.shape[1] < side_px * MARKER_CELLS:
        return False
    top_px = height_px - side_px * MARKER_CELLS
    centres = (np.arange(MARKER_CELLS) + 0.5) * side_px
    reach_px = max(1, int(side_px / 4))
    means = np.zeros((MARKER_CELLS, MARKER_CELLS))
    for down in range(-reach_px, reach_px):
        rows = (top_px + centres + down).astype(np.intp)
        for across in range(-reach_px, reach_px):
            means += luma[rows[:, None], (centres + across).astype(np.intp)[None, :]]
    side = MARKER_PX // MARKER_CELLS
    expected = marker_luma()[::side, ::side].astype(float)
    spread = means - means.mean()
    size = math.sqrt(float((spread * spread).sum()))
    # A flat corner has no direction to compare.
    if size < 1.0 * MARKER_CELLS * (2 * reach_px) ** 2:
        return False
    expected -= expected.mean()
    return float((spread * expected).sum()) / (size * math.sqrt(float((expected * expected).sum()))) > 0.8


@dataclass(frozen=True, slots=True)
class _Scenery:
    """What is drawn once. Rows, columns: empty 2280, 1280; person 16 times 720, 480; noise 784, 1344."""

    empty: Plane
    person: Plane
    vignette: Plane
    noise: Plane


class RoomPainter:
    """Draws the pictures; no thread, no encoder. The result of `paint` is reused by the next call."""

    def __init__(self) -> None:
        self._scenery = _scenery()
        self._rng = np.random.default_rng()
        self._lit: tuple[float, Plane, Plane, Plane] | None = None
        self._picture = np.full((HEIGHT_PX * 3 // 2, WIDTH_PX), 128, np.uint8)
        self._marker = marker_luma()
        self._unmarked = np.zeros((MARKER_PX, MARKER_PX), np.uint8)

    def paint(self, scene: RoomScene, raised: float, at_s: float) -> Plane:
        """One picture as I420: uint8, shape (1080, 1280), Y rows first, U and V all 128.

        `raised` is 0 when aimed and 1 when parked, clamped to what the scene shows; `at_s` moves the blanket.
        """
        luma = self._picture[:HEIGHT_PX]
        down, across = self._rng.integers(0, 64, 2)
        noise = self._scenery.noise[down : down + HEIGHT_PX, across : across + WIDTH_PX]
        if scene.covered:
            np.add(noise, np.uint8(_COVERED), out=luma)
        else:
            self._paint_view(luma, scene, raised, at_s)
            np.add(luma, noise, out=luma)
        corner = luma[-MARKER_PX:, :MARKER_PX]
        self._unmarked[:] = corner
        corner[:] = self._marker
        return self._picture

    def sensor_luma(self) -> Plane:
        """What the sensor saw of the last picture, without the marker: uint8, (720, 1280), a copy."""
        luma = self._picture[:HEIGHT_PX].copy()
        luma[-MARKER_PX:, :MARKER_PX] = self._unmarked
        return luma

    def _paint_view(self, luma: Plane, scene: RoomScene, raised: float, at_s: float) -> None:
        empty, person, vignette = self._in_light(scene.light)
        top_px = round(BED_TOP_PX + raised * (CEILING_TOP_PX - BED_TOP_PX))
        top_px = min(SCENE_ROWS_PX - HEIGHT_PX, max(0, top_px))
        luma[:] = empty[top_px : top_px + HEIGHT_PX]
        rows, columns = _PATCH
        first_px, last_px = max(rows.start, top_px), min(rows.stop, top_px + HEIGHT_PX)
        if scene.person and first_px < last_px:
            breath = person[round((0.5 - 0.5 * math.cos(2.0 * math.pi * at_s / _BREATH_S)) * (_BREATHS - 1))]
            luma[first_px - top_px : last_px - top_px, columns] = breath[first_px - rows.start : last_px - rows.start]
        np.subtract(luma, vignette, out=luma)

    def _in_light(self, light: float) -> tuple[Plane, Plane, Plane]:
        if self._lit is None or self._lit[0] != light:
            scenery = self._scenery
            levels = np.arange(256)
            darker = (_BLACK + np.maximum(levels - _BLACK, 0) * light).astype(np.uint8)
            fading = (levels * light).astype(np.uint8)
            self._lit = (light, darker[scenery.empty], darker[scenery.person], fading[scenery.vignette])
        return self._lit[1:]


class RoomCamera(ThreadedCamera):
    """The drawn room as a CameraPort; holds the bench's sensor while open.

    Sizes are 1280 x 720 divided by a whole number (640 x 360, 320 x 180); ConfigError otherwise.
    """

    def __init__(self, settings: CameraSettings, world: BenchWorld, calibration: Calibration | None = None) -> None:
        super().__init__(settings, world)
        self.room = world
        self.calibration = calibration or Calibration()
        divisor = WIDTH_PX // settings.width_px
        if (settings.width_px * divisor, settings.height_px * divisor) != (WIDTH_PX, HEIGHT_PX):
            raise ConfigError("camera: the room is 1280 x 720, 640 x 360 or 320 x 180")
        # Half a second of drawing, once for the process: here, not between Start and the first picture.
        _scenery()

    def _capture(self) -> None:
        settings = self.settings
        if self.room.scene().vanished:
            raise CameraFaultError("there is no camera")
        painter, softener = RoomPainter(), Softener()
        encoder = Libx264Encoder(settings.width_px, settings.height_px, settings)
        self._opened(settings.width_px, settings.height_px, settings.fps)
        pacer = Pacer(self._stop, self._poke)
        pacer.wait_until(0.0)
        picture: Plane | None = None
        sensor_luma = None
        frames = 0
        while not self._stop.is_set():
            scene = self.room.scene()
            if scene.vanished:
                raise CameraFaultError("the camera is gone")
            while self.room.scene().hangs:
                # As a call into a driver that never returns: nobody's stop is heard here.
                time.sleep(0.05)
            if not scene.no_frames:
                pts_us = int(boottime_s() * 1e6)
                if picture is None or not scene.frozen:
                    picture = painter.paint(scene, self._raised(), time.monotonic())
                    sensor_luma = None
                if self._wants_luma(pts_us):
                    sensor_luma = painter.sensor_luma() if sensor_luma is None else sensor_luma
                    self._show(sensor_luma, pts_us)
                size_px = settings.sizes_px[self._small]
                if encoder.set_size_px(size_px):
                    self._resized(*size_px)
                encoder.set_bit_rate_bps(self._bit_rate_bps)
                scaled = _scaled(picture, WIDTH_PX // size_px[0])
                shown = softener.soften(scaled) if self._softened else scaled
                self._deliver(encoder.encode(shown, pts_us=pts_us, key=self._take_key_request()))
            frames += 1
            if pacer.wait_until(frames / settings.fps):
                return

    def _raised(self) -> float:
        calibration = self.calibration
        above_aim_deg = self.room.pan_deg(calibration) - calibration.aim_deg
        return above_aim_deg / (calibration.parked_deg - calibration.aim_deg)


def _scaled(picture: Plane, step: int) -> Plane:
    """Every `step`-th row and column of an I420 picture whose U and V are 128."""
    if step == 1:
        return picture
    luma = picture[:HEIGHT_PX:step, ::step]
    return np.vstack([luma, np.full((luma.shape[0] // 2, luma.shape[1]), 128, np.uint8)])


@functools.cache
def _scenery() -> _Scenery:
    rng = np.random.default_rng(MARKER_SEED + 1)
    rows = np.arange(SCENE_ROWS_PX, dtype=np.float32)[:, None]
    columns = np.arange(WIDTH_PX, dtype=np.float32)[None, :]

    plaster = rng.normal(0.0, 2.0, (SCENE_ROWS_PX // 8, WIDTH_PX // 8)).astype(np.float32).repeat(8, 0).repeat(8, 1)
    scene = 150.0 + 12.0 * np.cos((columns - 500.0) / 420.0) + plaster
    scene = np.where(rows < 860, scene, 118.0 + 0.012 * (1500.0 - rows) + plaster)
    scene[852:868] = 182.0
    _paint_lamp(scene, rows, columns)
    _paint_wall(scene, rows, columns)
    _paint_bed(scene, rows, columns)

    patch_rows, patch_columns = _PATCH
    local_rows, local_columns = rows[patch_rows], columns[:, patch_columns]
    background = scene[_PATCH]
    person = np.stack(
        [_paint_person(background, local_rows, local_columns, index / (_BREATHS - 1)) for index in range(_BREATHS)]
    )
    down = (np.arange(HEIGHT_PX, dtype=np.float32)[:, None] - HEIGHT_PX / 2) / (HEIGHT_PX / 2)
    across = (columns - WIDTH_PX / 2) / (WIDTH_PX / 2)
    vignette = _VIGNETTE * np.clip((down * down + across * across) / 2.0, 0.0, 1.0)
    noise = np.clip(rng.normal(0.0, 2.2, (HEIGHT_PX + 64, WIDTH_PX + 64)), -_NOISE, _NOISE)
    return _Scenery(
        np.clip(scene, _LEAST, _MOST).astype(np.uint8),
        np.clip(person, _LEAST, _MOST).astype(np.uint8),
        vignette.astype(np.uint8),
        noise.round().astype(np.int8).view(np.uint8),
    )


Picture = NDArray[np.floating]


def _paint_lamp(scene: Picture, rows: Picture, columns: Picture) -> None:
    """The fixture on the ceiling, in the middle of the parked picture."""
    from_middle = np.hypot(rows - (CEILING_TOP_PX + 330), columns - 640.0)
    scene += 22.0 * np.exp(-((from_middle / 260.0) ** 2))
    scene[from_middle < 96] = 168.0
    scene[from_middle < 84] = 205.0
    scene[from_middle < 14] = 120.0


def _paint_wall(scene: Picture, rows: Picture, columns: Picture) -> None:
    """A window with a curtain and a picture frame, seen in passing."""
    window = (rows > 960) & (rows < 1330) & (columns > 120) & (columns < 440)
    folds = 100.0 + 16.0 * np.sin(columns / 11.0)
    np.copyto(scene, np.broadcast_to(folds, scene.shape), where=window)
    scene[1000:1240, 860:1100] = 92.0
    scene[1014:1226, 874:1086] = 140.0


def _paint_bed(scene: Picture, rows: Picture, columns: Picture) -> None:
    """Headboard, mattress, pillow and made bed, in the aimed picture; a bedside table to the right."""
    top = BED_TOP_PX
    scene[top + 10 : top + 90, 330:950] = 84.0
    spread_px = 300.0 + 0.10 * (rows - top)
    bed = (np.abs(columns - 640.0) < spread_px) & (rows > top + 80)
    sheet = 168.0 + 5.0 * np.sin(columns / 37.0 + rows / 53.0)
    np.copyto(scene, sheet, where=bed)
    blanket = (np.abs(columns - 640.0) < spread_px + 14.0) & (rows > top + 300)
    cloth = 132.0 + 7.0 * np.sin(columns / 61.0 - rows / 47.0)
    np.copyto(scene, cloth, where=blanket)
    pillow = ((rows - (top + 180)) / 78.0) ** 4 + ((columns - 640.0) / 170.0) ** 4
    np.copyto(scene, 204.0 - 26.0 * np.broadcast_to(pillow, scene.shape), where=pillow < 1.0)
    scene[top + 150 : top + 400, 1040:1240] = 96.0
    scene[top + 168 : top + 200, 1090:1150] = 150.0


def _paint_person(background: Picture, rows: Picture, columns: Picture, breath: float) -> Picture:
    """Somebody under the blanket, breathed in by `breath` (0 to 1); the arrays are those of `_PATCH`."""
    picture = background.copy()
    top = BED_TOP_PX
    rise = 1.0 + 0.22 * breath
    chest = rise * np.exp(-(((rows - (top + 395)) / 100.0) ** 2)) * np.exp(-(((columns - 640.0) / 112.0) ** 2))
    hips = 0.75 * np.exp(-(((rows - (top + 540)) / 90.0) ** 2)) * np.exp(-(((columns - 646.0) / 96.0) ** 2))
    legs = 0.62 * np.exp(-(((rows - (top + 700)) / 120.0) ** 2)) * np.exp(-(((columns - 652.0) / 74.0) ** 2))
    body = chest + hips + legs
    across, down = np.gradient(body, axis=1), np.gradient(body, axis=0)
    covered = np.clip((rows - (top + 298)) / 8.0, 0.0, 1.0)
    picture += covered * (20.0 * body - 2300.0 * across - 1100.0 * down)
    head = np.hypot((rows - (top + 196)) / 1.22, columns - 646.0)
    face = np.hypot((rows - (top + 212)) / 1.1, columns - 646.0)
    picture = np.where(head < 56.0, 92.0 + 0.2 * head, picture)
    picture = np.where(face < 44.0, 186.0 - 0.5 * face, picture)
    shoulders = ((rows - (top + 312)) / 44.0) ** 2 + ((columns - 642.0) / 120.0) ** 2
    return np.asarray(np.where((shoulders < 1.0) & (rows < top + 306), 158.0 - 10.0 * shoulders, picture))
