"""`tillsyn authority …`: the command line of the authority; `act` has what each command does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final, get_args

from gateway.protocol.message import Ring, Role

_KEY_HELP: Final = "a PEM file with mode 0600, or pkcs11:token=…;object=…?module-path=…[&pin-source=file:…]"
_DESCRIPTION: Final = """\
Make and keep the keys of the chain of trust. docs/authority.md has the whole ceremony.

  root      signs who may sign; kept offline, in a safe, best in a token
  issuer    the centre's key; gives operators' keys a grant for one shift
  release   signs which system is the newest; kept by whoever makes releases, not on the centre's server
  CA        issues the certificates by which homes, centre and broker know one another
"""
_EPILOG: Final = """\
A new installation, in order:
  tillsyn authority root new --out keys/root
  tillsyn authority issuer new --out keys/issuer
  tillsyn authority trust sign --root keys/root/root.pem --issuer keys/issuer/issuer.jwk \\
      --version 1 --epoch 0 --out trust-1.jws
  tillsyn authority ca new --out keys/ca
  tillsyn authority ca issue-gateway gw-a1 --ca keys/ca --out certs/gw-a1
"""


def register(commands: Any) -> None:
    """Add `authority` to argparse's sub-parsers."""
    authority = commands.add_parser(
        "authority",
        help="make and keep the keys that decide who may sign and who may connect",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    topics = authority.add_subparsers(title="commands", dest="topic", metavar="COMMAND", required=True)
    for name, words in (
        ("root", "the offline key that signs who may sign"),
        ("issuer", "the centre's key that signs grants"),
        ("release", "the key that says which system is the newest"),
    ):
        acts = _group(topics, name, words)
        new = _act(
            acts,
            "new",
            "new_key",
            f"make a new {name} key",
            f"Make a P-256 key: {words}. In a new directory: {name}.pem (private, mode 0600) and {name}.jwk (public). "
            "In a token: a key that can't be taken out. The public key is printed on standard output as a JWK.",
        )
        place = new.add_mutually_exclusive_group(required=True)
        place.add_argument("--out", type=Path, metavar="DIR", help="a new directory for the two files")
        place.add_argument("--token", metavar="URI", help="make it in a token: pkcs11:token=…;object=…?module-path=…")
        new.set_defaults(word=name)
        if name == "release":
            _register_offer(acts)
    _register_trust(topics)
    _register_grant(topics)
    _register_broker(topics)
    _register_tunnel(topics)
    _register_ca(topics)


def _group(topics: Any, name: str, words: str) -> Any:
    parser = topics.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
    return parser.add_subparsers(title="commands", dest="act", metavar="COMMAND", required=True)


def _act(commands: Any, name: str, act: str, words: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words, description=description)
    parser.set_defaults(run=lambda options: _run(act, options))
    return parser


def _run(act: str, options: argparse.Namespace) -> int:
    # Imported when an act is asked for: the other commands of `tillsyn` start without it.
    from provisioning.authority import act as acts

    return acts.run(act, options)


def _register_trust(topics: Any) -> None:
    trust = _group(topics, "trust", "the root-signed statement of who may sign what")
    sign = _act(
        trust,
        "sign",
        "trust_sign",
        "sign a statement with everything given by hand",
        "Sign a trust statement. Without --previous it is the first one (version 1) of a new chain. With it, roots and "
        "issuers are carried over unless named; version and epoch may not go back. When the roots change, --root is a "
        "key that the devices hold and --new-root one of the new set; both sign. The statement is read back as a "
        "device would before it is written.",
    )
    _root_and_out(sign)
    sign.add_argument("--version", type=int, required=True, metavar="N", help="above the previous statement's")
    sign.add_argument("--epoch", type=int, required=True, metavar="N", help="not below the previous statement's")
    sign.add_argument("--previous", type=Path, metavar="FILE", help="the statement in force; only the first has none")
    sign.add_argument(
        "--issuer", action="append", metavar="FILE", help="an issuer's JWK (repeat for several); default: as before"
    )
    sign.add_argument(
        "--release", action="append", metavar="FILE", help="a release key's JWK (repeat, up to 4); default: as before"
    )
    sign.add_argument("--new-root", metavar="KEY", help=f"a root of the new set, which signs second: {_KEY_HELP}")
    sign.add_argument("--drop-root", action="append", metavar="KID", help="thumbprint of a root that goes (repeat)")
    sign.add_argument(
        "--also-root", action="append", metavar="FILE", help="first statement only: the JWK of a second root (repeat)"
    )
    _known_root(sign)

    show = _act(
        trust,
        "show",
        "trust_show",
        "print what a statement says",
        "Print a trust statement's content as JSON. It is verified under a root you name; without one, it would say "
        "nothing. With --roots, print the list of roots as a device's `roots` file wants it.",
    )
    show.add_argument("file", type=Path, metavar="FILE", help="the statement")
    show.add_argument("--roots", action="store_true", help="print the list of roots only")
    _known_root(show, required=True)

    revoke = _act(
        topics,
        "revoke",
        "revoke",
        "revoke all grants given so far",
        "Sign the next statement: same roots and issuers, version + 1, epoch + 1. Every grant of an earlier epoch is "
        "then dead on each device that has it, without needing a clock. Raise grant_epoch in the centre's "
        "configuration at the same time, or the centre goes on giving dead grants.",
    )
    rotate_root = _act(
        topics,
        "rotate-root",
        "rotate_root",
        "replace a root",
        "Sign the next statement with a new root in the old one's place. Both keys sign. A device takes it only if it "
        "holds the old root, so a device that was away must be given every statement, in order.",
    )
    rotate_issuer = _act(
        topics,
        "rotate-issuer",
        "rotate_issuer",
        "replace the centre's issuing key",
        "Sign the next statement with a new issuer in place of all earlier ones. Grants of an issuer that goes are "
        "dead at once.",
    )
    for parser in (revoke, rotate_root, rotate_issuer):
        parser.add_argument("--previous", type=Path, required=True, metavar="FILE", help="the statement in force")
        _root_and_out(parser)
        _known_root(parser)
    rotate_root.add_argument("--new-root", required=True, metavar="KEY", help=f"the new root: {_KEY_HELP}")
    rotate_root.add_argument("--keep-old", action="store_true", help="keep the old root beside the new one")
    rotate_issuer.add_argument("--issuer", required=True, metavar="FILE", help="the new issuer's JWK")
    rotate_issuer.add_argument("--keep-old", action="store_true", help="keep the earlier issuers beside the new one")


def _register_offer(acts: Any) -> None:
    offer = _act(
        acts,
        "offer",
        "release_offer",
        "say which system is the newest, for a board and a ring",
        "Sign an update offer. Devices take it only above the last one's number, so name that with --previous. The "
        "same version again is no update but the word that nothing newer is kept from anybody; sign one every week.",
    )
    offer.add_argument("--release", required=True, metavar="KEY", help=f"the release key: {_KEY_HELP}")
    offer.add_argument("--previous", type=Path, metavar="FILE", help="the newest offer; only the first has none")
    offer.add_argument("--version", required=True, metavar="X.Y.Z", help="three numbers, as in the bundle's manifest")
    offer.add_argument("--compatible", required=True, metavar="WORD", help="as in the bundle's manifest")
    offer.add_argument("--url", required=True, metavar="URL", help="https://… of the bundle")
    offer.add_argument("--manifest-sha256", required=True, metavar="HEX", help="`rauc info` prints it")
    offer.add_argument("--size-bytes", type=int, required=True, metavar="N", help="of the bundle")
    offer.add_argument("--ring", choices=get_args(Ring), default="all", help="the widest ring it is for (default all)")
    offer.add_argument("--tries", type=int, default=1, metavar="N", help="how often a device may boot it (default 1)")
    offer.add_argument("--not-before-h", type=float, default=0.0, metavar="H", help="begin in H hours (default now)")
    offer.add_argument("--days", type=float, default=21.0, metavar="D", help="how long it is good (default 21)")
    offer.add_argument("--out", type=Path, required=True, metavar="FILE", help="the signed offer; a new file")


def _root_and_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, metavar="KEY", help=f"a root that devices hold, signs: {_KEY_HELP}")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new statement; a new file")


