"""The installer's evening in a real Chromium on a phone's screen, against real processes.

Real: Mosquitto, the centre, guard, eye, link, fresh, the wizard, Chromium, which takes the label's key only. Played:
NetworkManager (tests/fakes/nm_on_bus.py), on a real bus. The longer runs are in tests/wizard (`make wizard-run`).

Mutations that turn it red: leave `self.is_open = False` out of `_finish` in guard_setup (set-up is open afterwards);
keep the drawing in the progress instead of its hash (the strokes are found on the disk).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import artefacts
from device_bench import device_bench
from evening import Clock, whole
from installer import installer
from running_bench import run

from gateway.ledger import verify_directory
from gateway.protocol.envelope import verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import InstallationProtocol
from provisioning.wizard.guard_client import GuardClient, GuardDeniesError

pytestmark = pytest.mark.browser

SAID = [
    "begun", "network", "line", "enrolled", "informed", "consent-resident", "loan-receipt", "key-receipt", "aimed",
    "room-dark", "lamp-seen", "noise-heard", "checked", "alarm-answered", "done",
]  # fmt: skip


@pytest.mark.timeout(200)
def test_an_installer_sets_a_device_up_from_the_first_page_to_the_closed_port(tmp_path: Path):
    shots = artefacts(tmp_path / "artefacts")

    async def work() -> None:
        async with device_bench(tmp_path) as running, installer(running, language="sv", shots=shots) as one:
            clock = Clock()
            await whole(one, clock)
            print(f"\n{clock.in_words()}\nscreenshots in {shots}")
            for name in ("receipts", "protocol"):
                assert (await one.paper(name)).startswith(b"%PDF-")
            assert one.violations == []
            assert one.errors == []

            # After: nothing listens, nobody is there to be asked, and the guard shows nobody a picture.
            await running.until(lambda: not running.port_is_open(), 40.0, "the port is closed")
            await running.until(lambda: "setup" not in running.pids(), 10.0, "the process is gone")
            opened = running.world.sensor_opens()
            await previews_are_refused(running)
            assert running.world.sensor_opens() == opened

            assert running.set_up_words() == SAID
            opened_by = [record.who for record in running.records() if record.kind == "opened"]
            assert opened_by == ["installer", "op-demo"]
            assert verify_directory(running.device.ledger).size > len(SAID)

            # What went to the centre is signed by the device, and every line of it is good.
            enrolment = await running.enrolment()
            (home,) = [one for one in [enrolment] if one["is_same"]]
            key = await device_key(running)
            protocol = verify(home["protocol"].encode(), {key.kid: key}, InstallationProtocol)
            assert all(line.is_good for line in protocol.lines)
            assert {line.how for line in protocol.lines} == {"measured", "ticked", "recorded"}

            # Of the signature only the hash is left in what the wizard keeps.
            kept = b"".join(path.read_bytes() for path in (running.device.directory / "setup").iterdir())
            assert b'"how":"drawn"' in kept
            assert b"[[[" not in kept

    run(work(), 190.0)


async def device_key(running) -> VerifyingKey:
    from centre.operator import Operator

    async with Operator(running.running.url, running.device.home.login_token) as operator:
        return VerifyingKey.from_jwk((await operator.home(running.device.stub.setup.gateway))["device_jwk"])


async def previews_are_refused(running) -> None:
    import asyncio

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
