"""The resident's button, as what it means: a short press is *not tonight*, a long one is *stop*. Pure.

Whatever the press will turn out to be, the camera goes off when it begins; what it meant is known when it ends. A
button that is held longer than a person would hold it is stuck (a bed against it, water in it, a wire): that counts as
*not tonight*, so that it resolves to off, and as a fault that somebody is told of. It does not count as *stop*, which
only a visit could undo.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

LONG_S: Final = 4.0
"""From here on it is *stop*: longer than a hand that gropes for the light, shorter than patience."""
STUCK_S: Final = 20.0
START_S: Final = 180.0
"""A first look that is later than this in a boot is a process that was started anew: what is held then says nothing."""


class Meaning(Enum):
    """What a look at the button gave."""

    PRESSED = auto()
    """It went down: a running check ends at once."""
    NOT_TONIGHT = auto()
    STOP = auto()
    STUCK = auto()
    FREED = auto()
    """A stuck one came up again."""


@dataclass(frozen=True, slots=True)
class Button:
    """What is known of the button between two looks."""

    is_down: bool = False
    since_s: float = 0.0
    is_stuck: bool = False
    is_held_since_start: bool = False
    """Down at the first look after power came, and not up since: also of the look that says what the press meant."""
    _last: bool = False
    _looked: bool = False


def feel(button: Button, is_pressed: bool, now_s: float) -> tuple[Button, Meaning | None]:
    """One look; `now_s` is BOOTTIME. Two looks in a row must agree, which is what keeps a bouncing contact out."""
    if not button._looked:  # noqa: SLF001  its own room
        button = replace(button, _looked=True, is_held_since_start=is_pressed and now_s < START_S)
    elif not button.is_down and not button._last:  # noqa: SLF001  its own room
        button = replace(button, is_held_since_start=False)
    if is_pressed != button._last:  # noqa: SLF001  its own room
        return replace(button, _last=is_pressed), None
    if is_pressed and not button.is_down:
        return replace(button, is_down=True, since_s=now_s, is_stuck=False), Meaning.PRESSED
    held_s = now_s - button.since_s
    if is_pressed:
        if held_s >= STUCK_S and not button.is_stuck:
            return replace(button, is_stuck=True), Meaning.STUCK
        return button, None
    if not button.is_down:
        return button, None
    up = replace(button, is_down=False, is_stuck=False)
    if button.is_stuck:
        return up, Meaning.FREED
    return up, Meaning.STOP if held_s >= LONG_S else Meaning.NOT_TONIGHT
