"""Bedrooms by the number, drawn at random, and what can be wrong with their pictures. For the view signals' table.

Every scene is an infrared camera in a room of its own, at 320 x 180, which is what picamera2's second stream gives: a
canvas wider than the picture, so that the camera can point elsewhere; somebody in the bed or nobody; what changed since
the calibration; a lens, a cover, light; then the sensor's noise and its eight bits.

They are drawings. What they can show is that the words do what they say over noise, light and rooms; how often a real
camera in a real bedroom is called something that it isn't, only real bedrooms can show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gateway.edge.bench_world import RoomScene
from gateway.edge.camera_port import small_luma
from gateway.edge.camera_room import RoomPainter
from gateway.protocol.picture import View

HEIGHT_PX, WIDTH_PX = 180, 320
CANVAS_HEIGHT_PX, CANVAS_WIDTH_PX = 360, 640
TOP_PX, LEFT_PX = 90, 160
"""Where the picture lies in the canvas when the camera points as it was calibrated."""
PLANES_A_SECOND, SECONDS = 5, 4
BLACK = 16.0
NOISES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Standard deviations of a pixel in grey levels: from a well-lit, smoothed sensor to one at its highest gain."""
EACH = {View.CLEAR: 40, View.DARK: 16, View.COVERED: 20, View.BLURRED: 20, View.FROZEN: 12, View.MISAIMED: 20}

Picture = np.ndarray


@dataclass(frozen=True)
class Scene:
    """`planes` are 4 s of small luma planes; `calibration` is one second of the same room, well lit, as installed."""

    name: str
    view: View
    planes: list[Picture]
    calibration: list[Picture]


def scenes() -> Iterator[Scene]:
    """All of them, the same each time: those drawn at random, then the demo's room."""
    for view, count in EACH.items():
        for number in range(count):
            yield drawn(view, number)
    yield from _demo_room()


