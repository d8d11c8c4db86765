"""`tillsyn image`: lock, build, bundle, compare, verify, bill of materials, and the gate on known vulnerabilities."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec

from provisioning.image import archive, build, bundle, compare, lock, profile, sbom, vulnerability
from provisioning.image.error import ImageMismatchError
from provisioning.image.profile import RECIPE, TREE

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "/var/tmp")) / "tillsyn-image"  # noqa: S108 a cache, every use by hash
VERSION = "0.1.0"


class Support(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file image-build/support.toml."""

    support_until: str


def register(commands: Any) -> None:
    """Add our command to argparse's sub-parsers."""
    image = commands.add_parser("image", help="build, compare and describe the device's operating-system image")
    actions = image.add_subparsers(dest="action", metavar="ACTION", required=True)

    making = argparse.ArgumentParser(add_help=False)
    making.add_argument("--board", default="qemu", metavar="BOARD", help=f"one of {', '.join(profile.boards())}")
    making.add_argument("--mirror", metavar="URL", help="Debian's archive; else what this host's apt reads")
    making.add_argument("--security-mirror", metavar="URL", help="Debian's security archive; else the same")
    making.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="default %(default)s")
    making.add_argument("--out", type=Path, default=TREE / "artefacts" / "image", metavar="DIR")
    making.add_argument(
        "--keyring", type=Path, metavar="PEM", help="whose bundles it takes; else a throw-away signer's"
    )
    making.add_argument("--epoch", type=int, metavar="UNIX_S", help="SOURCE_DATE_EPOCH; else the time of the commit")
    making.add_argument("--contact", default="", metavar="URL", help="where weaknesses are reported, for security.txt")
    making.add_argument("--version", default=VERSION, help="default %(default)s")
    making.add_argument("--variant", choices=build.VARIANTS, default=build.RELEASE, help="default %(default)s")

    action = actions.add_parser("lock", parents=[making], help="renew the lock of Debian packages from the mirror")
    action.set_defaults(run=_lock)
    action = actions.add_parser("build", parents=[making], help="build the image from lock and recipe (root, slow)")
    action.set_defaults(run=_build)
    action = actions.add_parser("bundle", help="sign a build as an update")
    action.add_argument("built", type=Path, metavar="DIR")
    action.add_argument("--cert", type=Path, metavar="PEM")
    action.add_argument("--key", type=Path, metavar="PEM")
    action.add_argument("--signers", type=Path, default=CACHE / "throw-away", metavar="DIR", help="without --cert")
    action.add_argument("--as-version", metavar="VERSION", help="for a rehearsal: another version for the same bytes")
    action.add_argument("--to", type=Path, metavar="FILE")
    action.set_defaults(run=_bundle)
    action = actions.add_parser("compare", help="two builds, to the byte; exit status 1 when they differ")
    action.add_argument("left", type=Path, metavar="DIR")
    action.add_argument("right", type=Path, metavar="DIR")
    action.set_defaults(run=_compare)
    action = actions.add_parser("verify", help="is a build of yours what a publisher published? 0: to the byte")
    action.add_argument("release", type=Path, metavar="RELEASE", help="the publisher's release.json, or its directory")
    action.add_argument("--built", type=Path, default=TREE / "artefacts" / "image", metavar="DIR")
    action.set_defaults(run=_verify)
    action = actions.add_parser("show", help="what a build is made of: parts, sizes, the largest packages")
    action.add_argument("built", type=Path, metavar="DIR")
    action.set_defaults(run=_show)
    action = actions.add_parser("sbom", help="print the bill of materials of a board's locks (CycloneDX)")
    action.add_argument("--board", default="qemu", metavar="BOARD")
    action.add_argument("--version", default=VERSION)
    action.set_defaults(run=_sbom)
    action = actions.add_parser("gate", help="fail on a locked package whose known vulnerability the archive has fixed")
    action.add_argument(
        "--tracker", type=Path, required=True, metavar="JSON", help="Debian's security tracker, as a file"
    )
    action.add_argument("--board", default="qemu")
    action.add_argument(
        "--vex", type=Path, default=RECIPE / "vex.toml", metavar="TOML", help="what does not count, and why"
    )
    action.set_defaults(run=_gate)


def _setting(options: argparse.Namespace) -> build.Setting:
    board = profile.read(options.board)
    if options.keyring is None:
        options.keyring, _ = bundle.make_signer(options.cache / "throw-away", options.variant)
        print(f"image: no --keyring: it takes bundles of the throw-away signer {options.keyring}", file=sys.stderr)
    epoch = options.epoch
    if epoch is None:
        told = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], cwd=TREE, capture_output=True, text=True, check=True
        )
        epoch = int(told.stdout)
    return build.Setting(
        options.board,
        board,
        options.variant,
        archive.host_mirror(options.mirror, options.security_mirror),
        options.cache.absolute(),
        options.out.absolute(),
        options.keyring.absolute(),
        epoch,
        options.version,
    )


