"""What the gateway asks of whatever turns the camera."""

from __future__ import annotations

from typing import Protocol


class MountPort(Protocol):
    """A mount that knows where it was sent. Every order may raise MountFaultError; angles are degrees."""

    @property
    def position_deg(self) -> float:
        """Where the mount was last commanded to be; an assumption until its first travel has ended."""

    @property
    def parked(self) -> bool:
        """Whether a travel to the parked place has ended and none began since; and the end stop, if there is one, says
        so now.
        """

    @property
    def measures(self) -> bool:
        """Whether there is an end stop."""

    async def go(self, angle_deg: float) -> None:
        """Travel along the profile; returns on arrival. The pulse ends by itself a little later.

        Cancelled, it stops where it is and raises; the pulse ends likewise, and the next order starts from there.
        One travel at a time: a newer order takes over at once, and the older call raises MountFaultError, because it
        never arrived. ValueError for an angle outside the calibration.
        """

    async def park(self) -> None:
        """Turn the camera up and away. With an end stop it is measured at arrival and again after the pulse ended:
        NotParkedError, with the pulse ended, when it does not say parked.
        """

    async def aim(self) -> None:
        """Turn the camera to the agreed view. MountFaultError when the end stop says that it has not left."""

    def demand_aim(self, aim_deg: float) -> None:
        """Raises ConfigError for an angle that can't be aimed at: out of reach, or too near to the parked one."""

    def set_aim(self, aim_deg: float) -> None:
        """From now on `aim` goes there; nothing moves. Raises as `demand_aim`."""

    def park_now(self) -> None:
        """Park without an event loop; blocks until arrived, released and, with an end stop, measured. As `park`."""

    def release(self) -> None:
        """End the pulse now; the servo stays where it is, silent."""

    def close(self) -> None:
        """Release, and give the pin back. Repeating it is allowed."""
