"""`tillsyn slot`: RAUC's custom boot loader backend, and what boot, health gate and restart ask of the slot selection.

Unit: tillsyn-slot at boot; RAUC and tillsyn-healthy call the same command. The partition is mounted by the caller
(/usr/lib/tillsyn/slot-backend), for as long as one command takes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any, Final

from gateway.edge.slots_tryboot import SlotSelection, boot_facts
from gateway.update.slot import Slot

LOG = logging.getLogger("tillsyn.slot")

DIRECTORY: Final = Path("/run/tillsyn-select")
BOOT: Final = Path("/run/tillsyn/boot")


def register(commands: Any) -> None:
    """Add our command to argparse's sub-parsers."""
    command = commands.add_parser(
        "slot",
        help="which of the two systems boots (RAUC's boot loader backend)",
        description="What RAUC, the boot and the health gate ask of the slot selection. For people: `rauc status`.",
    )
    command.add_argument("--directory", type=Path, default=DIRECTORY, metavar="DIR", help="default %(default)s")
    command.add_argument("--boot", type=Path, default=BOOT, metavar="FILE", help="default %(default)s")
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, words in (
        ("get-primary", "the slot that RAUC is to take for the next one"),
        ("get-current", "the slot that runs"),
        ("boot", "bring the books up to date, once in each boot; print what there is to tell"),
        ("healthy", "the running slot is good: it becomes the one that boots"),
        ("try", "keep that the installed slot is about to be tried; print its name"),
        ("show", "everything, for people"),
    ):
        actions.add_parser(name, help=words).set_defaults(run=_run)
    for name, words in (("set-primary", "let SLOT be tried next"), ("get-state", "good or bad")):
        action = actions.add_parser(name, help=words)
        action.add_argument("slot", type=Slot, metavar="SLOT")
        action.set_defaults(run=_run)
    action = actions.add_parser("set-state", help="SLOT is good or bad")
    action.add_argument("slot", type=Slot, metavar="SLOT")
    action.add_argument("state", choices=("good", "bad"))
    action.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    booted, by_try = boot_facts(options.boot)
    slots = SlotSelection(options.directory, booted=booted, by_try=by_try)
    try:
        match options.action:
            case "get-primary":
                selection = slots.read()
                print(selection.pending or selection.primary)
            case "get-current":
                print(booted)
            case "set-primary":
                slots.choose(options.slot)
            case "get-state":
                selection = slots.read()
                print("good" if options.slot in {*selection.good, selection.pending} else "bad")
            case "set-state":
                slots.judge(options.slot, good=options.state == "good")
            case "healthy":
                slots.judge(booted, good=True)
            case "try":
                print(slots.begin_try())
            case "show":
                selection = slots.read()
                print(f"running={booted} try={'yes' if by_try else 'no'} primary={selection.primary}")
                print(f"good={' '.join(sorted(selection.good))} pending={selection.pending or 'none'}")
            case _:
                note = slots.note_boot()
                if note is not None:
                    LOG.warning("slot %s runs: %s", booted, note)
                    print(note)
    except ValueError as exc:
        LOG.error("%s", exc)
        return 1
    return 0
