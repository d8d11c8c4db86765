"""How much fine detail a decoded picture holds; for tests of the softened picture."""

from __future__ import annotations

import numpy as np

from gateway.edge.soften_swscale import SOFT_HEIGHT_PX, SOFT_WIDTH_PX


def fine_energy(luma: np.ndarray) -> float:
    """Spectral energy of a luma plane (uint8, 2-D) beyond what 48 x 28 means can carry, for each pixel.

    A window against the borders' jump; the limit is one and a half times the means' Nyquist frequency, because no
    interpolation stops exactly there.
    """
    height_px, width_px = luma.shape
    window = np.hanning(height_px)[:, None] * np.hanning(width_px)[None, :]
    spectrum = np.abs(np.fft.rfft2((luma - luma.mean()) * window)) ** 2
    down = np.abs(np.fft.fftfreq(height_px))[:, None] * height_px / (SOFT_HEIGHT_PX / 2)
    across = np.fft.rfftfreq(width_px)[None, :] * width_px / (SOFT_WIDTH_PX / 2)
    return float(spectrum[(down > 1.5) | (across > 1.5)].sum()) / luma.size


def steepest_edge(luma: np.ndarray) -> int:
    """The greatest step between two pixels side by side, without the outermost ones."""
    inner = luma[4:-4, 4:-4].astype(int)
    return int(max(np.abs(np.diff(inner, axis=0)).max(), np.abs(np.diff(inner, axis=1)).max()))
