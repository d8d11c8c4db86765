"""The page of rollouts in a real Chromium: plan, start, halt, go on, in both languages; the homes are played.

Mutations that turn this red, each tried: the start without its plan; `resume` not shown when halted.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from chromium import FLAGS, artefacts, program
from playwright.async_api import Page, async_playwright, expect

from provisioning.fleet.simulate import TOKEN, broker, centre, make, play, the_offer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
PATIENCE_MS = 60_000


async def reload_until(page: Page, words: re.Pattern[str]) -> None:
    """The page hears news by itself only of homes; a rollout is looked at again."""
    async with asyncio.timeout(120):
        while not words.search(await page.locator(".rollout-status").first.inner_text()):
            await page.evaluate("location.hash = '#homes'")
            await page.evaluate("location.hash = '#updates'")
            await asyncio.sleep(0.5)


def test_plan_start_halt_and_go_on(tmp_path: Path) -> None:
    async def act() -> None:
        run = make(tmp_path, 12, 0.0)
        for home in list(run.homes.values())[:2]:  # the lab: both fall back, which is more than one failure
            home.fate = "falls-back"
        async with broker(run), centre(run) as (_, url), async_playwright() as playwright:
            up = asyncio.Event()
            playing = asyncio.create_task(play(run, up))
            await up.wait()
            browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
            try:
                page = await (await browser.new_context(locale="sv-SE")).new_page()
                page.set_default_timeout(PATIENCE_MS)
                expect.set_options(timeout=PATIENCE_MS)
                await page.goto(f"{url}/login?token={TOKEN}")
                await page.goto(f"{url}/#updates")
                await page.locator("#updates-offer").fill(the_offer(run))
                await page.get_by_test_id("updates-show").click()
                await expect(page.get_by_test_id("updates-plan")).to_contain_text("Labb: 2")
                await page.screenshot(path=artefacts(tmp_path) / "updates-plan-sv.png", full_page=True)
                await page.get_by_test_id("updates-start").click()
                await reload_until(page, re.compile("stannad"))
                await expect(page.get_by_test_id("rollout-resume")).to_be_visible()
                await page.locator(".rollout summary").click()
                await expect(page.locator(".rollout details li")).to_have_count(2)
                await page.screenshot(path=artefacts(tmp_path) / "updates-halted-sv.png", full_page=True)
                await page.get_by_test_id("rollout-resume").click()
                await expect(page.locator(".rollout-status").first).to_have_text("pågår")
                english = await (await browser.new_context(locale="en-GB")).new_page()
                await english.goto(f"{url}/login?token={TOKEN}")
                await english.goto(f"{url}/#updates")
                await expect(english.locator(".rollout-status").first).to_have_text("under way")
                await english.screenshot(path=artefacts(tmp_path) / "updates-en.png", full_page=True)
                await english.get_by_test_id("rollout-abort").click()
                await expect(english.locator(".rollout-status").first).to_have_text("ended before it was done")
            finally:
                await browser.close()
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)

    asyncio.run(act())
