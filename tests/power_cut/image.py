"""The guest: an initramfs of Debian's busybox and Python, our package, and this lane's own programs.

Everything comes from the directory that setup.sh filled, from the working tree, and from keys made for this run.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provisioning.image.cpio import write_cpio

HERE = Path(__file__).parent
TREE = HERE.parents[1]
MODULES = ("virtio_pci", "virtio_console", "crc32c_generic", "ext4", "dm-log-writes")
DISK_MODULES = ("virtio_blk",)
"""Loaded only when the disk is to be seen."""
LIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libgcc_s.so.1")
PYTHON_LIBRARIES = ("libz.so.1", "libexpat.so.1", "libffi.so.8", "libcrypto.so.3", "libssl.so.3")
DMSETUP_LIBRARIES = ("libdevmapper.so.1.02.1", "libselinux.so.1", "libudev.so.1", "libpcre2-8.so.0")
LEFT_OUT_OF_PYTHON = ("idlelib", "lib2to3", "pydoc_data", "ensurepip", "tkinter", "distutils", "unittest", "test")

MUTATIONS = {
    "no-fdatasync": (
        "gateway/ledger/ledger.py",
        "            self._disk.fdatasync(self._segment_fd)\n",
        "            pass\n",
    ),
}
"""Name to file, text that stands there once, and what takes its place."""


class SetupError(Exception):
    """Something setup.sh makes is not there, or a mutation no longer fits the code."""


@dataclass(frozen=True, slots=True)
class Guest:
    kernel: Path
    initramfs: Path
    key_pem: Path


def build(cache: Path, directory: Path, *, mutation: str | None = None) -> Guest:
    """Make the guest's initramfs and key in `directory`. Raises SetupError."""
    debian = cache / "debian"
    wheels = sorted(cache.glob("wheels-*/.complete"))
    if not (debian / ".complete").exists() or not wheels:
        raise SetupError(f"{cache} is not filled; run {HERE / 'setup.sh'} {cache}")
    root = directory / "root"
    for name in ("dev", "proc", "sys", "data", "bin", "sbin", "modules", "usr/bin", "lane"):
        (root / name).mkdir(parents=True, exist_ok=True)
    _programs(debian, root)
    _python(debian, wheels[0].parent, root)
    _lane(root, mutation)
    _compile(debian, root)
    key_pem = root / "lane" / "ledger.pem"
    key_pem.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    _modules(debian, root)
    shutil.copy2(HERE / "guest" / "init", root / "init")
    initramfs = directory / "initramfs.cpio"
    write_cpio(root, initramfs)
    return Guest(next((debian / "boot").glob("vmlinuz-*")), initramfs, key_pem)


def heartbeat_every_s() -> float:
    """The guard's constant, read and not imported: the guard pulls in what neither side here needs."""
    module = ast.parse((TREE / "gateway/services/guard_check.py").read_text())
    for node in module.body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "HEARTBEAT_EVERY_S"
            and node.value is not None
        ):
            return float(ast.literal_eval(node.value))
    raise SetupError("gateway/services/guard_check.py has no HEARTBEAT_EVERY_S")


def make_disk(path: Path, size_mib: int) -> None:
    """An empty ext4, with nothing left for the kernel to initialise in the background."""
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, size_mib << 20)
    # 4 KiB blocks, as mke2fs takes them by itself for any disk of a real size.
    options = "lazy_itable_init=0,lazy_journal_init=0"
    command = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", options, str(path)]
    subprocess.run(command, check=True, timeout=60, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})


def _programs(debian: Path, root: Path) -> None:
    shutil.copy2(debian / "bin/busybox", root / "bin/busybox")
    shutil.copy2(debian / "sbin/dmsetup", root / "sbin/dmsetup")
    shutil.copy2(debian / "usr/bin/python3.11", root / "usr/bin/python3.11")
    libraries = root / "lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for name in (*LIBC, *PYTHON_LIBRARIES, *DMSETUP_LIBRARIES):
        for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            if (debian / folder / name).exists():
                shutil.copy2(debian / folder / name, libraries / name)
    (root / "lib64").mkdir()
    shutil.copy2(_loader(debian), root / "lib64/ld-linux-x86-64.so.2")


def _loader(debian: Path) -> Path:
    return debian / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"


def _python(debian: Path, wheels: Path, root: Path) -> None:
    left_out = shutil.ignore_patterns("__pycache__", "config-3.11*", *LEFT_OUT_OF_PYTHON)
    shutil.copytree(debian / "usr/lib/python3.11", root / "usr/lib/python3.11", ignore=left_out, symlinks=False)
    shutil.copytree(wheels, root / "wheels", ignore=shutil.ignore_patterns("__pycache__", "*.dist-info", "zoneinfo"))
    (root / "wheels/tzdata/zoneinfo").mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "UTC"):
        shutil.copy2(wheels / "tzdata/zoneinfo" / name, root / "wheels/tzdata/zoneinfo" / name)


def _lane(root: Path, mutation: str | None) -> None:
    lane = root / "lane"
    shutil.copytree(TREE / "gateway", lane / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(HERE / "guest", lane / "guest", ignore=shutil.ignore_patterns("__pycache__", "init"))
    (lane / "heartbeat_every_s").write_text(f"{heartbeat_every_s()}\n")
    if mutation is not None:
        file, old, new = MUTATIONS[mutation]
        source = (lane / file).read_text()
        if source.count(old) != 1:
            raise SetupError(f"{mutation}: the text stands {source.count(old)} times in {file}")
        (lane / file).write_text(source.replace(old, new))


def _compile(debian: Path, root: Path) -> None:
    # By the guest's own Python, so that no boot does it again under emulation.
    libraries = f"{debian}/lib/x86_64-linux-gnu:{debian}/usr/lib/x86_64-linux-gnu"
    command = [str(_loader(debian)), "--library-path", libraries, str(debian / "usr/bin/python3.11")]
    command += ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), str(root)]
    subprocess.run(command, check=True, timeout=300, env={"PYTHONHOME": str(debian / "usr")})


def _modules(debian: Path, root: Path) -> None:
    """Copy the wanted modules and what they depend on, and write the order in which they go in."""
    kernel = next((debian / "lib/modules").iterdir())
    files = {each.name.removesuffix(".ko").replace("-", "_"): each for each in kernel.rglob("*.ko")}
    order: list[str] = []

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order:
            return
        if name not in files:
            raise SetupError(f"the kernel has no module {name}")
        depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + files[name].read_bytes())
        for each in (depends.group(1).decode() if depends else "").split(","):
            if each:
                add(each)
        order.append(name)

    for file, wanted in (("order", MODULES), ("disk_order", DISK_MODULES)):
        before = len(order)
        for each in wanted:
            add(each)
        (root / "modules" / file).write_text("".join(f"{name}.ko\n" for name in order[before:]))
    for name in order:
        shutil.copy2(files[name], root / "modules" / f"{name}.ko")
