"""`tillsyn factory`: make a device's stub, print its label and its line for the centre's register."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add `factory` to argparse's sub-parsers."""
    factory = commands.add_parser("factory", help="what is made for each device before it leaves the house")
    actions = factory.add_subparsers(dest="action", metavar="ACTION", required=True)
    label = actions.add_parser(
        "label",
        help="make one device's stub of an identity and its label",
        description=(
            "Make a new directory with device/ (to be copied to the device's state as `factory`), label.pdf and "
            "label.png, and print the line for the centre's register. The set-up code and the access point's key are "
            "on the label only: keep the label's files as you would keep a key, or remove them once it is printed."
        ),
    )
    label.add_argument("--out", type=Path, required=True, metavar="DIR", help="a directory that is not there yet")
    label.add_argument(
        "--enrol-at", required=True, metavar="URL", help="the centre's enrolment service, https://host:port"
    )
    label.add_argument(
        "--centre-ca", type=Path, required=True, metavar="FILE", help="PEM of the CA that certifies that service"
    )
    label.set_defaults(run=_label)


def _label(options: argparse.Namespace) -> int:
    from gateway.core.error import ConfigError
    from provisioning.authority.secret_file import read_public, write_secret
    from provisioning.factory.label import as_pdf, as_png
    from provisioning.factory.stub import make_stub

    try:
        stub = make_stub(enrol_at=options.enrol_at, centre_ca=read_public(options.centre_ca))
        options.out.mkdir(mode=0o700, parents=True)
        stub.write(options.out / "device")
        write_secret(options.out / "label.pdf", as_pdf(stub))
        write_secret(options.out / "label.png", as_png(stub))
    except FileExistsError as exc:
        raise ConfigError(f"{exc.filename}: is there already. Each device gets a directory of its own.") from exc
    except OSError as exc:
        raise ConfigError(f"{exc.filename}: {exc.strerror}") from exc
    print(stub.register_line())
    print(f"label: {options.out / 'label.pdf'}", file=sys.stderr)
    return 0
