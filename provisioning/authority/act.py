"""The acts of the authority: each checks everything first, then writes whole files, and says what it did.

Standard error is for people. Standard output is for what is handed on: a public key, a grant, a statement's content.
Nothing is overwritten but the broker's two files, and those only with --replace.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature

from gateway.core.error import ConfigError
from gateway.protocol.envelope import Signer
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Role, TrustPut
from gateway.protocol.tunnel_key import new_private_key
from gateway.protocol.tunnel_key import public_key as public_key_of_tunnel
from provisioning.authority import broker_config, relay_config, token_pkcs11, tunnel_config
from provisioning.authority.broker_config import CENTRE, is_gateway
from provisioning.authority.error import AuthorityError
from provisioning.authority.release_offer import compose_offer, read_offer
from provisioning.authority.secret_file import MAX_FILE_BYTES, read_public, read_secret, write_directory, write_public
from provisioning.authority.shift_grant import make_grant
from provisioning.authority.signer import open_signer, public_key, read_jwk, sign_with, to_key
from provisioning.authority.trust_statement import compose, keyed, read_previous, sign_statement
from provisioning.authority.x509 import (
    CA_FILE,
    CA_KEY_FILE,
    CertificateAuthority,
    load_certificate,
    load_private,
    private_pem,
)


def run(name: str, options: argparse.Namespace) -> int:
    """Run one act. What the system or a value says against it becomes one sentence: AuthorityError."""
    try:
        _ACTS[name](options)
    except FileExistsError as exc:
        path = exc.filename2 or exc.filename
        raise AuthorityError(f"{path}: exists, and nothing is overwritten. Name a new place.") from exc
    except FileNotFoundError as exc:
        raise AuthorityError(f"{exc.filename}: no such file or directory") from exc
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as exc:
        raise AuthorityError(str(exc)) from exc
    return 0


def _say(*lines: str) -> None:
    print("\n".join(lines), file=sys.stderr)


def _new_key(options: argparse.Namespace) -> None:
    if options.out is not None:
        key = SigningKey.generate()
        verifying = key.verifying
        jwk = _json(verifying.jwk())
        write_directory(options.out, public={f"{options.word}.jwk": jwk}, secret={f"{options.word}.pem": key.to_pem()})
        where = f"{options.out / options.word}.pem (private) and .jwk (public)"
    else:
        if not token_pkcs11.is_uri(options.token):
            raise ConfigError(f"{options.token}: not a pkcs11: URI")
        address = token_pkcs11.parse(options.token)
        verifying = token_pkcs11.generate(address).verifying
        where = str(address)
    print(_json(verifying.jwk()).decode(), end="")
    _say(f"New {options.word} key {verifying.kid}: {where}.")


def _trust_sign(options: argparse.Namespace) -> None:
    root = open_signer(options.root)
    new_root = open_signer(options.new_root) if options.new_root else None
    issuers = [public_key(source) for source in options.issuer or ()]
    releases = [public_key(source) for source in options.release or ()]
    if options.previous is None:
        if not issuers:
            raise ConfigError("a first statement needs --issuer")
        if options.drop_root or new_root is not None:
            raise ConfigError("--drop-root and --new-root change an earlier statement: name it with --previous")
        previous = None
        roots = [root.verifying, *(read_jwk(Path(name)) for name in options.also_root or ())]
    else:
        if options.also_root:
            raise ConfigError("--also-root is for a first statement; later a new root signs too: --new-root")
        previous = _previous(options, root)
        held = keyed(previous.roots)
        if unknown := set(options.drop_root or ()) - set(held):
            raise ConfigError(f"--drop-root {', '.join(sorted(unknown))}: not held. Held are {', '.join(held)}.")
        if new_root is not None:
            held.setdefault(new_root.verifying.kid, new_root.verifying)
        roots = [key for kid, key in held.items() if kid not in (options.drop_root or ())]
        issuers = issuers or list(keyed(previous.issuers).values())
        releases = releases or list(keyed(previous.releases).values())
    put = compose(version=options.version, epoch=options.epoch, roots=roots, issuers=issuers, releases=releases)
    _sign_and_write(options.out, put, previous, root, new_root)


def _previous(options: argparse.Namespace, root: Signer) -> TrustPut:
    known = [root.verifying, *(read_jwk(Path(name)) for name in options.known_root or ())]
    return read_previous(read_public(options.previous), {key.kid: key for key in known})


def _sign_and_write(
    out: Path,
    put: TrustPut,
    previous: TrustPut | None,
    root: Signer,
    new_root: Signer | None = None,
    *,
    words: Sequence[str] = (),
) -> None:
    if out.exists() or out.is_symlink():
        # Looked at before a token is bothered; writing looks again.
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
    _say(*words, *_summary(put, previous))
    statement = sign_statement(put, previous, root, new_root)
    write_public(out, statement)
    _say(f"Written: {out}. Keep every statement: a device that was away is given each of them, in order.")


def _summary(put: TrustPut, previous: TrustPut | None) -> list[str]:
    """What a statement says and changes, one thing a line."""
    lines = [f"Statement {put.version}, epoch {put.epoch}:"]
    for word, now, before in (
        ("root", keyed(put.roots), keyed(previous.roots) if previous else None),
        ("issuer", keyed(put.issuers), keyed(previous.issuers) if previous else None),
        ("release", keyed(put.releases), keyed(previous.releases) if previous else None),
    ):
        for kid in now:
            change = "" if before is None else " stays" if kid in before else " COMES"
            lines += [f"  {word:7} {kid}{change}"]
        lines += [f"  {word:7} {kid} GOES" for kid in before or () if kid not in now]
    if previous is not None and put.epoch > previous.epoch:
        lines.append(f"  All grants of epoch {put.epoch - 1} and earlier are revoked.")
    return lines


def _trust_show(options: argparse.Namespace) -> None:
    known = {key.kid: key for key in (read_jwk(Path(name)) for name in options.known_root)}
    put = read_previous(read_public(options.file), known)
    if options.roots:
        print(_json(put.roots).decode(), end="")
        return
    keys = {"roots": keyed(put.roots), "issuers": keyed(put.issuers), "releases": keyed(put.releases)}
    content = {"version": put.version, "epoch": put.epoch} | {word: list(kids) for word, kids in keys.items()}
    print(_json(content).decode(), end="")


def _revoke(options: argparse.Namespace) -> None:
    root = open_signer(options.root)
    previous = _previous(options, root)
    put = compose(
        version=previous.version + 1,
        epoch=previous.epoch + 1,
        roots=list(keyed(previous.roots).values()),
        issuers=list(keyed(previous.issuers).values()),
        releases=list(keyed(previous.releases).values()),
    )
    words = (
        "Revocation. A device that takes this statement refuses all grants given so far; operators log in again.",
        f"Set grant_epoch = {put.epoch} in the centre's configuration and restart it, or it gives dead grants.",
        "A check that is running can still be closed, by anybody who could close it before.",
    )
    _sign_and_write(options.out, put, previous, root, words=words)


def _rotate_root(options: argparse.Namespace) -> None:
    root, new_root = open_signer(options.root), open_signer(options.new_root)
    previous = _previous(options, root)
    roots = keyed(previous.roots)
    if new_root.verifying.kid in roots:
        raise AuthorityError(f"root {new_root.verifying.kid} is held already; name a key that is new")
    if not options.keep_old:
        roots.pop(root.verifying.kid, None)
    put = compose(
        version=previous.version + 1,
        epoch=previous.epoch,
        roots=[*roots.values(), new_root.verifying],
        issuers=list(keyed(previous.issuers).values()),
        releases=list(keyed(previous.releases).values()),
    )
    words = (
        f"Rotation of the root: {root.verifying.kid} → {new_root.verifying.kid}. Both keys sign.",
        "A device takes it whole or stays with the old root; grants and issuers stay as they are.",
        "Keep the old key until every device has answered with this version: one that has not knows no new key. "
        + ("The old root stays valid." if options.keep_old else "Then destroy it."),
    )
    _sign_and_write(options.out, put, previous, root, new_root, words=words)


def _rotate_issuer(options: argparse.Namespace) -> None:
    root = open_signer(options.root)
    previous = _previous(options, root)
    new = public_key(options.issuer)
    held = keyed(previous.issuers)
    if new.kid in held:
        raise AuthorityError(f"issuer {new.kid} is held already; name a key that is new")
    put = compose(
        version=previous.version + 1,
        epoch=previous.epoch,
        roots=list(keyed(previous.roots).values()),
        issuers=[*(held.values() if options.keep_old else ()), new],
        releases=list(keyed(previous.releases).values()),
    )
    words = [f"Rotation of the issuing key: {', '.join(held)} → {new.kid}."]
    if options.keep_old:
        words.append(
            "Grants of the earlier issuers stay valid. `trust sign --issuer` with the new one alone ends that."
        )
    else:
        words.append("Grants of the earlier issuers are dead on every device that takes this; operators log in again.")
        words.append(
            "Until a device has this, it refuses grants of the new issuer: send it first, then give the centre the key."
        )
    _sign_and_write(options.out, put, previous, root, words=words)


def _shift_grant(options: argparse.Namespace) -> None:
    if options.jwk == "-":
        person = to_key(sys.stdin.buffer.read(MAX_FILE_BYTES), "standard input")
    else:
        person = read_jwk(Path(options.jwk))
    grant = make_grant(
        open_signer(options.issuer),
        person,
        who=options.who,
        roles=[Role(role) for role in options.role],
        homes=options.home,
        groups=options.group,
        hours=options.hours,
        epoch=options.epoch,
        now_unix_s=time.time(),
    )
    print(grant.decode("ascii"))


def _broker_files(options: argparse.Namespace) -> None:
    ca, certificate, key = (path.absolute() for path in (options.ca, options.cert, options.key))
    own = load_certificate(certificate)
    if load_private(key).public_key() != own.public_key():
        raise ConfigError(f"{key}: not the key of {certificate}")
    _check_issued(ca, certificate)
    homes = None
    if options.homes is not None:
        try:
            homes = broker_config.parse_homes(read_public(options.homes).decode("utf-8"))
        except ValueError as exc:
            raise ConfigError(f"{options.homes}: {exc}") from exc
    out = options.out.absolute()
    acl_path, conf_path = out / "acl", out / "mosquitto.conf"
    try:
        conf = broker_config.mosquitto_conf(
            address=options.address,
            port=options.port,
            ca=ca,
            certificate=certificate,
            key=key,
            acl=acl_path,
            user=options.user,
        )
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    if not options.replace:
        for path in (acl_path, conf_path):
            if path.exists() or path.is_symlink():
                raise AuthorityError(f"{path}: exists. Add --replace to replace it.")
    out.mkdir(parents=True, exist_ok=True)
    # The list before the configuration that names it: a broker started in between would otherwise run without one.
    write_public(acl_path, broker_config.acl(homes).encode(), replace=options.replace)
    write_public(conf_path, conf.encode(), replace=options.replace)
    which = "by pattern, for every gateway's certificate" if homes is None else f"for {len(homes)} gateways by name"
    _say(
        f"Written: {conf_path} and {acl_path} ({which}).",
        f"{key} must belong to the user {options.user}. After a change of the list alone: kill -HUP the broker.",
    )


def _check_issued(ca: Path, certificate: Path) -> None:
    try:
        load_certificate(certificate).verify_directly_issued_by(load_certificate(ca))
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise ConfigError(f"{certificate}: not issued by {ca}") from exc


def _ca_new(options: argparse.Namespace) -> None:
    try:
        ca = CertificateAuthority.make(options.name)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    write_directory(options.out, public={CA_FILE: ca.pem()}, secret={CA_KEY_FILE: private_pem(ca.key)})
    _say(f"New CA {options.name!r}, valid until {ca.certificate.not_valid_after_utc:%Y-%m-%d}: {options.out}.")


def _ca_issue(options: argparse.Namespace) -> None:
    name, servers = CENTRE, ()
    if options.what == "id":
        name = options.id
        if not is_gateway(name):
            raise ConfigError(f"{name!r} is not a gateway id: gw-, then 1 to 40 of a-z, 0-9 and -")
    elif options.what == "names":
        name, servers = "broker", tuple(dict.fromkeys(options.names))
    ca = CertificateAuthority.load(options.ca)
    try:
        identity = ca.issue(name, server_names=servers)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    write_directory(
        options.out, public={CA_FILE: ca.pem(), "cert.pem": identity.certificate}, secret={"key.pem": identity.key}
    )
    _say(f"Certificate for {name}: {options.out / 'cert.pem'}, key {options.out / 'key.pem'}.")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=None) + "\n").encode()


def _tunnel_key(options: argparse.Namespace) -> None:
    private = new_private_key()
    public = public_key_of_tunnel(private)
    write_directory(options.out, public={"tunnel.pub": public.encode() + b"\n"}, secret={"tunnel.key": private + b"\n"})
    print(public)
    _say(f"New key of the tunnel's end: {options.out / 'tunnel'}.key (private) and .pub.")


def _tunnel_config(options: argparse.Namespace) -> None:
    peers = tunnel_config.parse_peers(options.peers.read_text(), network=options.homes)
    conf = tunnel_config.endpoint_conf(read_secret(options.key), port=options.port, peers=peers)
    rules = tunnel_config.firewall(
        interface=options.interface,
        broker=options.broker,
        broker_port=options.broker_port,
        relay=options.relay,
        bundles_port=options.bundles_port,
    )
    write_directory(options.out, public={"centre.nft": rules.encode()}, secret={"wg.conf": conf.encode()})
    _say(
        f"{len(peers)} homes in {options.out / 'wg.conf'}. The interface does not carry the centre's addresses: put",
        f"{options.broker}/32 and {options.relay}/32 on the loopback or a dummy, and route {options.homes} to "
        f"{options.interface}.",
    )


def _relay_config(options: argparse.Namespace) -> None:
    secret = secrets.token_urlsafe(32)
    conf = relay_config.turnserver_conf(
        listen=options.listen,
        relay=options.relay,
        homes=options.homes,
        udp_port=options.udp_port,
        tls_port=options.tls_port,
        realm=options.realm,
        secret=secret,
        certificate=options.cert.absolute(),
        key=options.key.absolute(),
        user=options.user,
    )
    write_directory(
        options.out, public={}, secret={"turnserver.conf": conf.encode(), "relay.secret": secret.encode() + b"\n"}
    )
    _say(f"{options.out / 'turnserver.conf'} for coturn; {options.out / 'relay.secret'} for the centre, by a safe way.")


def _release_offer(options: argparse.Namespace) -> None:
    previous = None
    if options.previous is not None:
        previous = read_offer(read_public(options.previous))
    now_unix_s = float(int(time.time()))
    put = compose_offer(
        previous,
        version=options.version,
        compatible=options.compatible,
        url=options.url,
        manifest_sha256=options.manifest_sha256,
        size_bytes=options.size_bytes,
        ring=options.ring,
        tries=options.tries,
        now_unix_s=now_unix_s,
        not_before_h=options.not_before_h,
        days=options.days,
    )
    if options.out.exists() or options.out.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(options.out))
    write_public(options.out, sign_with(put, open_signer(options.release)))
    _say(
        f"Statement {put.statement}: version {put.version} for {put.compatible}, ring {put.ring}, good for "
        f"{options.days} days.",
        f"Written: {options.out}. Sign the next one before it ends, also where nothing is new: a device that hears no "
        "valid statement for 14 days raises an alarm.",
    )


_ACTS = {
    "release_offer": _release_offer,
    "new_key": _new_key,
    "trust_sign": _trust_sign,
    "trust_show": _trust_show,
    "revoke": _revoke,
    "rotate_root": _rotate_root,
    "rotate_issuer": _rotate_issuer,
    "grant": _shift_grant,
    "broker_config": _broker_files,
    "tunnel_key": _tunnel_key,
    "tunnel_config": _tunnel_config,
    "relay_config": _relay_config,
    "ca_new": _ca_new,
    "ca_issue": _ca_issue,
}
