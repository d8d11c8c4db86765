"""Which camera a setting means."""

from __future__ import annotations

from gateway.core.error import ConfigError
from gateway.edge.bench_world import BenchWorld
from gateway.edge.camera_port import CameraPort, CameraSettings
from gateway.mount.calibration import Calibration

FORMS = ("room", "file:PATH", "v4l2:/dev/videoN", "picamera2")


def make_camera(
    spec: str, settings: CameraSettings, world: BenchWorld | None, calibration: Calibration | None = None
) -> CameraPort:
    """The camera for `spec` (one of FORMS), closed: nothing is touched before its `open`.

    `world` is the bench, or None on a board; `calibration` tells the drawn room where the servo points. Raises
    ConfigError for any other spec, and for `room` without a world.
    """
    kind, colon, rest = spec.partition(":")
    match kind, bool(colon), rest:
        case "room", False, _:
            if world is None:
                raise ConfigError("camera: the drawn room needs a bench world")
            from gateway.edge.camera_room import RoomCamera

            return RoomCamera(settings, world, calibration)
        case "file", True, str(path) if path:
            from gateway.edge.camera_file import FileCamera

            return FileCamera(path, settings, world)
        case "v4l2", True, str(path) if path.startswith("/dev/"):
            from gateway.edge.camera_v4l2 import V4l2Camera

            return V4l2Camera(path, settings, world)
        case "picamera2", False, _:
            from gateway.edge.camera_picamera2 import Picamera2Camera

            return Picamera2Camera(settings, world)
        case _:
            raise ConfigError(f"camera: {spec!r} is none of {', '.join(FORMS)}")
