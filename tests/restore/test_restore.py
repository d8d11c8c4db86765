"""A centre that begins again from a backup taken while it worked has afterwards what every home recorded, once and in
order, and its queue is what the homes say.

Two homes of real processes on one broker and one centre. One is in a check while the backup is made, the other records;
then the check ends, both go on, and the centre's disk is lost.

Mutation that turns it red: leave `_enter_checks` out of `centre.witness.Witness.take` (the check that was seen after
the backup is handed over).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from running_bench import Bench, run, watching

from centre.missed import look
from centre.operator import Look, Operator, OperatorError
from centre.store import Store
from gateway.edge.bench_world import BenchWorld
from gateway.ipc import frame
from gateway.ledger import LedgerRefusedError, read_records
from gateway.protocol.envelope import sign
from gateway.protocol.message import TrustPut, Verdict
from gateway.services import hand
from provisioning import bench_home
from provisioning.authority import broker_config
from provisioning.authority.secret_file import write_secret
from provisioning.bench_home import BenchHome
from provisioning.demo import RunningBench, put_agreement, running, start_broker, start_centre, start_home

pytestmark = pytest.mark.service
AFTER = 6


def _joined(home: BenchHome, other: BenchHome) -> BenchHome:
    """`other` as a home of `home`'s broker and centre."""
    identity = home.authority.issue(other.gateway)
    place = other.directory / "home"
    (place / "ca.pem").write_bytes(home.authority.pem())
    (place / "cert.pem").write_bytes(identity.certificate)
    (place / "key.pem").unlink()
    write_secret(place / "key.pem", identity.key)
    trust = TrustPut(version=1, epoch=0, roots=[other.root.verifying.jwk()], issuers=[home.issuing.verifying.jwk()])
    (place / "trust.jws").write_bytes(sign(trust, other.root))
    (home.directory / "broker" / "acl").write_text(broker_config.acl([home.gateway, other.gateway]))
    config = tomllib.loads(home.centre_config.read_text())
    config["homes"] += tomllib.loads(other.centre_config.read_text())["homes"]
    home.centre_config.write_text(tomli_w.dumps(config))
    guard, mine = place / "guard.toml", tomllib.loads((home.directory / "home" / "guard.toml").read_text())
    guard.write_text(tomli_w.dumps(tomllib.loads(guard.read_text()) | {"witness": mine["witness"]}))
    return dataclasses.replace(
        other, login_token=home.login_token, planner_token=home.planner_token, issuing=home.issuing,
        planner=home.planner, authority=home.authority,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _two_homes(folder: Path) -> AsyncIterator[tuple[Bench, Bench]]:
    home = bench_home.make(folder / "one", gateway="gw-one")
    other = bench_home.make(folder / "two", gateway="gw-two", broker_port=home.broker_port)
    other = _joined(home, other)
    async with running(home) as one:
        two = RunningBench(other, one.url)
        two.processes["home"] = await start_home(other)
        try:
            for each in (one, two):
                await put_agreement(each, bench_home.agreement_now(each.home))
            yield Bench(one, BenchWorld(home.world)), Bench(two, BenchWorld(other.world))
        finally:
            two.processes["home"].terminate()
            await two.processes["home"].wait()


async def _live(stack: contextlib.AsyncExitStack, bench: Bench) -> tuple[Operator, dict[str, Any], Look]:
    """A picture; on a machine that is busy asked for once more. What broke off before is no look."""
    for _ in range(2):
        with contextlib.suppress(OperatorError, TimeoutError):
            return await stack.enter_async_context(watching(bench))
        await bench.until(bench.safe, 20.0)
    return await stack.enter_async_context(watching(bench))


async def _pauses(bench: Bench, times: int) -> None:
    for _ in range(times):
        await hand.tell(bench.home.control_socket, frame.NotTonight(3600.0))
        await hand.tell(bench.home.control_socket, frame.EndPause())


async def _back_up(home: BenchHome, target: Path) -> None:
    """As docs/operations.md says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "centre", "--config", str(home.centre_config), "--backup", str(target),
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0


def _lines(database: Path, gateway: str) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT raw FROM ledger_records WHERE gateway = ? ORDER BY seq"
        return [raw for (raw,) in connection.execute(query, [gateway])]


def _written(bench: Bench) -> list[bytes]:
    """The home's own ledger, byte for byte."""
    while True:
        with contextlib.suppress(LedgerRefusedError):  # a line that is not whole yet
            return [stored.line for stored in read_records(bench.home.ledger)]


@pytest.mark.timeout(300)
def test_a_backup_taken_under_load_restores_to_a_centre_that_has_every_homes_records(tmp_path: Path):
    async def work() -> None:
        async with _two_homes(tmp_path) as (one, two):
            home = one.home
            database = home.centre_config.parent / "centre.sqlite"
            backup = tmp_path / "backup.sqlite"

            async def complete() -> None:
                async with asyncio.timeout(90.0):
                    for each in (one, two):
                        while _lines(database, each.home.gateway) != _written(each):
                            await asyncio.sleep(0.2)

            async with contextlib.AsyncExitStack() as stack:
                operator, known, watched = await _live(stack, one)
                await asyncio.gather(_back_up(home, backup), _pauses(two, AFTER))
                await operator.give_verdict(known, watched, Verdict.SEEN)
                assert (await operator.closed(known, watched.check))["verdict"] == "seen"
            await _pauses(two, AFTER)
            await complete()
            before = {each.home.gateway: len(_lines(backup, each.home.gateway)) for each in (one, two)}
            assert all(before[each.home.gateway] < len(_written(each)) for each in (one, two)), before

            centre = one.running.processes["centre"]
            centre.terminate()
            await centre.wait()
            for path in database.parent.glob("centre.sqlite*"):
                path.unlink()
            database.write_bytes(backup.read_bytes())
            one.running.processes["centre"], one.running.url = await start_centre(home)

            # Each home's next hello makes the centre ask for what it lacks: here the first after a lost connection. And
            # life goes on: a next record follows those before it.
            broker = one.running.processes["broker"]
            broker.terminate()
            await broker.wait()
            one.running.processes["broker"] = await start_broker(home)
            await _pauses(two, 1)
            await complete()
            async with Operator(one.running.url, home.login_token) as operator:
                async with asyncio.timeout(60.0):
                    # The checkpoint over the check that was seen: with it the home has signed those lines again.
                    closed = next(seq for seq, line in enumerate(_written(one)) if b'"kind":"closed"' in line)
                    while await _witnessed(operator, one) <= closed or not await _witnessed(operator, two):
                        await asyncio.sleep(0.3)
                    while (found := await _checks(operator)) != [("gw-two", "due")]:
                        assert ("gw-one", "due") not in found, "seen is seen"
                        await asyncio.sleep(0.3)
                assert (await operator.queue())["handovers"] == []
            # And when the windows are over, only the check that nobody made is somebody's task.
            later = tmp_path / "later.sqlite"
            await _back_up(home, later)
            with contextlib.closing(Store(later)) as store:
                begun = look(store, {"gw-one": 1, "gw-two": 1}, now_unix_s=time.time() + 2 * 3600)
            assert [each.gateway for each in begun] == ["gw-two"]

    run(work(), limit_s=280.0)


async def _checks(operator: Operator) -> list[tuple[str, str]]:
    items = (await operator.queue())["items"]
    return [(item["gateway"], item["word"]) for item in items if item["kind"] == "check"]


async def _witnessed(operator: Operator, bench: Bench) -> int:
    """Records of this home's log under a checkpoint that the centre has cosigned."""
    known = await operator.home(bench.home.gateway)
    assert known["disabled"] is None
    return int(known["witnessed"]["size"]) if known["witnessed"]["is_cosigned"] else 0
