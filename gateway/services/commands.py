"""The device's sub-commands: its services, each by itself with a configuration file, and the ledger for people."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.error import IntegrityError

CONTROL_SOCKET = Path("/run/tillsyn/control.sock")
LEDGER_ACTIONS = "tillsyn.ledger_actions"
"""Entry-point group of modules whose `register(actions)` adds actions to `tillsyn ledger`."""


def register(commands: Any) -> None:
    """Add our commands to argparse's sub-parsers."""
    for name, words in (
        ("guard", "decide and drive: trust, agreement, ledger, mount, lamp (no network, no camera)"),
        ("eye", "camera and encrypted picture for one check (no network but the guard's socket)"),
        ("link", "MQTT and ICE: the home's way out (no camera, no keys of the device)"),
        ("tunnel", "WireGuard to the centre (may set up interfaces; no camera, no keys but the tunnel's)"),
        ("upkeep", "install updates and judge them (RAUC over D-Bus; no camera, no broker)"),
        ("park", "turn the camera up, with nothing else running"),
        ("fresh", "answer the installer's wizard while this device belongs to nobody (no network)"),
        ("erase", "erase a device that was returned, if the guard has marked it; else bring the factory's files back"),
        ("home", "run guard, link and eye of one home in the foreground, as systemd would"),
    ):
        command = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the service's TOML file")
        command.set_defaults(run=_service)
    mount = commands.add_parser("mount", help="the installer's hand on the neck: park, aim, show; never the camera")
    mount.add_argument("action", choices=("park", "aim", "show"), help="aim works in set-up only, without a guard")
    mount.add_argument("--config", type=Path, required=True, metavar="FILE", help="the guard's TOML file, or park's")
    mount.add_argument("--angle", type=float, metavar="DEG", help="aim at another angle than the calibration's")
    mount.add_argument("--seconds", type=float, default=60.0, metavar="S", help="aim for so long at most (default 60)")
    mount.add_argument("--language", choices=("en", "sv"), default="en", help="default en")
    mount.set_defaults(run=_mount)
    for name, words in (
        ("pause", "not tonight: no check opens until the time is over; ends a running check at once"),
        ("stop", "withdraw consent: nothing opens again until a new agreement with a fresh consent is signed"),
        ("resume", "end a pause that was made here; does not undo `stop`"),
        ("act", "set-up's physical act, as if the button had been held while power came: the wizard may open again"),
        ("state", "say what holds at this device now"),
    ):
        command = commands.add_parser(
            name, help=words, description=f"{words[0].upper()}{words[1:]}. Works without any network."
        )
        command.add_argument("--socket", type=Path, default=CONTROL_SOCKET, metavar="PATH", help="default %(default)s")
        if name == "pause":
            command.add_argument("--hours", type=float, default=12.0, metavar="H", help="default 12")
        if name == "act":
            command.add_argument("--path", type=Path, metavar="FILE", help="make this file: there is no guard yet")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(run=_hand)
    ledger = commands.add_parser("ledger", help="read or verify the log of when, how long, who")
    actions = ledger.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print the records, oldest first")
    show.add_argument("path", type=Path, metavar="PATH", help="the ledger's directory")
    show.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    show.set_defaults(run=_show)
    verify = actions.add_parser(
        "verify",
        help="check every record, the chain, and the signed checkpoints",
        description="Exit status 0: every record is what was written. 1: it is not, and what is wrong is said.",
    )
    verify.add_argument("path", type=Path, metavar="PATH", help="the ledger's directory")
    verify.add_argument("--key", metavar="VKEY", help="the device's public ledger key, got by another way")
    verify.add_argument(
        "--witnessed",
        type=Path,
        metavar="FILE",
        help="a checkpoint of this ledger that somebody else kept (the centre gives it); the ledger must extend it",
    )
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(run=_verify)
    _register_more(actions)


def _register_more(actions: Any) -> None:
    # By entry point, because this package must not import the centre's; a package that is not shipped adds nothing.
    for name in sorted({entry.value for entry in entry_points(group=LEDGER_ACTIONS)}):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
                continue
            raise
        module.register(actions)


