"""Whoever carries the picture can't change who sees it or what is seen: a real Chromium, and a link that is hostile.

The link stands where a relay stands, and is nearer: it has every datagram in its hands. Whatever it swaps, the page
shows nothing of it and says so, the home ends the check with `seal-broken`, and the centre has an alarm. One home, one
page, one check after the other; the first is the control, by the same link that does nothing.

Mutations that turn it red: a failed DTLS is taken for a lost path in the eye (pose-as-browser); the page does
not look at DTLS (pose-as-home), or at its packets (alter-picture); the eye's SRTP is not watched (alter-reports); the
page does not verify a reply (swap-answer); it hangs up before the home has heard why (the control, alter-picture); the
centre raises no alarm.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import FLAGS, program
from hostile_link import with_another_fingerprint
from playwright.async_api import Page, Route, async_playwright, expect
from playwright.async_api import TimeoutError as PageTimeout
from running_bench import SAFE_WITHIN_S, Bench, quick_mount, run

from gateway.edge.bench_world import BenchWorld
from provisioning import bench_home, demo

pytestmark = pytest.mark.browser

LINK = Path(__file__).parent / "hostile_link.py"
NOT_SEALED = "not sealed to this home"
SEAL_BROKEN = "seal was broken on the way"
BROKEN = {
    "pose-as-home": NOT_SEALED,
    "pose-as-browser": SEAL_BROKEN,
    "alter-picture": NOT_SEALED,
    "alter-reports": SEAL_BROKEN,
}
"""What the page says: its own words where it sees it, the home's where only the home can."""
CHECKS = ("honest", *BROKEN, "swap-answer")

PICTURES = "() => window.tillsyn.frames > 5"
KEEP_WORDS = """() => {
  window.said = [];
  const note = () => window.said.push(document.getElementById("message").textContent);
  const all = {childList: true, characterData: true, subtree: true};
  new MutationObserver(note).observe(document.getElementById("message"), all);
}"""


@asynccontextmanager
async def hostile_bench(directory: Path) -> AsyncIterator[Bench]:
    """A bench home whose supervisor starts the hostile link; it does nothing yet."""
    home = bench_home.make(directory / "bench")
    quick_mount(home)
    be(home, "honest")
    running = demo.RunningBench(home)
    agreement = bench_home.agreement_now(home, max_s=60)
    (line,) = agreement["lines"]
    agreement["lines"] = [line | {"id": name} for mode in CHECKS for name in (mode, f"{mode}-again")]
    log = os.open(home.directory / "home.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        running.processes["broker"] = await demo.start_broker(home)
        running.processes["centre"], running.url = await demo.start_centre(home)
        running.processes["home"] = await asyncio.create_subprocess_exec(
            sys.executable, str(LINK), "home", "--config", str(home.home_config),
            stdin=asyncio.subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
        await demo.put_agreement(running, agreement)
        yield Bench(running, BenchWorld(home.world))
    finally:
        os.close(log)
        for process in reversed(running.processes.values()):
            await demo._end(process)


def be(home: bench_home.BenchHome, mode: str) -> None:
    (home.directory / "home" / "hostile").write_text(mode)


async def start(page: Page, home: Bench, mode: str, *, again: bool = False) -> int:
    """Choose the check of that name, and start it with a link that is so; how many checks were over before."""
    before = len(home.closed())
    line = f"{mode}-again" if again else mode
    await page.locator(f"#due input[value^='{line} ']").check(timeout=15_000)
    await expect(page.get_by_test_id("start")).to_be_enabled(timeout=20_000)
    await page.evaluate("() => { window.said.length = 0; document.getElementById('alarm').textContent = ''; }")
    be(home.home, mode)
    await page.get_by_test_id("start").click()
    return before


async def closed(home: Bench, before: int) -> Any:
    await home.until(lambda: home.safe() and len(home.closed()) > before, 2 * SAFE_WITHIN_S)
    return home.closed()[-1]


async def said(page: Page, words: str) -> None:
    await page.wait_for_function("(words) => window.said.some((one) => one.includes(words))", arg=words, timeout=15_000)


async def swap_answers(route: Route) -> None:
    """Whoever has the page's own line to the centre, or the centre: another fingerprint in the home's signed answer."""
    response = await route.fetch()
    body = await response.json()
    if "reply" in body:
        body["reply"] = with_another_fingerprint(body["reply"].encode()).decode()
    await route.fulfill(response=response, json=body)


@pytest.mark.timeout(240)
def test_whoever_swaps_anything_on_the_way_gets_no_picture_across_and_is_told_of(tmp_path: Path):
    async def work() -> None:
        async with hostile_bench(tmp_path) as home, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
            page = await browser.new_page()
            await page.goto(home.running.login_url)
            await page.get_by_test_id("home").first.click()
            await page.evaluate(KEEP_WORDS)
            alarm = page.locator("#alarm")

            # The control: the same link, that does nothing. Closed without a verdict, it is recorded as just that.
            before = await start(page, home, "honest")
            try:
                await page.wait_for_function(PICTURES, timeout=20_000)
            except PageTimeout:
                # As below: a machine so busy that no picture came. Nobody was told of an attack all the same.
                assert (await closed(home, before)).why != "seal-broken"
                before = await start(page, home, "honest", again=True)
                await page.wait_for_function(PICTURES, timeout=20_000)
            await page.locator("#close").click()
            assert (await closed(home, before)).why == "operator-closed"
            assert await alarm.is_hidden()

            for mode, words in BROKEN.items():
                ended = await closed(home, await start(page, home, mode))
                if ended.why == "lease-lapsed":
                    # A machine so busy that nobody saw anything within ten seconds: once more, as a person would.
                    ended = await closed(home, await start(page, home, mode, again=True))
                assert ended.why == "seal-broken", (mode, ended.why)
                await said(page, words)
                await expect(alarm).to_contain_text("seal was broken", timeout=10_000)
                if mode != "alter-reports":  # there the picture is honest, and its receipts are not
                    assert await page.evaluate("() => window.tillsyn.frames") == 0, mode
                await expect(page.locator("#cover")).to_be_visible()

            # Another fingerprint in the signed answer.
            await page.route("**/commands", swap_answers)
            before = await start(page, home, "swap-answer")
            await said(page, "did not come from this home's own device")
            assert await page.evaluate("() => window.tillsyn.frames") == 0
            assert (await closed(home, before)).why in {"lease-lapsed", "no-picture"}
            await browser.close()

    run(work(), 230.0)