def drawn(view: View, number: int) -> Scene:
    """One room, in which `view` is the right word."""
    rng = np.random.default_rng([list(View).index(view), number])
    room = _Room(rng)
    # Every other scene goes into the other half of the table, so both get each noise.
    noise = NOISES[number // 2 % len(NOISES)]
    calibration = _sensed(rng, [room.seen()], 1.0, PLANES_A_SECOND)
    room.live_in(rng)
    light = float(rng.uniform(0.15, 1.0))
    aim = rng.integers(-3, 4, 2)
    blur_px = float(rng.uniform(0.2, 0.6))
    if view is View.DARK:
        light = float(rng.uniform(0.0, 0.07))
    if view is View.BLURRED:
        # Less than a hundredth of the width still shows a person; that is called clear.
        blur_px = float(rng.uniform(3.2, 9.0))
    if view is View.MISAIMED:
        aim = _elsewhere(rng)
    person = bool(rng.integers(0, 2))
    frames = [room.seen(person, breath, light, aim, blur_px) for breath in (0.0, 1.0)]
    if view is View.COVERED:
        cover, share = _cover(rng), _covered_share(rng)
        frames = [frame * (1.0 - share) + cover * share for frame in frames]
    if view is View.BLURRED and rng.integers(0, 2):
        # Fog or grease on the lens lays a veil over the picture as well.
        veil = float(rng.uniform(0.2, 0.5))
        frames = [frame * (1.0 - veil) + 140.0 * veil for frame in frames]
    planes = _sensed(rng, frames, noise, PLANES_A_SECOND * SECONDS)
    if view is View.FROZEN:
        planes = [planes[0]] * len(planes)
        if number // 2 % 2:
            # Frozen before an encoder: what came through it differs by a trace.
            planes = [_trace(rng, plane) for plane in planes]
    return Scene(f"{view} {number}", view, planes, calibration)


_BANK = np.random.default_rng(7).standard_normal(1 << 20, dtype=np.float32)


def _sensed(rng: np.random.Generator, frames: list[Picture], noise: float, count: int) -> list[Picture]:
    """What a sensor of that noise makes of the frames by turns, as small luma planes."""
    planes = []
    size = HEIGHT_PX * WIDTH_PX
    for index in range(count):
        start = int(rng.integers(0, _BANK.size - size))
        grain = _BANK[start : start + size].reshape(HEIGHT_PX, WIDTH_PX)
        pixels = np.clip(np.rint(frames[index % len(frames)] + grain * np.float32(noise)), 0, 255)
        planes.append(small_luma(pixels.astype(np.uint8)))
    return planes


def _trace(rng: np.random.Generator, plane: Picture) -> Picture:
    other = plane.copy()
    other.reshape(-1)[rng.integers(0, plane.size, 4)] += 1
    return other


class _Room:
    """Walls, bed, furniture, textures; drawn once, lived in afterwards."""

    def __init__(self, rng: np.random.Generator) -> None:
        down = np.linspace(0, 1, CANVAS_HEIGHT_PX, dtype=np.float32)[:, None]
        across = np.linspace(0, 1, CANVAS_WIDTH_PX, dtype=np.float32)[None, :]
        self.canvas = rng.uniform(90, 150) + rng.uniform(-30, 30) * down + rng.uniform(-30, 30) * across
        # A ceiling with less in it, then things on the walls and the floor.
        ceiling_px = int(rng.uniform(0.05, 0.25) * CANVAS_HEIGHT_PX)
        self.canvas[:ceiling_px] += rng.uniform(15, 45)
        for _ in range(int(rng.integers(12, 26))):
            self._thing(rng, ceiling_px)
        for size_px, depth in ((2, 3.0), (8, 5.0), (32, 8.0)):
            shape = (CANVAS_HEIGHT_PX // size_px + 1, CANVAS_WIDTH_PX // size_px + 1)
            grain = rng.standard_normal(shape, dtype=np.float32).repeat(size_px, 0).repeat(size_px, 1)
            self.canvas += depth * grain[:CANVAS_HEIGHT_PX, :CANVAS_WIDTH_PX]
        self._bed(rng)
        np.clip(self.canvas, 30, 225, out=self.canvas)
        view = (slice(TOP_PX, TOP_PX + HEIGHT_PX), slice(LEFT_PX, LEFT_PX + WIDTH_PX))
        fall = ((down - 0.5) ** 2 + (across - 0.5) ** 2)[view]
        self.light = 1.0 - rng.uniform(0.1, 1.5) * fall

    def live_in(self, rng: np.random.Generator) -> None:
        """What changes after a calibration: the bed is used, a chair moves, a lamp is on or off."""
        bed = self._bed_of(self.canvas)
        bed[40:] = np.clip(bed[40:] + rng.uniform(-25, 25), 30, 225)
        for _ in range(int(rng.integers(0, 3))):
            self._thing(rng, TOP_PX, most_px=60)
        if rng.integers(0, 2):
            down = np.linspace(-1, 1, HEIGHT_PX)[:, None] - rng.uniform(-1, 1)
            across = np.linspace(-1, 1, WIDTH_PX)[None, :] - rng.choice((-1, 1))
            self.light = self.light + rng.uniform(0.1, 0.5) * np.exp(-2 * (down**2 + across**2))

    def seen(
        self,
        person: bool = False,
        breath: float = 0.0,
        light: float = 1.0,
        aim: Picture | tuple[int, int] = (0, 0),
        blur_px: float = 0.3,
    ) -> Picture:
        """What the lens gives: 180 x 320 grey levels."""
        canvas = self.canvas
        if person:
            canvas = canvas.copy()
            self._person(canvas, breath)
        top_px, left_px = TOP_PX + int(aim[0]), LEFT_PX + int(aim[1])
        frame = _blurred(canvas[top_px : top_px + HEIGHT_PX, left_px : left_px + WIDTH_PX], blur_px)
        return np.asarray(BLACK + (frame - BLACK) * light * self.light, np.float32)

    def _thing(self, rng: np.random.Generator, least_top_px: int, most_px: int = 130) -> None:
        height_px, width_px = (int(size) for size in rng.uniform(10, most_px, 2))
        top_px = int(rng.uniform(least_top_px, CANVAS_HEIGHT_PX - height_px))
        left_px = int(rng.uniform(0, CANVAS_WIDTH_PX - width_px))
        thing = self.canvas[top_px : top_px + height_px, left_px : left_px + width_px]
        thing[:] = np.clip(thing + rng.uniform(-55, 55), 30, 225)

    def _bed(self, rng: np.random.Generator) -> None:
        self.bed_top_px = TOP_PX + int(rng.uniform(15, 45))
        self.bed_left_px = LEFT_PX + int(rng.uniform(40, 120))
        self.bed_width_px = int(rng.uniform(130, 180))
        self.bed_height_px = int(rng.uniform(125, 210))
        bed = self._bed_of(self.canvas)
        folds = np.add.outer(np.arange(bed.shape[0]) / rng.uniform(7, 20), np.arange(bed.shape[1]) / rng.uniform(7, 20))
        bed[:] = rng.uniform(120, 190) + rng.uniform(3, 10) * np.sin(folds) + 0.3 * (bed - bed.mean())
        bed[7:37, 35:-35] = rng.uniform(180, 220)

    def _bed_of(self, canvas: Picture) -> Picture:
        top_px, left_px = self.bed_top_px, self.bed_left_px
        return canvas[top_px : top_px + self.bed_height_px, left_px : left_px + self.bed_width_px]

    def _person(self, canvas: Picture, breath: float) -> None:
        bed = self._bed_of(canvas)
        down = np.arange(bed.shape[0])[:, None]
        across = np.arange(bed.shape[1])[None, :] - self.bed_width_px // 2
        bed[np.hypot((down - 22) / 1.2, across) < 12] = 95
        bed += (18 + 6 * breath) * np.exp(-(((down - 85) / 40) ** 2) - (across / 30) ** 2)


def _blurred(frame: Picture, sigma_px: float) -> Picture:
    """Gaussian blur by the spectrum, mirrored at the edges."""
    edge_px = 24
    padded = np.pad(frame, edge_px, mode="reflect")
    down = np.fft.fftfreq(padded.shape[0])[:, None]
    across = np.fft.rfftfreq(padded.shape[1])[None, :]
    passes = np.exp(-2 * (np.pi * sigma_px) ** 2 * (down**2 + across**2))
    whole = np.fft.irfft2(np.fft.rfft2(padded) * passes, padded.shape)
    return np.asarray(whole[edge_px:-edge_px, edge_px:-edge_px], np.float32)


def _elsewhere(rng: np.random.Generator) -> Picture:
    """A shift of 10 to 45 % of the picture's width, of 15 to 45 % of its height, or of both."""
    across = rng.choice((-1, 1)) * rng.uniform(0.10, 0.45) * WIDTH_PX
    down = rng.choice((-1, 1)) * rng.uniform(0.15, 0.45) * HEIGHT_PX
    return np.array([(down, 0), (0, across), (down, across)][int(rng.integers(0, 3))]).astype(int)


def _cover(rng: np.random.Generator) -> Picture:
    """Cloth, a hand, paper or tape in front of the lens: out of focus, lit by the camera's infrared or from a side."""
    level = float(rng.uniform(26, 170))
    down = np.linspace(-1, 1, HEIGHT_PX)[:, None]
    across = np.linspace(-1, 1, WIDTH_PX)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    gradient = rng.uniform(0, 0.35) * (np.cos(angle) * down + np.sin(angle) * across)
    spot = rng.uniform(0, 0.4) * np.exp(-((down - rng.uniform(-1, 1)) ** 2) - (across - rng.uniform(-1, 1)) ** 2)
    weave = _blurred(rng.standard_normal((HEIGHT_PX, WIDTH_PX), dtype=np.float32), 15.0)
    return np.asarray(level * (1.0 + gradient + spot) + rng.uniform(0, 20) * weave, np.float32)


def _covered_share(rng: np.random.Generator) -> Picture:
    """How much of each pixel is cover: all of it, or all but a soft strip at one edge."""
    if rng.integers(0, 2):
        return np.ones((HEIGHT_PX, WIDTH_PX), np.float32)
    strip_px = float(rng.uniform(0.05, 0.15)) * WIDTH_PX
    across = np.arange(WIDTH_PX)[:: int(rng.choice((-1, 1)))]
    return np.broadcast_to(1.0 / (1.0 + np.exp((strip_px - across) / 6.0)), (HEIGHT_PX, WIDTH_PX))


def _demo_room() -> Iterator[Scene]:
    """The bedroom of demo and tests, through its own painter."""
    painter = RoomPainter()

    def planes(scene: RoomScene, raised: float, count: int = PLANES_A_SECOND * SECONDS) -> list[Picture]:
        made = []
        for index in range(count):
            painter.paint(scene, raised, index / PLANES_A_SECOND)
            made.append(small_luma(painter.sensor_luma()))
        return made

    calibration = planes(RoomScene(person=False), 0.0, PLANES_A_SECOND)
    for name, view, made in (
        ("somebody in bed", View.CLEAR, planes(RoomScene(), 0.0)),
        ("nobody in bed", View.CLEAR, planes(RoomScene(person=False), 0.0)),
        ("half the light", View.CLEAR, planes(RoomScene(light=0.5), 0.0)),
        ("light out", View.DARK, planes(RoomScene(light=0.0), 0.0)),
        ("nearly out", View.DARK, planes(RoomScene(light=0.05), 0.0)),
        ("covered", View.COVERED, planes(RoomScene(covered=True), 0.0)),
        ("frozen", View.FROZEN, planes(RoomScene(), 0.0, 1) * (PLANES_A_SECOND * SECONDS)),
        ("turned by a quarter of the way", View.MISAIMED, planes(RoomScene(), 0.25)),
        ("parked", View.MISAIMED, planes(RoomScene(), 1.0)),
    ):
        yield Scene(f"demo room, {name}", view, made, calibration)
