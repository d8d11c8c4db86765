"""`make media-stress`: one check on a line of 200 ms, 5 % loss and 400 kbit/s, then cut, then below what carries video.

    python -m tests.stress

Real processes in the network lab, a real Chromium as the operator. Four lines: frames decoded and the longest freeze;
the cover of an old picture; stills and the page's words for them; how it ended. Exit status 0 when all hold, 1 when one
does not, 2 where there can be no lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from provisioning import bench_home
from tests.net_lab.lab import Lab, LabError, running
from tests.net_lab.network import obstacle, seclude
from tests.net_lab.onlooker import Onlooker, onlooker

BAD = {"delay_ms": 90.0, "loss": 0.05, "rate_bps": 400_000.0}
"""Each way; with the other wires 200 ms there and back."""
TOO_NARROW_BPS = 120_000.0
WATCH_S = 15.0
COVER_AFTER_S = 2.0
LEAST_FPS = 5.0
MOST_FREEZE_S = 2.0
STILLS_LIMIT_S = 20.0
STILLS_WORDS = "Still pictures"


async def _until(condition: Callable[[], Awaitable[bool]], limit_s: float) -> float | None:
    """Seconds until it held; None when it did not within the limit."""
    began_s = time.monotonic()
    while not await condition():
        if time.monotonic() - began_s > limit_s:
            return None
        await asyncio.sleep(0.05)
    return time.monotonic() - began_s


async def _is_covered(operator: Onlooker) -> bool:
    return await operator.page.locator("#cover-text").is_visible()


async def _video(operator: Onlooker) -> tuple[str, bool]:
    before, began_ms = await operator.stats(), await operator.now_ms()
    await asyncio.sleep(WATCH_S)
    after, ended_ms = await operator.stats(), await operator.now_ms()
    fps = (after["decoded"] - before["decoded"]) / (ended_ms - began_ms) * 1000.0
    shown = [began_ms, *(one for one in await operator.shown_ms() if began_ms < one < ended_ms), ended_ms]
    freeze_ms = max(later - one for one, later in itertools.pairwise(shown))
    words = (
        f"200 ms, 5 % lost, 400 kbit/s: {fps:.1f} frames decoded a second, longest freeze {freeze_ms:.0f} ms, "
        f"{after['width']}x{after['height']}"
    )
    return words, fps >= LEAST_FPS and freeze_ms <= MOST_FREEZE_S * 1000.0


async def _cover(lab: Lab, operator: Onlooker) -> tuple[str, bool]:
    line = lab.network.wires["line"]
    newest_ms = max(await operator.shown_ms())
    line.set(cut=True)
    took_s = await _until(lambda: _is_covered(operator), 6.0)
    late_s = (await operator.now_ms() - max([newest_ms, *await operator.shown_ms()])) / 1000.0
    line.set(cut=False)
    back_s = await _until(lambda: _not(_is_covered(operator)), 6.0)
    if took_s is None:
        return "line cut: the old picture was not covered within 6 s", False
    came = "no picture within 6 s of its return" if back_s is None else f"a picture {back_s:.1f} s after its return"
    words = f"line cut: covered {late_s:.1f} s after the last picture; {came}"
    return words, late_s <= COVER_AFTER_S + 0.7 and back_s is not None


async def _not(asked: Awaitable[bool]) -> bool:
    return not await asked


async def _stills(lab: Lab, operator: Onlooker) -> tuple[str, bool]:
    lab.network.wires["line"].set(**BAD | {"rate_bps": TOO_NARROW_BPS})

    async def says_so() -> bool:
        return STILLS_WORDS in await operator.page.locator("#form").inner_text()

    took_s = await _until(says_so, STILLS_LIMIT_S)
    if took_s is None:
        return f"{TOO_NARROW_BPS / 1000:.0f} kbit/s: no stills within {STILLS_LIMIT_S:g} s", False
    said = (await operator.page.locator("#form").inner_text()).strip()
    before_ms, began = await operator.now_ms(), await operator.page.evaluate("() => window.tillsyn.frames")
    await asyncio.sleep(8.0)
    count = await operator.page.evaluate("() => window.tillsyn.frames") - began
    seconds = (await operator.now_ms() - before_ms) / 1000.0
    words = f"{TOO_NARROW_BPS / 1000:.0f} kbit/s: stills after {took_s:.1f} s, {count / seconds:.2f} a second; “{said}”"
    return words, count >= 3


async def run(folder: Path) -> list[tuple[str, bool]]:
    async with running(folder) as lab:
        await lab.agree(bench_home.agreement_now(lab.home, max_s=120))
        await lab.until_tunnel("up", 30.0)
        for wire in lab.network.wires.values():
            wire.set(delay_ms=10.0)
        async with onlooker(lab) as operator:
            await operator.ready()
            await asyncio.sleep(2.0)
            lab.network.wires["line"].set(**BAD)
            await operator.start()
            first_ms = await operator.first_frame_ms(25.0)
            if first_ms is None:
                raise LabError(f"no picture: {await operator.words()}\n{lab.log('home')}")
            told = [(f"first picture after {first_ms:.0f} ms", True), await _video(operator)]
            told += [await _cover(lab, operator), await _stills(lab, operator)]
            await operator.say_if_possible("seen")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20.0):
                    while not (lab.safe() and any(record.kind == "closed" for record in lab.records())):
                        await asyncio.sleep(0.1)
        ends = [str(record.why) for record in lab.records() if record.kind == "closed"]
        told.append((f"ended: {', '.join(ends) or 'not at all'}", ends == ["seen"] and lab.safe()))
        return told


def main() -> int:
    if (why := obstacle()) is not None:
        print(why, file=sys.stderr)
        return 2
    seclude()
    with tempfile.TemporaryDirectory(prefix="tillsyn-stress-") as folder:
        try:
            told = asyncio.run(run(Path(folder)))
        except LabError as exc:
            print(exc, file=sys.stderr)
            return 1
    for words, holds in told:
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {words}")
    return 0 if all(holds for _, holds in told) else 1


if __name__ == "__main__":
    sys.exit(main())
