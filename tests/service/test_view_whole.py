"""View signals and the softened picture through the whole gateway: real processes, an operator who decodes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
from running_bench import Bench, bench, run, watching

from gateway.edge.bench_world import BenchWorld, RoomScene
from gateway.edge.camera_file import luma_plane
from gateway.edge.camera_room import find_marker
from gateway.protocol.message import Verdict
from gateway.protocol.picture import Aim, View
from provisioning import bench_home
from provisioning.demo import running

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from picture_detail import fine_energy, steepest_edge

pytestmark = pytest.mark.service


def test_what_covers_the_camera_is_said_to_the_operator_the_centre_and_the_ledger(tmp_path):
    async def work() -> None:
        async with bench(tmp_path) as home, watching(home) as (operator, facts, look):
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

    run(work())


def test_an_agreed_softened_picture_has_lost_its_detail_where_the_operator_decodes_it(tmp_path):
    async def work() -> None:
        shown = {}
        for mode in ("clear", "softened"):
            home = bench_home.make(tmp_path / mode)
            agreement = bench_home.agreement_now(home)
            agreement["picture"] = {"mode": mode}
            async with (
                running(home, agreement) as started,
                watching(Bench(started, BenchWorld(home.world))) as (operator, facts, look),
            ):
                await Bench(started, BenchWorld(home.world)).until(lambda look=look: look.frames > 20, 15.0)
                shown[mode] = luma_plane(look.newest.reformat(width=640, height=360)).copy()
                await operator.give_verdict(facts, look, Verdict.SEEN)
        clear, soft = shown["clear"], shown["softened"]
        assert find_marker(clear)
        assert not find_marker(soft)
        assert fine_energy(soft) < 0.05 * fine_energy(clear)
        assert steepest_edge(soft) < 0.5 * steepest_edge(clear)
        assert np.corrcoef(soft[::20, ::20].ravel(), clear[::20, ::20].ravel())[0, 1] > 0.9

    run(work())
