"""The page of rollouts in a real Chromium, with the real centre and a real Mosquitto: the plan before it starts, start,
halt by itself, go on, pause, end, and what one home has reported; by keyboard where a person would. The homes are
played. In both languages; axe-core finds nothing.

Mutations that turn it red, each tried: start without the plan that was shown (`startRollout(plan.offer, "")`); `resume`
not shown when halted; end at the first press (all in updates.js).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from chromium import FLAGS, artefacts, program
from playwright.async_api import Browser, Page, async_playwright, expect

from provisioning.fleet.simulate import TOKEN, Run, broker, centre, make, play, the_offer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
PATIENCE_MS = 30_000
LAB = ("gw-s00000", "gw-s00001")


async def _open(browser: Browser, url: str, language: str) -> Page:
    page = await (await browser.new_context(locale=language)).new_page()
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(f"{url}/login?token={TOKEN}")
    await page.goto(f"{url}/#updates")
    return page


async def _look(page: Page, shots: Path, name: str) -> None:
    """A picture for whoever wants to see it, and axe-core."""
    await page.screenshot(path=shots / f"{name}.png", full_page=True)
    found = await Axe().run(page)
    assert found.violations_count == 0, f"{name}: {found.generate_report()}"


async def _plan_and_halt(page: Page, run: Run, shots: Path) -> None:
    # No offer, no plan; and a plan alone begins nothing.
    await page.locator("#updates-offer").fill("not an offer")
    await page.get_by_test_id("updates-show").click()
    await expect(page.get_by_test_id("message")).to_contain_text("inget erbjudande om")
    await expect(page.get_by_test_id("updates-start")).to_be_hidden()
    await page.locator("#updates-offer").fill(the_offer(run))
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("updates-plan")).to_contain_text("Labb: 2")
    await expect(page.locator("#updates-plan-words")).to_contain_text("12 hem får den.")
    await expect(page.locator("#updates-plan-title")).to_be_focused()
    assert run.received == 0
    await _look(page, shots, "updates-1-plan-sv")

    # Both homes of the lab fall back, and the page says so without being asked.
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator(".rollout-status")).to_contain_text("stannad")
    await expect(page.locator(".rollout-status")).to_have_class("rollout-status bad")
    assert run.received == len(LAB)
    await page.locator(".rollout summary").click()
    homes = page.locator(".rollout details li")
    await expect(homes).to_have_count(2)
    await expect(homes.first).to_contain_text("det nya systemet höll inte")
    await homes.filter(has_text=LAB[0]).get_by_role("button").click()
    lines = page.get_by_test_id("updates-history").locator("tr")
    await expect(lines.first).to_contain_text("Föll tillbaka")
    await expect(lines.last).to_contain_text("Erbjuden")
    await expect(page.locator("#updates-history-title")).to_be_focused()
    await _look(page, shots, "updates-2-halted-sv")
    await page.get_by_test_id("rollout-resume").click()
    await expect(page.locator(".rollout-status")).to_have_text("pågår")
    await expect(page.get_by_test_id("rollout-resume")).to_be_hidden()


async def _pause_and_end(page: Page, shots: Path) -> None:
    await expect(page.locator(".rollout-status")).to_have_text("under way")
    await page.get_by_test_id("rollout-pause").click()
    await expect(page.locator(".rollout-status")).to_have_text("paused")
    await page.locator("#updates-home").fill(LAB[1])
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("updates-history").locator("tr").first).to_contain_text("Fell back")
    end = page.get_by_test_id("rollout-abort")
    await end.focus()
    await page.keyboard.press("Enter")
    await expect(end).to_have_text("End it for good")
    await expect(page.get_by_test_id("message")).to_contain_text("Press once more")
    await page.screenshot(path=shots / "updates-3-end-en.png", full_page=True)
    await expect(page.locator(".rollout-status")).to_have_text("paused")
    await page.keyboard.press("Enter")
    await expect(page.locator(".rollout-status")).to_have_text("ended before it was done")
    await expect(page.locator(".rollout .acts button:visible")).to_have_count(0)


def test_plan_start_halt_go_on_and_end(tmp_path: Path) -> None:
    async def act() -> None:
        shots = artefacts(tmp_path)
        run = make(tmp_path, 12, 0.0)
        for home in LAB:  # more than one failure among so few halts
            run.homes[home].fate = "falls-back"
        async with broker(run), centre(run) as (_, url), async_playwright() as playwright:
            up = asyncio.Event()
            playing = asyncio.create_task(play(run, up))
            try:
                browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
                expect.set_options(timeout=PATIENCE_MS)
                page = await _open(browser, url, "sv-SE")
                errors: list[str] = []
                page.on("pageerror", lambda error: errors.append(str(error)))
                await up.wait()
                await _plan_and_halt(page, run, shots)
                await _pause_and_end(await _open(browser, url, "en-GB"), shots)
                # Another page hears of it too.
                await expect(page.locator(".rollout-status")).to_have_text("avslutad i förtid")
                assert errors == []
                await browser.close()
            finally:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)

    asyncio.run(act())
