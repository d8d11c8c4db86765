"""What can go wrong in an installer's evening, each in a real Chromium against real processes (`make wizard-run`).

That the dates of certificates are left out while the device does not know the time, and nothing else, is in
tests/contract/test_est.py. A hostile neighbour is in tests/browser/test_wizard.py.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))
from chromium import artefacts
from device_bench import RunningDevice, device_bench
from evening import Clock, whole
from installer import Installer, installer
from nm_on_bus import Air, Net
from playwright.async_api import expect
from running_bench import run

from provisioning.demo import _end, start_centre

pytestmark = [pytest.mark.browser, pytest.mark.timeout(580)]


async def trouble(one: Installer) -> str:
    alert = one.page.locator("[role=alert]")
    await expect(alert).to_be_visible(timeout=20_000)
    return await alert.inner_text()


async def try_network(one: Installer, ssid: str, password: str) -> str:
    await one.join(ssid, password)
    await one.page.wait_for_function("() => !document.querySelector('[role=status]')", timeout=20_000)
    return await trouble(one)


def test_every_failure_is_said_in_plain_words_and_left_behind(tmp_path: Path):
    air = Air(
        [Net("Hemma"), Net("Hotell", None, 50, "portal", 0), Net("Utan", does="no-address"), Net("Tyst", does="x")]
    )

    async def work() -> None:
        async with device_bench(tmp_path, air=air, try_s=4.0) as running, installer(running, language="en") as one:
            own = running.device.stub.contact.ssid
            await one.enter()
            await one.at("network")
            for ssid, password, words in (
                ("Hemma", "fel lösenord", "password is not right"),
                ("Hotell", "", "log in on a web page"),
                ("Utan", "korrekt-häst", "gave it no address"),
                ("Tyst", "korrekt-häst", "did not answer in time"),
            ):
                assert words in await try_network(one, ssid, password), ssid
                await running.until(lambda: air.access_point == own, 10.0, "the device's own network is back")
                assert len(air.connections) == 1, "nothing is left of the try but the access point"
            await one.join()
            await one.at("line", 30.0)

            # The centre can't be reached: there is no way on, and it is said what to do.
            await _end(running.running.processes["centre"])
            await one.press("test")
            await expect(one.page.locator("table")).to_be_visible(timeout=30_000)
            assert "can't be reached" in await one.page.locator("table").inner_text()
            assert await one.page.locator('form[action="/do/go-on"]').count() == 0
            running.running.processes["centre"], running.running.url = await start_centre(running.device.home)
            await one.press("test")
            await expect(one.page.locator('form[action="/do/go-on"]')).to_be_visible(timeout=30_000)
            await one.press("go-on")
            await one.at("enrol")

            await one.enrol("7KQ2X-R9MVD")
            assert "not right" in await trouble(one)
            code = await running.installers_code()
            with sqlite3.connect(running.device.home.centre_config.parent / "centre.sqlite") as database:
                database.execute("update enrolment_codes set until_unix_s = 0")
            await one.enrol(code)
            assert "too old" in await trouble(one)

            # The browser is closed in the middle: the same phone goes on where it was.
            state = await one.context.storage_state()
            again = await one.browser.new_context(storage_state=state, locale="en")
            page = await again.new_page()
            await page.goto(running.device.address)
            await expect(page.locator("main")).to_have_attribute("data-step", "enrol")
            await again.close()

            # The phone is lost: another one gets in after a physical act, with the same code, at the same step.
            other = await one.browser.new_context(locale="en")
            page = await other.new_page()
            await page.goto(running.device.address)
            await expect(page.locator("main")).to_have_attribute("data-step", "contact")
            running.device.act_path.touch()
            await running.until(lambda: not running.device.act_path.exists(), 10.0, "the act is noticed")
            await page.fill("#code", running.device.stub.code)
            await page.click("form[action='/enter'] button")
            await expect(page.locator("main")).to_have_attribute("data-step", "enrol")
            await one.page.reload()
            await one.at("contact")
            await other.close()

            # The codes differ: everything is forgotten, and enrolment begins anew.
            running.device.act_path.touch()
            await running.until(lambda: not running.device.act_path.exists(), 10.0, "the act is noticed")
            await one.enter()
            await one.at("enrol")
            await one.enrol()
            await one.at("compare")
            await one.press("compare", same="no")
            await one.at("enrol")
            assert not list(running.device.directory.rglob("device.pem"))
            assert not list(running.device.directory.rglob("pending-key.pem"))
            assert one.violations == []

    run(work(), 570.0)


def test_a_clock_at_the_images_build_time_is_said_and_there_is_no_way_on_before_it_is_right(tmp_path: Path):
    """The device's processes believe that it is a year ago; those of the centre know better."""
    clock, preload = tmp_path / "shift-s", tmp_path / "another_day.so"
    clock.write_text(f"{-timedelta(days=400).total_seconds():.0f}")
    source = Path(__file__).parent / "another_day.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", preload, source], check=True)
    before = ("env", f"LD_PRELOAD={preload}", f"SHIFT_S_FILE={clock}")

    async def work() -> None:
        async with (
            device_bench(tmp_path / "device", before=before) as running,
            installer(running, language="en", shots=artefacts(tmp_path / "artefacts")) as one,
        ):
            await one.enter()
            await one.at("network")
            await one.join()
            await one.at("line", 30.0)
            assert f"{datetime.now(UTC) - timedelta(days=400):%Y-%m}" in running.log()
            await one.test_line()
            assert "The device's clock is wrong." in await one.page.locator("table").inner_text()
            assert await one.page.locator('form[action="/do/go-on"]').count() == 0
            clock.write_text("0")  # a time server has answered
            await one.press("test")
            await expect(one.page.locator('form[action="/do/go-on"]')).to_be_visible(timeout=30_000)
            await one.press("go-on")
            await one.at("enrol")
            await one.enrol()
            await one.at("compare")
            assert one.violations == []

    run(work(), 270.0)


