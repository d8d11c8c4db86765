"""A V4L2 device as a camera: `v4l2:/dev/videoN`. For USB cameras and for the kernel's vivid.

A device that hangs inside its driver can't be interrupted: close() then raises CameraFaultError after 2 s, and the
process has to end, which closes the device.
"""

from __future__ import annotations

from pathlib import Path

import av

from gateway.core.error import CameraFaultError
from gateway.edge.bench_world import BenchWorld
from gateway.edge.camera_file import AvCamera
from gateway.edge.camera_port import CameraSettings
from gateway.edge.h264_libx264 import Libx264Encoder


class V4l2Camera(AvCamera):
    """A V4L2 capture device as a CameraPort. `open` raises CameraFaultError for a device that is missing or busy.

    The device is asked for the settings' size and rate; what it gives instead is fitted.
    """

    first_unit_timeout_s = 3.0

    def __init__(self, path: Path | str, settings: CameraSettings, world: BenchWorld | None = None) -> None:
        super().__init__(settings, world)
        self.path = Path(path)

    def _capture(self) -> None:
        if not self.path.is_char_device():
            raise CameraFaultError(f"there is no camera at {self.path}: plug it in, or name another after v4l2:")
        settings = self.settings
        options = {"video_size": f"{settings.width_px}x{settings.height_px}", "framerate": str(settings.fps)}
        try:
            with av.open(str(self.path), mode="r", format="v4l2", options=options) as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1
                size_px = self._fit(stream)
                encoder = Libx264Encoder(*size_px, settings)
                self._opened(*size_px, min(float(stream.average_rate or settings.fps), float(settings.fps)))
                due_s = 0.0
                for frame in container.decode(stream):
                    if self._stop.is_set():
                        return
                    film_s = due_s if frame.time is None else frame.time
                    # Some cameras give 30 pictures whatever they are asked for. A tenth of a period of tolerance,
                    # because a camera's own clock is not ours.
                    if film_s < due_s - 0.1 / settings.fps:
                        continue
                    due_s = max(due_s + 1.0 / settings.fps, film_s)
                    self._encode_picture(frame, encoder, size_px)
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            raise CameraFaultError(f"the camera at {self.path} failed: {error}") from error
