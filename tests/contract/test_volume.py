"""The played volume keeps the contract that the real one keeps: `make return` runs the same suite on LUKS2 and a loop
device.
"""

from __future__ import annotations

import pytest

from tests.contract.volume_suite import *  # noqa: F403 - the suite's tests
from tests.fakes.volume import FakeVolume


class FakeLook:
    def __init__(self, volume: FakeVolume) -> None:
        self._volume = volume

    def label(self) -> str | None:
        return self._volume.label if self._volume.has_header else None

    def opens(self) -> bool:
        return self._volume.opens

    def keeps_blocks(self) -> bool:
        return self._volume.has_blocks


@pytest.fixture(params=[True, False])
def volume(request) -> FakeVolume:
    return FakeVolume(takes_discards=request.param)


@pytest.fixture
def look(volume: FakeVolume) -> FakeLook:
    return FakeLook(volume)
