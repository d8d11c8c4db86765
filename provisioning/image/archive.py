"""Debian's archive: resolving names to a lock, fetching what the lock says, and a local repository of exactly that.

apt does the resolving, with a configuration of its own below the cache directory, so that neither the host's packages
nor its pins count. Which mirror: the one given, else the one this host's apt uses for Debian itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from provisioning.image.error import ImageMismatchError, RecipeError
from provisioning.image.lock import LockedPackage

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_URI_LINE: Final = re.compile(r"'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})")
FETCH_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where the two archives are, without a trailing slash. A snapshot service's addresses fit as well."""

    main: str
    security: str

    def of(self, archive: str) -> str:
        return self.security if archive == "security" else self.main


def host_mirror(main: str | None = None, security: str | None = None) -> Mirror:
    """What was given, and for the rest what this host's apt reads. Raises RecipeError when neither says it."""
    if not (main and security):
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
        for line in sorted(_run(command).splitlines()):
            uri, _, codename = line.partition(" ")
            if "/debian-security" in uri or codename.endswith("-security"):
                security = security or uri.rstrip("/")
            elif re.search(r"/debian/?$", uri):
                main = main or uri.rstrip("/")
    if not main or not security:
        raise RecipeError("no Debian mirror known here: give MIRROR=… and SECURITY_MIRROR=… to make")
    return Mirror(main.rstrip("/"), security.rstrip("/"))


def resolve(
    names: Sequence[str], *, suite: str, architecture: str, mirror: Mirror, cache: Path, alone: bool = False
) -> tuple[LockedPackage, ...]:
    """What apt would install today for `names` and everything essential, downloaded and measured. `alone`: only these.

    Raises RecipeError when apt can't, ImageMismatchError when a download isn't what the signed index said.
    """
    environment = _apt(suite, architecture, mirror, cache / f"apt-{architecture}")
    _run(["apt-get", "-q", "update"], environment)
    listed = _run(
        ["apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", "?essential", *names], environment
    )
    packages = []
    for uri, _, size, sha256 in _URI_LINE.findall(listed):
        archive = "security" if uri.startswith(mirror.security + "/") else "main"
        path = uri[len(mirror.of(archive)) + 1 :]
        if alone and path.rsplit("/", 1)[1].split("_")[0] not in names:
            continue
        draft = LockedPackage("x", "0", "all", sha256, int(size), archive, path, "x", "0")
        packages.append(_measured(draft, fetch(draft, mirror, cache / "debs")))
    if not packages:
        raise RecipeError(f"apt names no package for {suite}: {listed.strip()[-300:]}")
    return tuple(sorted(packages))


def _measured(draft: LockedPackage, deb: Path) -> LockedPackage:
    told = _run(["dpkg-deb", "-f", str(deb), "Package", "Version", "Architecture", "Source"])
    fields = dict(line.split(": ", 1) for line in told.splitlines())
    # "Source: name (version)"; either is left out where it is the same as the package's own.
    source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("Source", fields["Package"]))
    assert source is not None
    return replace(
        draft,
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        source=source[1],
        source_version=source[2] or fields["Version"],
    )


def fetch(package: LockedPackage, mirror: Mirror, directory: Path) -> Path:
    """The .deb with the locked bytes, from `directory` or the mirror. Raises RecipeError or ImageMismatchError."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{package.sha256[:16]}-{package.file_name}"
    if target.exists() and _sha256(target) == package.sha256:
        return target
    address = f"{mirror.of(package.archive)}/{package.path}"
    try:
        with urllib.request.urlopen(address, timeout=FETCH_LIMIT_S) as answer:  # noqa: S310 the host's own apt mirror
            content = answer.read(package.size_bytes + 1)
    except (OSError, urllib.error.URLError) as exc:
        raise RecipeError(
            f"{package.file_name}: the mirror does not give it ({exc}). A mirror forgets superseded versions: name a "
            "snapshot of the lock's day in MIRROR and SECURITY_MIRROR, or renew the lock with `make image-lock`."
        ) from exc
    if len(content) != package.size_bytes or hashlib.sha256(content).hexdigest() != package.sha256:
        raise ImageMismatchError(f"{package.file_name}: the mirror gave other bytes than the lock says")
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
        file.write(content)
    Path(file.name).rename(target)
    return target


def repository(packages: Iterable[LockedPackage], mirror: Mirror, cache: Path, directory: Path, *, suite: str) -> None:
    """A repository in `directory` that holds the locked packages and no other. Raises as `fetch` does."""
    pool = directory / "pool"
    pool.mkdir(parents=True)
    stanzas = []
    for package in packages:
        deb = fetch(package, mirror, cache / "debs")
        os.link(deb, pool / package.file_name)
        control = _run(["dpkg-deb", "-f", str(deb)]).rstrip("\n")
        stanzas.append(
            f"{control}\nFilename: pool/{package.file_name}\nSize: {package.size_bytes}\nSHA256: {package.sha256}\n"
        )
    index = "\n".join(stanzas).encode()
    (directory / "Packages").write_bytes(index)
    # mmdebstrap takes what is essential from the suite of this name only.
    (directory / "Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nSHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )


def _apt(suite: str, architecture: str, mirror: Mirror, directory: Path) -> dict[str, str]:
    """The environment of an apt that knows this suite only. Raises RecipeError without Debian's keyring."""
    if not KEYRING.exists():
        raise RecipeError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d", "log"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "status").write_text("")
    signed = f"[arch={architecture} signed-by={KEYRING}]"
    (directory / "etc" / "sources.list").write_text(
        f"deb {signed} {mirror.main} {suite} main\n"
        f"deb {signed} {mirror.main} {suite}-updates main\n"
        f"deb {signed} {mirror.security} {suite}-security main\n"
    )
    settings = {
        "APT::Architecture": architecture,
        "Dir": str(directory),
        "Dir::Etc": "etc",
        "Dir::Etc::parts": "apt.conf.d",
        "Dir::Etc::sourcelist": "sources.list",
        "Dir::State": "state",
        "Dir::State::status": str(directory / "status"),
        "Dir::Cache": "cache",
        "Dir::Log": "log",
        # The host may be behind a mirror that keeps old indexes; what is in them is still signed, and then locked.
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Languages": "none",
        # Else apt prints MD5 sums.
        "Acquire::ForceHash": "SHA256",
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    config = directory / "apt.conf"
    config.write_text("\n".join([*lines, f'APT::Architectures {{ "{architecture}"; }};', ""]))
    return {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C.UTF-8"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise RecipeError(f"{command[0]} failed: {result.stderr.strip()[-600:]}")
    return result.stdout
