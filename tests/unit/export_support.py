"""Ledgers of a home for the exports: whole nights with looks, refusals, cuts and doubts, at instants we choose."""

from __future__ import annotations

import ast
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from ledger_support import BOOT, QuickDisk, new_signer

from gateway.ledger import Ledger, NoteSigner, Record, RecordKind

ZONE = ZoneInfo("Europe/Stockholm")
GATEWAY = "gw-test"
EXPORT = Path(__file__).parents[2] / "centre" / "export"


def at(local: str, fold: int = 0) -> float:
    """Unix seconds of a local time in Stockholm."""
    return datetime.fromisoformat(local).replace(tzinfo=ZONE, fold=fold).timestamp()


def an_agreement(**changes: Any) -> bytes:
    agreement = {
        "agreement": "a-7f3a",
        "version": 4,
        "gateway": GATEWAY,
        "install_epoch": 2,
        "timezone": "Europe/Stockholm",
        "valid": {"from": "2026-09-01", "until": "2027-10-31"},
        "consent": {
            "resident": {"given": "2026-08-30", "how": "signed-at-installation", "ref": "c-19"},
            "cohabitant": None,
        },
        "lines": [
            {
                "id": "night-1",
                "rrule": "FREQ=DAILY",
                "start": "23:30",
                "window_min": 30,
                "max_s": 60,
                "recheck": {"after_min": 15, "times": 1},
            }
        ],
        "picture": {"mode": "clear"},
        "lamp": "dim",
        "if_not_seen": [
            {"do": "call-resident", "within_min": 5},
            {"do": "visit", "unit": "hv-centrum", "within_min": 45},
        ],
        "pauses": [],
        "resident_ref": "r-81",
    }
    return json.dumps(agreement | changes).encode()


class Home:
    """Writes what a guard would; every time is told, and `boottime` follows it."""

    def __init__(self, path: Path, signer: NoteSigner | None = None, *, segment_bytes: int = 1 << 20) -> None:
        self.path = path
        self.ledger = Ledger.open(
            path, signer or new_signer(f"tillsyn/{GATEWAY}"), disk=QuickDisk(), segment_bytes=segment_bytes
        )
        self._check = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    def record(self, kind: RecordKind, unix_s: float, *, width_s: float | None = 2.0, **fields: Any) -> None:
        common = {"boot": BOOT, "boottime": unix_s - 1.7e9, "time_lo": unix_s, "kind": kind, "sw": "0.1.0"}
        hi_s = None if width_s is None else unix_s + width_s
        self.ledger.append(Record(**(common | {"time_hi": hi_s} | fields)))

    def agreed(self, content: bytes, unix_s: float) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.record(RecordKind.AGREEMENT, unix_s, who="pl-3", role="planner", version=4, digest_of=digest)

    def look(
        self,
        unix_s: float,
        *,
        why: str | None = "seen",
        watched_s: float = 28.0,
        who: str = "op-17",
        occasion: str = "2026-11-22T23:30",
        attempt: int = 1,
        width_s: float | None = 2.0,
        heartbeats: bool = True,
    ) -> str:
        """Records of one opening, as a guard writes them; `why` of None leaves it unclosed."""
        self._check += 1
        check = f"c-{self._check:04}abcdEFGH"
        facts: dict[str, Any] = {
            "who": who,
            "check": check,
            "line": "night-1",
            "occasion": occasion,
            "attempt": attempt,
            "width_s": width_s,
        }
        self.record(RecordKind.OPENED, unix_s, role="operator", **facts)
        if watched_s > 0:
            self.record(RecordKind.LIVE, unix_s + 1.5, **facts)
            if heartbeats:
                for beat in range(10, int(watched_s), 10):
                    self.record(RecordKind.HEARTBEAT, unix_s + beat, **facts)
        if why in ("seen", "not-seen", "unsure"):
            verdict = {"who": who, "role": "operator", "check": check, "why": why, "width_s": width_s}
            self.record(RecordKind.VERDICT, unix_s + 1.5 + watched_s, **verdict)
        if why is not None:
            ended = {"why": why, "watched_s": watched_s, "frames": int(watched_s * 25)}
            self.record(RecordKind.CLOSED, unix_s + 2.0 + watched_s, **facts, **ended)
        return check

    def refused(self, unix_s: float, code: str, count: int = 1, who: str | None = None) -> None:
        self.record(RecordKind.REFUSED, unix_s, why=code, count=count, **({"who": who} if who else {}))


def a_home(path: Path, *, agreement: bytes | None = None, signed: bool = True) -> Path:
    """A week in November 2026 in which everything a report tells apart happens at least once."""
    with Home(path) as home:
        home.record(RecordKind.BOOT, at("2026-11-01T09:00"), why="start")
        home.agreed(agreement or an_agreement(), at("2026-11-01T10:00"))
        for day in range(2, 16):
            home.look(at(f"2026-11-{day:02}T23:32"), occasion=f"2026-11-{day:02}T23:30")
        home.look(at("2026-11-16T23:31"), occasion="2026-11-16T23:30", why="not-seen", who="op-9")
        home.look(at("2026-11-16T23:49"), occasion="2026-11-16T23:30", attempt=2, watched_s=57.0, who="op-9")
        home.refused(at("2026-11-17T03:10"), "outside-window", who="op-9")
        home.refused(at("2026-11-17T03:11"), "outside-window", count=40)
        home.refused(at("2026-11-17T12:00"), "bad-signature")
        home.look(at("2026-11-17T23:58"), occasion="2026-11-17T23:30")
        home.look(at("2026-11-18T23:33"), occasion="2026-11-18T23:30", why="lease-lapsed", watched_s=2.0)
        home.look(at("2026-11-19T23:33"), occasion="2026-11-19T23:30", width_s=None)
        home.look(at("2026-11-20T23:33"), occasion="2026-11-20T23:30", why="recovered", watched_s=20.0)
        home.look(at("2026-11-21T23:33"), occasion="2026-11-21T23:30", watched_s=45.0, heartbeats=False)
        if signed:
            home.ledger.checkpoint()
        home.look(at("2026-11-22T23:31"), occasion="2026-11-22T23:30", why="seen")
        if signed:
            home.ledger.checkpoint()
    return path


def messages() -> tuple[set[str], dict[str, str]]:
    """Every message in the package's code: single ones, and the plural of each that has one."""
    single: set[str] = set()
    plural: dict[str, str] = {}
    for path in EXPORT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, texts = node.func, [each.value for each in node.args if isinstance(each, ast.Constant)]
            if isinstance(name, ast.Name) and name.id in ("say", "later") and texts:
                single.add(str(texts[0]))
            elif isinstance(name, ast.Attribute) and name.attr == "plural" and len(texts) >= 2:
                plural[str(texts[0])] = str(texts[1])
    return single, plural
