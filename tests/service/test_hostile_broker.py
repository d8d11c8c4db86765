"""A broker that is wholly the attacker's opens no camera: captured commands, replayed in every state, every way.

Mutations that turn these red: `NonceBook.use` does not mark as used; nonces live on over a restart (a constant
instead of os.urandom); link takes retained commands; `verify_command` doesn't look at `aud`.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hostile import hostile, open_the_broker_to
from running_bench import Bench, bench, run, watching

from centre.operator import Operator
from gateway.protocol.envelope import sign, split
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Challenge, Role, Verdict

pytestmark = pytest.mark.service


async def _settled(home: Bench, refusals: int) -> None:
    """Until the guard has refused at least so many commands in all (records count bursts)."""
    await home.until(
        lambda: sum(record.count or 0 for record in home.records() if record.kind == "refused") >= refusals, 14.0
    )


def _opened(home: Bench) -> int:
    return sum(record.kind == "opened" for record in home.records())


def test_a_captured_open_never_opens_again_in_any_state(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path, before=open_the_broker_to) as home:
            with hostile(home.home) as evil:
                async with watching(home) as (operator, known, look):
                    captured = await asyncio.to_thread(evil.wait_for_command, "check.open")
                    challenge = await asyncio.to_thread(evil.wait_for_command, "check.challenge")
                    evil.send(captured)  # while the check runs
                    await _settled(home, 1)
                    assert home.world.sensor_opens() == 1
                    await operator.give_verdict(known, look, Verdict.NOT_SEEN)
                    await home.until(lambda: bool(home.closed()), 6.0)

                    evil.send(captured)  # after it, in the same window
                    evil.send(captured, retain=True)  # retained, for whoever subscribes next
                    await asyncio.sleep(1.0)
                    # A captured challenge may wake the eye's process at a due time, never its camera.
                    evil.send(challenge)
                    await asyncio.sleep(0.5)
                    evil.send(captured)
                    await asyncio.sleep(0.5)

                await home.kill("guard")  # nonces are in RAM only: a restart knows none
                await asyncio.sleep(1.5)
                evil.send(captured)
                evil.send(captured.replace(b"~", b"~~"))
                await asyncio.sleep(1.0)

                await home.kill("link")  # subscribes anew and would get what is retained
                await asyncio.sleep(2.0)
                assert _opened(home) == 1
                assert home.world.sensor_opens() == 1
                assert not home.world.sensor_on()
                assert home.mount_up()

    run(work())


def test_a_command_for_another_home_or_by_a_key_without_a_grant_does_nothing(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path, before=open_the_broker_to) as home:
            with hostile(home.home) as evil:
                own = SigningKey.generate()
                grant = home.home.grant(own, "op-x", (Role.OPERATOR,))
                evil.send(home.home.command(Challenge("gw-other/1", "j-1"), own, grant))
                self_granted = sign(
                    __import__("msgspec").convert(
                        {
                            "sub": "op-x",
                            "name_ref": "op-x",
                            "roles": ["operator"],
                            "cnf": {"jwk": own.verifying.jwk()},
                            "epoch": 0,
                            "nbf": time.time() - 10,
                            "exp": time.time() + 3600,
                            "homes": [home.home.gateway],
                        },
                        __import__("gateway.protocol.message", fromlist=["Grant"]).Grant,
                    ),
                    own,
                )
                evil.send(self_granted + b"~" + sign(Challenge(home.home.audience, "j-2"), own))
                evil.send(grant + b"~" + sign(Challenge(home.home.audience, "j-3"), SigningKey.generate()))
                evil.send(b"\x00" * 16384)
                evil.send(b"")
                await _settled(home, 4)
                codes = {record.why for record in home.records() if record.kind == "refused"}
                assert {"wrong-device", "unknown-key", "malformed"} <= codes
                assert home.world.sensor_opens() == 0
                assert "eye" not in home.running.pids()

    run(work())


def test_a_forged_answer_or_time_is_not_taken(tmp_path: Path):
    async def work() -> None:
        async with bench(tmp_path, before=open_the_broker_to) as home:
            with hostile(home.home) as evil:
                answers = [payload for branch, payload in evil.heard if branch == "time"]
                from gateway.protocol.message import TimeStatement

                forged = sign(TimeStatement(home.home.gateway, "A" * 22, 2_000_000_000.0, 1.0), SigningKey.generate())
                by_centre = sign(TimeStatement(home.home.gateway, "A" * 22, 2_000_000_000.0, 1.0), home.home.issuing)
                for statement in (forged, by_centre, *answers):
                    evil.send(statement, branch="time")
                await _settled(home, 2)
                async with Operator(home.running.url, home.home.login_token) as operator:
                    clock = (await operator.home(home.home.gateway))["clock"]
                    assert clock["lo_unix_s"] == pytest.approx(time.time(), abs=30)

    run(work())


@pytest.mark.alone
def test_a_flood_of_valid_looking_opens_is_refused_compactly_and_delays_a_genuine_one_by_less_than_a_second(
    tmp_path: Path,
):
    async def work() -> None:
        async with bench(tmp_path, before=open_the_broker_to) as home:
            with hostile(home.home) as evil:
                async with Operator(home.running.url, home.home.login_token) as operator:
                    known = await operator.wait_for_home(home.home.gateway, 20.0)

                    async def answered_in_s(times: int) -> list[float]:
                        took_s = []
                        for _ in range(times):
                            asked_s = time.monotonic()
                            await operator.challenge(known)
                            took_s.append(time.monotonic() - asked_s)
                            await asyncio.sleep(0.2)
                        return took_s

                    quiet_s = await answered_in_s(3)
                    genuine = evil.wait_for_command("check.challenge")
                    grant, command = genuine.split(b"~")
                    head, payload, _ = command.split(b".")
                    import base64
                    import secrets

                    stop = asyncio.Event()
                    sent = 0

                    async def flood() -> None:
                        nonlocal sent
                        due_s = time.monotonic()
                        while not stop.is_set():
                            for _ in range(50):
                                signature = base64.urlsafe_b64encode(secrets.token_bytes(64)).rstrip(b"=")
                                evil.send(grant + b"~" + head + b"." + payload + b"." + signature, qos=0)
                            sent += 50
                            due_s += 0.05
                            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

                    task = asyncio.create_task(flood())
                    await asyncio.sleep(2.0)
                    began_s = time.monotonic()
                    sent_before = sent
                    took_s = await answered_in_s(5)
                    rate = (sent - sent_before) / (time.monotonic() - began_s)
                    stop.set()
                    await task
                    print(f"{sent} forged at about {rate:.0f}/s; genuine answered in {took_s}, before in {quiet_s}")
                    assert sent > 2000
                    assert max(took_s) - max(quiet_s) < 1.0
                    assert split(grant).kind == "grant"
                refusals = [record for record in home.records() if record.kind == "refused"]
                assert len(refusals) <= 10, "bursts are counted, not listed"
                assert home.world.sensor_opens() == 0

    run(work())
