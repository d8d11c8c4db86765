"""A film as a camera: `file:PATH`. It loops.

A film that is what we send anyway (H.264 baseline without B-frames, at most 1280 x 720) is passed through as it is and
only decoded for the view signals; any other is decoded, made smaller and encoded once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from numpy.typing import NDArray

from gateway.core.boottime import boottime_s
from gateway.core.error import CameraFaultError
from gateway.edge.bench_world import BenchWorld
from gateway.edge.camera_port import (
    NAL_IDR,
    NAL_SPS,
    CameraSettings,
    EncodedUnit,
    Pacer,
    ThreadedCamera,
    half_px,
    nal_types,
)
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.soften_swscale import Softener


class AvCamera(ThreadedCamera):
    """What film and V4L2 device share: pictures that PyAV decodes, fitted, thinned, softened if so, encoded once."""

    def __init__(self, settings: CameraSettings, world: BenchWorld | None = None) -> None:
        super().__init__(settings, world)
        self._softener = Softener()

    def _fit(self, stream: av.VideoStream) -> tuple[int, int]:
        """The size to send, in px: never larger than asked for or than the source, same shape, even."""
        width_px, height_px = stream.codec_context.width, stream.codec_context.height
        if width_px < 2 or height_px < 2:
            raise CameraFaultError("the video has no size")
        share = min(1.0, self.settings.width_px / width_px, self.settings.height_px / height_px)
        return max(2, int(width_px * share) // 2 * 2), max(2, int(height_px * share) // 2 * 2)

    def _encode_picture(self, frame: av.VideoFrame, encoder: Libx264Encoder, full_px: tuple[int, int]) -> None:
        pts_us = int(boottime_s() * 1e6)
        size_px = half_px(full_px) if self._small else full_px
        if encoder.set_size_px(size_px):
            self._resized(*size_px)
        fitted = frame.reformat(width=size_px[0], height=size_px[1], format="yuv420p")
        encoder.set_bit_rate_bps(self._bit_rate_bps)
        if self._wants_luma(pts_us):
            self._show(luma_plane(fitted), pts_us)
        shown = self._softener.soften(fitted) if self._softened else fitted
        self._deliver(encoder.encode(shown, pts_us=pts_us, key=self._take_key_request()))


class FileCamera(AvCamera):
    """A film as a CameraPort. `open` raises CameraFaultError for a file that is missing or no film.

    Passed through, size and bit rate are the film's, and a key unit asked for is the film's next: the film jumps there.
    """

    def __init__(self, path: Path | str, settings: CameraSettings, world: BenchWorld | None = None) -> None:
        super().__init__(settings, world)
        self.path = Path(path)
        self.passes_through = False
        """Whether the film is sent as it is; known once open."""

    @property
    def adapts(self) -> bool:
        return not self.passes_through

    def _capture(self) -> None:
        try:
            with self._film() as (_, stream):
                # What somebody else encoded can't be softened without decoding it: then the film is encoded anew.
                self.passes_through = not self._softened and passable(stream, self.settings)
                film_fps = float(stream.average_rate or self.settings.fps)
                if self.passes_through:
                    context = stream.codec_context
                    size_px, fps = (context.width, context.height), film_fps
                else:
                    size_px, fps = self._fit(stream), min(film_fps, float(self.settings.fps))
            self._opened(*size_px, fps)
            if self.passes_through:
                self._pass_through(film_fps)
            else:
                self._transcode(size_px)
        except av.FFmpegError as error:
            raise CameraFaultError(f"the film {self.path} can't be played: {error}") from error

    @contextlib.contextmanager
    def _film(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        try:
            container = av.open(str(self.path), mode="r")
        except FileNotFoundError as error:
            raise CameraFaultError(
                f"there is no film {self.path}: put one there or name another after file:"
            ) from error
        except (av.FFmpegError, OSError) as error:
            raise CameraFaultError(
                f"{self.path} can't be read as a film ({error}): check its rights, or convert it to MP4 with H.264"
            ) from error
        with container:
            if not container.streams.video:
                raise CameraFaultError(f"{self.path} has no video in it: name a film after file:")
            stream = container.streams.video[0]
            # Frame threads would keep pictures back and start threads of their own.
            stream.codec_context.thread_count = 1
            yield container, stream

    def _transcode(self, size_px: tuple[int, int]) -> None:
        encoder = Libx264Encoder(*size_px, self.settings)
        pacer = Pacer(self._stop, self._poke)
        period_s = 1.0 / self.settings.fps
        while not self._stop.is_set():
            pacer.restart()
            began_s: float | None = None
            due_s = 0.0
            with self._film() as (container, stream):
                for frame in container.decode(stream):
                    film_s = due_s if frame.time is None else frame.time
                    began_s = film_s if began_s is None else began_s
                    offset_s = film_s - began_s
                    if offset_s < due_s - 1e-3:
                        continue
                    due_s = max(due_s + period_s, offset_s)
                    if pacer.wait_until(offset_s):
                        return
                    self._encode_picture(frame, encoder, size_px)
            # The last picture lasts as long as the others; without this a film of one picture would be a busy loop.
            if began_s is None:
                raise CameraFaultError(f"the film {self.path} has no picture")
            if self._stop.wait(period_s):
                return

    def _pass_through(self, film_fps: float) -> None:
        pacer = Pacer(self._stop, self._poke)
        while not self._stop.is_set():
            with self._film() as (container, stream):
                played = self._play(container, stream, pacer, film_fps)
            if not played:
                raise CameraFaultError(f"the film {self.path} has no key frame to begin with: convert it again")
            if self._stop.wait(1.0 / film_fps):
                return

    def _play(
        self, container: av.container.InputContainer, stream: av.VideoStream, pacer: Pacer, film_fps: float
    ) -> int:
        """Play to the end of the film, or to where a jump leads out of it; gives the number of units played."""
        to_annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
        began_s: float | None = None
        played = 0
        units = _units(container, stream, to_annex_b)
        for packet, data in units:
            types = nal_types(data)
            key = NAL_IDR in types
            if began_s is None and not key:
                continue
            film_s = played / film_fps if packet.pts is None else float(packet.pts * packet.time_base)
            if began_s is None:
                began_s = film_s
                pacer.restart()
            # A request that comes during the wait ends it, so it is looked for after the wait.
            if pacer.wait_until(film_s - began_s):
                return played
            if not key and self._key_wanted.is_set():
                # Ask for the picture after this one, or the demuxer may stay where it is.
                if packet.pts is None or not _jump(container, stream, packet.pts + 1):
                    return played
                to_annex_b.flush()
                stream.codec_context.flush_buffers()
                began_s = None
                continue
            if key:
                self._take_key_request()
                if NAL_SPS not in types:
                    data = _headers(stream) + data  # noqa: PLW2901
            pts_us = int(boottime_s() * 1e6)
            self._deliver(EncodedUnit(data, pts_us, key))
            played += 1
            if key:
                # The view signals get key pictures only: decoding all cost more than carrying them (3.6 of 5.8 s CPU a
                # minute, measured November 2026).
                for frame in stream.codec_context.decode(packet):
                    self._show(luma_plane(frame), pts_us)
        return played


def passable(stream: av.VideoStream, settings: CameraSettings) -> bool:
    """Whether this video may be sent as it is: H.264 baseline, no B-frames, not larger than asked for."""
    context = stream.codec_context
    return (
        context.name == "h264"
        and context.profile in ("Baseline", "Constrained Baseline")
        and not context.has_b_frames
        and context.pix_fmt in ("yuv420p", "yuvj420p")
        and context.width <= settings.width_px
        and context.height <= settings.height_px
    )


def luma_plane(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The Y plane of a planar frame without its padding: uint8, (height, width); shares the frame's memory."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]  # PyAV's planes are buffers
    return np.asarray(rows.reshape(plane.height, plane.line_size)[:, : plane.width], np.uint8)


def _units(
    container: av.container.InputContainer, stream: av.VideoStream, to_annex_b: BitStreamFilterContext
) -> Iterator[tuple[av.Packet[av.VideoStream], bytes]]:
    """The film's packets, each with its Annex B form. A packet without data marks the end."""
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        # The filter takes the packet's data away, and the decoder needs it in its old form.
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
        data = b"".join(bytes(unit) for unit in to_annex_b.filter(copy))
        if data:
            yield packet, data


def _jump(container: av.container.InputContainer, stream: av.VideoStream, pts: int) -> bool:
    """Go on at the first key frame after `pts`; False where there is none, or the file has no index."""
    try:
        container.seek(pts, backward=False, stream=stream)
    except (av.FFmpegError, OSError):
        return False
    return True


def _headers(stream: av.VideoStream) -> bytes:
    """SPS and PPS of a raw stream, which PyAV keeps in Annex B; of anything else the filter puts them in."""
    extradata = stream.codec_context.extradata or b""
    return extradata if extradata.startswith((b"\0\0\1", b"\0\0\0\1")) else b""
