"""The centre under N simulated homes on a real broker: what an operator waits for, and what it costs.

    make centre-load N=1000

First all homes come back within half a minute, as after a broker's restart: how long until the centre has `heard` all,
and until the next hello waits for none of them (`settled`). Every home has three checks a night in two clusters; what
is measured is the middle of a cluster, when all homes are due at once, each says hello now and then, and operators take
check after check. Printed is one line for each N:

* `queue`: from a home's hello leaving the home to the queue that shows it, as a page gets it (event, 450 ms, fetch)
* `start`: from *Start* (the signed opening leaves) to the home's signed answer; the home itself answers at once
* `click`: in a real Chromium, from choosing a home in the queue to its page standing there with its name, and `filled`
  to the centre's answer standing in it
* CPU and memory of the centre's one worker (SQLite) and of the broker
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("service", "browser")]

from centre_place import Place, broker, make_place, worker  # noqa: E402
from chromium import FLAGS, program  # noqa: E402
from simulated_fleet import Fleet, an_agreement, fleet  # noqa: E402

from gateway.protocol.envelope import sign, split, verify  # noqa: E402
from gateway.protocol.key import SigningKey  # noqa: E402
from gateway.protocol.message import Challenge, Challenged, Open, Opened, Verdict, VerdictGiven  # noqa: E402

BACK_WITHIN_S = 30.0
"""Source: `spread_s` of gateway/config/file.py."""
SETTLED_MS = 1000.0
"""A hello that is in the queue so soon was not behind others."""
OPERATORS = 6
"""At once; a centre of a thousand homes has about that many seats at night."""


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else float("nan")


class Seat:
    """One operator by HTTP, as fast as the rate limit lets a person be."""

    def __init__(self, place: Place, url: str, number: int) -> None:
        self.place = place
        self.key = SigningKey.generate()
        self.number = number
        self.sent = 0
        self.starts_ms: list[float] = []
        self.queues_ms: list[float] = []
        who = ("op-a", "op-b")[number % 2]
        headers = {"Authorization": f"Bearer {place.tokens[who]}"}
        self.http = httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=30, trust_env=False)

    async def begin(self) -> None:
        self.grant = (await self.http.post("/grants", json={"jwk": self.key.verifying.jwk()})).json()["grant"].encode()

    async def send(self, gateway: str, message: Any) -> bytes | None:
        body = self.grant + b"~" + sign(message, self.key)
        response = await self.http.post(
            f"/homes/{gateway}/commands", content=body, headers={"Content-Type": "text/plain"}
        )
        return str(response.json()["reply"]).encode() if response.status_code == 200 else None

    def jti(self) -> str:
        self.sent += 1
        return f"s{self.number}-{self.sent}"

    async def work(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            began_s = time.perf_counter()
            items = (await self.http.get("/queue")).json()["items"]
            self.queues_ms.append((time.perf_counter() - began_s) * 1000)
            due = [item for item in items if item["kind"] == "check" and item["word"] in ("due", "recheck")]
            if due:
                await self.check(random.choice(due))
            await asyncio.sleep(random.uniform(0.6, 1.4))

    async def check(self, item: dict[str, Any]) -> None:
        home = self.place.homes[item["gateway"]]
        reply = await self.send(home.gateway, Challenge(home.audience, self.jti()))
        device = home.key.verifying
        if reply is None or split(reply).kind != Challenged.KIND:
            return
        challenged = verify(reply, {device.kid: device}, Challenged)
        due = next(
            (one for one in challenged.due if (one.line, one.occasion) == (item["line"], item["occasion"])), None
        )
        if due is None or due.attempt < 1:
            return
        opening = Open(
            home.audience, self.jti(), challenged.nonce, challenged.agreement, challenged.version, due.line,
            due.occasion, due.attempt, "v=0\r\n" + "a=x\r\n" * 300,
        )  # fmt: skip
        began_s = time.perf_counter()
        reply = await self.send(home.gateway, opening)
        if reply is None or split(reply).kind != Opened.KIND:
            return
        self.starts_ms.append((time.perf_counter() - began_s) * 1000)
        opened = verify(reply, {device.kid: device}, Opened)
        await self.send(home.gateway, VerdictGiven(home.audience, self.jti(), opened.check, 1, Verdict.SEEN))


async def updates(place: Place, running: Fleet, url: str, until_s: float) -> list[float]:
    """A home's fault appears: from its hello to the queue that has heard it. In ms."""
    found: list[float] = []
    heard: dict[str, float] = {}
    headers = {"Authorization": f"Bearer {place.tokens['op-a']}"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=60, trust_env=False) as client:

        async def listen() -> None:
            async with client.stream("GET", "/events") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: ") and '"gateway"' in line:
                        heard[line.split('"gateway":"')[1].split('"')[0]] = time.perf_counter()

        listening = asyncio.create_task(listen())
        await asyncio.sleep(1)
        names = list(place.homes)
        while time.monotonic() < until_s:
            gateway = random.choice(names)
            heard.pop(gateway, None)
            began_s = time.perf_counter()
            await running.hello(gateway)
            while gateway not in heard and time.monotonic() < until_s + 5:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.45)
            await client.get("/queue")
            found.append((time.perf_counter() - began_s) * 1000)
        listening.cancel()
    return found


