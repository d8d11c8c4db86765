"""`tillsyn centre`: run the operator centre. `tillsyn witness`: witness the homes' ledgers elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.core.error import EXIT_CONFIG, ConfigError

_EPILOG = """\
The centre runs until Ctrl+C. It prints the console's address once it answers. Operators log in at that address with
/login?token=TOKEN; the configuration holds only the token's SHA-256, which `printf %s "$TOKEN" | sha256sum` prints.

The configuration is one TOML file:
  database_path, issuing_key_path     files of the centre; relative to the configuration's folder
                                      (database_url = "postgresql://..." instead, for several workers)
  [http]       host, port             loopback only; port 0 takes a free one
  [broker]     host, port, server_name, client_id, ca_path, cert_path, key_path
  [[accounts]] who, roles, login_sha256
  [[homes]]    gateway, install_epoch, groups, device_jwk = { kty, crv, x, y }; ledger_vkey (the home's log is
               witnessed only with it)
  [login]      link ("enrol" or "always"), oidc = { issuer, client_id, client_secret_path }
  [handover]   units = [{ unit, email, webhook_url, webhook_key_path }], fallback, smtp = { host, port, sender, ... }
  metrics_port                        for Prometheus, on 127.0.0.1
  [ice]        policy ("all" or "relay"), servers = [{ urls, username, credential }]
  witness_key_path, witness_name      Ed25519 key (PEM) and name by which checkpoints are cosigned; may be left out

Exit status: 0 stopped, 78 the configuration is wrong (the message says what), other: a fault; start it again.
"""

_WITNESS_EPILOG = """\
The witness runs until Ctrl+C and answers POST /add-checkpoint as https://c2sp.org/tlog-witness says: it cosigns a
checkpoint that extends the last one it cosigned of that log, and nothing else. Put a TLS proxy in front of it.

The configuration is one TOML file:
  database_path, witness_key_path     files of the witness; relative to the configuration's folder
  witness_name                        an address without scheme, for example witness.example.se/tillsyn
  [http]       host, port             loopback only; port 0 takes a free one
  [[logs]]     gateway, install_epoch, ledger_vkey

Exit status: 0 stopped, 78 the configuration is wrong (the message says what), other: a fault; start it again.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands `centre` and `witness`."""
    parser = subparsers.add_parser(
        "centre",
        help="run the operator centre: the web console from which agreed checks are made",
        description="Run the operator centre: the console's web page, and its connection to the homes by the broker.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="PATH", help="the centre's TOML file")
    parser.add_argument(
        "--backup", type=Path, metavar="FILE", help="copy the running centre's SQLite database to FILE, and end"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="print the enrolled homes' ends of the tunnel, and end (see docs/network.md)",
    )
    parser.set_defaults(run=run)
    witness = subparsers.add_parser(
        "witness",
        help="cosign the checkpoints of homes' ledgers, on a machine that is not the centre's",
        description="Run a second witness of the homes' ledgers (C2SP tlog-witness).",
        epilog=_WITNESS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    witness.add_argument("--config", type=Path, required=True, metavar="PATH", help="the witness's TOML file")
    witness.set_defaults(run=run_witness)


def run(args: argparse.Namespace) -> int:
    """Run the centre until SIGINT or SIGTERM; returns the exit status."""
    if args.backup is not None:
        return _back_up(args.config, args.backup)
    if args.peers:
        return _print_peers(args.config)

    async def serve() -> None:
        from centre import config, service

        await service.run(config.load(args.config), ready=lambda url: print(f"Console: {url}", flush=True))

    return _until_stopped("centre", serve)


def _back_up(config_path: Path, target: Path) -> int:
    """A consistent copy while the centre goes on writing. Source: SQLite, "Online Backup API"."""
    from centre import config

    try:
        place = config.load(config_path).database_path
        if place is None:
            raise ConfigError("this centre is on PostgreSQL: use pg_dump (docs/operations.md)")
        if not place.exists():
            raise ConfigError(f"{place}: there is no database yet")
        if target.exists():
            raise ConfigError(f"{target} is there already")
        with (
            contextlib.closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            target.chmod(0o600)
            source.backup(copy)
    except ConfigError as exc:
        print(f"tillsyn centre: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    except (OSError, sqlite3.Error) as exc:
        print(f"tillsyn centre: the backup failed: {exc}", file=sys.stderr)
        return 1
    print(f"Backup: {target}", flush=True)
    return 0


def _print_peers(config_path: Path) -> int:
    from centre import config, est, service

    try:
        with contextlib.closing(service.open_store(config.load(config_path))) as store:
            print(est.peers(store.enrolments()), end="")
    except ConfigError as exc:
        print(f"tillsyn centre: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    return 0


def run_witness(args: argparse.Namespace) -> int:
    """Run the witness until SIGINT or SIGTERM; returns the exit status."""

    async def serve() -> None:
        from centre import config, witness_service

        await witness_service.run(
            config.load_witness(args.config), ready=lambda url: print(f"Witness: {url}", flush=True)
        )

    return _until_stopped("witness", serve)


def _until_stopped(name: str, serve: Callable[[], Awaitable[None]]) -> int:
    try:
        # Imported here, so that `tillsyn --help` works where the centre's libraries are not installed.
        import centre.witness_service  # noqa: F401
    except ImportError as exc:
        print(f"tillsyn {name}: {exc.name} is missing; install tillsyn-gateway[centre]", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    async def until_stopped() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        await serve()

    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(until_stopped())
    except ConfigError as exc:
        print(f"tillsyn {name}: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    return 0
