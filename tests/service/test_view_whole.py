"""View signals and the softened picture through the whole gateway: real processes, an operator who decodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running_bench import StandingBench, quick_mount, standing_bench, watching

from gateway.edge.bench_world import RoomScene
from gateway.edge.camera_file import luma_plane
from gateway.edge.camera_room import find_marker
from gateway.protocol.message import Verdict
from gateway.protocol.picture import Aim, View

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from picture_detail import fine_energy, steepest_edge

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingBench]:
    with standing_bench(tmp_path_factory.mktemp("view"), before=quick_mount) as one:
        yield one


def test_what_covers_the_camera_is_said_to_the_operator_the_centre_and_the_ledger(standing: StandingBench):
    home = standing.bench

    async def work() -> None:
        async with watching(home) as (operator, facts, look):
            await home.until(lambda: look.signals, 10.0)
            assert look.signals[0].view is View.CLEAR
            # Learnt within this very check, and kept for the next ones.
            await home.until(lambda: look.signals[-1].aim is Aim.MEASURED, 15.0)
            home.world.set_scene(RoomScene(covered=True))
            await home.until(lambda: look.signals[-1].view is View.COVERED, 10.0)
            times = [signal.t_us for signal in look.signals]
            assert times == sorted(set(times))
            assert home.world.sensor_on()
            async with asyncio.timeout(5.0):
                while (known := await operator.home(facts["gateway"]))["signal"]["view"]["view"] != "covered":
                    await asyncio.sleep(0.1)
            assert known["signal"]["check"] == look.check
            await operator.give_verdict(facts, look, Verdict.UNSURE)
            outcome = await operator.closed(facts, look.check)
            assert (outcome["view"], outcome["verdict"]) == ("covered", "unsure")
            assert home.closed()[-1].view == "covered"
            state = home.home.directory / "home" / "state" / "aim.json"
            assert 100 < state.stat().st_size < 400

    standing.run(work())


def test_an_agreed_softened_picture_has_lost_its_detail_where_the_operator_decodes_it(standing: StandingBench):
    home = standing.bench

    async def work() -> None:
        home.world.set_scene(RoomScene())
        shown = {}
        for mode in ("clear", "softened"):
            await standing.agree(mode=mode)
            async with watching(home) as (operator, facts, look):
                await home.until(lambda look=look: look.frames > 20, 15.0)
                shown[mode] = luma_plane(look.newest.reformat(width=640, height=360)).copy()
                await operator.give_verdict(facts, look, Verdict.SEEN)
                await operator.closed(facts, look.check)
        clear, soft = shown["clear"], shown["softened"]
        assert find_marker(clear)
        assert not find_marker(soft)
        assert fine_energy(soft) < 0.05 * fine_energy(clear)
        assert steepest_edge(soft) < 0.5 * steepest_edge(clear)
        assert np.corrcoef(soft[::20, ::20].ravel(), clear[::20, ::20].ravel())[0, 1] > 0.9

    standing.run(work())