def _known_root(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--known-root",
        action="append",
        required=required,
        metavar="FILE",
        help="JWK of a root you know, to verify the statement under (repeat)",
    )


def _register_grant(topics: Any) -> None:
    grant = _act(
        topics,
        "grant",
        "grant",
        "give a person's key a grant for one shift",
        "Print one grant, signed by the issuing key, on standard output. The centre does this by itself; this is for "
        "tests, for a first installation, and for a night on which the centre's own way is shut.",
    )
    grant.add_argument("--issuer", required=True, metavar="KEY", help=f"the issuing key: {_KEY_HELP}")
    grant.add_argument(
        "--jwk", required=True, metavar="FILE", help="the person's public key as JWK; - for standard input"
    )
    grant.add_argument(
        "--who", required=True, metavar="ID", help="the person's pseudonym; stands in ledgers. No names."
    )
    grant.add_argument(
        "--role", action="append", required=True, choices=[role.value for role in Role], help="repeat for several"
    )
    grant.add_argument("--home", action="append", default=[], metavar="GATEWAY", help="gw-… (repeat)")
    grant.add_argument("--group", action="append", default=[], metavar="ID", help="a group of homes (repeat)")
    grant.add_argument("--hours", type=float, required=True, metavar="H", help="how long; at most 12")
    grant.add_argument("--epoch", type=int, required=True, metavar="N", help="as in the trust statement in force")


