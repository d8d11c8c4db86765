"""`tillsyn fleet …`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add `fleet` to argparse's sub-parsers."""
    fleet = commands.add_parser("fleet", help="rollouts of updates, and played gateways to try them with")
    acts = fleet.add_subparsers(dest="act", metavar="COMMAND", required=True)
    play = acts.add_parser(
        "simulate",
        help="play N gateways against a real broker and a real centre, and roll an update out to them",
        description="Everything is made on the spot. Exit status 0: every gateway is accounted for.",
    )
    play.add_argument("count", type=int, metavar="N")
    play.add_argument("--failing-percent", type=float, default=3.0, metavar="P", help="default 3")
    play.add_argument("--limit-s", type=float, default=1800.0, metavar="S", help="give up after so long; default 1800")
    play.add_argument("--per-minute", type=int, default=300, metavar="N", help="offers a minute; default 300")
    play.set_defaults(run=_simulate)
    storm = acts.add_parser(
        "storm",
        help="N connections to a broker that is restarted: when each comes back, and whether anything is lost",
        description="Everything is made on the spot. Exit status 0: every line of evidence has come.",
    )
    storm.add_argument("count", type=int, metavar="N")
    storm.add_argument("--limit-s", type=float, default=900.0, metavar="S", help="give up after so long; default 900")
    storm.add_argument(
        "--spread-s", type=float, default=30.0, metavar="S", help="as in link.toml of the homes; default 30, as there"
    )
    storm.add_argument(
        "--away-s", type=float, default=12.0, metavar="S", help="how long the broker is gone; default 12"
    )
    storm.set_defaults(run=_storm)
    for name, words in (
        ("plan", "show what a rollout of an offer would do"),
        ("start", "begin the rollout whose plan was shown"),
        ("show", "every rollout with its rings"),
        ("pause", "give nothing more out"),
        ("resume", "go on after a pause or a halt"),
        ("approve", "let the next ring begin"),
        ("abort", "end it; what was not given out is canceled"),
        ("history", "what a home has reported of its updates"),
    ):
        act = acts.add_parser(name, help=words)
        act.add_argument("--centre", required=True, metavar="URL", help="the console's address")
        act.add_argument("--token", type=Path, required=True, metavar="FILE", help="a steward's login token")
        if name in ("plan", "start"):
            act.add_argument("offer", type=Path, metavar="FILE", help="as `tillsyn authority release offer` signed it")
        if name == "start":
            act.add_argument("--plan", required=True, metavar="HEX", help="as `tillsyn fleet plan` printed it")
        if name in ("pause", "resume", "approve", "abort"):
            act.add_argument("rollout", metavar="ID")
        if name == "history":
            act.add_argument("gateway", metavar="GATEWAY")
        act.set_defaults(run=_ask)


def _simulate(options: argparse.Namespace) -> int:
    from provisioning.fleet import simulate

    if not 1 <= options.count <= 20_000 or not 0 <= options.failing_percent <= 50:
        print("tillsyn fleet simulate: N is 1 to 20000, P is 0 to 50", file=sys.stderr)
        return 2
    return simulate.main(
        options.count, failing_percent=options.failing_percent, limit_s=options.limit_s, per_minute=options.per_minute
    )


def _storm(options: argparse.Namespace) -> int:
    from provisioning.fleet import storm

    if not 1 <= options.count <= 5000:
        print("tillsyn fleet storm: N is 1 to 5000", file=sys.stderr)
        return 2
    return storm.main(options.count, limit_s=options.limit_s, spread_s=options.spread_s, away_s=options.away_s)


def _ask(options: argparse.Namespace) -> int:
    from provisioning.fleet import client

    return client.run(options)
