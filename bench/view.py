"""What a view signal costs, against the least one could do with a frame and against encoding it. On one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from bench.envelope import alternately
from bench.result import Result, Side
from gateway.edge.bench_world import RoomScene
from gateway.edge.camera_port import CameraSettings, small_luma
from gateway.edge.camera_room import HEIGHT_PX, RoomPainter
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.soften_swscale import Softener
from gateway.view import Signature, judge, measure

TOPIC = "6  View signals"
FPS: Final = 15
SAMPLES: Final = 5
"""Small pictures in a second; see camera_port.LUMA_INTERVAL_US."""


def measure_view(*, rounds: int, seconds: float) -> list[Result]:
    """`rounds` turns of ours and beside, each for about `seconds`."""
    frames, second = pictures(), one_second()
    frame = frames[0][:HEIGHT_PX]
    ours, mean = alternately(second, lambda: float(frame.mean()), rounds, seconds)
    per_frame = [sample / FPS for sample in ours]
    results = [
        Result(
            TOPIC,
            "µs",
            Side.of("view signals for each frame of 1280 x 720", per_frame),
            Side.of("numpy's mean of the same frame", mean),
            note=f"{SAMPLES} small pictures, measured and judged once a second, spread over {FPS} frames",
        )
    ]
    ours, encoder = alternately(second, _encoding(frames), rounds, seconds)
    results.append(
        Result(
            TOPIC,
            "µs",
            Side.of("the same", [sample / FPS for sample in ours]),
            Side.of("libx264 ultrafast of that frame", encoder),
        )
    )
    softener = Softener()
    soft, encoder = alternately(lambda: softener.soften(frames[0]), _encoding(frames), rounds, seconds)
    results.append(
        Result(TOPIC, "µs", Side.of("softening a frame", soft), Side.of("libx264 ultrafast of that frame", encoder))
    )
    painter, scene = RoomPainter(), RoomScene()
    drawn, encoder = alternately(lambda: painter.paint(scene, 0.0, 0.0), _encoding(frames), rounds, seconds)
    results.append(
        Result(
            TOPIC, "µs", Side.of("drawing the bench's room", drawn), Side.of("libx264 ultrafast of that frame", encoder)
        )
    )
    return results


def pictures() -> list[np.ndarray]:
    """A third of a second of the drawn room, I420."""
    painter = RoomPainter()
    return [painter.paint(RoomScene(), 0.0, number / FPS).copy() for number in range(SAMPLES)]


def one_second() -> Callable[[], None]:
    """A call that does all that one second of signals does: five small pictures, measures, word."""
    lumas = [picture[:HEIGHT_PX] for picture in pictures()]
    signature = Signature.of(measure([small_luma(luma) for luma in lumas]))

    def work() -> None:
        judge(measure([small_luma(luma) for luma in lumas]), None, signature=signature, t_us=0)

    return work


def _encoding(frames: list[np.ndarray]) -> Callable[[], None]:
    encoder = Libx264Encoder(1280, 720, CameraSettings())
    number = 0

    def encode() -> None:
        nonlocal number
        number += 1
        encoder.encode(frames[number % len(frames)], pts_us=0)

    return encode
