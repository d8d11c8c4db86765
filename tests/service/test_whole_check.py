"""One whole check with real processes, and what is refused before it.

Mutations that turn these red: in `decide` skip the window; in `Guard._apply` let `SensorOn` come before `RecordOpened`;
in `park` do nothing; in `Ledger.append` leave out the chain.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from running_bench import bench, run, watching

from centre.operator import Operator, OperatorError
from gateway.ledger import verify_directory
from gateway.protocol.message import Verdict

pytestmark = pytest.mark.service


def _demo_once(*arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "demo", "--once", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, "exactly one JSON object on standard output"
    return json.loads(lines[0])


def _assert_whole_check(result: dict) -> None:
    assert set(result) == {"outcome", "first_frame_ms", "frames", "watched_s", "parked", "who", "ledger"}
    assert result["outcome"] == "seen"
    assert result["frames"] > 5
    assert result["first_frame_ms"] > 0
    assert result["watched_s"] >= 1.0
    assert result["parked"] is True
    assert result["who"] == "op-demo"
    assert result["ledger"]["verified"] is True
    assert result["ledger"]["records"] >= 6


def test_the_demo_does_one_whole_check_in_the_drawn_room():
    _assert_whole_check(_demo_once())


def test_the_demo_does_one_whole_check_of_any_film(tmp_path: Path):
    film = tmp_path / "any.avi"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(48):
            picture = np.full((360, 640, 3), (number * 5) % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    _assert_whole_check(_demo_once("--camera", f"file:{film}"))


def test_a_film_that_is_not_there_is_named_and_nothing_starts(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "demo", "--once", "--camera", f"file:{tmp_path / 'none.mp4'}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "none.mp4: no such film" in done.stderr
    assert done.stdout == ""


def test_a_seen_check_leaves_when_how_long_and_who_and_nothing_else_opens_again(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path) as home:
            assert home.world.sensor_opens() == 0
            async with watching(home) as (operator, known, look):
                await asyncio.sleep(1.0)
                await operator.give_verdict(known, look, Verdict.SEEN)
                took_s = await home.until(lambda: bool(home.closed()), 6.0)
                assert took_s < 4.0, "an eye that ends in order needs no watchdog"
                outcome = await operator.closed(known, look.check)
                assert home.safe()
                assert not home.lamp_lit()
                assert outcome["why"] == "seen"
                assert outcome["who"] == "op-demo"
                assert outcome["parked"]
                assert 0.9 <= outcome["watched_s"] <= 5.0
                assert "eye" not in home.running.pids(), "the eye lives no longer than the check"
                with pytest.raises(OperatorError, match="refused") as again:
                    challenged = await operator.challenge(known)
                    due = challenged.due[0]
                    await operator.open(known, challenged, _numbered(due, 2))
                assert again.value.code == "budget-spent"
            assert home.world.sensor_opens() == 1
            kinds = [record.kind.value for record in home.records()]
            assert kinds.index("opened") < kinds.index("live") < kinds.index("verdict") < kinds.index("closed")
            report = verify_directory(home.home.ledger)
            assert report.records == len(kinds)

    run(work())


def _numbered(due, attempt: int):
    import msgspec

    return msgspec.structs.replace(due, attempt=attempt)


def test_an_open_outside_the_agreed_time_is_refused_and_the_camera_was_never_opened(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path, offset_min=-120) as home:
            async with Operator(home.running.url, home.home.login_token) as operator:
                known = await operator.home(home.home.gateway)
                challenged = await operator.challenge(known)
                (soon,) = (item for item in challenged.due if item.status == "soon")
                with pytest.raises(OperatorError) as refused:
                    await operator.open(known, challenged, soon)
                assert refused.value.code == "outside-window"
                assert "eye" not in home.running.pids(), "nothing is due, so not even the eye's process exists"
            await home.until(lambda: any(r.kind == "refused" for r in home.records()), 5.0)
            assert home.world.sensor_opens() == 0
            assert not home.lamp_lit()
            assert home.mount_up()
            (refusal,) = (r for r in home.records() if r.kind == "refused")
            assert (refusal.why, refusal.who) == ("outside-window", "op-demo")

    run(work())


def test_the_longest_opening_ends_the_check_though_the_lease_goes_on(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path, max_s=8) as home, watching(home) as (operator, known, look):
            took_s = await home.until(lambda: bool(home.closed()), 12.0)
            assert took_s < 9.0
            assert home.closed()[0].why == "time-up"
            assert home.safe()
            outcome = await operator.closed(known, look.check)
            assert outcome["parked"]

    run(work())
