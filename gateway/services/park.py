"""Park: turn the camera up with nothing else running. At boot before networking, and after the guard or the eye ends.

Unit: tillsyn-park, and ExecStopPost of tillsyn-guard and tillsyn-eye.
"""

from __future__ import annotations

from gateway.config import ParkConfig
from gateway.edge.lamp_gpiozero import GpiozeroLamp
from gateway.edge.mount_gpiozero import GpiozeroMount
from gateway.services.mount_parts import mount_parts


def main(config: ParkConfig) -> None:
    """Blocks for the travel, about 2.5 s at most. Raises MountFaultError when the pin can't be driven."""
    calibration, factory, start_deg = mount_parts(config.mount, config.world)
    mount = GpiozeroMount(calibration, factory=factory, pan_pin=config.mount.pan_pin, start_deg=start_deg)
    try:
        if not mount.parked:
            mount.park_now()
    finally:
        mount.close()
        # A killed guard leaves its pins as they were. By now an eye without a guard has stopped by itself.
        GpiozeroLamp(factory=factory, lamp_pin=config.mount.lamp_pin).close()
