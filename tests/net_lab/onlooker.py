"""The operator: a real Chromium in its own namespace, on the real console, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from playwright.async_api import Error, Page, async_playwright
from playwright.async_api import TimeoutError as PageTimeout

from tests.net_lab import front
from tests.net_lab.lab import Lab, LabError
from tests.net_lab.network import CENTRE_CONSOLE, PREFIX, ROOT

sys.path.append(str(ROOT / "tests" / "browser"))
from chromium import FLAGS, program

# Keeps the page's peer connections within reach of getStats, and notes when each picture is shown.
SPY = """
window.keptPeers = []; window.shown = [];
const Original = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Original {
  constructor(...options) { super(...options); window.keptPeers.push(this); window.lastOptions = options[0]; }
};
const ask = HTMLVideoElement.prototype.requestVideoFrameCallback;
HTMLVideoElement.prototype.requestVideoFrameCallback = function (call) {
  return ask.call(this, (now, facts) => { window.shown.push(performance.now()); return call(now, facts); });
};
"""
STATS = """async () => {
  const facts = {decoded: 0, lost: 0, width: 0, height: 0, local: "", remote: "", bytes: 0};
  for (const peer of window.keptPeers.slice(-1)) {
    const all = await peer.getStats();
    for (const one of all.values()) {
      if (one.type === "inbound-rtp" && one.kind === "video") {
        facts.decoded = one.framesDecoded ?? 0; facts.lost = one.packetsLost ?? 0; facts.bytes = one.bytesReceived ?? 0;
        facts.width = one.frameWidth ?? 0; facts.height = one.frameHeight ?? 0;
      }
      if (one.type === "candidate-pair" && one.nominated) {
        const local = all.get(one.localCandidateId), remote = all.get(one.remoteCandidateId);
        facts.local = `${local.candidateType}/${local.relayProtocol ?? local.protocol} ${local.address ?? ""}`;
        facts.remote = `${remote.candidateType} ${remote.address}`;
      }
    }
  }
  return facts;
}"""


@dataclass
class Onlooker:
    page: Page

    async def ready(self, limit_s: float = 25.0) -> None:
        """The home is open and *Start* may be pressed. Raises LabError with the page's words."""
        start = self.page.get_by_test_id("start")
        try:
            async with asyncio.timeout(limit_s):
                while not await start.is_enabled():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise LabError(f"Start stayed shut: {await self.words()}") from None

    async def start(self) -> None:
        await self.page.evaluate("() => { window.shown.length = 0; }")
        await self.page.get_by_test_id("start").click()

    async def first_frame_ms(self, limit_s: float) -> float | None:
        """From the click to the first picture shown; None when there was none within the limit, or the check ended."""
        with contextlib.suppress(PageTimeout):
            handle = await self.page.wait_for_function(
                "() => window.tillsyn.firstFrameMs", timeout=limit_s * 1000, polling=50
            )
            return float(await handle.json_value())
        return None

    async def stats(self) -> dict[str, Any]:
        return dict(await self.page.evaluate(STATS))

    async def shown_ms(self) -> list[float]:
        """When pictures were shown, in ms of the page's clock."""
        return list(await self.page.evaluate("() => window.shown"))

    async def now_ms(self) -> float:
        return float(await self.page.evaluate("() => performance.now()"))

    async def words(self) -> str:
        """What the page says to the operator now, in one line."""
        parts = []
        for place in ("#start-reason", "#message", "#cover-text"):
            with contextlib.suppress(Error):
                if await self.page.locator(place).is_visible():
                    parts.append((await self.page.locator(place).inner_text()).strip())
        return " | ".join(part for part in parts if part)

    async def say_if_possible(self, verdict: str) -> None:
        """Give a verdict, if the page still takes one."""
        with contextlib.suppress(PageTimeout):
            await self.page.get_by_test_id(verdict).click(timeout=5000)


@asynccontextmanager
async def onlooker(lab: Lab) -> AsyncIterator[Onlooker]:
    """Chromium, logged in, with the lab's home open."""
    wrapper = lab.home.directory / "chromium-at-the-operator"
    wrapper.write_text(f'#!/bin/sh\nexec ip netns exec {PREFIX}operator {program()} "$@"\n')
    wrapper.chmod(0o700)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(wrapper),
            args=[*FLAGS, f"--host-resolver-rules=MAP {front.NAME} {CENTRE_CONSOLE}"],
        )
        try:
            # The console's certificate is of the lab's own CA, which Chromium does not know.
            context = await browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 800})
            page = await context.new_page()
            await page.add_init_script(SPY)
            await page.goto(lab.console)
            await page.get_by_test_id("home").first.click(timeout=15_000)
            yield Onlooker(page)
        finally:
            await browser.close()