async def clicks(place: Place, url: str, count: int) -> list[tuple[float, float]]:
    """Milliseconds to the page and to what is in it, of each of `count` clicks."""
    from playwright.async_api import async_playwright

    found: list[tuple[float, float]] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=FLAGS)
        page = await (await browser.new_context(viewport={"width": 1280, "height": 900})).new_page()
        await page.goto(f"{url}/login?token={place.tokens['op-b']}")
        await page.get_by_test_id("home").first.wait_for(timeout=60_000)
        for number in range(count):
            spent = await page.evaluate(
                """async (place) => {
                    const began = performance.now();
                    document.querySelectorAll("[data-testid=home]")[place].click();
                    const frame = () => new Promise(requestAnimationFrame);
                    while (document.getElementById("home-view").hidden) await frame();
                    const stood = performance.now() - began;
                    while (document.getElementById("agreement-line").textContent === "") await frame();
                    return [stood, performance.now() - began];
                }""",
                number % 20,
            )
            found.append((float(spent[0]), float(spent[1])))
            await page.keyboard.press("Escape")
            await page.get_by_test_id("home").first.wait_for()
        await browser.close()
    return found


async def keep_saying(running: Fleet, until_s: float) -> None:
    """Every home says hello each 300 s, as real ones do, spread evenly."""
    names = list(running.homes)
    while time.monotonic() < until_s:
        await running.hello(random.choice(names))
        await asyncio.sleep(300 / len(names))


async def measure(count: int, seconds: float, *, with_browser: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="tillsyn-load-") as folder:
        place = make_place(Path(folder), [f"gw-load-{number:05}" for number in range(count)])
        start = (datetime.now(UTC) - timedelta(minutes=2)).strftime("%H:%M")
        for number, home in enumerate(place.homes.values()):
            home.agreement = an_agreement(home.gateway, start=start, lines=2 if number % 2 else 1)
        config = place.config("centre", {"database_path": "centre.sqlite"})
        async with (
            broker(place) as mosquitto,
            worker(place, config) as (process, url),
            fleet(place.homes, port=place.broker_port, folder=place.folder) as running,
        ):
            began_s = time.perf_counter()
            for number, gateway in enumerate(place.homes):
                await asyncio.sleep(began_s + number * BACK_WITHIN_S / count - time.perf_counter())
                await running.hello(gateway)
            said_s = time.perf_counter() - began_s
            seats = [Seat(place, url, number) for number in range(OPERATORS)]
            for seat in seats:
                await seat.begin()
            while sum((await seats[0].http.get("/queue")).json()["counts"].values()) < count:
                await asyncio.sleep(0.2)
            ready_s = time.perf_counter() - began_s
            # What the centre still does for all of them having come at once (evidence, news) is a figure of its own.
            while max(await updates(place, running, url, time.monotonic() + 2.0)) > SETTLED_MS:
                pass
            settled_s = time.perf_counter() - began_s
            programs = {"centre": psutil.Process(process.pid), "broker": psutil.Process(mosquitto.pid)}
            before = {name: sum(each.cpu_times()[:2]) for name, each in programs.items()}
            until_s, wall_s = time.monotonic() + seconds, time.perf_counter()
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(seat.work(until_s)) for seat in seats]
                watching = group.create_task(updates(place, running, url, until_s))
                group.create_task(keep_saying(running, until_s))
                clicking = group.create_task(clicks(place, url, 20)) if with_browser else None
            assert all(task.done() for task in work)
            wall_s = time.perf_counter() - wall_s
            cpu = {name: (sum(each.cpu_times()[:2]) - before[name]) / wall_s * 100 for name, each in programs.items()}
            memory = {name: each.memory_info().rss / 2**20 for name, each in programs.items()}
            starts = [value for seat in seats for value in seat.starts_ms]
            queues = [value for seat in seats for value in seat.queues_ms]
            found = clicking.result() if clicking is not None else []
            columns = {"click": [stood for stood, _ in found], "filled": [filled for _, filled in found]}
            click = "  ".join(
                f"{name} p50 {statistics.median(spent):4.0f} p95 {p95(spent):4.0f} ms"
                for name, spent in columns.items()
                if spent
            )
            print(
                f"N={count:5}  all heard {ready_s:5.1f} s (said {said_s:4.1f}, settled {settled_s:4.1f})  "
                f"checks {len(starts):4}  "
                f"start p50 {statistics.median(starts):4.0f} p95 {p95(starts):4.0f} ms  "
                f"queue answer p95 {p95(queues):4.0f} ms  update p95 {p95(watching.result()):4.0f} ms  "
                f"{click}  "
                f"centre {cpu['centre']:3.0f} % {memory['centre']:4.0f} MiB  "
                f"broker {cpu['broker']:3.0f} % {memory['broker']:3.0f} MiB",
                flush=True,
            )
            for seat in seats:
                await seat.http.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[1000])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--no-browser", action="store_true")
    args = parser.parse_args()
    for count in args.counts:
        asyncio.run(measure(count, args.seconds, with_browser=not args.no_browser))


if __name__ == "__main__":
    main()
