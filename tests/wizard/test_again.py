"""Set-up is entered again, in a real Chromium against real processes: with a line, and without one.

What the guard decides is in tests/unit/test_guard_set_up_again.py, with its mutations.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
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
from gateway.protocol.envelope import sign, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import Accepted, SetupEnter
from gateway.services import hand
from provisioning.demo import _end, start_broker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(580)]


async def act(running: RunningDevice) -> None:
    """The button was held while power came; here it is said on the guard's control socket."""
    await hand.tell(running.device.directory / "run" / "control.sock", frame.SetupAct())


async def consent(running: RunningDevice, *, by_line: bool) -> bytes:
    """What a steward's own key signs, under a grant of the centre's; given to the phone, or sent by the centre."""
    async with Operator(running.running.url, running.device.steward_token) as steward, asyncio.timeout(40):
        gateway = running.device.stub.setup.gateway
        home = await steward.home(gateway)
        while by_line and not home.get("online"):
            await asyncio.sleep(0.2)
            home = await steward.home(gateway)
        said = SetupEnter(home["audience"], f"j-{secrets.token_hex(8)}", time.time())
        envelope = steward._grant + b"~" + sign(said, steward.key)
        if by_line:
            device = VerifyingKey.from_jwk(home["device_jwk"])
            verify(await steward.send_envelope(gateway, envelope), {device.kid: device}, Accepted)
        return envelope


async def over(running: RunningDevice) -> None:
    await running.until(lambda: not running.port_is_open(), 60.0, "the port is closed")
    await running.until(lambda: "setup" not in running.pids(), 30.0, "the process is gone")


async def code_again(one: Installer) -> None:
    await one.running.until(one.running.port_is_open, 60.0, "the wizard listens")
    await one.page.goto(one.running.device.address)
    await expect(one.page.locator("main")).to_have_attribute("data-step", "contact")
    await one.page.fill("#code", one.running.device.stub.code)
    await one.page.locator("form[action='/enter'] button").click()


async def the_way_again(one: Installer) -> None:
    await one.at("network", 60.0)
    await one.join()
    await one.at("line", 60.0)
    await one.test_line()
    await one.press("go-on")
    await one.at("aim", 60.0)
    await one.aim()
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
            await one.page.fill("#consent", "no consent at all")
            await one.press("allow")
            await expect(one.page.locator("[role=alert]")).to_be_visible(timeout=20_000)
            assert running.world.sensor_opens() == opened

            # Without a line: the steward's consent by the phone.
            await _end(running.running.processes["broker"])
            envelope = await consent(running, by_line=False)
            await one.page.fill("#consent", envelope.decode())
            await one.press("allow")
            running.running.processes["broker"] = await start_broker(running.device.home)
            await the_way_again(one)
            await over(running)

            # With a line: the consent is there first, by the broker.
            await consent(running, by_line=True)
            await act(running)
            await code_again(one)
            await the_way_again(one)
            await over(running)
            words = running.set_up_words()
            assert words.count("allowed") == words.count("entered") == 2
            assert words.count("done") == 3
            assert one.violations == []
            assert one.errors == []

    run(work(), 570.0)
