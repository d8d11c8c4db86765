"""The mount and its pins from a configuration: for the guard, for park, and for `tillsyn mount`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.config.file import MountConfig
from gateway.core.error import ConfigError
from gateway.edge.bench_world import BenchWorld
from gateway.edge.input_gpiozero import GpiozeroInputs
from gateway.edge.lamp_gpiozero import GpiozeroLamp
from gateway.edge.mount_gpiozero import BenchFactory, GpiozeroMount
from gateway.edge.pin_gpiozero import board_factory
from gateway.mount.calibration import Calibration

AIM_FILE: Final = "aim-deg.json"
"""In the guard's state: where the installer aimed the camera."""


@dataclass(frozen=True, slots=True)
class MountParts:
    """What one process needs to drive the neck. Nothing is driven yet."""

    config: MountConfig
    calibration: Calibration
    tilt: tuple[Calibration, int] | None
    factory: Any
    start_deg: float | None
    """Where the servo stands, if that is known."""

    def mount(self) -> GpiozeroMount:
        """Raises MountFaultError when its pins can't be had."""
        config = self.config
        return GpiozeroMount(
            self.calibration,
            factory=self.factory,
            pan_pin=config.pan_pin,
            start_deg=self.start_deg,
            tilt=self.tilt,
            end_stop_pin=config.end_stop_pin,
        )

    def inputs(self) -> GpiozeroInputs | None:
        """Button and tamper switch; None where neither is fitted. Raises HardwareFaultError."""
        config = self.config
        if config.button_pin is None and config.tamper_pin is None:
            return None
        return GpiozeroInputs(factory=self.factory, button_pin=config.button_pin, tamper_pin=config.tamper_pin)

    def lamp(self) -> GpiozeroLamp:
        """Raises HardwareFaultError when its pins can't be had."""
        return GpiozeroLamp(
            factory=self.factory, lamp_pin=self.config.lamp_pin, sensor_power_pin=self.config.sensor_power_pin
        )


def with_saved_aim(mount: MountConfig, state_dir: Path) -> MountConfig:
    """The mount as the installer aimed it; as its file says where nobody has. Raises ConfigError for a file that is not
    ours.
    """
    try:
        value = json.loads((state_dir / AIM_FILE).read_bytes())["aim_deg"]
    except FileNotFoundError:
        return mount
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{AIM_FILE}: {exc}") from exc
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{AIM_FILE}: not an angle")
    return msgspec.structs.replace(mount, aim_deg=float(value))


def mount_parts(mount: MountConfig, world: str | None) -> MountParts:
    """The parts for a configuration. Raises ConfigError; MountFaultError where the board lacks what is asked for."""
    pins = mount.pins()
    for name, pin in pins.items():
        if other := [each for each in pins if each != name and pins[each] == pin]:
            raise ConfigError(f"mount: GPIO {pin} is named twice, as {name} and {other[0]}")
    calibration = _calibration(mount)
    tilt = None if mount.tilt is None else (_calibration(mount.tilt, clearance_deg=0.0), mount.tilt.pin)
    if mount.driver != "bench":
        servo_pins = frozenset({mount.pan_pin} | ({mount.tilt.pin} if mount.tilt is not None else set()))
        return MountParts(mount, calibration, tilt, board_factory(mount.driver, servo_pins), None)
    if world is None:
        raise ConfigError("mount.driver = 'bench' needs `world`, the directory of the simulated home")
    bench = BenchWorld(world, pan_pin=mount.pan_pin)
    return MountParts(mount, calibration, tilt, BenchFactory(bench, calibration), bench.pan_deg(calibration))


def button_alone(mount: MountConfig, world: str | None) -> GpiozeroInputs | None:
    """The resident's button without anything that moves or shines; None where it is not fitted.

    Raises ConfigError; HardwareFaultError when its pin can't be had.
    """
    if mount.button_pin is None:
        return None
    if mount.driver != "bench":
        return GpiozeroInputs(factory=board_factory("lgpio", frozenset()), button_pin=mount.button_pin)
    if world is None:
        raise ConfigError("mount.driver = 'bench' needs `world`, the directory of the simulated home")
    return GpiozeroInputs(factory=BenchFactory(BenchWorld(world, pan_pin=mount.pan_pin)), button_pin=mount.button_pin)


def _calibration(axis: Any, **more: float) -> Calibration:
    """The calibration in a MountConfig or TiltConfig. Raises ConfigError for values that no servo may be given."""
    return Calibration(
        axis.parked_deg,
        axis.aim_deg,
        axis.min_deg,
        axis.max_deg,
        axis.min_pulse_us,
        axis.max_pulse_us,
        axis.max_speed_deg_s,
        axis.max_accel_deg_s2,
        **more,
    )
