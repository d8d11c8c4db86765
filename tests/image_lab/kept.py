"""A card with its centre, as a lab left them, so that another show can begin there and be repeated.

A kept lab is the lab's whole directory and what only its process knew: the keys of the bench home, the key of the data
partition, ports. All of it is a test's own and good for nothing else; the file is for its owner only. The directory is
seen at one place by every lab (a mount in the lab's own namespace), so that paths in settings stay true.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.protocol.key import SigningKey
from provisioning.authority.secret_file import write_secret
from provisioning.authority.x509 import CertificateAuthority
from provisioning.bench_home import BenchHome
from tests.image_lab.card import CardError
from tests.net_lab.lab import PLACES

FILE = "kept.json"
KEYS = ("device", "root", "issuing", "planner", "release")
NOT_KEPT = ("data.plain", "header", "plain", "*.disk", "bundle-*", "lab.sock", "bench/front", "*.img.new")
"""Made anew by each lab; large, or a socket."""


@dataclass
class Kept:
    """What the process of the lab that was kept knew. `build` is the SHA-256 of the build's release.json."""

    home: BenchHome
    http_port: int
    key_hex: str
    version: int
    """Of the last agreement that was put in force."""
    build: str


def build_of(built: Path) -> str:
    return hashlib.sha256((built / "release.json").read_bytes()).hexdigest()


def write(kept: Kept, directory: Path) -> None:
    """Into the lab's directory, before that is kept. Raises FileExistsError when there is one."""
    home = kept.home
    pem = home.authority.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    table: dict[str, Any] = {
        "build": kept.build,
        "http_port": kept.http_port,
        "key_hex": kept.key_hex,
        "version": kept.version,
        "directory": str(home.directory),
        "gateway": home.gateway,
        "install_epoch": home.install_epoch,
        "broker_port": home.broker_port,
        "login_token": home.login_token,
        "planner_token": home.planner_token,
        "authority": [home.authority.pem().decode(), pem.decode()],
        "keys": {name: getattr(home, name).to_pem().decode() for name in KEYS},
    }
    write_secret(directory / FILE, json.dumps(table).encode())


def read(directory: Path, *, build: str) -> Kept:
    """Raises CardError when nothing was kept there, or a card of another build."""
    try:
        table = json.loads((directory / FILE).read_bytes())
    except OSError as exc:
        raise CardError(f"no lab was kept in {directory}: {exc.strerror}") from exc
    if table["build"] != build:
        raise CardError(f"the card kept in {directory} is of another build")
    certificate, key = (text.encode() for text in table["authority"])
    private = serialization.load_pem_private_key(key, password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    keys = {name: SigningKey.from_pem(text.encode()) for name, text in table["keys"].items()}
    home = BenchHome(
        directory=Path(table["directory"]),
        authority=CertificateAuthority(x509.load_pem_x509_certificate(certificate), private),
        places=PLACES,
        **keys,
        **{name: table[name] for name in ("gateway", "install_epoch", "broker_port", "login_token", "planner_token")},
    )
    return Kept(home, table["http_port"], table["key_hex"], table["version"], table["build"])


def put_away(directory: Path, to: Path) -> None:
    """Keep a lab that has ended, in the place of one that was kept there before."""
    for pattern in NOT_KEPT:
        for path in directory.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if to.exists():
        shutil.rmtree(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(directory, to)
