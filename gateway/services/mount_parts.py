"""The mount and its pins from a configuration, for the guard and for park."""

from __future__ import annotations

from typing import Any

from gateway.config.file import MountConfig
from gateway.core.error import ConfigError
from gateway.edge.bench_world import BenchWorld
from gateway.edge.mount_gpiozero import BenchFactory
from gateway.mount.calibration import Calibration


def calibration_of(mount: MountConfig) -> Calibration:
    """Raises ConfigError for values that no servo may be given."""
    return Calibration(
        mount.parked_deg,
        mount.aim_deg,
        mount.min_deg,
        mount.max_deg,
        mount.min_pulse_us,
        mount.max_pulse_us,
        mount.max_speed_deg_s,
        mount.max_accel_deg_s2,
    )


def mount_parts(mount: MountConfig, world: str | None) -> tuple[Calibration, Any, float | None]:
    """(calibration, pin factory, where the servo stands if that is known). Raises ConfigError."""
    calibration = calibration_of(mount)
    if mount.driver == "hardware":
        return calibration, None, None
    if world is None:
        raise ConfigError("mount.driver = 'bench' needs `world`, the directory of the simulated home")
    bench = BenchWorld(world, pan_pin=mount.pan_pin)
    return calibration, BenchFactory(bench), bench.pan_deg(calibration)