def _lock(options: argparse.Namespace) -> int:
    profile.require_buildable(options.board, profile.read(options.board))
    setting = _setting(options)
    packages = build.make_lock(setting)
    total = sum(package.size_bytes for package in packages)
    print(f"{setting.lock_path.name}: {len(packages)} packages, {total >> 20} MiB")
    return 0


def _build(options: argparse.Namespace) -> int:
    profile.require_buildable(options.board, profile.read(options.board))
    setting = _setting(options)
    facts = build.build(setting)
    _describe(setting, facts, options.contact)
    for name, file in sorted(facts["files"].items()):
        print(f"{file['sha256']}  {name}  {file['size_bytes']}")
    print(f"root hash {facts['verity']['root_hash']}")
    return 0


def _describe(setting: build.Setting, facts: dict[str, Any], contact: str) -> None:
    """The bill of materials and whom to tell of a weakness, beside the image."""
    licences: dict[str, tuple[str, ...]] = {}
    with tarfile.open(setting.out / "licences.tar.gz") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                licences[member.name.split("/")[0]] = sbom.licence_names(file.read().decode("utf-8", "replace"))
    document = _document(setting.board, setting.version, facts["source_date_epoch"], licences)
    (setting.out / "sbom.cdx.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    if contact:
        (setting.out / "security.txt").write_text(sbom.security_txt(contact, facts["source_date_epoch"]))
    else:
        print("image: no --contact: no security.txt; whoever publishes an image gives one", file=sys.stderr)


def _support() -> Support:
    return msgspec.toml.decode((RECIPE / "support.toml").read_bytes(), type=Support, strict=True)


def _document(board: str, version: str, epoch_unix_s: int, licences: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    facts = profile.read(board)
    return sbom.document(
        lock.read(RECIPE / "lock" / f"{board}.debs"),
        sbom.wheels_of((RECIPE / "lock" / f"wheels-{facts.architecture}.lock").read_text()),
        board=board,
        version=version,
        suite=facts.suite,
        epoch_unix_s=epoch_unix_s,
        licences=licences,
        support_until=_support().support_until,
    )


def _sbom(options: argparse.Namespace) -> int:
    print(json.dumps(_document(options.board, options.version, _commit_time(), {}), indent=1, sort_keys=True))
    return 0


def _commit_time() -> int:
    told = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=TREE, capture_output=True, text=True, check=True)
    return int(told.stdout)


def _bundle(options: argparse.Namespace) -> int:
    certificate, key = options.cert, options.key
    if certificate is None or key is None:
        variant = str(compare.read_release(options.built)["variant"])
        certificate, key = bundle.make_signer(options.signers, variant)
    target = options.to or options.built / "update.raucb"
    size = bundle.make_bundle(options.built, certificate, key, target, version=options.as_version)
    print(f"{target}: {size} bytes ({size / (1 << 20):.0f} MiB of {bundle.MAX_BUNDLE_BYTES >> 20})")
    print(f"manifest_sha256 {bundle.manifest_sha256(target)}")
    if size > bundle.MAX_BUNDLE_BYTES:
        raise ImageMismatchError("the bundle is larger than what is aimed at; see `tillsyn image show`")
    return 0


def _compare(options: argparse.Namespace) -> int:
    differing = 0
    for each in compare.compare(options.left, options.right):
        if each.same:
            print(f"same   {each.name} {each.left_sha256}")
        else:
            differing += 1
            print(f"DIFFER {each.name} at byte {each.first_difference}: {each.left_sha256} {each.right_sha256}")
    return 1 if differing else 0


def _verify(options: argparse.Namespace) -> int:
    for line in compare.require_published(compare.read_release(options.release), options.built):
        print(line)
    print("These are the bytes that were published.")
    return 0


def _show(options: argparse.Namespace) -> int:
    facts = compare.read_release(options.built)
    for name, file in sorted(facts["files"].items()):
        print(f"{file['size_bytes'] / (1 << 20):8.1f} MiB  {name}")
    bundled = options.built / "update.raucb"
    if bundled.exists():
        print(f"{bundled.stat().st_size / (1 << 20):8.1f} MiB  {bundled.name}")
    print("\nIn the root, unpacked, the largest:")
    for size, name in build.largest(options.built / "sizes.json"):
        print(f"{size / (1 << 20):8.1f} MiB  {name}")
    return 0


def _gate(options: argparse.Namespace) -> int:
    board = profile.read(options.board)
    try:
        tracker = json.loads(options.tracker.read_text())
    except (OSError, ValueError) as exc:
        print(f"tillsyn image gate: {options.tracker}: {exc}", file=sys.stderr)
        return 1
    found = vulnerability.findings(
        tracker,
        lock.read(RECIPE / "lock" / f"{options.board}.debs"),
        suite=board.suite,
        statements=vulnerability.read_statements(options.vex),
    )
    fixed = [each for each in found if each.fixed_in is not None]
    for each in fixed:
        print(f"{each.cve} {each.source} {each.ours}: fixed in {each.fixed_in}")
    print(f"{len(fixed)} fixed and not taken, {len(found) - len(fixed)} that nobody has fixed in {board.suite}")
    return 1 if fixed else 0
