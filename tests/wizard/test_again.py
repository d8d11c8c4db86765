"""Set-up is entered again, in a real Chromium against real processes: with a line, and without one. The steward
consents at the console, the installer is at the phone.

What the guard decides is in tests/unit/test_guard_set_up_again.py, with its mutations.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from playwright.async_api import expect

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))
from chromium import artefacts
from device_bench import RunningDevice, device_bench
from evening import Clock, from_check, whole
from installer import Installer, installer
from running_bench import run

from centre.operator import Operator
from gateway.ipc import frame
from gateway.services import hand
from provisioning.demo import _end, start_broker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(580)]


async def act(running: RunningDevice) -> None:
    """The button was held while power came; here it is said on the guard's control socket."""
    await hand.tell(running.device.directory / "run" / "control.sock", frame.SetupAct())


async def steward(one: Installer) -> Installer:
    """The centre's steward at the console, with this home open."""
    running = one.running
    context = await one.browser.new_context(viewport={"width": 1280, "height": 800}, locale="sv")
    page = await context.new_page()
    page.on("pageerror", lambda error: one.errors.append(str(error)))
    at_desk = Installer(running, one.browser, context, page, one.shots, one.violations)
    await page.goto(f"{running.running.url}/login?token={running.device.steward_token}")
    await expect(page.locator("#who")).to_have_text("steward-demo")
    await page.evaluate("(gateway) => { location.hash = gateway; }", running.device.stub.setup.gateway)
    await page.locator("#setup-again summary").click(timeout=40_000)
    return at_desk


async def carried_consent(at_desk: Installer) -> str:
    """The steward's consent where the home has no line: what is sent to the installer's phone."""
    await at_desk.page.get_by_test_id("setup-allow").click(timeout=40_000)
    text = at_desk.page.get_by_test_id("setup-consent")
    await expect(text).to_be_visible(timeout=60_000)
    await at_desk.look("consent-carried")
    return await text.input_value()


async def sent_consent(at_desk: Installer) -> None:
    """The same where it has one; the home's own key has answered when the page says so."""
    running = at_desk.running
    async with Operator(running.running.url, running.device.steward_token) as known, asyncio.timeout(60):
        while not (await known.home(running.device.stub.setup.gateway)).get("online"):
            await asyncio.sleep(0.2)
    await at_desk.page.get_by_test_id("setup-allow").click(timeout=40_000)
    await expect(at_desk.page.locator("#setup-state")).to_contain_text("Hemmet har samtycket", timeout=60_000)
    await expect(at_desk.page.get_by_test_id("setup-consent")).to_be_hidden()
    await at_desk.look("consent-sent")


async def over(running: RunningDevice) -> None:
    await running.until(lambda: not running.port_is_open(), 60.0, "the port is closed")
    await running.until(lambda: "setup" not in running.pids(), 30.0, "the process is gone")


async def code_again(one: Installer) -> None:
    await one.running.until(one.running.port_is_open, 60.0, "the wizard listens")
    await one.page.goto(one.running.device.address)
    await expect(one.page.locator("main")).to_have_attribute("data-step", "contact")
    await one.page.fill("#code", one.running.device.stub.code)
    await one.page.locator("form[action='/enter'] button").click()


async def the_way_again(one: Installer, *, expected_deg: int) -> None:
    await one.at("network", 60.0)
    await one.join()
    await one.at("line", 60.0)
    await one.test_line()
    await one.press("go-on")
    await one.at("aim", 60.0)
    await one.aim(expected_deg)
    await one.tick()
    await one.at("check")
    await from_check(one, Clock())


def test_with_and_without_a_line(tmp_path: Path):
    async def work() -> None:
        shots = artefacts(tmp_path / "artefacts")
        async with device_bench(tmp_path) as running, installer(running, language="sv", shots=shots) as one:
            await whole(one, Clock())
            await over(running)
            opened = running.world.sensor_opens()

            # The act alone: a page that asks for the consent, and nothing behind it; it closes by itself.
            await act(running)
            await code_again(one)
            await expect(one.page.locator("#consent")).to_be_visible(timeout=30_000)
            await one.look("again")
            await one.page.get_by_role("link", name="English").click()
            await one.look("again")
            await one.page.get_by_role("link", name="Svenska").click()
            await one.page.fill("#consent", "no consent at all")
            await one.press("allow")
            await expect(one.page.locator("[role=alert]")).to_be_visible(timeout=20_000)
            assert running.world.sensor_opens() == opened

            # Without a line: the steward's consent by the phone.
            await _end(running.running.processes["broker"])
            at_desk = await steward(one)
            await one.page.fill("#consent", await carried_consent(at_desk))
            await one.press("allow")
            running.running.processes["broker"] = await start_broker(running.device.home)
            await the_way_again(one, expected_deg=26)
            await over(running)

            # With a line: the consent is there first, by the broker.
            await sent_consent(at_desk)
            await act(running)
            await code_again(one)
            await the_way_again(one, expected_deg=34)
            await over(running)
            words = running.set_up_words()
            assert words.count("allowed") == words.count("entered") == 2
            assert words.count("done") == 3
            assert one.violations == []
            assert one.errors == []

    run(work(), 570.0)
