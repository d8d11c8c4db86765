"""Numbers about a second of picture, from a few small luma planes of it.

The planes are 90 x 160 (`LumaSample.plane`); in 16 x 9 tiles of 10 x 10 points each. Noise is measured between planes
and taken out of what is measured in their mean, so that a noisy sensor looks neither sharp nor moving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEIGHT_PX, WIDTH_PX = 90, 160
TILE_PX = 10
ROWS, COLUMNS = HEIGHT_PX // TILE_PX, WIDTH_PX // TILE_PX
MOST_PLANES = 8
"""More in a second make no better measures, only more work."""

_FAR_PX = 4
_SMOOTHEST = 1.0 / _FAR_PX
_LEAST_MOTION = 1.5
_NOISE_REACH = 6.0

Plane = NDArray[np.uint8]
Tiles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measures:
    """The first four are 0 to 1, as on the wire.

    luma       mean of the picture, 0 black, 1 white
    contrast   from its 5th to its 95th hundredth
    sharpness  how much of a large step comes at once: 1 fine detail, 0 as smooth as can be; 0 without any structure
    motion     share of tiles that changed in this second by more than noise
    structure  spread of three quarters of the tiles around a smooth surface, as a share of the mean: what a covered
               lens lacks, also where it leaves a strip of the room in sight
    change     share of points that differ from one plane to the next: what a frozen picture lacks
    tiles      means of the 9 x 16 tiles, in grey levels; read-only
    """

    luma: float
    contrast: float
    sharpness: float
    motion: float
    structure: float
    change: float
    tiles: Tiles


def measure(planes: Sequence[Plane]) -> Measures:
    """The measures of 2 to 8 planes, oldest first (uint8, 90 x 160). ValueError for any other number or shape."""
    if not 2 <= len(planes) <= MOST_PLANES or any(plane.shape != (HEIGHT_PX, WIDTH_PX) for plane in planes):
        raise ValueError(f"2 to {MOST_PLANES} planes of {HEIGHT_PX} x {WIDTH_PX}")
    stack = np.stack(planes)
    count = len(planes)
    total = stack.sum(0, dtype=np.uint16)
    steps = np.maximum(stack[1:], stack[:-1]) - np.minimum(stack[1:], stack[:-1])
    # The quieter half of the picture tells the noise: what moves is seldom in more than half of it.
    noise = float(np.median(_tiles(steps).mean(0))) * float(np.sqrt(np.pi)) / 2.0
    by_time = _tiles(stack)
    tiles = by_time.mean(0)
    reach = by_time.max(0) - by_time.min(0)
    moved = reach > max(_LEAST_MOTION, _NOISE_REACH * noise / TILE_PX)
    low, high = _hundredths(total // count)
    mean = total.astype(np.float32) / count
    tiles.setflags(write=False)
    return Measures(
        luma=float(mean.mean()) / 255.0,
        contrast=(high - low) / 255.0,
        sharpness=_sharpness(mean, noise * noise / count),
        motion=float(moved.mean()),
        structure=_structure(tiles) / max(1.0, float(tiles.mean())),
        change=float(np.count_nonzero(steps)) / steps.size,
        tiles=tiles,
    )


def unsmooth(tiles: Tiles) -> Tiles:
    """The 9 x 16 tiles without what a smooth (quadratic) surface explains: light and its fall towards the edges."""
    values = tiles.reshape(-1).astype(np.float32)
    rest: Tiles = (values - _SURFACE @ (_SURFACE.T @ values)).reshape(ROWS, COLUMNS)
    return rest


def _structure(tiles: Tiles) -> float:
    """The spread of the smoother three quarters of the tiles around a smooth surface, in grey levels."""
    rest = np.abs(unsmooth(tiles).reshape(-1))
    kept = rest <= np.partition(rest, rest.size * 3 // 4)[rest.size * 3 // 4]
    # Anew without the others: a strip that stands out bends the surface for all.
    surface, values = _SURFACE[kept], tiles.reshape(-1)[kept]
    factors = np.linalg.solve(surface.T @ surface, surface.T @ values)
    return float((values - surface @ factors).std())


def _surface() -> NDArray[np.float32]:
    """An orthonormal basis of the quadratic surfaces over the tiles: 144 x 6."""
    down, across = np.meshgrid(np.linspace(-1, 1, ROWS), np.linspace(-1, 1, COLUMNS), indexing="ij")
    powers = [np.ones_like(down), down, across, down * down, down * across, across * across]
    basis, _ = np.linalg.qr(np.stack([power.reshape(-1) for power in powers], axis=1))
    return basis.astype(np.float32)


_SURFACE = _surface()


def _tiles(stack: NDArray[np.uint8]) -> Tiles:
    """Means of the tiles of each plane: n x 9 x 16."""
    # Columns first, in whole numbers: one pass over the bytes, and the rest is a tenth as much.
    narrow = stack.reshape(-1, COLUMNS, TILE_PX).sum(-1, dtype=np.uint16)
    sums = narrow.reshape(len(stack), ROWS, TILE_PX, COLUMNS).sum(2, dtype=np.uint32)
    means: Tiles = sums.astype(np.float32) / (TILE_PX * TILE_PX)
    return means


def _hundredths(plane: NDArray[np.uint16]) -> tuple[int, int]:
    """The 5th and the 95th hundredth of a plane."""
    below = np.cumsum(np.bincount(plane.reshape(-1), minlength=256))
    return int(np.searchsorted(below, 0.05 * plane.size)), int(np.searchsorted(below, 0.95 * plane.size))


def _sharpness(mean: NDArray[np.float32], noise_power: float) -> float:
    """Mean squared steps over one point against those over four, without noise.

    A sharp edge makes its whole step over one point, a smooth slope a quarter of what it makes over four; so the root
    of the ratio is 1/4 for what is smoother than four points, whatever the contrast, and up to 1 for fine detail.
    """
    near = far = 0.0
    for axis in (0, 1):
        one = np.diff(mean, axis=axis).reshape(-1)
        ahead, behind = (mean[_FAR_PX:], mean[:-_FAR_PX]) if axis == 0 else (mean[:, _FAR_PX:], mean[:, :-_FAR_PX])
        four = (ahead - behind).reshape(-1)
        near += float(one @ one) / one.size
        far += float(four @ four) / four.size
    near, far = near - 4.0 * noise_power, far - 4.0 * noise_power
    if far <= 0.0 or near <= 0.0:
        return 0.0
    ratio = float(np.sqrt(near / far))
    return min(1.0, max(0.0, (ratio - _SMOOTHEST) / (1.0 - _SMOOTHEST)))
