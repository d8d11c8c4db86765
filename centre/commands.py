"""`tillsyn centre`: run the operator centre."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from gateway.core.error import EXIT_CONFIG, ConfigError

_EPILOG = """\
The centre runs until Ctrl+C. It prints the console's address once it answers. Operators log in at that address with
/login?token=TOKEN; the configuration holds only the token's SHA-256, which `printf %s "$TOKEN" | sha256sum` prints.

The configuration is one TOML file:
  database_path, issuing_key_path     files of the centre; relative to the configuration's folder
  [http]       host, port             loopback only; port 0 takes a free one
  [broker]     host, port, server_name, client_id, ca_path, cert_path, key_path
  [[accounts]] who, roles, login_sha256
  [[homes]]    gateway, install_epoch, groups, device_jwk = { kty, crv, x, y }
  [ice]        policy ("all" or "relay"), servers = [{ urls, username, credential }]

Exit status: 0 stopped, 78 the configuration is wrong (the message says what), other: a fault; start it again.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command `centre`."""
    parser = subparsers.add_parser(
        "centre",
        help="run the operator centre: the web console from which agreed checks are made",
        description="Run the operator centre: the console's web page, and its connection to the homes by the broker.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="PATH", help="the centre's TOML file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    try:
        # Imported here, so that `tillsyn --help` works where the centre's libraries are not installed.
        from centre import config, service
    except ImportError as exc:
        print(f"tillsyn centre: {exc.name} is missing; install tillsyn-gateway[centre]", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    async def until_stopped() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        await service.run(config.load(args.config), ready=lambda url: print(f"Console: {url}", flush=True))

    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(until_stopped())
    except ConfigError as exc:
        print(f"tillsyn centre: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    return 0
