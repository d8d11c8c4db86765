"""A LUKS volume as a return sees it: a label, key slots, a header, and blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.edge.volume_port import UNMADE_LABEL


@dataclass
class FakeVolume:
    """`cut` is called before each write; it raises where the power goes."""

    label: str = "tillsyn-data"
    has_keys: bool = True
    has_header: bool = True
    has_blocks: bool = True
    takes_discards: bool = True
    cut: Callable[[], None] = lambda: None

    def mark_unmade(self) -> None:
        if self.has_header:
            self.cut()
            self.label = UNMADE_LABEL

    def erase_keys(self) -> None:
        if self.has_header:
            self.cut()
            self.has_keys = False

    def wipe(self) -> bool:
        self.cut()
        self.has_header = self.has_keys = False
        self.cut()
        self.has_blocks = not self.takes_discards
        return self.takes_discards

    @property
    def opens(self) -> bool:
        """With the pass key, as the next start would."""
        return self.has_header and self.has_keys

    @property
    def is_made_anew(self) -> bool:
        """What the next start does. Source: image-build, data-partition."""
        return not self.has_header or self.label == UNMADE_LABEL
