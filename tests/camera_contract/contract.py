"""The camera's adapter against the real picamera2 and libcamera, as far as that goes without a sensor.

Run by `make camera-contract` in a Debian trixie with Python 3.13. Prints a line for each promise and ends with 1 if one
is broken. `pidng` (raw pictures, never used here) has no wheel and is stubbed; everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any


def stub_pidng() -> None:
    for name, word in (("pidng", ""), ("pidng.camdefs", "Picamera2Camera"), ("pidng.core", "PICAM2DNG")):
        module = ModuleType(name)
        if word:
            setattr(module, word, type(word, (), {}))
        sys.modules[name] = module


def takes(call: Callable[..., Any], *names: str) -> None:
    known = inspect.signature(call).parameters
    missing = [name for name in names if name not in known]
    assert not missing, f"{call.__qualname__} takes no {', '.join(missing)}"


def imports() -> str:
    from gateway.edge.camera_picamera2 import _libraries

    _libraries()
    return f"picamera2 {version('picamera2')}, Python {sys.version.split()[0]}"


def enumerates() -> str:
    import picamera2

    cameras = picamera2.Picamera2.global_camera_info()
    assert isinstance(cameras, list)
    return f"{len(cameras)} cameras here"


def has_the_calls() -> str:
    from picamera2 import Picamera2
    from picamera2.request import CompletedRequest

    takes(Picamera2.create_video_configuration, "main", "lores", "controls")
    takes(Picamera2.capture_request, "wait")
    takes(Picamera2.start_encoder, "encoder", "output", "name")
    takes(Picamera2.stop_encoder, "encoders")
    takes(CompletedRequest.make_array, "name")
    for name in ("configure", "camera_configuration", "start", "stop", "close", "cancel_all_and_flush"):
        assert callable(getattr(Picamera2, name)), name
    for name in ("get_metadata", "release"):
        assert callable(getattr(CompletedRequest, name)), name
    return "Picamera2 and CompletedRequest"


def a_cancelled_picture_does_not_block_the_stop() -> str:
    """What `_stop` rests on: a job at the head of the list that never finishes keeps the ones behind it waiting."""
    source = inspect.getsource(sys.modules["picamera2"].Picamera2.process_requests)
    assert "self._job_list[0].execute()" in source
    assert "break" in source
    from picamera2.job import Job

    job: Any = Job([lambda: (False, None)])
    assert not job.execute()
    job.cancel()
    try:
        job.get_result(timeout=0.1)
    except BaseException as error:  # noqa: BLE001  which one it is, is what is asked
        return f"a cancelled picture is {type(error).__module__}.{type(error).__name__}"
    raise AssertionError("a cancelled picture came")


def encodes_as_we_ask() -> str:
    from picamera2.encoders import H264Encoder, v4l2_encoder
    from picamera2.outputs import Output

    from gateway.edge.camera_picamera2 import _make_output

    encoder = H264Encoder(
        bitrate=500_000, repeat=True, iperiod=30, framerate=15, profile="constrained baseline"
    )  # fmt: skip
    assert '"constrained baseline"' in inspect.getsource(H264Encoder._start)
    encoder.force_key_frame()
    assert encoder._key_frames_requested == 1
    assert encoder.firsttimestamp is None
    assert hasattr(encoder, "vd")
    for name in ("v4l2_control", "V4L2_CID_MPEG_VIDEO_BITRATE", "VIDIOC_S_CTRL"):
        assert hasattr(v4l2_encoder, name), name
    assert "open('/dev/video11'" in inspect.getsource(v4l2_encoder.V4L2Encoder._start)
    got: list[tuple[bytes, int]] = []
    output = _make_output(lambda data, us: got.append((data, us)))
    assert isinstance(output, Output)
    ours = list(inspect.signature(output.outputframe).parameters)
    theirs = list(inspect.signature(Output.outputframe).parameters)[1:]
    assert ours == theirs, f"{ours} is not {theirs}"
    encoder.output = output
    output.start()
    encoder.outputframe(b"unit", True, 40_000)
    output.stop()
    encoder.outputframe(b"late", True, 80_000)
    assert got == [(b"unit", 40_000)]
    return "H264Encoder, its rate's control, and our output"


def controls_are_there() -> str:
    import libcamera

    for name in ("FrameDurationLimits", "AeExposureMode", "AeEnable", "SensorTimestamp"):
        assert hasattr(libcamera.controls, name), name
    return f"AeExposureModeEnum.Long = {int(libcamera.controls.AeExposureModeEnum.Long)}"


def without_a_sensor_it_is_a_camera_fault_and_nothing_stays_open() -> str:
    from gateway.core.error import CameraFaultError
    from gateway.edge.camera_open import make_camera
    from gateway.edge.camera_port import CameraSettings, held_nodes

    async def session() -> str:
        said = ""
        for _ in range(3):
            camera = make_camera("picamera2", CameraSettings(), None)
            try:
                await camera.open()
            except CameraFaultError as error:
                said = str(error)
            else:
                raise AssertionError("it opened")
            finally:
                await camera.close()
        return said

    said = asyncio.run(session())
    held = held_nodes(("/dev/video", "/dev/media", "/dev/v4l-subdev"))
    assert not held, held
    return said


PROMISES = (
    imports,
    enumerates,
    has_the_calls,
    a_cancelled_picture_does_not_block_the_stop,
    encodes_as_we_ask,
    controls_are_there,
    without_a_sensor_it_is_a_camera_fault_and_nothing_stays_open,
)


def main() -> int:
    stub_pidng()
    broken = 0
    for promise in PROMISES:
        name = promise.__name__.replace("_", " ")
        try:
            print(f"holds   {name}: {promise()}")
        except Exception:  # noqa: BLE001  each promise is judged by itself
            broken += 1
            print(f"BROKEN  {name}")
            traceback.print_exc()
    print(f"{len(PROMISES) - broken} passed, {broken} failed")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
