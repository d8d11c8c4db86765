"""The film that both sides play: made at run time, so that none is in the tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

from gateway.edge.bench_world import RoomScene
from gateway.edge.camera_room import HEIGHT_PX, WIDTH_PX, RoomPainter

FPS = 25
BIT_RATE_BPS = 2_000_000


@dataclass(frozen=True, slots=True)
class Clip:
    """The same encoded pictures in two boxes: MP4 for the gateway, MPEG-TS (Annex B) for aiortc's MediaPlayer."""

    mp4: Path
    ts: Path
    duration_s: float
    bit_rate_bps: float


def make(directory: Path, *, duration_s: int) -> Clip:
    """A room at 1280 x 720, 25 fps, H.264 constrained baseline, about 2 Mbit/s, a key picture each second."""
    mp4, ts = directory / "clip.mp4", directory / "clip.ts"
    with av.open(str(mp4), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        context = stream.codec_context
        context.bit_rate = BIT_RATE_BPS
        context.gop_size = FPS
        context.max_b_frames = 0
        context.options = {
            "preset": "veryfast",
            "profile": "baseline",
            "sc_threshold": "0",
            "maxrate": str(BIT_RATE_BPS),
            "bufsize": str(BIT_RATE_BPS),
        }
        for number, picture in enumerate(_pictures(duration_s * FPS)):
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            picture.pict_type = PictureType.NONE
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with av.open(str(mp4)) as source, av.open(str(ts), "w") as copy:
        stream_in = source.streams.video[0]
        stream_out = copy.add_stream_from_template(stream_in)
        for packet in source.demux(stream_in):
            if packet.size:
                packet.stream = stream_out
                copy.mux(packet)
    return Clip(mp4, ts, float(duration_s), mp4.stat().st_size * 8 / duration_s)


def _pictures(count: int) -> Iterator[av.VideoFrame]:
    painter = RoomPainter()
    for number in range(count):
        picture = painter.paint(RoomScene(), 0.0, number / FPS)
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "yuv420p")
