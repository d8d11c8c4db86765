"""The command `tillsyn`. Each package adds its own sub-commands by the entry point group `tillsyn.commands`."""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import sys
from importlib.metadata import entry_points

from gateway.core.error import EXIT_CONFIG, ConfigError, GatewayError

GROUP = "tillsyn.commands"
# A JWK thumbprint (RFC 7638, SHA-256, base64url) that begins with a dash, as one in 64 does.
DASHED_THUMBPRINT = re.compile(r"-[A-Za-z0-9_-]{42}")


def parser() -> argparse.ArgumentParser:
    """The whole command line; packages that aren't installed on this machine add nothing."""
    top = argparse.ArgumentParser(
        prog="tillsyn",
        description="A camera for agreed night checks: off and parked at all other times, nothing recorded.",
        epilog="Start with `make demo` in the source tree, or `tillsyn demo --help`. Each command has its own --help.",
    )
    top.add_argument("-v", "--verbose", action="store_true", help="say more on standard error")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    modules = sorted({entry.value for entry in entry_points(group=GROUP)})
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and exc.name.split(".")[0] in {"gateway", "centre", "provisioning"}:
                if exc.name in name:
                    continue  # this package is not shipped here
                raise
            continue  # an extra of that package is not installed here
        module.register(commands)
    return top


def joined(arguments: list[str]) -> list[str]:
    """The words with each dashed thumbprint joined to the option before it; argparse would read it as an option."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1].startswith("--") and "=" not in words[-1] and DASHED_THUMBPRINT.fullmatch(word):
            words[-1] = f"{words[-1]}={word}"
        else:
            words.append(word)
    return words


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit status 0: done; 1: it failed, and said why; 78: the configuration is wrong."""
    options = parser().parse_args(joined(sys.argv[1:] if arguments is None else arguments))
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(options.run(options))
    except ConfigError as exc:
        print(f"tillsyn {options.command}: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    except GatewayError as exc:
        print(f"tillsyn {options.command}: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
