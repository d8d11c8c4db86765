"""An installer with a phone, as docs/installer.md tells it: a real Chromium that pins the label's key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chromium import FLAGS, program
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))
from device_bench import RunningDevice

AXE = Path(__file__).parent / "axe"
PHONE = {"width": 390, "height": 844}
PICTURE_OR_WORDS = """() => document.getElementById("look").hidden
  ? document.getElementById("picture").getVideoPlaybackQuality().totalVideoFrames > 10 && "picture"
  : document.getElementById("state").textContent"""
"""Of the aim's page, while it tries: that there is a picture, or why there is none."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def axe_source() -> str:
    """axe-core, installed by npm if it is not there."""
    script = AXE / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        install = ["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
        made = subprocess.run(install, cwd=AXE, capture_output=True, text=True, check=False)
        assert made.returncode == 0, f"npm ci could not install axe-core:\n{made.stderr}"
    return script.read_text()


@dataclass
class Installer:
    """One phone at one device."""

    running: RunningDevice
    browser: Browser
    context: BrowserContext
    page: Page
    shots: Path | None = None
    violations: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    looked_at: int = 0
    has_script: bool = True
    turns_too_far: bool = False

    async def step(self) -> str | None:
        return await self.page.locator("main").get_attribute("data-step")

    async def at(self, step: str, limit_s: float = 40.0) -> None:
        """The page is at this step; then it is looked at, by axe and by the camera."""
        await expect(self.page.locator("main")).to_have_attribute("data-step", step, timeout=limit_s * 1000)
        await self.look(step)

    async def language(self) -> str | None:
        return await self.page.locator("html").get_attribute("lang")

    async def look(self, name: str) -> None:
        self.looked_at += 1
        if self.shots is not None:
            await self.page.screenshot(
                path=self.shots / f"{await self.language()}-{self.looked_at:02}-{name}.png", full_page=True
            )
        if self.has_script:
            # In a world of its own: the page's own policy lets no foreign script in.
            await self.page.evaluate(axe_source())
            found = await self.page.evaluate(
                "async (rules) => (await axe.run(document, {runOnly: rules})).violations"
                ".map((one) => one.id + ': ' + one.nodes.map((node) => node.html).join(' | '))",
                RULES,
            )
            self.violations += [f"{name}: {each}" for each in found]

    async def press(self, act: str, **fields: str) -> None:
        """Press the button of one form; `fields` chooses among several of the same act."""
        form = self.page.locator(f'form[action="/do/{act}"]')
        for name, value in fields.items():
            form = form.filter(has=self.page.locator(f'[name="{name}"][value="{value}"]'))
        await form.locator("button[type=submit]").click()

    # The steps

    async def enter(self, code: str | None = None) -> None:
        await self.page.goto(self.running.device.address)
        await self.at("contact")
        await self.page.fill("#code", code or self.running.device.stub.code)
        await self.page.locator("form[action='/enter'] button").click()

    async def join(self, ssid: str = "Hemma", password: str = "korrekt-häst") -> None:
        await self.page.locator(f'input[name=ssid][value="{ssid}"]').check()
        await self.page.fill("#password", password)
        await self.press("join", kind="wifi")

    async def test_line(self) -> None:
        await self.press("test")
        await expect(self.page.locator("table")).to_be_visible(timeout=40_000)
        await self.look("line-tested")

    async def enrol(self, code: str | None = None) -> None:
        await self.page.fill("#code", code or await self.running.installers_code())
        await self.press("enrol")

    async def compare(self) -> None:
        here = await self.page.get_by_test_id("short-code").inner_text()
        assert here == (await self.running.enrolment())["short_code"]
        await self.running.say_same()
        await expect(self.page.locator("p[role=status]")).to_contain_text(
            "samma" if await self.page.locator("html").get_attribute("lang") == "sv" else "the same.", timeout=40_000
        )
        await self.press("compare", same="yes")

    async def inform(self) -> None:
        await self.page.check("input[name=read]")
        await self.press("informed")

    async def consent(self) -> None:
        await self.page.check("input[name=resident-yes]")
        if self.has_script:
            box = await self.page.locator("canvas[data-for=resident-signature]").bounding_box()
            assert box is not None
            await self.page.mouse.move(box["x"] + 20, box["y"] + 40)
            await self.page.mouse.down()
            for number in range(12):
                await self.page.mouse.move(box["x"] + 20 + number * 18, box["y"] + 40 + (number % 3) * 14)
            await self.page.mouse.up()
        else:
            await self.page.fill("#resident-paper", "paper-17")
        await self.page.check("input[name=household][value=alone]")
        await self.look("consent-given")
        await self.press("consent")

    async def receipt(self) -> None:
        await self.page.fill("#loan", "loan-42")
        await self.page.fill("#keys", "T-101 T-102")
        await self.press("receipt")

    async def aim(self, expected_deg: int = 18) -> None:
        """One nudge of 8° up, and saved: from the new device's 10°, or from what was saved last."""
        await self._show_picture()
        before_deg = self.running.mount_deg()
        if self.turns_too_far:
            await self._turn_too_far(before_deg)
        await self.page.click("[data-way=up-more]")
        await self.running.until(lambda: abs(self.running.mount_deg() - before_deg - 8) < 0.6, 20.0, "the nudge")
        await self.look("aiming")
        await self.press("aim")
        await expect(self.page.get_by_test_id("aim")).to_contain_text(str(expected_deg), timeout=40_000)

    async def _turn_too_far(self, before_deg: float) -> None:
        """Down as far as it goes, where the page says so; and back."""
        await self.page.click("[data-way=down-more]")
        await self.running.until(lambda: abs(self.running.mount_deg() - before_deg + 8) < 0.6, 20.0, "down")
        await self.page.click("[data-way=down-more]")
        words = "Den kan inte vridas längre" if await self.language() == "sv" else "It can't turn further this way."
        await expect(self.page.locator("#state")).to_contain_text(words, timeout=20_000)
        await self.look("too-far")
        await self.page.click("[data-way=up-more]")
        await self.running.until(lambda: abs(self.running.mount_deg() - before_deg) < 0.6, 20.0, "up again")

    async def _show_picture(self) -> None:
        """Press until there is a picture, three times at most: as the page says, *try again*."""
        said = ""
        for _ in range(3):
            await self.page.click("#look", timeout=40_000)
            got = await self.page.wait_for_function(PICTURE_OR_WORDS, timeout=60_000)
            said = str(await got.json_value())
            if said == "picture":
                return
        raise AssertionError(f"no picture: {said}")

    async def tick(self) -> None:
        for name in ("room-dark", "lamp-seen", "noise-heard"):
            await self.page.check(f"input[name={name}]")
        await self.look("ticked")
        await self.press("tick")

    async def paper(self, name: str) -> bytes:
        """A PDF, fetched by the page with its own cookies."""
        found = await self.page.evaluate(
            "async (path) => { const got = await fetch(path); "
            "return [got.status, got.headers.get('content-type'), [...new Uint8Array(await got.arrayBuffer())]]; }",
            f"/paper/{name}.pdf",
        )
        assert found[:2] == [200, "application/pdf"]
        return bytes(found[2])


@asynccontextmanager
async def installer(
    running: RunningDevice,
    *,
    language: str = "sv",
    shots: Path | None = None,
    has_script: bool = True,
    other_names: tuple[str, ...] = (),
    turns_too_far: bool = False,
    **context: Any,
) -> AsyncIterator[Installer]:
    """A phone in this language. Its browser takes the label's key alone; `other_names` lead to the device too."""
    device = running.device
    rules = [f"MAP {name} 127.0.0.1" for name in (f"{device.stub.setup.host}.local", *other_names)]
    flags = [
        *FLAGS,
        f"--host-resolver-rules={','.join(rules)}",
        f"--ignore-certificate-errors-spki-list={device.stub.pin}",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=flags)
        phone = await browser.new_context(
            viewport=PHONE, is_mobile=True, has_touch=True, locale=language, java_script_enabled=has_script, **context
        )
        page = await phone.new_page()
        one = Installer(running, browser, phone, page, shots, has_script=has_script, turns_too_far=turns_too_far)
        page.on("pageerror", lambda error: one.errors.append(str(error)))
        try:
            yield one
        finally:
            await browser.close()
