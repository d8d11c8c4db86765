"""What erasing may count on, whoever plays the volume. Each test gets a `volume` and a `look` at what became of it."""

from __future__ import annotations

from typing import Protocol

from gateway.edge.volume_port import UNMADE_LABEL, VolumePort


class Look(Protocol):
    """From outside, as the next start would see it."""

    def label(self) -> str | None:
        """None where there is no volume any more."""
        ...

    def opens(self) -> bool:
        """By the pass key."""
        ...

    def keeps_blocks(self) -> bool:
        """Whether what was written to it is still there, sealed."""
        ...


def test_before_anything_it_opens(volume: VolumePort, look: Look) -> None:
    assert (look.label(), look.opens(), look.keeps_blocks()) == ("tillsyn-data", True, True)


def test_marked_it_is_made_anew_and_is_still_whole(volume: VolumePort, look: Look) -> None:
    for _ in range(2):
        volume.mark_unmade()
        assert (look.label(), look.opens(), look.keeps_blocks()) == (UNMADE_LABEL, True, True)


def test_without_its_keys_nobody_opens_it(volume: VolumePort, look: Look) -> None:
    volume.mark_unmade()
    for _ in range(2):
        volume.erase_keys()
        assert (look.label(), look.opens()) == (UNMADE_LABEL, False)


def test_wiped_there_is_no_volume_and_no_block_where_they_are_taken_back(volume: VolumePort, look: Look) -> None:
    volume.mark_unmade()
    volume.erase_keys()
    for _ in range(2):
        taken_back = volume.wipe()
        assert (look.label(), look.opens(), look.keeps_blocks()) == (None, False, not taken_back)


def test_every_act_may_come_again_after_the_last(volume: VolumePort, look: Look) -> None:
    volume.wipe()
    volume.mark_unmade()
    volume.erase_keys()
    volume.wipe()
    assert look.label() is None
