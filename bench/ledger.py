"""What the ledger adds to the disk's own time for making a line durable."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.result import Result, Side
from gateway.core.boottime import boot_id, boottime_s
from gateway.ledger import Ledger, NoteSigner, Record, RecordKind

TOPIC = "5  Ledger"


def measure(*, rounds: int) -> list[Result]:
    """`rounds` records, each written once by the ledger and once by a bare write and fdatasync of the same bytes."""
    ours, beside = [], []
    signer = NoteSigner("tillsyn/gw-bench", Ed25519PrivateKey.generate())
    # /tmp may be memory, where a sync costs nothing.
    with (
        tempfile.TemporaryDirectory(prefix="tillsyn-bench-", dir="/var/tmp") as directory,
        Ledger.open(Path(directory) / "ledger", signer) as ledger,
    ):
        file = os.open(Path(directory) / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(rounds):
                record = _record()
                began_s = time.perf_counter()
                line = ledger.append(record).line
                ours.append((time.perf_counter() - began_s) * 1e3)
                began_s = time.perf_counter()
                os.write(file, line)
                os.fdatasync(file)
                beside.append((time.perf_counter() - began_s) * 1e3)
        finally:
            os.close(file)
    return [
        Result(
            TOPIC,
            "ms",
            Side.of("Ledger.append, a record of a check", ours),
            Side.of("write + fdatasync of the line", beside),
            note=f"{len(line)} bytes a line, below /var/tmp",
        )
    ]


def _record() -> Record:
    now = time.time()
    return Record(
        boot=boot_id(),
        boottime=boottime_s(),
        time_lo=now,
        time_hi=now + 1.0,
        kind=RecordKind.LIVE,
        who="op-bench",
        check="c-bench",
        line="night-1",
        occasion="2026-11-23T23:30",
        attempt=1,
        sw="0.1.0",
    )
