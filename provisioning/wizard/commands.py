"""`tillsyn setup`, the wizard's process; `tillsyn renew`, the certificate's timer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add our commands to argparse's sub-parsers."""
    setup = commands.add_parser(
        "setup",
        help="the installer's wizard: pages on the local network until this device is set up",
        description="Serve the installer's pages until set-up is done; from then on end at once, with status 0.",
    )
    setup.add_argument("--config", type=Path, required=True, metavar="FILE", help="the service's TOML file")
    setup.set_defaults(run=_setup)
    renew = commands.add_parser(
        "renew",
        help="renew the link's certificate when two thirds of its life are over",
        description="Run by a timer. Exit status 0: renewed, or not time yet; 1: it was time, and could not be done.",
    )
    renew.add_argument("--link-dir", type=Path, required=True, metavar="DIR", help="where the link's identity lies")
    centre = renew.add_mutually_exclusive_group(required=True)
    centre.add_argument("--enrol-at", metavar="URL", help="the centre's enrolment service")
    centre.add_argument("--factory-dir", type=Path, metavar="DIR", help="the device's stub, which names it")
    renew.set_defaults(run=_renew)


def _setup(options: argparse.Namespace) -> int:
    from gateway.config.file import load
    from provisioning.wizard import service
    from provisioning.wizard.config import SetupConfig

    service.main(load(options.config, SetupConfig))
    return 0


def _renew(options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from provisioning.enrolment.est_client import EstClient
    from provisioning.enrolment.renewal import ca_of, due, read_pair, renew
    from provisioning.factory.stub import read_stub

    url = options.enrol_at or read_stub(options.factory_dir)[0].enrol_at
    client = EstClient(url, ca_of(options.link_dir))
    renewed = renew(options.link_dir, client, now=datetime.now(UTC))
    moment = renewed or due(read_pair(options.link_dir).certificate)
    print(f"{'renewed' if renewed else 'not time yet'}; renew at {moment.at:%Y-%m-%d}, ends {moment.ends:%Y-%m-%d}")
    return 0
