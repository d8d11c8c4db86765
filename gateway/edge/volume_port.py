"""The encrypted volume that the state lies on, as far as a return needs it: how it stops being readable for good."""

from __future__ import annotations

from typing import Final, Protocol

UNMADE_LABEL: Final = "tillsyn-making"
"""A volume of this label is made anew at the next start, whatever is on it. Source: image-build, data-partition."""


class VolumePort(Protocol):
    """Each act may be repeated, in this order, after a cut at any point; each raises HardwareFaultError."""

    def mark_unmade(self) -> None:
        """From here on the next start makes the volume anew. One write: before a cut it is the old one, whole."""
        ...

    def erase_keys(self) -> None:
        """Every key slot is overwritten: who has the pass key opens nothing any more."""
        ...

    def wipe(self) -> bool:
        """The header with its salts is overwritten, and every block given back; False when the card takes none back."""
        ...