def _register_broker(topics: Any) -> None:
    broker = _act(
        topics,
        "broker-config",
        "broker_config",
        "write Mosquitto's configuration and access list",
        "Write mosquitto.conf and acl. By default the access list gives each gateway the branch of its certificate's "
        "name; with --homes, only the gateways written there have any. The certificate's key must be readable by the "
        "user Mosquitto runs as.",
    )
    broker.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the two files go")
    broker.add_argument("--ca", type=Path, required=True, metavar="FILE", help="the CA's certificate (ca.pem)")
    broker.add_argument("--cert", type=Path, required=True, metavar="FILE", help="the broker's certificate")
    broker.add_argument("--key", type=Path, required=True, metavar="FILE", help="its private key, mode 0600")
    broker.add_argument("--homes", type=Path, metavar="FILE", help="gateway ids, one a line; default: by pattern")
    broker.add_argument("--address", default="0.0.0.0", help="where to listen; default %(default)s")  # noqa: S104 (a broker is there to be reached; TLS with client certificates guards it)
    broker.add_argument("--port", type=int, default=8883, help="default %(default)s")
    broker.add_argument("--user", default="mosquitto", help="the user Mosquitto runs as; default %(default)s")
    broker.add_argument("--replace", action="store_true", help="replace the two files, each at once; then SIGHUP")


def _register_tunnel(topics: Any) -> None:
    key = _act(
        topics,
        "tunnel-key",
        "tunnel_key",
        "make the key of the centre's end of the tunnel",
        "Make a WireGuard key pair: tunnel.key (private, mode 0600) and tunnel.pub in a new directory. The public key "
        "is printed on standard output; every home gets it at its enrolment.",
    )
    key.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    tunnel = _act(
        topics,
        "tunnel-config",
        "tunnel_config",
        "write the centre's end of the tunnel: WireGuard's and nftables' files",
        "Write wg.conf (it holds the private key: mode 0600) for `wg syncconf`, and centre.nft for `nft -f`. The peers "
        "file has one home a line: its id, its public key and its address in the tunnel.",
    )
    tunnel.add_argument("--key", type=Path, required=True, metavar="FILE", help="tunnel.key of `tunnel-key`")
    tunnel.add_argument(
        "--peers", type=Path, required=True, metavar="FILE", help="`gw-… PUBLIC_KEY ADDRESS`, a line each"
    )
    tunnel.add_argument("--broker", required=True, metavar="ADDRESS", help="the broker's address in the tunnel")
    tunnel.add_argument("--broker-port", type=int, default=8883, metavar="N", help="default %(default)s")
    tunnel.add_argument(
        "--bundles-port",
        type=int,
        metavar="N",
        help="of the server with the updates, at the broker's address; without it homes reach none in the tunnel",
    )
    tunnel.add_argument("--port", type=int, default=51820, metavar="N", help="UDP port; default %(default)s")
    tunnel.add_argument("--interface", default="wg0", metavar="NAME", help="WireGuard's; default %(default)s")
    relay = _act(
        topics,
        "relay-config",
        "relay_config",
        "write coturn's configuration",
        "Write turnserver.conf and relay.secret (both mode 0600) in a new directory. relay.secret is what the centre's "
        "configuration names as ice.relay_secret_path. Peers of the relay are the homes' tunnel addresses and the "
        "relay's own; all else is denied.",
    )
    relay.add_argument("--listen", required=True, metavar="ADDRESS", help="the public address")
    relay.add_argument("--realm", required=True, metavar="NAME", help="the centre's domain")
    relay.add_argument("--cert", type=Path, required=True, metavar="FILE", help="the relay's certificate, of your CA")
    relay.add_argument("--key", type=Path, required=True, metavar="FILE", help="its private key, mode 0600")
    relay.add_argument("--udp-port", type=int, default=3478, metavar="N", help="default %(default)s")
    relay.add_argument("--tls-port", type=int, default=443, metavar="N", help="default %(default)s")
    relay.add_argument("--user", default="turnserver", help="whom coturn becomes; default %(default)s")
    for parser in (tunnel, relay):
        parser.add_argument(
            "--homes", required=True, metavar="NETWORK", help="of the homes' addresses, as 10.90.128.0/17"
        )
        parser.add_argument("--relay", required=True, metavar="ADDRESS", help="the relay's address in the tunnel")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")


def _register_ca(topics: Any) -> None:
    ca = _group(topics, "ca", "the certificates by which homes, centre and broker know one another")
    new = _act(
        ca,
        "new",
        "ca_new",
        "make a new CA",
        "Make a CA for ten years: ca.pem and ca-key.pem (mode 0600) in a new directory.",
    )
    new.add_argument("--name", default="tillsyn CA", help="stands in its certificates; default %(default)s")
    new.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    for name, words, what in (
        ("issue-gateway", "a home's certificate", "id"),
        ("issue-centre", "the centre's certificate", ""),
        ("issue-broker", "the broker's certificate", "names"),
    ):
        issue = _act(
            ca,
            name,
            "ca_issue",
            f"issue {words}",
            f"Make {words} for a year: cert.pem, key.pem (mode 0600) and ca.pem in a new directory. To renew, do it "
            "again in another directory.",
        )
        if what == "id":
            issue.add_argument("id", metavar="ID", help="gw-, then a-z, 0-9 and -, at most 40")
        elif what == "names":
            issue.add_argument("names", nargs="+", metavar="NAME", help="DNS names and addresses homes reach it by")
        issue.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the directory of `ca new`")
        issue.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
        issue.set_defaults(what=what)
