"""A Raspberry Pi camera through picamera2: `picamera2`.

Not run on hardware yet. `make camera-contract` runs it against the real picamera2 and libcamera of Debian trixie as far
as that goes without a sensor; the procedure that would show the rest is tests/device/camera.md.

Two ways to H.264. Boards with the V4L2 encoder (/dev/video11: Pi 4, 3, Zero 2 W) encode in hardware, and picamera2's
own thread hands the packets over. The Pi 5 has none; there we encode the captured pictures by `h264_libx264`, because
picamera2's LibavH264Encoder delays pictures, can't force a key frame and ignores a change of rate (docs, "Camera").

picamera2 raises bare RuntimeErrors for nearly everything; all leave here as CameraFaultError.
"""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.core.error import CameraFaultError
from gateway.edge.camera_port import NAL_IDR, EncodedUnit, ThreadedCamera, nal_types
from gateway.edge.h264_libx264 import Libx264Encoder
from gateway.edge.soften_swscale import Softener

HARDWARE_ENCODER = Path("/dev/video11")
"""The bcm2835 codec's encoder. Source: picamera2, encoders/v4l2_encoder.py."""
DARKEST_FRAME_US = 125_000
"""In a dark room a picture may take this long: 8 pictures a second instead of noise."""
WAIT_S = 1.0
STREAMS = ("main", "lores")
"""The whole picture and the small one. The pipeline scales both, so the size changes without a stop of the sensor."""


class Picamera2Camera(ThreadedCamera):
    """The board's first camera as a CameraPort. Imports picamera2 and libcamera in `open`, not before."""

    first_unit_timeout_s = 3.0
    device_nodes = ("/dev/video", "/dev/media", "/dev/v4l-subdev")

    def _capture(self) -> None:
        with _as_camera_fault("start"), contextlib.ExitStack() as cleanup:
            libcamera, picamera2 = _libraries()
            camera = picamera2.Picamera2()
            # Runs last of all: whatever fails below, the device is closed.
            cleanup.callback(camera.close)
            camera.configure(self._configuration(camera, libcamera))
            given = camera.camera_configuration()
            sizes_px = tuple(tuple(given[name]["size"]) for name in STREAMS)
            # The hardware encoder takes its pictures from the sensor's pipeline, where nothing softens them.
            if HARDWARE_ENCODER.exists() and not self._softened:
                self._run_hardware(camera, cleanup, sizes_px)
            else:
                self._run_software(camera, cleanup, sizes_px)

    def _configuration(self, camera: Any, libcamera: Any) -> Any:
        frame_us = round(1e6 / self.settings.fps)
        full_px, small_px = self.settings.sizes_px
        return camera.create_video_configuration(
            main={"size": full_px, "format": "YUV420"},
            lores={"size": small_px, "format": "YUV420"},
            controls={
                "FrameDurationLimits": (frame_us, max(frame_us, DARKEST_FRAME_US)),
                # The tuning files' "normal" mode stops at 66.7 ms, too short for a bedroom at night. Gain stays
                # automatic: "long" lets it rise to what the sensor has, after the exposure.
                "AeEnable": True,
                "AeExposureMode": libcamera.controls.AeExposureModeEnum.Long,
            },
        )

    def _run_hardware(self, camera: Any, cleanup: contextlib.ExitStack, sizes_px: tuple[tuple[int, int], ...]) -> None:
        # Registered before the start: a start that fails half way must be stopped too.
        cleanup.callback(_stop, camera)
        camera.start()
        is_small = self._small
        encoder, rate_bps = self._start_encoder(camera, is_small)
        # Without naming one: it may be another by then.
        cleanup.callback(camera.stop_encoder)
        self._opened(*sizes_px[is_small], self.settings.fps)
        while not self._stop.is_set():
            if is_small is not self._small:
                is_small = self._small
                camera.stop_encoder(encoder)
                self._resized(*sizes_px[is_small])
                encoder, rate_bps = self._start_encoder(camera, is_small)
            if self._take_key_request():
                encoder.force_key_frame()
            if rate_bps != self._bit_rate_bps:
                rate_bps = self._bit_rate_bps
                _set_hardware_rate(encoder, rate_bps)
            with _next_request(camera) as request:
                pts_us = _sensor_us(request)
                if self._wants_luma(pts_us):
                    self._show(_luma(request.make_array("lores"), sizes_px[True]), pts_us)

    def _start_encoder(self, camera: Any, is_small: bool) -> tuple[Any, int]:
        """A new hardware encoder on one of the streams, and its rate; its first unit is key."""
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

        camera.start_encoder(encoder, _make_output(deliver), name=STREAMS[is_small])
        return encoder, rate_bps

    def _run_software(self, camera: Any, cleanup: contextlib.ExitStack, sizes_px: tuple[tuple[int, int], ...]) -> None:
        is_small = self._small
        encoder, softener = Libx264Encoder(*sizes_px[is_small], self.settings), Softener()
        cleanup.callback(_stop, camera)
        camera.start()
        self._opened(*sizes_px[is_small], self.settings.fps)
        while not self._stop.is_set():
            is_small = self._small
            with _next_request(camera) as request:
                pts_us = _sensor_us(request)
                picture = _planar(request.make_array(STREAMS[is_small]), *sizes_px[is_small])
                if self._wants_luma(pts_us):
                    self._show(_luma(request.make_array("lores"), sizes_px[True]), pts_us)
            # The buffer is back with the camera before the encoder begins: there are only six.
            if encoder.set_size_px(sizes_px[is_small]):
                self._resized(*sizes_px[is_small])
            encoder.set_bit_rate_bps(self._bit_rate_bps)
            shown = softener.soften(picture) if self._softened else picture
            self._deliver(encoder.encode(shown, pts_us=pts_us, key=self._take_key_request()))


def _libraries() -> tuple[Any, Any]:
    """(libcamera, picamera2). Raises CameraFaultError that says what to install."""
    try:
        import libcamera
    except ImportError as error:
        raise CameraFaultError(f"libcamera is not installed ({error}): apt install python3-libcamera") from error
    if "pykms" not in sys.modules and find_spec("pykms") is None and find_spec("kms") is None:
        # For a preview on a screen alone, and imported by picamera2 all the same. Debian has no such package.
        stub = ModuleType("pykms")
        stub.PixelFormat = type("PixelFormat", (), {"__getattr__": lambda *_: None})()  # type: ignore[attr-defined]
        sys.modules["pykms"] = stub
    try:
        import picamera2
    except ImportError as error:
        raise CameraFaultError(f"picamera2 is not installed ({error}): apt install python3-picamera2") from error
    return libcamera, picamera2


def _stop(camera: Any) -> None:
    # A picture that was waited for in vain stays at the head of picamera2's list, and the stop would wait behind it for
    # ever. Source: picamera2, Picamera2.process_requests and cancel_all_and_flush.
    camera.cancel_all_and_flush()
    camera.stop()


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
    # A request that was cancelled, or waited for in vain (TimeoutError).
    except CancelledError as error:
        raise CameraFaultError(f"picamera2 could not {doing} or go on: cancelled") from error
    # AttributeError, IndexError and KeyError are how picamera2 says "no camera" and "not that control".
    except (RuntimeError, OSError, ValueError, TypeError, LookupError, AttributeError, TimeoutError) as error:
        raise CameraFaultError(f"picamera2 could not {doing} or go on: {error!r}") from error
