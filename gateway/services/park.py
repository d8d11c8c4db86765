"""Park: turn the camera up with nothing else running. At boot before networking, and after the guard or the eye ends.

Unit: tillsyn-park, and ExecStopPost of tillsyn-guard and tillsyn-eye. `tillsyn mount park` is the same by hand.
"""

from __future__ import annotations

import contextlib

from gateway.config import ParkConfig
from gateway.core.error import HardwareFaultError
from gateway.edge.mount_gpiozero import GpiozeroMount
from gateway.services.mount_parts import mount_parts


def main(config: ParkConfig) -> None:
    """Blocks for the travel, about 3 s at most. Raises MountFaultError when the pin can't be driven, and NotParkedError
    when the end stop says that the camera is not up.
    """
    with contextlib.ExitStack() as cleanup:
        parts = mount_parts(config.mount, config.world)
        # A killed guard leaves its pins as they were. By now an eye without a guard has stopped by itself. First in the
        # list, so that it is done last and whatever the mount does: the camera may still be feeding on that pin.
        cleanup.callback(lambda: parts.lamp().close())
        mount = parts.mount()
        cleanup.callback(_close, mount)
        if not mount.parked:
            mount.park_now()


def _close(mount: GpiozeroMount) -> None:
    with contextlib.suppress(HardwareFaultError):
        mount.close()