def half_enrolled(running: RunningDevice) -> bool:
    """Whether one of guard and link has its part and the other not, with no commit under way."""
    guard = (running.device.directory / "guard" / "guard.toml").exists()
    link = (running.device.directory / "link" / "link.toml").exists()
    return guard != link


@pytest.mark.timeout(1170)
def test_a_power_cut_between_any_two_steps_goes_on_at_that_step(tmp_path: Path):
    async def work() -> None:
        async with device_bench(tmp_path) as running, installer(running, language="en") as one:
            cuts: list[str] = []

            async def cut(step: str) -> None:
                await running.restart_home()
                await running.until(running.port_is_open, 30.0, f"the wizard is back at {step}")
                await one.page.goto(running.device.address)
                await one.at(step, 30.0)
                assert not half_enrolled(running), step
                cuts.append(step)

            await one.enter()
            await one.at("network")
            await cut("network")
            await one.join()
            await one.at("line", 30.0)
            await cut("line")
            await one.test_line()
            await one.press("go-on")
            await one.at("enrol")
            await cut("enrol")
            await one.enrol()
            await one.at("compare")
            before = await one.page.get_by_test_id("short-code").inner_text()
            await cut("compare")
            assert await one.page.get_by_test_id("short-code").inner_text() == before
            assert not (running.device.directory / "guard" / "guard.toml").exists()
            await one.compare()
            # In the middle of the commit, whatever is there by now.
            await asyncio.sleep(0.3)
            await cut("inform")
            await one.inform()
            await one.at("consent")
            await cut("consent")
            await one.consent()
            await one.at("receipt")
            await cut("receipt")
            await one.receipt()
            await one.at("aim")
            await cut("aim")
            await one.aim()
            await cut("aim")
            await one.tick()
            await one.at("check")
            await cut("check")
            await running.agree()
            await running.make_check()
            await one.at("alarm")
            await cut("alarm")
            await one.press("alarm")
            await expect(one.page.locator("p[role=status]")).to_be_visible(timeout=20_000)
            await cut("alarm")
            await running.answer_alarm()
            await one.at("protocol", 60.0)
            await cut("protocol")
            await one.press("sign")
            await one.page.wait_for_selector('form[action="/do/send"]')
            signed = (running.device.directory / "setup" / "protocol.jws").read_bytes()
            await cut("protocol")
            await one.press("send")
            await one.at("done")
            assert (await running.enrolment())["protocol"].encode() == signed
            await running.until(lambda: not running.port_is_open(), 40.0, "the port is closed")
            print(f"\ncut at {', '.join(cuts)}; each went on where it was")
            words = running.set_up_words()
            for word in (
                "network",
                "line",
                "enrolled",
                "informed",
                "consent-resident",
                "loan-receipt",
                "aimed",
                "done",
            ):
                assert word in words
            # And when it is over, a power cut does not bring it back.
            await running.restart_home()
            await running.until(lambda: "guard" in running.pids() and "link" in running.pids(), 30.0, "guard and link")
            await running.until(lambda: "setup" not in running.pids(), 40.0, "the wizard ends again")
            assert not running.port_is_open()

    run(work(), 1150.0)


@pytest.mark.parametrize("language", ["sv", "en"])
def test_the_whole_evening_with_screenshots_and_its_time(tmp_path: Path, language: str):
    async def work() -> None:
        shots = artefacts(tmp_path / "artefacts")
        async with (
            device_bench(tmp_path) as running,
            installer(running, language=language, shots=shots, turns_too_far=True) as one,
        ):
            clock = Clock()
            await whole(one, clock)
            print(f"\n{language}: {clock.in_words()}; screenshots in {shots}")
            assert one.violations == []

    run(work(), 190.0)


@pytest.mark.timeout(280)
def test_without_javascript_everything_but_the_picture_and_the_drawing_works(tmp_path: Path):
    async def work() -> None:
        async with device_bench(tmp_path) as running, installer(running, language="en", has_script=False) as one:
            await one.enter()
            await one.at("network")
            await one.join()
            while await one.step() != "line":
                await one.page.reload()
            await one.press("test")
            while not await one.page.locator("table").count():
                await one.page.reload()
            await one.press("go-on")
            await one.enrol()
            await one.at("compare")
            assert (await one.page.get_by_test_id("short-code").inner_text()) == (await running.enrolment())[
                "short_code"
            ]
            await running.say_same()
            while "says: the same" not in await one.page.locator("p[role=status]").inner_text():
                await one.page.get_by_role("link", name="Look again").click()
            await one.press("compare", same="yes")
            while await one.step() != "inform":
                await one.page.reload()
            await one.inform()
            await one.at("consent")
            await one.consent()
            await one.at("receipt")
            await one.receipt()
            await one.at("aim")
            progress = json.loads((running.device.directory / "setup" / "progress.json").read_text())
            assert progress["resident"]["how"] == "paper"

    run(work(), 270.0)
