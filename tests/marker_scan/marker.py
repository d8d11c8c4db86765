"""Pictures that can be found again: a film of noise, the drawn room's marker, and what either looks like as bytes.

A needle is some bytes of a picture that stand nowhere by chance: a row of pixels as the sensor, the small luma or the
decoder has them; some bytes of an encoded unit; the parameter sets of our encoder; the head of a JPEG. Each is also
looked for as text, in base64 at its three alignments and in hexadecimal.
"""

from __future__ import annotations

import base64
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from gateway.edge.camera_file import luma_plane
from gateway.edge.camera_port import CameraSettings, small_luma
from gateway.edge.camera_room import marker_luma
from gateway.edge.h264_libx264 import Libx264Encoder

NEEDLE_BYTES, LEAST_BYTES = 32, 10
FILM_FPS, FILM_S, FILM_SIZE_PX = 15, 8, (640, 360)


def make_film(path: Path) -> None:
    """Noise in large and small grains, another in each picture; H.264 baseline, so that it is passed on as it is."""
    rng = np.random.default_rng(20261124)
    width_px, height_px = FILM_SIZE_PX
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FILM_FPS)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.bit_rate = 1_500_000
        stream.codec_context.gop_size = FILM_FPS
        stream.options = {"preset": "ultrafast", "profile": "baseline", "threads": "1", "sc_threshold": "0"}
        for number in range(FILM_FPS * FILM_S):
            coarse = rng.integers(40, 200, (height_px // 8, width_px // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            luma = coarse + rng.integers(0, 40, (height_px, width_px), dtype=np.uint8)
            picture = np.vstack([luma, np.full((height_px // 2, width_px), 128, np.uint8)])
            frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FILM_FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def needles(film: Path) -> dict[bytes, str]:
    """Every needle and what it is, as `kind: which`; the texts of each included."""
    plain: dict[bytes, str] = {}
    for number, data in enumerate(_packets(film)):
        for at in (len(data) // 3, 2 * len(data) // 3):
            plain[data[at : at + NEEDLE_BYTES]] = f"encoded unit: {number}"
    for number, luma in enumerate(_key_pictures(film)):
        for name, plane in (("picture", luma), ("small luma", small_luma(luma))):
            for row in (plane.shape[0] // 4, plane.shape[0] // 2):
                pixels = plane[row, plane.shape[1] // 2 :][:NEEDLE_BYTES].tobytes()
                plain[pixels] = f"{name}: {number}, row {row}"
    for number, row in enumerate(np.unique(marker_luma(), axis=0)):
        plain[row.tobytes()] = f"the room's marker: row {number}"
    for size_px in ((1280, 720), (640, 360)):
        unit = Libx264Encoder(*size_px, CameraSettings()).encode(
            np.full((size_px[1] * 3 // 2, size_px[0]), 128, np.uint8), pts_us=0, key=True
        )
        for nal in unit.data.split(b"\0\0\1"):
            # The sequence parameter set; the picture's is too short to be told from chance.
            if nal and nal[0] & 0x1F == 7:
                plain[nal.rstrip(b"\0")] = f"our encoder's parameters: {size_px[0]} x {size_px[1]}"
    plain[b"\xff\xd8\xff\xe0\x00\x10JFIF"] = "head of a JPEG:"
    known = {needle: name for needle, name in plain.items() if len(set(needle)) > 1 and len(needle) >= LEAST_BYTES}
    texts: dict[bytes, str] = {}
    for needle, name in known.items():
        texts[needle.hex().encode()] = f"in hexadecimal {name}"
        for shift in range(3):
            # Three bytes at either end depend on their neighbours.
            texts[base64.b64encode(b"\0" * shift + needle)[4:-4]] = f"in base64 {name}"
    # Shorter ones would be found by chance.
    return known | {text: name for text, name in texts.items() if len(text) >= LEAST_BYTES}


def _packets(film: Path) -> list[bytes]:
    with av.open(str(film)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size > 4 * NEEDLE_BYTES]


def _key_pictures(film: Path) -> list[np.ndarray]:
    with av.open(str(film)) as container:
        container.streams.video[0].codec_context.skip_frame = "NONKEY"
        return [luma_plane(frame).copy() for frame in container.decode(video=0)]
