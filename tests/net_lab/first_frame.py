"""The time from *Start* to the first picture, beside a bare aiortc sender over the same path, in one run.

Ours holds what the bare one leaves out: two signatures, a decision, a durable record, two more processes, and the
mount's way, which here is the shortest that the guard takes. Both go operator → relay → tunnel → home; both are
signalled through the console's TLS proxy, ours further through centre and broker.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from pathlib import Path

from centre.operator import Operator
from provisioning import bench_home
from tests.net_lab import front
from tests.net_lab.lab import Lab, LabError, running
from tests.net_lab.network import ROOT, TUNNEL_HOME, within
from tests.net_lab.onlooker import Onlooker, onlooker
from tests.net_lab.sealed import make_film

TIMES = 7
PORT = 40123
"""In the range in which the device's packet filter lets UDP in; the lab opens it for TCP."""
AIM = 1.3
BARE = """async ([servers, url]) => {
  const began = performance.now();
  const peer = new RTCPeerConnection({iceServers: servers, iceTransportPolicy: "relay", bundlePolicy: "max-bundle"});
  window.bare = peer;
  const video = document.querySelector("video");
  const shown = new Promise((resolve) => video.requestVideoFrameCallback(() => resolve(performance.now() - began)));
  peer.addTransceiver("video", {direction: "recvonly"});
  peer.createDataChannel("check");
  peer.ontrack = ({track}) => { video.srcObject = new MediaStream([track]); video.play(); };
  await peer.setLocalDescription(await peer.createOffer());
  await new Promise((resolve) => {
    const done = () => { if (peer.iceGatheringState === "complete") resolve(); };
    peer.onicegatheringstatechange = done; done();
  });
  const answer = await (await fetch(url, {method: "POST", body: JSON.stringify(peer.localDescription)})).json();
  await peer.setRemoteDescription(answer);
  const took = await Promise.race([shown, new Promise((resolve) => setTimeout(() => resolve(-1), 15000))]);
  peer.close();
  return took;
}"""


async def run(directory: Path) -> tuple[list[str], list[str]]:
    directory.mkdir(parents=True, exist_ok=True)
    film = directory / "film.h264"
    make_film(film)
    async with running(directory, camera=f"file:{film}", quick_mount=True) as lab:
        for wire in lab.network.wires.values():
            wire.set(delay_ms=10.0)
        await lab.agree(_agreement(lab, 1))
        await lab.until_tunnel("up", 30.0)
        async with onlooker(lab) as operator:
            ours = [await _ours(lab, operator, number) for number in range(TIMES)]
            bare = await _bare(lab, operator, film)
    ours_ms, bare_ms = statistics.median(ours), statistics.median(bare)
    ratio = ours_ms / bare_ms
    words = (
        f"first picture, median of {TIMES}: ours {ours_ms:.0f} ms ({min(ours):.0f} to {max(ours):.0f}), bare aiortc "
        f"{bare_ms:.0f} ms ({min(bare):.0f} to {max(bare):.0f}): {ratio:.2f}, aim {AIM}"
    )
    return [words], []


def _agreement(lab: Lab, version: int) -> dict[str, object]:
    made = bench_home.agreement_now(lab.home, version=version, max_s=60)
    (line,) = made["lines"]
    made["lines"] = [line | {"id": f"v{version}-{number}"} for number in range(TIMES + 1)]
    return made


async def _ours(lab: Lab, operator: Onlooker, number: int) -> float:
    await operator.page.reload()
    await operator.ready()
    await asyncio.sleep(2.0)
    await operator.start()
    took_ms = await operator.first_frame_ms(20.0)
    if took_ms is None:
        raise LabError(f"no picture at check {number + 1}: {await operator.words()}")
    await operator.say_if_possible("seen")
    async with asyncio.timeout(20.0):
        while sum(record.kind == "closed" for record in lab.records()) <= number or not lab.safe():
            await asyncio.sleep(0.1)
    return took_ms


async def _bare(lab: Lab, operator: Onlooker, film: Path) -> list[float]:
    folder = lab.home.directory / "front"
    peer = await asyncio.create_subprocess_exec(
        *within("home"), sys.executable, "-m", "tests.net_lab.bare_peer", str(film), TUNNEL_HOME, str(PORT),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    proxy = await asyncio.create_subprocess_exec(
        *within("centre"), sys.executable, "-m", "tests.net_lab.front", "show", TUNNEL_HOME, str(PORT),
        str(folder / "cert.pem"), str(folder / "key.pem"), stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        for process in (peer, proxy):
            assert process.stdout is not None
            await process.stdout.readline()
        await lab.open_port(PORT)
        page = operator.page
        await page.goto(f"https://{front.NAME}:{front.SHOW_PORT}/")
        times = []
        async with Operator(lab.url, lab.home.login_token) as person:
            home = await person.home(lab.home.gateway)
            for _ in range(TIMES):
                await person.challenge(home)
                took_ms = await page.evaluate(BARE, [person._ice_servers, "/offer"])
                if took_ms < 0:
                    raise LabError("no picture of the bare sender")
                times.append(float(took_ms))
                await asyncio.sleep(1.0)
        return times
    finally:
        for process in (peer, proxy):
            if process.returncode is None:
                process.terminate()
            await process.wait()
