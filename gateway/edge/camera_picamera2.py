"""A Raspberry Pi camera through picamera2: `picamera2`.

Not run on hardware yet: it was written from picamera2's source (commit 3e6dff0, May 2026) without a board, libcamera or
a sensor. The procedure that would show it to work is tests/device/camera.md.

Two ways to H.264. Boards with the V4L2 encoder (/dev/video11: Pi 4, 3, Zero 2 W) encode in hardware, and picamera2's
own thread hands the packets over. The Pi 5 has none; there we encode the captured pictures by `h264_libx264`, because
picamera2's LibavH264Encoder delays pictures, can't force a key frame and ignores a change of rate (docs, "Camera").

picamera2 raises bare RuntimeErrors for nearly everything; all leave here as CameraFaultError.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.core.error import CameraFaultError
from gateway.edge.camera_port import NAL_IDR, EncodedUnit, ThreadedCamera, nal_types
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.soften_swscale import Softener

HARDWARE_ENCODER = Path("/dev/video11")
"""The bcm2835 codec's encoder. Source: picamera2, encoders/v4l2_encoder.py."""
LUMA_SIZE_PX = (320, 180)
"""The second stream, for the view signals; 160 x 90 is below what the Pi 4's ISP is known to scale to in one pass."""
DARKEST_FRAME_US = 125_000
"""In a dark room a picture may take this long: 8 pictures a second instead of noise."""
WAIT_S = 1.0


class Picamera2Camera(ThreadedCamera):
    """The board's first camera as a CameraPort. Imports picamera2 and libcamera in `open`, not before."""

    first_unit_timeout_s = 3.0

    def _capture(self) -> None:
        with _as_camera_fault("start"), contextlib.ExitStack() as cleanup:
            try:
                import libcamera
                import picamera2
            except ImportError as error:
                raise CameraFaultError(
                    f"picamera2 is not installed ({error}): apt install python3-picamera2 python3-libcamera"
                ) from error
            camera = picamera2.Picamera2()
            # Runs last of all: whatever fails below, the device is closed.
            cleanup.callback(camera.close)
            camera.configure(self._configuration(camera, libcamera))
            width_px, height_px = camera.camera_configuration()["main"]["size"]
            # The hardware encoder takes its pictures from the sensor's pipeline, where nothing softens them.
            if HARDWARE_ENCODER.exists() and not self._softened:
                self._run_hardware(camera, cleanup, width_px, height_px)
            else:
                self._run_software(camera, cleanup, width_px, height_px)

    def _configuration(self, camera: Any, libcamera: Any) -> Any:
        frame_us = round(1e6 / self.settings.fps)
        return camera.create_video_configuration(
            main={"size": (self.settings.width_px, self.settings.height_px), "format": "YUV420"},
            lores={"size": LUMA_SIZE_PX, "format": "YUV420"},
            controls={
                "FrameDurationLimits": (frame_us, max(frame_us, DARKEST_FRAME_US)),
                # The tuning files' "normal" mode stops at 66.7 ms, too short for a bedroom at night.
                "AeExposureMode": libcamera.controls.AeExposureModeEnum.Long,
            },
        )

    def _run_hardware(self, camera: Any, cleanup: contextlib.ExitStack, width_px: int, height_px: int) -> None:
        from picamera2.encoders import H264Encoder

        rate_bps = self._bit_rate_bps
        encoder = H264Encoder(
            bitrate=rate_bps,
            repeat=True,
            iperiod=self.settings.key_interval_frames,
            framerate=self.settings.fps,
            profile="constrained baseline",
        )

        def deliver(data: bytes, offset_us: int) -> None:
            # picamera2 counts from the first picture's SensorTimestamp, which is BOOTTIME.
            # Source: libcamera, control_ids_core.yaml, SensorTimestamp.
            pts_us = (encoder.firsttimestamp or 0) + offset_us
            self._deliver(EncodedUnit(data, pts_us, NAL_IDR in nal_types(data)))

        # Registered before the start: a start that fails half way must be stopped too.
        cleanup.callback(camera.stop)
        camera.start()
        camera.start_encoder(encoder, _make_output(deliver), name="main")
        cleanup.callback(camera.stop_encoder, encoder)
        self._opened(width_px, height_px, self.settings.fps)
        while not self._stop.is_set():
            if self._take_key_request():
                encoder.force_key_frame()
            if rate_bps != self._bit_rate_bps:
                rate_bps = self._bit_rate_bps
                _set_hardware_rate(encoder, rate_bps)
            with _next_request(camera) as request:
                pts_us = _sensor_us(request)
                if self._wants_luma(pts_us):
                    self._show(_luma(request.make_array("lores"), LUMA_SIZE_PX), pts_us)

    def _run_software(self, camera: Any, cleanup: contextlib.ExitStack, width_px: int, height_px: int) -> None:
        encoder, softener = Libx264Encoder(width_px, height_px, self.settings), Softener()
        cleanup.callback(camera.stop)
        camera.start()
        self._opened(width_px, height_px, self.settings.fps)
        while not self._stop.is_set():
            with _next_request(camera) as request:
                pts_us = _sensor_us(request)
                picture = _planar(request.make_array("main"), width_px, height_px)
                if self._wants_luma(pts_us):
                    self._show(_luma(request.make_array("lores"), LUMA_SIZE_PX), pts_us)
            # The buffer is back with the camera before the encoder begins: there are only six.
            encoder.set_bit_rate_bps(self._bit_rate_bps)
            shown = softener.soften(picture) if self._softened else picture
            self._deliver(encoder.encode(shown, pts_us=pts_us, key=self._take_key_request()))


