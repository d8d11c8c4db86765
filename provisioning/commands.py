"""The sub-commands of provisioning."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from provisioning.authority import commands as authority
from provisioning.factory import commands as factory
from provisioning.fleet import commands as fleet
from provisioning.image import commands as image
from provisioning.wizard import commands as wizard


def register(commands: Any) -> None:
    """Add our commands to argparse's sub-parsers."""
    demo = commands.add_parser(
        "demo",
        help="run one home and one operator centre on this machine, with everything made on the spot",
        description=(
            "Start a broker, a home (guard, link, eye) and an operator centre on loopback, and print the console's "
            "address. Ctrl-C ends all of it. Nothing leaves this machine."
        ),
    )
    demo.add_argument("--once", action="store_true", help="do one check without a browser and print one JSON object")
    demo.add_argument(
        "--camera",
        default="room",
        metavar="CAMERA",
        help="room (a drawn bedroom), file:PATH (any film), v4l2:/dev/videoN (a webcam); default room",
    )
    demo.add_argument("--port", type=int, default=0, help="the console's port; default any free one")
    demo.add_argument("--keep", type=Path, metavar="DIR", help="keep keys, ledger and files in this new directory")
    demo.add_argument("--watch-s", type=float, default=2.0, metavar="S", help="with --once: how long to look")
    demo.set_defaults(run=_demo)
    authority.register(commands)
    factory.register(commands)
    fleet.register(commands)
    image.register(commands)
    wizard.register(commands)


def _demo(options: argparse.Namespace) -> int:
    from provisioning import demo

    return demo.main(
        once=options.once, camera=options.camera, port=options.port, keep=options.keep, watch_s=options.watch_s
    )