def _service(options: argparse.Namespace) -> int:
    from gateway.config import EyeConfig, GuardConfig, LinkConfig, ParkConfig, TunnelConfig, UpkeepConfig, load

    # Each service's libraries are loaded by that service alone: the guard's process must not even have the camera's.
    match options.command:
        case "guard":
            from gateway.services import guard

            guard.main(load(options.config, GuardConfig))
        case "eye":
            from gateway.services import eye

            eye.main(load(options.config, EyeConfig))
        case "link":
            from gateway.services import link

            link.main(load(options.config, LinkConfig))
        case "tunnel":
            from gateway.services import tunnel

            tunnel.main(load(options.config, TunnelConfig))
        case "upkeep":
            from gateway.services import upkeep

            upkeep.main(load(options.config, UpkeepConfig))
        case "fresh":
            from gateway.services import fresh

            fresh.main(fresh.read(options.config))
        case "erase":
            from gateway.services import erase

            erase.main(erase.read(options.config))
        case "park":
            from gateway.services import park

            park.main(load(options.config, ParkConfig))
        case _:
            from gateway.services import home

            home.main(load(options.config, home.HomeConfig))
    return 0


def _mount(options: argparse.Namespace) -> int:
    from gateway.services import mount_hand

    if not 0.0 < options.seconds <= 600.0:
        print("tillsyn mount: --seconds is above 0 up to 600", file=sys.stderr)
        return 2
    mount_hand.do(
        options.action, options.config, language=options.language, angle_deg=options.angle, hold_s=options.seconds
    )
    return 0


def _hand(options: argparse.Namespace) -> int:
    import asyncio

    from gateway.ipc import frame
    from gateway.services import hand

    match options.command:
        case "pause":
            if not 1 / 60 <= options.hours <= 14 * 24:
                print("tillsyn pause: --hours is from 0.02 to 336 (two weeks)", file=sys.stderr)
                return 2
            word: frame.Frame = frame.NotTonight(options.hours * 3600.0)
        case "stop":
            word = frame.StopForGood()
        case "resume":
            word = frame.EndPause()
        case "act" if options.path is not None:
            options.path.touch(mode=0o660)
            return 0
        case "act":
            word = frame.SetupAct()
        case _:
            word = frame.AskState()
    facts = asyncio.run(hand.tell(options.socket, word))
    print(json.dumps(msgspec.to_builtins(facts)) if options.json else hand.in_words(facts))
    return 0


def _show(options: argparse.Namespace) -> int:
    from gateway.ledger import read_records

    try:
        for stored in read_records(options.path):
            if options.json:
                body = None if stored.body is None else msgspec.to_builtins(stored.body)
                print(json.dumps({"seq": stored.seq, "body": body}))
                continue
            record = stored.body
            if record is None:
                print(f"{stored.seq:6}  (erased after its time; its place in the tree stays)")
                continue
            moment = datetime.fromtimestamp(record.time_lo, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            sure = " " if record.time_hi is not None else "≥"
            length = "" if record.watched_s is None else f"{record.watched_s:6.1f} s"
            print(
                f"{stored.seq:6} {sure}{moment}  {record.kind:<12} {record.who or '-':<14} {length:>9}  "
                f"{record.why or ''} {record.line or ''} {record.occasion or ''}".rstrip()
            )
    except IntegrityError as exc:
        print(f"tillsyn ledger show: {exc}", file=sys.stderr)
        return 1
    return 0


def _verify(options: argparse.Namespace) -> int:
    from gateway.ledger import LedgerRefusedError, verify_directory

    try:
        witnessed = None if options.witnessed is None else options.witnessed.read_bytes()
    except OSError as exc:
        print(f"{options.witnessed}: {exc.strerror}", file=sys.stderr)
        return 1
    try:
        report = verify_directory(options.path, options.key, witnessed=witnessed)
    except LedgerRefusedError as exc:
        if options.json:
            print(json.dumps({"verified": False, "code": exc.code.value, "message": exc.message}))
        print(f"refused ({exc.code}): {exc.message}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"verified": True, **msgspec.to_builtins(report)}))
    else:
        print(f"verified: {report.size} records, none changed, removed, added or moved")
        if report.erased:
            print(f"  {report.erased} of them were erased after their time; their places are whole")
        print(f"  signed up to record {report.checkpoint_size} by key {report.key_id}; {report.uncovered} since then")
        if report.torn_tail_bytes:
            print(f"  {report.torn_tail_bytes} bytes of a last line that a cut tore are not counted")
    return 0