def _make_output(deliver: Callable[[bytes, int], None]) -> Any:
    from picamera2.outputs import Output

    class UnitOutput(Output):  # type: ignore[misc]
        """Hands each access unit on; called in picamera2's encoder thread."""

        def outputframe(
            self,
            frame: bytes,
            keyframe: bool = True,  # noqa: ARG002  picamera2's signature
            timestamp: int | None = None,
            packet: object = None,  # noqa: ARG002
            audio: bool = False,
        ) -> None:
            if self.recording and not audio:
                deliver(bytes(frame), timestamp or 0)

    return UnitOutput()


def _set_hardware_rate(encoder: Any, bit_rate_bps: int) -> None:
    """Change the rate while it runs; picamera2 has no call for it. Source: V4L2_CID_MPEG_VIDEO_BITRATE, V4L2 API."""
    # Through picamera2's own module, so that its bindings and ours are the same.
    from picamera2.encoders import v4l2_encoder

    control = v4l2_encoder.v4l2_control()
    control.id = v4l2_encoder.V4L2_CID_MPEG_VIDEO_BITRATE
    control.value = bit_rate_bps
    fcntl.ioctl(encoder.vd, v4l2_encoder.VIDIOC_S_CTRL, control)


@contextlib.contextmanager
def _next_request(camera: Any) -> Iterator[Any]:
    request = camera.capture_request(wait=WAIT_S)
    try:
        yield request
    finally:
        request.release()


def _sensor_us(request: Any) -> int:
    return int(request.get_metadata()["SensorTimestamp"]) // 1000


def _luma(array: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """The Y rows of a YUV420 array whose rows are as long as the stride."""
    return array[: size_px[1], : size_px[0]]


def _planar(array: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """A YUV420 array without its stride, as the encoder takes it: shape (height_px * 3 / 2, width_px).

    picamera2 gives rows of the Y stride; U and V rows are half as long, so two of them share one row.
    """
    stride_px = array.shape[1]
    if stride_px == width_px:
        return array
    chroma = array[height_px:].reshape(height_px, stride_px // 2)[:, : width_px // 2]
    packed = chroma.reshape(height_px // 2, width_px)
    return np.vstack([array[:height_px, :width_px], packed])


@contextlib.contextmanager
def _as_camera_fault(doing: str) -> Iterator[None]:
    try:
        yield
    except CameraFaultError:
        raise
    # AttributeError, IndexError and KeyError are how picamera2 says "no camera" and "not that control".
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, AttributeError, TimeoutError) as error:
        raise CameraFaultError(f"picamera2 could not {doing} or go on: {error!r}") from error
