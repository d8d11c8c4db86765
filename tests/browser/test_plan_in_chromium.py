"""All homes' agreements at a glance, and one change for several of them, in a real Chromium: found, ticked, shown as
what it means, signed one by one by the planner's key, answered by each home for itself; what a home did not confirm is
sent again. And a steward tells the ticked homes of another address of the broker, and takes a device back. In both
languages; axe-core finds nothing.

Mutations that turn it red: send under the version that the home has; keep what is prepared when a tick changes; pause
on the ground of an agreement while a newer one is not confirmed (all in overview.js); send typed digits that are not
those of the centre; close without a word of what became of the device, or of who lives there (giveback.js).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from centre_place import Place, broker, make_place, worker
from chromium import FLAGS, artefacts, program
from playwright.async_api import Page, async_playwright, expect
from running_bench import run
from simulated_fleet import an_agreement, fleet

from centre.store import SentAgreement, Store
from gateway.agreement import encode_agreement
from gateway.protocol.envelope import TrustStore

pytestmark = pytest.mark.browser
GATEWAYS = ("gw-alder", "gw-birch", "gw-cedar", "gw-dogwood")


def _agreed(place: Place, database: Path) -> None:
    """All but the last home have accepted an agreement that went by this centre; the third was also sent a next one."""
    store = Store(database)
    for gateway, home in list(place.homes.items())[:-1]:
        store.put_home(gateway, install_epoch=1, device_kid=home.key.verifying.kid)
        home.agreement = an_agreement(gateway, start="03:10")
        for version in (1, 2) if gateway == "gw-cedar" else (1,):
            text = encode_agreement(home.agreement).decode().replace('"version":1', f'"version":{version}')
            correlation = f"{gateway}{version}".encode()
            asked = {"gateway": gateway, "jti": f"j-{version}"}
            sent = SentAgreement(1, home.agreement.agreement, version, text)
            store.put_command(
                correlation, command_sha256="0", kind="agreement.put", who="pl-a", now_unix_s=float(version),
                agreement=sent, **asked,
            )  # fmt: skip
            if version == 1:
                assert store.answer_command(correlation, answer="accepted", now_unix_s=1.0, **asked)
    store.close()


async def _look(page: Page, shots: Path, name: str) -> None:
    await page.screenshot(path=shots / f"{name}.png", full_page=True)
    found = await Axe().run(page)
    assert found.violations_count == 0, f"{name}: {found.generate_report()}"


async def _take_back(page: Page, url: str, shots: Path) -> None:
    await page.goto(f"{url}/#gw-alder")
    await page.get_by_test_id("return-box").locator("summary").first.click()
    order = page.get_by_test_id("return-order")
    await expect(order).to_be_disabled()
    await page.locator("#return-sure").check()
    await order.click()
    await expect(page.get_by_test_id("return-code")).to_have_text(re.compile(r"[0-9]{3} [0-9]{3}"), timeout=15_000)
    await _look(page, shots, "return-1-ordered-en")
    # Who ordered it is no second person, whatever they type.
    await page.get_by_test_id("return-typed").fill(await page.get_by_test_id("return-code").inner_text())
    await page.get_by_test_id("return-erase").click()
    await expect(page.get_by_test_id("message")).to_contain_text("can't be the second person", timeout=15_000)


async def _confirm(page: Page, url: str, shots: Path) -> None:
    await page.goto(f"{url}/#gw-alder")
    await page.get_by_test_id("return-box").locator("summary").first.click()
    code = page.get_by_test_id("return-code")
    await expect(code).to_have_text(re.compile(r"[0-9]{3} [0-9]{3}"), timeout=15_000)
    await expect(page.get_by_test_id("return-order")).to_be_hidden()
    digits = (await code.inner_text()).replace(" ", "")
    await page.get_by_test_id("return-typed").fill(f"{(int(digits) + 1) % 1_000_000:06d}")
    await page.get_by_test_id("return-erase").click()
    await expect(page.get_by_test_id("message")).to_contain_text("not the digits that stand here")
    await page.get_by_test_id("return-typed").fill(digits)
    await page.get_by_test_id("return-erase").click()
    await expect(page.locator("#return-state")).to_contain_text("is erased", timeout=15_000)
    await _look(page, shots, "return-2-confirmed-en")


async def _close_without(page: Page, url: str, shots: Path) -> None:
    """A device that does not come back: not before it is said what became of it, and that whoever lives there is cared
    for.
    """
    await page.goto(f"{url}/#gw-dogwood")
    await page.get_by_test_id("return-box").locator("summary").first.click()
    await page.get_by_test_id("return-lost").locator("summary").click()
    close = page.get_by_test_id("return-close")
    await page.locator("#return-cared").check()
    await expect(close).to_be_disabled()
    await page.get_by_test_id("return-why").select_option("lost")
    await expect(close).to_be_enabled()
    await page.locator("#return-cared").uncheck()
    await expect(close).to_be_disabled()
    await page.locator("#return-cared").check()
    await _look(page, shots, "return-3-lost-en")
    await close.click()
    await expect(page.locator("#return-state")).to_contain_text("Closed without the device by", timeout=15_000)
    await expect(page.get_by_test_id("return-lost")).to_be_hidden()
    await _look(page, shots, "return-4-closed-en")


@pytest.mark.timeout(200)
def test_a_planner_sees_all_homes_and_pauses_several_and_sends_again(tmp_path: Path) -> None:
    shots = artefacts(tmp_path / "artefacts")
    place = make_place(tmp_path, GATEWAYS)
    _agreed(place, tmp_path / "centre.sqlite")
    config = place.config("centre", {"database_path": "centre.sqlite"})
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)

    async def work() -> None:
        async with (
            broker(place),
            worker(place, config) as (_process, url),
            fleet(place.homes, port=place.broker_port, folder=tmp_path) as simulated,
            async_playwright() as playwright,
        ):
            await simulated.hello()
            browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
            context = await browser.new_context(viewport={"width": 1280, "height": 900}, locale="sv-SE")
            page = await context.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(f"{url}/login?token={place.tokens['pl-a']}")
            await page.goto(f"{url}/#plan")
            row = {gateway: page.get_by_test_id("plan-row").filter(has_text=gateway) for gateway in GATEWAYS}
            await expect(row["gw-alder"]).to_contain_text("a-gw-alder v1")
            await expect(row["gw-alder"]).to_contain_text("03:10")
            await expect(row["gw-cedar"]).to_contain_text("version 2 är inte bekräftad")
            await expect(row["gw-alder"].locator(".plan-standing")).to_have_text("ja", timeout=15_000)
            await _look(page, shots, "bulk-1-all-sv")

            # Found by a word and by what is to be seen to.
            await page.locator("#plan-filter").select_option("unconfirmed")
            await expect(page.get_by_test_id("plan-row")).to_have_count(1)
            await page.locator("#plan-filter").select_option("all")
            await page.locator("#plan-search").fill("SIM")
            await expect(page.get_by_test_id("plan-row")).to_have_count(4)
            await page.locator("#plan-all").check()
            await expect(page.locator("#plan-count")).to_have_text("4 av 4 hem visas, 4 valda.")

            # What it means, before anything is signed: two can be paused, one must be sent again first, one has none.
            await page.get_by_test_id("bulk-prepare").click()
            await expect(page.locator("#bulk-problem")).to_contain_text("när pausen börjar")
            await page.locator("#bulk-from").fill(f"{tomorrow}T00:00")
            await page.locator("#bulk-until").fill(f"{tomorrow + timedelta(days=3)}T00:00")
            await page.get_by_test_id("bulk-prepare").click()
            lines = page.get_by_test_id("bulk-lines").locator("li")
            await expect(lines.filter(has_text="gw-alder")).to_contain_text("version 2; av 14 tillsyner")
            await expect(lines.filter(has_text="gw-alder")).to_contain_text("är 3 pausade")
            await expect(lines.filter(has_text="gw-cedar")).to_contain_text("skicka den igen först")
            await expect(lines.filter(has_text="gw-dogwood")).to_contain_text("skriv en först")
            send = page.get_by_test_id("bulk-send")
            await expect(send).to_have_text("Skriv under och skicka till 2 hem")
            await _look(page, shots, "bulk-2-meaning-sv")
            await row["gw-dogwood"].get_by_role("checkbox").uncheck()
            await expect(send).to_be_hidden()
            assert all(home.agreement is None or home.agreement.version == 1 for home in place.homes.values())

            # Signed and sent: one home refuses, and is said to have.
            trust, place.homes["gw-birch"].trust = place.homes["gw-birch"].trust, TrustStore(9, 9, {}, {})
            await page.get_by_test_id("bulk-prepare").click()
            await send.click()
            await expect(lines.filter(has_text="gw-alder")).to_contain_text("godtagen, version 2", timeout=15_000)
            await expect(lines.filter(has_text="gw-birch")).to_have_class("bad", timeout=15_000)
            await expect(page.get_by_test_id("message")).to_contain_text("1 av 2 hem har godtagit")
            await expect(row["gw-birch"].locator(".plan-standing")).to_have_text("ja")
            await expect(row["gw-birch"].get_by_role("checkbox")).to_be_checked()
            await expect(row["gw-alder"]).to_contain_text("a-gw-alder v2", timeout=15_000)
            await expect(row["gw-alder"]).to_contain_text(f"{tomorrow} 00:00 till")
            assert place.homes["gw-alder"].agreement is not None
            assert len(place.homes["gw-alder"].agreement.pauses) == 1
            await _look(page, shots, "bulk-3-sent-sv")

            # Sent again, in English: under a version of its own, for the first may have come after all.
            place.homes["gw-birch"].trust = trust
            await context.set_extra_http_headers({"Accept-Language": "en"})
            await page.goto(f"{url}/language/en")
            await page.goto(f"{url}/#plan")
            await page.locator("#plan-filter").select_option("unconfirmed")
            await expect(page.get_by_test_id("plan-row")).to_have_count(1, timeout=15_000)
            await page.locator("#plan-all").check()
            await page.get_by_test_id("bulk-act").select_option("again")
            await page.get_by_test_id("bulk-prepare").click()
            await expect(lines.filter(has_text="gw-cedar")).to_contain_text("version 3; of 14 checks")
            await _look(page, shots, "bulk-4-again-en")
            await send.click()
            await expect(page.get_by_test_id("message")).to_contain_text("1 of 1 homes have accepted", timeout=15_000)
            await expect(page.get_by_test_id("plan-row")).to_have_count(0, timeout=15_000)
            held = {gateway: home.agreement.version for gateway, home in place.homes.items() if home.agreement}
            assert held == {"gw-alder": 2, "gw-birch": 1, "gw-cedar": 3}

            # The broker moves: of the homes that are ticked, each answers for itself.
            await page.locator("#plan-filter").select_option("all")
            await page.locator("#broker-box summary").click()
            await page.get_by_test_id("broker-send").click()
            await expect(page.get_by_test_id("message")).to_contain_text("Tick the homes")
            await row["gw-alder"].get_by_role("checkbox").check()
            await row["gw-birch"].get_by_role("checkbox").check()
            for name, text in (
                ("host", "10.90.0.3"),
                ("port", "8883"),
                ("name", "broker.example"),
                ("relay-port", "443"),
            ):
                await page.locator(f"#broker-box [name={name}]").fill(text)
            await page.get_by_test_id("broker-send").click()
            await expect(page.get_by_test_id("message")).to_contain_text("all four or nothing")
            await page.locator("#broker-box [name=relay-port]").fill("")
            place.homes["gw-birch"].trust = TrustStore(9, 9, {}, {})
            await page.get_by_test_id("broker-send").click()
            answers = page.get_by_test_id("broker-answers").locator("li")
            await expect(answers.filter(has_text="gw-alder")).to_contain_text("tries the new address", timeout=15_000)
            await expect(answers.filter(has_text="gw-birch")).to_have_class("bad", timeout=15_000)
            (ordered,) = place.homes["gw-alder"].ordered
            assert (ordered.broker_host, ordered.broker_port, ordered.fallback) == ("10.90.0.3", 8883, None)
            assert ordered.version > 1_795_000_000
            assert [home.ordered for name, home in place.homes.items() if name != "gw-alder"] == [[], [], []]
            await _look(page, shots, "bulk-5-broker-en")

            # A device goes back: a steward ends its use, another person compares the digits and has it erased.
            await _take_back(page, url, shots)
            other = await (await browser.new_context(locale="en-GB")).new_page()
            await other.goto(f"{url}/login?token={place.tokens['in-a']}")
            await _confirm(other, url, shots)
            assert place.homes["gw-alder"].obstacle == "returned"
            await _close_without(page, url, shots)
            assert errors == []
            await browser.close()

    run(work(), limit_s=190.0)
