"""The signed update: RAUC's bundle in verity format, and a throw-away signer for who has no release authority.

The signature is the one part of a release that two builders can't make alike. What it signs, they can: the manifest
names each image by its SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provisioning.authority.secret_file import write_secret
from provisioning.image.compare import read_release
from provisioning.image.error import ImageMismatchError, RecipeError

MAX_BUNDLE_BYTES: Final = 250 << 20
MAX_SIGNATURE_BYTES: Final = 64 << 10
SQUASHFS_BLOCK: Final = "64k"
"""What a device fetches at least for one block that it lacks; smaller ones compress worse."""


def make_signer(directory: Path, name: str) -> tuple[Path, Path]:
    """(certificate, key) of a throw-away signer in `directory`; what is there already is taken."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    if certificate.exists() and key.exists():
        return certificate, key
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tillsyn throw-away {name}")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    write_secret(
        key,
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def manifest(facts: dict[str, object], *, version: str, adaptive: bool = True, form: str = "verity") -> str:
    """What RAUC checks before it writes anything.

    With `adaptive` a device reads only the blocks that neither of its slots has, by an index of their hashes.
    """
    method = "adaptive=block-hash-index\n" if adaptive else ""
    return (
        f"[update]\ncompatible={facts['compatible']}\nversion={version}\n"
        f"description=Tillsyn gateway, {facts['board']}, {facts['variant']}\n\n"
        f"[bundle]\nformat={form}\n\n"
        f"[image.boot]\nfilename=boot.vfat\n{method}\n[image.rootfs]\nfilename=root.img\n{method}"
    )


def make_bundle(
    built: Path,
    certificate: Path,
    key: Path,
    target: Path,
    *,
    version: str | None = None,
    level: int = 19,
    adaptive: bool = True,
    form: str = "verity",
) -> int:
    """Sign the images of a build into `target`. Returns its size in bytes. Raises RecipeError or ImageMismatchError."""
    facts = read_release(built)
    if shutil.which("rauc") is None:
        raise RecipeError("rauc: not on this machine; `make image` installs what it needs with apt")
    content = target.with_suffix(".content")
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir(parents=True)
    try:
        for name in ("boot.vfat", "root.img"):
            os.link(built / name, content / name)
        (content / "manifest.raucm").write_text(
            manifest(facts, version=version or str(facts["version"]), adaptive=adaptive, form=form)
        )
        target.unlink(missing_ok=True)
        # No keyring: this rauc would judge the signer by another purpose than the device does (codesign).
        command = ["rauc", f"--cert={certificate}", f"--key={key}"]
        done = subprocess.run(
            [
                *command,
                "bundle",
                f"--mksquashfs-args=-comp zstd -Xcompression-level {level} -b {SQUASHFS_BLOCK}",
                str(content),
                str(target),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ImageMismatchError(f"rauc bundle: {done.stderr.strip()[-800:]}")
    finally:
        shutil.rmtree(content, ignore_errors=True)
    return target.stat().st_size


def manifest_sha256(target: Path) -> str:
    """Of the signed manifest of a verity bundle, as an update offer names it. Raises ImageMismatchError.

    At the bundle's end stands the CMS signature, which holds the manifest, and after it its size in 8 bytes.
    Source: RAUC 1.13, "Reference", bundle formats.
    """
    with target.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - 8, 0))
        size = int.from_bytes(file.read(8), "big")
        if not 0 < size <= min(MAX_SIGNATURE_BYTES, length - 8):
            raise ImageMismatchError(f"{target}: no bundle: it ends in no signature")
        file.seek(-8 - size, os.SEEK_END)
        signature = file.read(size)
    done = subprocess.run(
        ["openssl", "cms", "-verify", "-noverify", "-nosigs", "-inform", "DER"],
        input=signature,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.startswith(b"["):
        raise ImageMismatchError(f"{target}: its signature holds no manifest: {done.stderr.decode()[-300:]}")
    return hashlib.sha256(done.stdout).hexdigest()
