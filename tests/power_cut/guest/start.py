"""What the guard does with its ledger when it starts; the same code runs in the guest and on copies on the host.

Follows `gateway.services.guard.assemble` line by line where it is about the ledger and the agreement. `assemble` itself
wants a mount, a lamp and a trust statement, and opens segments of 1 MiB, which no short run would fill.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config import GuardConfig
from gateway.core.interval_clock import IntervalClock
from gateway.ledger import Ledger, NoteSigner, Record, RecordKind
from gateway.services.guard_state import Chronicle, Remembered, close_recovered, ledger_path, read_ledger, remember

SEGMENT_BYTES = 8192
"""About 17 records, so that every few checks a segment is begun."""
GATEWAY = "g-power-cut"
BOOTED_S = 20.0
"""Simulated BOOTTIME at which the guard starts."""


@dataclass(frozen=True, slots=True)
class Started:
    chronicle: Chronicle
    clock: IntervalClock
    past: Remembered
    tail_bytes: int
    """Length of the torn line that was cut off."""


def config_in(state_dir: Path) -> GuardConfig:
    """A configuration of which only `state_dir` means anything; what reads the rest would fail on it."""
    nowhere = "/nonexistent"
    return GuardConfig(
        gateway=GATEWAY,
        install_epoch=1,
        groups=[],
        state_dir=str(state_dir),
        guard_socket=nowhere,
        control_socket=nowhere,
        eye_socket=nowhere,
        device_key=nowhere,
        ledger_key=nowhere,
        roots=nowhere,
        trust=nowhere,
        mount=None,
        lamp_brightness=0.05,
        demand_isolation=True,
    )


def start(config: GuardConfig, signer: NoteSigner, boot: str, *, ledger_type: type[Ledger] = Ledger) -> Started:
    """Open the ledger, write the boot record, close what a cut left open, sign. Raises what the guard would see."""
    ledger = ledger_type.open(ledger_path(config), signer, segment_bytes=SEGMENT_BYTES)
    chronicle = Chronicle(ledger, boot, "power-cut")
    past = remember(config, read_ledger(config))
    clock = IntervalClock(past.floor_unix_s, BOOTED_S)
    why = "torn-tail" if chronicle.recovered_tail else "start"
    chronicle.append(RecordKind.BOOT, BOOTED_S, clock, why=why)
    if past.unclosed is not None:
        last_seen: Record = past.last_seen or past.unclosed
        close_recovered(chronicle, past.unclosed, last_seen, BOOTED_S, clock, verdict=past.unclosed_verdict)
    chronicle.checkpoint()
    return Started(chronicle, clock, past, ledger.recovered_tail_bytes)
