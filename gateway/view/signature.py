"""What the aimed camera saw when it was calibrated, so coarsely that nobody can be seen in it.

16 x 9 tiles, each a mean of 80 x 80 pixels of a 1280 x 720 sensor, without the smooth surface of light over them, in
eight steps of the picture's own spread: 3 bits a tile, 54 bytes. That is enough to notice that the camera points
elsewhere. It is not enough for a picture: all that is in a tile (a head covers one or two) is its mean, and how bright
anything was is not in it either. `to_text` is the only form that is stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import numpy as np

from gateway.view.measure import COLUMNS, ROWS, Measures, Tiles, unsmooth

STEPS = 8
_STEP = 0.6
"""Width of a step in the picture's own standard deviations; the outermost steps are open."""


class SignatureError(ValueError):
    """Not the text of a signature."""


@dataclass(frozen=True, slots=True)
class Signature:
    """`steps`: 144 numbers of 0 to 7, row by row."""

    steps: bytes

    def __post_init__(self) -> None:
        if len(self.steps) != ROWS * COLUMNS or max(self.steps) >= STEPS:
            raise SignatureError(f"{ROWS * COLUMNS} steps of 0 to {STEPS - 1}")

    @classmethod
    def of(cls, measures: Measures) -> Self:
        """The signature of a picture. Only one that is clear and still is worth keeping."""
        pattern = _pattern(measures.tiles)
        steps = np.clip(np.floor(pattern / _STEP) + STEPS // 2, 0, STEPS - 1)
        return cls(steps.astype(np.uint8).tobytes())

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Raises SignatureError."""
        if not re.fullmatch(rf"[0-{STEPS - 1}]{{{ROWS * COLUMNS}}}", text, re.ASCII):
            raise SignatureError(f"{ROWS * COLUMNS} digits of 0 to {STEPS - 1}")
        return cls(bytes(int(digit) for digit in text))

    def to_text(self) -> str:
        return "".join(map(str, self.steps))

    def likeness(self, measures: Measures) -> float:
        """How alike the picture's pattern is: 1 the same, 0 unrelated, -1 its negative."""
        own = np.frombuffer(self.steps, np.uint8).astype(np.float32)
        own -= own.mean()
        other = _pattern(measures.tiles)
        other -= other.mean()
        size = float(np.sqrt((own @ own) * (other @ other)))
        return 0.0 if size == 0.0 else float(own @ other) / size


def _pattern(tiles: Tiles) -> Tiles:
    """The tiles without the light's surface, in their own standard deviations, flat."""
    rest = unsmooth(tiles).reshape(-1)
    spread = float(rest.std())
    return rest / spread if spread > 0.0 else rest
