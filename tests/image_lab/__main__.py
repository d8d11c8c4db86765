"""`make image-test`: boots the built image under emulation, and tries on it what docs/image.md promises.

    python -m tests.image_lab --built DIR --signers DIR [--only NAME[,NAME]] [--cuts N] [--from NAME] [--keep NAME]

Without `--only` all shows, one after the other on one card. `--keep` keeps card and centre when all that was asked for
held; `--from` begins with such a card in the place of a new one.

Exit status 0 when every show holds, 1 when one does not, 2 when this machine can have no lab.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from tests.image_lab import card, kept, offers, returning, shows
from tests.image_lab.lab import ImageLab, running
from tests.net_lab.network import obstacle, seclude

Show = Callable[[ImageLab], Awaitable[None]]


def all_shows(options: argparse.Namespace) -> dict[str, Show]:
    return {
        **({"again": shows.again} if options.begin else {}),
        "first": shows.prepared if options.prepared else shows.first_boot,
        "armed": shows.armed,
        "check": shows.check,
        "walls": shows.inside,
        "restart": shows.restart,
        "cuts": lambda lab: shows.cuts(lab, options.cuts),
        "update": shows.update,
        "flipped": shows.flipped,
        "panics": lambda lab: shows.falls_back(lab, "panics", 300.0),
        "unguarded": lambda lab: shows.falls_back(lab, "unguarded", 1200.0),
        "refused": offers.refused,
        **{name: partial(offers.sabotaged, name=name) for name in offers.SABOTAGED},
        "offered": offers.offered,
        "interrupted": offers.interrupted,
        "points": offers.points,
        "returned": returning.returned,
        "selection": shows.selection,
    }


BUNDLES = {"update": ("good", None), "panics": ("panics", shows.panics), "unguarded": ("unguarded", shows.unguarded)}
"""What a show installs, and what is changed in it."""
BY_NAME = ("refused", *offers.SABOTAGED, "offered", "interrupted", "points", "returned", "selection")
"""What takes long, or leaves the card as another; so asked for by name. All but the last two need a next build."""
NEEDED = ("first", "armed")
"""Before any other show, on a new card."""
PLACE = Path("/run/tillsyn-image-lab")
"""Where every lab sees its own directory."""
LEAVE_AS_FOUND = ("check", "walls")
"""What does not hold of these says nothing of the shows that follow."""


async def run(options: argparse.Namespace, names: list[str]) -> int:
    wrong = []
    task = asyncio.current_task()
    assert task is not None
    # An end that is asked for leaves no process behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    real = Path(tempfile.mkdtemp(prefix="tillsyn-image-lab-", dir=options.scratch))
    needed = ("again",) if options.begin else NEEDED
    try:
        if options.begin:
            card.sh("cp", "--archive", "--sparse=always", f"{options.kept / options.begin}/.", str(real))
        card.sh("mkdir", "-p", str(PLACE))
        card.sh("mount", "--bind", str(real), str(PLACE))
        async with running(options.built.absolute(), PLACE, resumed=bool(options.begin)) as lab:
            lab.next, lab.signers = options.next, options.signers.absolute()
            # What only some shows want is there from the first power-on where nothing else is asked for.
            lab.machine.has_watchdog = names == ["hangs"]
            lab.machine.write_log = PLACE / "writes.log" if names == ["selection"] else None
            for name in names:
                if name in BUNDLES:
                    shows.add_bundle(lab, options.built.absolute(), options.signers.absolute(), *BUNDLES[name])
            for name, show in all_shows(options).items():
                if name not in names and name not in needed:
                    continue
                began_s = time.monotonic()
                try:
                    await show(lab)
                except Exception as exc:  # noqa: BLE001 it is told, and what was shown before it counts
                    wrong.append(name)
                    lab.say(f"{name}: DOES NOT HOLD: {type(exc).__name__}: {exc}")
                    traceback.print_exc()
                    if lab.machine.running():
                        lab.say(await _words(lab))
                    # What follows begins where this one should have ended.
                    if name not in LEAVE_AS_FOUND or not lab.machine.running():
                        break
                    continue
                lab.say(f"{name}: holds ({time.monotonic() - began_s:.0f} s)")
            print("\n".join(["", "image lab:", *(f"  {line}" for line in lab.told)]), flush=True)
            if options.keep and lab.machine.running():
                await lab.machine.order("sync")
        if options.keep and not wrong:
            kept.put_away(real, options.kept / options.keep)
            print(f"kept: {options.kept / options.keep}", flush=True)
        elif wrong:
            kept.put_away(real, options.kept / "failed")
            print(f"kept to look at: {options.kept / 'failed'}", flush=True)
    finally:
        shutil.rmtree(real, ignore_errors=True)
    print(f"does not hold: {', '.join(wrong)}" if wrong else "everything holds", flush=True)
    return 1 if wrong else 0


async def _words(lab: ImageLab) -> str:
    try:
        return await lab.words()
    except Exception as exc:  # noqa: BLE001 only said
        return f"(no words: {exc})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make image-test", description=__doc__)
    parser.add_argument("--built", type=Path, required=True, help="a build of `make image`")
    parser.add_argument("--signers", type=Path, required=True, help="where its throw-away signer is")
    parser.add_argument(
        "--next", type=Path, default=None, help="a build of `make image-next`; default beside the first"
    )
    parser.add_argument("--only", default="", help="names of shows, with commas; default all")
    parser.add_argument("--cuts", type=int, default=shows.CUTS)
    parser.add_argument("--prepared", action="store_true", help="begin with the second boot, to save time")
    parser.add_argument("--kept", type=Path, default=None, help="where cards are kept; default beside the build")
    parser.add_argument("--from", dest="begin", default="", help="begin with the card that was kept by this name")
    parser.add_argument("--keep", default="", help="a name to keep card and centre by, when everything held")
    parser.add_argument("--scratch", type=Path, default=None, help="where 3 GB are free; default the system's")
    options = parser.parse_args()
    options.kept = options.kept or options.built.absolute().with_name(f"{options.built.name}.kept")
    beside = options.built.absolute().with_name(f"{options.built.name}.next")
    options.next = (options.next or beside).absolute()
    options.next = options.next if (options.next / "release.json").exists() else None
    if (why := obstacle()) is not None:
        print(why, file=sys.stderr)
        return 2
    for program in ("qemu-system-aarch64", "fdtput", "mcopy", "debugfs"):
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        if shutil.which(program, path=path) is None:
            print(f"{program}: not on this machine; `make image-test` installs what it needs", file=sys.stderr)
            return 2
    known = [name for name in all_shows(options) if name != "again"]
    if options.begin and not options.only:
        print("--from: say by --only which shows", file=sys.stderr)
        return 2
    if options.begin and not (options.kept / options.begin).is_dir():
        print(f"--from: nothing was kept at {options.kept / options.begin}; --keep keeps a card", file=sys.stderr)
        return 2
    names = [name for name in options.only.split(",") if name] or [name for name in known if name not in BY_NAME]
    if unknown := set(names) - set(known):
        print(f"no such show: {', '.join(sorted(unknown))}. There are: {', '.join(known)}", file=sys.stderr)
        return 2
    seclude()
    return asyncio.run(run(options, names))


if __name__ == "__main__":
    sys.exit(main())
