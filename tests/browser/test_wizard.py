"""A device's set-up in the home's network: attacked first, and then the installer's evening in a real Chromium.

Real: Mosquitto, the centre, guard, eye, link, fresh, the wizard, Chromium on a phone's screen, which takes the label's
key only. Played: NetworkManager (tests/fakes/nm_on_bus.py), on a real bus. One bench serves both, in this order. The
longer runs, with screenshots and both languages, are in tests/wizard (`make wizard-run`).

Mutations that turn it red: leave `self._write(DONE, ...)` out of `_finish` in guard_setup (set-up is open afterwards);
keep the drawing in the progress instead of its hash (the strokes are found on the disk); count a try after it was
looked at, in memory (`knock`: the kill in between forgets it); leave the Host out of `Boundary._refusal` (a foreign
name is answered, also in Chromium); leave the Origin out, or `is_csrf` out of `_acted`; `before.is_spent` out of
`knock` (the second phone gets in); `minimum_version` 1.2 in `server_tls`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from device_bench import RunningDevice, device_bench
from evening import Clock, from_check, from_network
from installer import Installer, installer
from playwright.async_api import Error
from wizard_attack import before_anybody_is_in, brute_force, listening, with_somebody_in

from centre.witness import read_cosigner
from gateway.ledger import verify_directory
from gateway.protocol.envelope import verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import InstallationProtocol
from provisioning.wizard.guard_client import GuardClient, GuardDeniesError

pytestmark = pytest.mark.browser

EVIL = "rebound.example"

SAID = [
    "begun", "network", "line", "enrolled", "informed", "consent-resident", "loan-receipt", "key-receipt", "aimed",
    "room-dark", "lamp-seen", "noise-heard", "checked", "alarm-answered", "done",
]  # fmt: skip


class Shared:
    """One device for all tests of this file, on one event loop; they are run in order."""

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner()
        self._bench = device_bench(directory)
        self.running: RunningDevice = self.runner.run(self._bench.__aenter__())

    def run(self, work: Coroutine[Any, Any, None], limit_s: float) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(limit_s):
                await work

        self.runner.run(bounded())

    def close(self) -> None:
        with self.runner:
            self.runner.run(self._bench.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    made = Shared(tmp_path_factory.mktemp("device"))
    yield made
    made.close()


@pytest.mark.timeout(200)
def test_a_device_in_set_up_gives_nothing_to_whoever_has_not_the_label(shared: Shared):
    async def work() -> None:
        running = shared.running
        await asyncio.to_thread(before_anybody_is_in, running)
        await brute_force(running)
        await asyncio.to_thread(with_somebody_in, running)
        # That phone is lost now; with the physical act the code works once more.
        await act(running)

    shared.run(work(), 190.0)


@pytest.mark.timeout(250)
def test_an_installer_sets_a_device_up_from_the_first_page_to_the_closed_port(shared: Shared):
    running = shared.running

    async def work() -> None:
        async with installer(running, language="sv", other_names=(EVIL,)) as one:
            clock = Clock()
            await one.enter()
            await one.at("network")
            await a_hostile_page_in_the_same_browser(one)
            clock.mark("contact")
            await from_network(one, clock)
            assert listening(running) == {running.device.wizard_port}
            await from_check(one, clock)
            print(f"\n{clock.in_words()}")
            for name in ("receipts", "protocol"):
                assert (await one.paper(name)).startswith(b"%PDF-")
            assert one.violations == []
            assert one.errors == []

            # After: nothing listens, nobody is there to be asked, and the guard shows nobody a picture.
            await running.until(lambda: not running.port_is_open(), 40.0, "the port is closed")
            await running.until(lambda: "setup" not in running.pids(), 20.0, "the process is gone")
            assert listening(running) == set()
            opened = running.world.sensor_opens()
            await previews_are_refused(running)
            assert running.world.sensor_opens() == opened

            assert running.set_up_words() == SAID
            opened_by = [record.who for record in running.records() if record.kind == "opened"]
            assert opened_by == ["installer", "op-demo"]
            assert verify_directory(running.device.ledger).size > len(SAID)

            # Whose cosignatures the guard believes came from the centre, and was in the short code.
            cosigner = read_cosigner(running.device.home.centre_config.parent / "witness.pem", "tillsyn/centre")
            guard = (running.device.directory / "guard" / "guard.toml").read_text()
            assert f'witness = "{cosigner.public}"' in guard

            # What went to the centre is signed by the device, and every line of it is good.
            enrolment = await running.enrolment()
            (home,) = [one for one in [enrolment] if one["is_same"]]
            key = await device_key(running)
            protocol = verify(home["protocol"].encode(), {key.kid: key}, InstallationProtocol)
            assert all(line.is_good for line in protocol.lines)
            assert {line.how for line in protocol.lines} == {"measured", "ticked", "recorded"}

            # Of the signature only the hash is left in what the wizard keeps.
            assert (running.device.directory / "setup" / "done").exists()
            kept = b"".join(path.read_bytes() for path in (running.device.directory / "setup").iterdir())
            assert b'"how":"drawn"' in kept
            assert b"[[[" not in kept

    shared.run(work(), 240.0)


async def act(running: RunningDevice) -> None:
    """The physical act, noticed."""
    running.device.act_path.touch()
    await running.until(lambda: not running.device.act_path.exists(), 20.0, "the act is noticed")
    await running.until(running.port_is_open, 20.0, "the wizard listens")


async def a_hostile_page_in_the_same_browser(one: Installer) -> None:
    """It posts forms to the device, reads from it, frames it, and has a name of its own point to it."""
    device = one.running.device
    before = (device.directory / "setup" / "progress.json").read_bytes()
    page = await one.context.new_page()
    base = device.address.rstrip("/")
    html = f"<iframe id=frame src='{base}/'></iframe><form method=post action='{base}/do/join' target=_blank>"
    html += "<input name=kind value=ethernet><input name=token value=x></form>"
    await page.route("https://page.example/", lambda route: route.fulfill(body=html, content_type="text/html"))
    await page.goto("https://page.example/")
    read = """async (url) => {
      const tries = [["GET"], ["POST", "kind=ethernet"]];
      const got = [];
      for (const [method, body] of tries) {
        const headers = body ? {"Content-Type": "application/x-www-form-urlencoded"} : {};
        for (const mode of ["cors", "no-cors"]) {
          try {
            const answer = await fetch(url, {method, body, headers, mode, credentials: "include"});
            got.push(answer.type + (await answer.text()));
          } catch { got.push("refused"); }
        }
      }
      return got;
    }"""
    # A page from elsewhere reads nothing: no CORS, and an opaque answer is kept from it by CORP.
    assert await page.evaluate(read, f"{base}/do/join") == ["refused"] * 4
    async with page.expect_popup() as opened:
        await page.evaluate("() => document.querySelector('form').submit()")
    answer = await opened.value
    await answer.wait_for_load_state()
    assert await answer.locator("main").count() == 0
    await answer.close()
    framed = await (await page.query_selector("#frame")).content_frame()  # type: ignore[union-attr]
    assert framed is None or await framed.locator("main").count() == 0
    # Rebinding: the attacker's name has the device's address now. The certificate is not looked at by this browser.
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status))
    with pytest.raises(Error, match="ERR_HTTP_RESPONSE_CODE_FAILURE"):  # 421, and not a byte of a page
        await page.goto(f"https://{EVIL}:{device.wizard_port}/")
    assert answers == [421]
    await page.close()
    assert (device.directory / "setup" / "progress.json").read_bytes() == before
    assert one.running.air.tries == []


async def device_key(running) -> VerifyingKey:
    from centre.operator import Operator

    async with Operator(running.running.url, running.device.home.login_token) as operator:
        return VerifyingKey.from_jwk((await operator.home(running.device.stub.setup.gateway))["device_jwk"])


async def previews_are_refused(running) -> None:
    from gateway.ipc import setup

    guard = GuardClient(str(running.device.directory / "run" / "setup.sock"))
    task = asyncio.create_task(guard.run())
    try:
        assert not (await guard.standing()).is_open
        for word in (setup.AskNonce(), setup.Note("checked"), setup.BeginAlarm(), setup.SaveAim()):
            with pytest.raises(GuardDeniesError):
                await guard.ask(word, setup.Done)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
