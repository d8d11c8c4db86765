"""One image, from lock and recipe to bytes: base, root, verity, boot partition, disk.

Needs root, binfmt for the board's architecture, and the programs that `make image` installs. What has to be the same
for everybody is fixed here: times are those of SOURCE_DATE_EPOCH, ids are derived from names, orders are sorted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provisioning.image import archive, lock
from provisioning.image.cpio import write_cpio
from provisioning.image.disk import write_disk
from provisioning.image.error import ImageMismatchError, RecipeError
from provisioning.image.lock import LockedPackage
from provisioning.image.profile import RECIPE, TREE, Profile, wanted

RELEASE: Final = "release"
COMPILER: Final = (
    "libc6",
    "libexpat1",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "python3.13-minimal",
    "zlib1g",
)
"""What makes the byte code on an amd64 host, in the versions that the image has."""
COMPILER_LOCK: Final = RECIPE / "lock" / "compiler-amd64.debs"
UNPACKED: Final = ("python3-systemd",)
"""Debian's modules for our Python that no wheel has; all that they need is in the image."""
VARIANTS: Final = (RELEASE, "developer")
SITE: Final = "usr/lib/tillsyn/site"
"""Where the wheels and our own package are on the device."""
NAMESPACE: Final = uuid.UUID("6f0d5a52-7d1c-5c39-9f14-4d6d5ad2a5a1")
"""Every fixed id of the image is derived from this and a name."""
CLOCK_EPOCH: Final = "usr/lib/clock-epoch"
VERITY_BLOCK_BYTES: Final = 4096
BASE_EPOCH_UNIX_S: Final = 1_764_000_000
"""SOURCE_DATE_EPOCH of what only the locks decide, and the time of all files: not the commit's, so that it
can stay from commit to commit, here and on the devices.
"""
BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
PROGRAMS: Final = ("mmdebstrap", "mkfs.erofs", "veritysetup", "mkfs.vfat", "mcopy", "sfdisk", "depmod", "systemctl")
LEFT_OUT: Final = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/perl5",
    "usr/share/debconf",
    "usr/lib/python3/dist-packages",
    "usr/lib/python3.13/test",
    "usr/lib/python3.13/idlelib",
    "usr/lib/python3.13/ensurepip",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/turtledemo",
    "usr/lib/python3.13/tkinter",
    "var/lib/apt",
    "var/cache",
    "var/log",
    "var/backups",
    "boot",
    "tmp",
    "run",
    "usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
    "usr/lib/systemd/system-generators/systemd-getty-generator",
    "etc/apt",
    "etc/cron.d",
    "etc/cron.daily",
    "etc/kernel",
    "etc/initramfs-tools",
)
SITE_LEFT_OUT: Final = re.compile(r"(^|/)(tests?|examples|testing|_examples)/|\.(pyx|pxd|pyi|c|h|a|f90)$")


@dataclass(frozen=True, slots=True)
class Setting:
    """What whoever builds may choose. The bytes depend on board, variant, keyring, version and epoch, and no more."""

    board: str
    profile: Profile
    variant: str
    mirror: archive.Mirror
    cache: Path
    out: Path
    keyring: Path
    epoch_unix_s: int
    version: str

    @property
    def lock_path(self) -> Path:
        return RECIPE / "lock" / f"{self.board}.debs"

    @property
    def compatible(self) -> str:
        """No bundle of one variant is taken by a device that runs another, whoever signed it."""
        return self.profile.compatible if self.variant == RELEASE else f"{self.profile.compatible}-{self.variant}"


def fixed_id(*words: str) -> str:
    """The id of a file system or partition: the same in every build."""
    return str(uuid.uuid5(NAMESPACE, "/".join(words)))


def require_programs() -> None:
    """Raises RecipeError that says what this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        raise RecipeError(f"{', '.join(missing)}: not on this machine; `make image` installs what it needs with apt")
    if os.geteuid() != 0:
        raise RecipeError("building an image needs root: it makes files of many owners and enters the new root")


def make_lock(setting: Setting) -> tuple[LockedPackage, ...]:
    """Resolve today's archive and write the lock. Raises RecipeError."""
    profile, cache = setting.profile, setting.cache
    names = wanted(profile)
    packages, with_kernel = (
        archive.resolve(
            wish, suite=profile.suite, architecture=profile.architecture, mirror=setting.mirror, cache=cache
        )
        for wish in (names, [*names, profile.kernel])
    )
    # The meta package's one dependency that holds a kernel. It is unpacked and not installed: its maintainer scripts
    # would make an initial RAM disk that we don't use, for a quarter of an hour under emulation.
    kernels = [p for p in with_kernel if _is_kernel(p) and p.name != profile.kernel]
    if len(kernels) != 1:
        raise RecipeError(f"{profile.kernel} brings {len(kernels)} kernels; one was expected")
    unpacked = archive.resolve(
        UNPACKED,
        suite=profile.suite,
        architecture=profile.architecture,
        mirror=setting.mirror,
        cache=setting.cache,
        alone=True,
    )
    every = tuple(sorted({*packages, *kernels, *unpacked}))
    setting.lock_path.parent.mkdir(exist_ok=True)
    head = f"{profile.title}: every Debian package of the {setting.variant} image. Made by `make image-lock`."
    setting.lock_path.write_text(lock.render(every, head=head))
    write_compiler_lock(setting)
    return every


def write_compiler_lock(setting: Setting) -> None:
    """Resolve what makes the byte code. Raises RecipeError."""
    packages = archive.resolve(
        COMPILER,
        suite=setting.profile.suite,
        architecture="amd64",
        mirror=setting.mirror,
        cache=setting.cache,
        alone=True,
    )
    head = "What makes the byte code on an amd64 host; nothing of it is in the image. Made by `make image-lock`."
    COMPILER_LOCK.write_text(lock.render(packages, head=head))


def _is_kernel(package: LockedPackage) -> bool:
    return bool(re.match(r"linux-image-[0-9]", package.name))


def _is_installed(package: LockedPackage) -> bool:
    """By its maintainer scripts; the others are taken apart."""
    return not _is_kernel(package) and package.name not in UNPACKED


def build(setting: Setting) -> dict[str, Any]:
    """Build everything below `setting.out`. Returns the release's description, which is also written there.

    Raises RecipeError or ImageMismatchError; then `setting.out` holds nothing that is called an image.
    """
    require_programs()
    packages = lock.read(setting.lock_path)
    work = setting.out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.umask(0o022)
    os.environ.update(SOURCE_DATE_EPOCH=str(BASE_EPOCH_UNIX_S), TZ="UTC", LC_ALL="C.UTF-8")
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin:/sbin"

    root = work / "root"
    with _told("the locked packages and wheels"):
        _stage(setting, packages, work, root)
    os.environ["SOURCE_DATE_EPOCH"] = str(setting.epoch_unix_s)
    with _told("kernel and its modules"):
        release = _kernel(setting, packages, work, root)
    with _told("Debian's modules for Python"):
        _modules(setting, packages, work, root)
    with _told("our own package, units, users, settings"):
        _own_package(setting, root)
        _overlay(setting, root)
        with _compiler(setting, root) as python:
            _compile(root, python, f"/{SITE}/gateway", f"/{SITE}/systemd")
    _write_sizes(setting, packages, work, root)
    with _told("root file system and its hash tree"):
        root_image, verity = _root_image(setting, root, work)
    with _told("boot partition"):
        boot_image = _boot_image(setting, work, root, release, verity)
    with _told("disk"):
        disk_image = write_disk(
            setting.out / "disk.img",
            setting.profile,
            boot=boot_image,
            root=root_image,
            ids=lambda name: fixed_id(setting.board, name),
            epoch_unix_s=setting.epoch_unix_s,
            work=work,
        )
    files = {"boot.vfat": boot_image, "root.img": root_image, "disk.img": disk_image}
    for name, path in files.items():
        if path != setting.out / name:
            path.replace(setting.out / name)
    facts = {
        "board": setting.board,
        "compatible": setting.compatible,
        "variant": setting.variant,
        "version": setting.version,
        "source_date_epoch": setting.epoch_unix_s,
        "lock_sha256": _sha256(setting.lock_path),
        "wheels_lock_sha256": _sha256(RECIPE / "lock" / f"wheels-{setting.profile.architecture}.lock"),
        "keyring_sha256": _sha256(setting.keyring),
        "verity": verity,
        "files": {
            name: {"sha256": _sha256(setting.out / name), "size_bytes": (setting.out / name).stat().st_size}
            for name in files
        },
    }
    (setting.out / "release.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return facts


@contextmanager
def _told(what: str) -> Iterator[None]:
    start_s = time.monotonic()
    print(f"image: {what} ...", file=sys.stderr, flush=True)
    yield
    print(f"image: {what}: {time.monotonic() - start_s:.0f} s", file=sys.stderr, flush=True)


def _stage(setting: Setting, packages: Sequence[LockedPackage], work: Path, root: Path) -> None:
    """Everything that the two locks decide, trimmed and compiled. Kept in the cache as a tar, by what it is made of."""
    installed = [p for p in packages if _is_installed(p)]
    made_of = "".join(f"{p.sha256}\n" for p in installed) + _wheels_lock(setting).read_text()
    made_of += (RECIPE / "drop.txt").read_text() + repr(LEFT_OUT) + SITE_LEFT_OUT.pattern
    made_of += "".join(f"{p.sha256}\n" for p in lock.read(COMPILER_LOCK))
    kept = setting.cache / f"stage-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.tar"
    root.mkdir()
    if not kept.exists():
        with _told("base system, installed under emulation"):
            base = _base(setting, installed, work)
            _unpack(base, root)
        lock.require_same(_installed(root), installed)
        with _told("wheels"):
            _wheels(setting, root)
        _licences(root, installed, root / "usr/share/tillsyn-licences.tar.gz")
        _trim(root)
        with _told("byte code"):
            packages_in = sorted(f"/{SITE}/{path.name}" for path in (root / SITE).iterdir())
            # Side by side, each always with the same files in the same order.
            parts = (["/usr/lib/python3.13"], packages_in[::2], packages_in[1::2])
            with _compiler(setting, root) as python, ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(lambda places: _compile(root, python, *places), parts))
        draft = kept.with_suffix(".part")
        _run(["tar", "-C", str(root), "--numeric-owner", "--sort=name", "-cpf", str(draft), "."])
        draft.rename(kept)
    else:
        _unpack(kept, root)
    (root / "usr/share/tillsyn-licences.tar.gz").rename(setting.out / "licences.tar.gz")


def _unpack(tar: Path, root: Path) -> None:
    _run(["tar", "-C", str(root), "--numeric-owner", "--same-owner", "-xpf", str(tar), "--exclude=./dev/*"])


def _installed(root: Path) -> dict[str, str]:
    told = _run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n"]
    )
    return {line.split()[0]: line.split()[1] for line in told.splitlines() if line.split()[2] == "ii"}


def _base(setting: Setting, installed: Sequence[LockedPackage], work: Path) -> Path:
    """The locked packages, installed by their maintainer scripts. Kept in the cache as a tar, by the lock's digest."""
    digest = hashlib.sha256("".join(f"{p.sha256}\n" for p in installed).encode()).hexdigest()[:16]
    kept = setting.cache / f"base-{digest}.tar"
    if kept.exists():
        return kept
    if setting.profile.architecture != "amd64" and not (BINFMT / "qemu-aarch64").exists():
        raise RecipeError(
            "arm64 programs don't run here: mount binfmt_misc and start systemd-binfmt (`make image` does both)"
        )
    local = work / "repository"
    archive.repository(installed, setting.mirror, setting.cache, local, suite=setting.profile.suite)
    draft = kept.with_suffix(".part")
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "info", "doc")]
    command = ["mmdebstrap", "--mode=root", "--variant=essential", "--format=tar"]
    command += [f"--architectures={setting.profile.architecture}", "--include=" + ",".join(p.name for p in installed)]
    command += [*excluded, "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--aptopt=Acquire::Languages none"]
    _run([*command, setting.profile.suite, str(draft), f"deb [trusted=yes] copy:{local} ./"])
    draft.rename(kept)
    return kept


def _kernel(setting: Setting, packages: Sequence[LockedPackage], work: Path, root: Path) -> str:
    """Unpack the kernel; the wanted modules go into the root. Returns the kernel's release."""
    package = next(p for p in packages if _is_kernel(p))
    unpacked = work / "kernel"
    unpacked.mkdir()
    _run(["dpkg-deb", "-x", str(archive.fetch(package, setting.mirror, setting.cache / "debs")), str(unpacked)])
    add_licence(package.name, unpacked, setting.out / "licences.tar.gz")
    modules = next(path for path in (unpacked / "lib/modules", unpacked / "usr/lib/modules") if path.is_dir())
    release = next(modules.iterdir()).name
    source = modules / release
    order = module_order(source, setting.profile.modules)
    target = root / "usr/lib/modules" / release
    for relative in order:
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / relative, target / relative)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(source / name, target / name)
    _run(["depmod", "-b", str(root), release])
    return release


def _modules(setting: Setting, packages: Sequence[LockedPackage], work: Path, root: Path) -> None:
    """Next to the wheels: the services' Python looks nowhere else."""
    for package in (p for p in packages if p.name in UNPACKED):
        unpacked = work / package.name
        unpacked.mkdir()
        _run(["dpkg-deb", "-x", str(archive.fetch(package, setting.mirror, setting.cache / "debs")), str(unpacked)])
        add_licence(package.name, unpacked, setting.out / "licences.tar.gz")
        names = [path for path in (unpacked / "usr/lib/python3/dist-packages").iterdir() if path.is_dir()]
        for path in names:
            if path.suffix != ".egg-info":
                shutil.copytree(path, root / SITE / path.name, ignore=shutil.ignore_patterns("test", "__pycache__"))


def module_order(source: Path, names: Sequence[str]) -> list[Path]:
    """Files below `source` that hold `names` and what they depend on, dependencies first. Raises RecipeError."""
    files = {_module_name(path): path for path in sorted(source.rglob("*.ko*"))}
    builtin = {_module_name(Path(line)) for line in (source / "modules.builtin").read_text().split()}
    order: list[Path] = []

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in builtin:
            return
        if name not in files:
            raise RecipeError(f"the kernel has no module {name}")
        relative = files[name].relative_to(source)
        if relative in order:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + module_bytes(files[name]))
        for each in (depends.group(1).decode() if depends else "").split(","):
            if each:
                add(each)
        order.append(relative)

    for name in names:
        add(name)
    return order


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def module_bytes(path: Path) -> bytes:
    """A module as the kernel takes it: busybox's insmod unpacks nothing."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _wheels_lock(setting: Setting) -> Path:
    return RECIPE / "lock" / f"wheels-{setting.profile.architecture}.lock"


PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _wheels(setting: Setting, root: Path) -> None:
    machine = {"arm64": "aarch64", "amd64": "x86_64"}[setting.profile.architecture]
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (28, 27, 26, 24, 17)]
    platforms += [f"--platform=manylinux2014_{machine}", "--python-version=3.13", "--implementation=cp"]
    # What the wheels require is settled in the lock, for the device's Python; pip would ask the builder's.
    strict = ("--ignore-requires-python", "--require-hashes", "--only-binary=:all:")
    _pip_install(root, *strict, *platforms, "-r", str(_wheels_lock(setting)))


def _pip_install(root: Path, *words: str) -> None:
    site = root / SITE
    site.mkdir(parents=True, exist_ok=True)
    _run([*PIP, "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site), *words])
    # Starters that name the builder's Python, where pip was told to look, and lists that hold the digest of that.
    shutil.rmtree(site / "bin", ignore_errors=True)
    for path in sorted(site.glob("*.dist-info/*")):
        if path.name in {"direct_url.json", "RECORD"}:
            path.unlink()
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_file() and SITE_LEFT_OUT.search(str(path.relative_to(site))):
            path.unlink()


def _own_package(setting: Setting, root: Path) -> None:
    """What the device needs of our package, from what git tracks: nothing that lies about in somebody's tree."""
    wheels, source = setting.out / "work" / "wheel", setting.out / "work" / "source"
    _export_tree(source)
    _run([*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)])
    _pip_install(root, "--no-index", *(str(path) for path in wheels.glob("*.whl")))
    for name in ("centre", "provisioning"):
        shutil.rmtree(root / SITE / name)


def _export_tree(target: Path) -> None:
    target.mkdir(parents=True)
    names = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, names):
        relative = Path(os.fsdecode(name))
        if relative.parts[0] in {"gateway", "centre", "provisioning", "pyproject.toml", "README.md", "LICENSE"}:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(TREE / relative, target / relative)


def _overlay(setting: Setting, root: Path) -> None:
    """Units, users and settings from the tree."""
    units = root / "usr/lib/systemd/system"
    for source, target in (
        (TREE / "systemd" / "unit", units),
        (TREE / "systemd" / "sysusers", root / "usr/lib/sysusers.d"),
        (TREE / "systemd" / "tmpfiles", root / "usr/lib/tmpfiles.d"),
        (TREE / "systemd" / "udev", root / "usr/lib/udev/rules.d"),
        (TREE / "systemd" / "dbus", root / "usr/share/dbus-1/system.d"),
        (TREE / "systemd" / "networkmanager", root / "usr/lib/NetworkManager/conf.d"),
        (RECIPE / "root", root),
        (RECIPE / "board" / setting.board, root),
        (RECIPE / "variant" / setting.variant, root),
    ):
        if source.is_dir():
            _copy(source, target)
    # nftables.service loads this one: without what the enrolment adds, it lets nobody out and nothing in.
    shutil.copyfile(TREE / "systemd" / "nftables" / "tillsyn.nft", root / "etc/nftables.conf")
    shutil.copyfile(setting.keyring, _parent(root / "etc/rauc/keyring.pem"))
    system = (RECIPE / "system.conf.in").read_text()
    (root / "etc/rauc/system.conf").write_text(
        system.replace("@COMPATIBLE@", setting.compatible).replace("@VERSION@", setting.version)
    )
    facts = {
        "NAME": "Tillsyn gateway",
        "ID": "tillsyn",
        "ID_LIKE": "debian",
        "VERSION_ID": setting.version,
        "VARIANT_ID": setting.variant,
        "PRETTY_NAME": f"Tillsyn gateway {setting.version} ({setting.board}, {setting.variant})",
    }
    (root / "usr/lib/os-release").write_text("".join(f'{name}="{value}"\n' for name, value in facts.items()))
    (root / "usr/lib/tillsyn/board.toml").write_text(
        f'board = "{setting.board}"\nfirmware = "{setting.profile.firmware}"\ndata_key = "{setting.profile.data_key}"\n'
    )
    # Empty, not missing: systemd then makes one for each boot and does not take it for a first boot.
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "var/lib/tillsyn").mkdir(parents=True, exist_ok=True)
    (root / CLOCK_EPOCH).touch()
    _chroot(root, "systemd-sysusers")
    _run(["systemctl", "--quiet", f"--root={root}", "preset-all", "--preset-mode=full"])


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        where = target / path.relative_to(source)
        if path.is_symlink():
            where.parent.mkdir(parents=True, exist_ok=True)
            where.unlink(missing_ok=True)
            where.symlink_to(path.readlink())
        elif path.is_file():
            where.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, where)
            where.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _licences(root: Path, packages: Sequence[LockedPackage], target: Path) -> None:
    """Every package's copyright file, to be put beside the image."""
    texts = {}
    for package in packages:
        path = root / "usr/share/doc" / package.name / "copyright"
        if path.is_file():
            texts[f"{package.name}/copyright"] = path.read_bytes()
    _write_licences(texts, target)


def add_licence(package: str, unpacked: Path, target: Path) -> None:
    """The copyright file of a package that is only unpacked. Raises RecipeError where it has none."""
    path = unpacked / "usr/share/doc" / package / "copyright"
    if not path.is_file():
        raise RecipeError(
            f"{package}: no usr/share/doc/{package}/copyright in the package: nothing without its licence"
        )
    texts = {}
    with tarfile.open(target) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            texts[member.name] = file.read()
    _write_licences(texts | {f"{package}/copyright": path.read_bytes()}, target)


def _write_licences(texts: dict[str, bytes], target: Path) -> None:
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, 0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, text in sorted(texts.items()):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))


def _trim(root: Path) -> None:
    dropped = [line.split("#")[0].strip() for line in (RECIPE / "drop.txt").read_text().splitlines()]
    for name in filter(None, dropped):
        for listing in (f"{name}.list", f"{name}:arm64.list"):
            path = root / "var/lib/dpkg/info" / listing
            if not path.exists():
                continue
            for line in path.read_text().splitlines():
                file = root / line.lstrip("/")
                if file.is_symlink() or file.is_file():
                    file.unlink()
    for name in (*LEFT_OUT, "var/lib/dpkg"):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in ("boot", "tmp", "run", "proc", "sys", "dev", "var"):
        (root / name).mkdir(exist_ok=True)
    for path in root.rglob("__pycache__"):
        shutil.rmtree(path)


def _write_sizes(setting: Setting, packages: Sequence[LockedPackage], work: Path, root: Path) -> None:
    """What each package and wheel still has in the finished root, in bytes."""
    lists = work / "lists"
    lists.mkdir()
    base = _base(setting, [p for p in packages if _is_installed(p)], work)
    _run(["tar", "-C", str(lists), "-xf", str(base), "--wildcards", "./var/lib/dpkg/info/*.list"])
    sizes = {"kernel modules": _size(root / "usr/lib/modules")}
    for listing in lists.rglob("*.list"):
        files = {root / line.lstrip("/") for line in listing.read_text().splitlines()}
        there = sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())
        sizes[listing.stem.split(":")[0]] = there
    for path in (root / SITE).iterdir():
        if path.is_dir() and not path.name.endswith(".dist-info"):
            sizes[f"python: {path.name}"] = _size(path)
    (setting.out / "sizes.json").write_text(json.dumps(sizes, indent=1, sort_keys=True) + "\n")


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def largest(path: Path, count: int = 10) -> list[tuple[int, str]]:
    """(bytes, name) of the largest parts, from the file that the build left."""
    sizes = json.loads(path.read_text())
    return sorted(((int(size), str(name)) for name, size in sizes.items()), reverse=True)[:count]


@contextmanager
def _compiler(setting: Setting, root: Path) -> Iterator[list[str]]:
    """The words that start Python inside the root while byte code is made: the same version, for this host's processor.

    Byte code is the same for every processor; under emulation it took fifty times as long. On a host of the image's own
    architecture, and where the host is none that is locked, the image's own Python does it.
    """
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
    if machine != "amd64" or setting.profile.architecture == machine:
        yield ["/usr/bin/python3.13"]
        return
    place = root / "compiler"
    packages = lock.read(COMPILER_LOCK)
    image = {p.name: p.version for p in lock.read(setting.lock_path)}
    for package in packages:
        if image.get(package.name) != package.version:
            raise RecipeError(f"{COMPILER_LOCK.name}: {package.name} is not the image's; renew with `make image-lock`")
    try:
        for package in packages:
            _run(["dpkg-deb", "-x", str(archive.fetch(package, setting.mirror, setting.cache / "debs")), str(place)])
        libraries = "/compiler/usr/lib/x86_64-linux-gnu"
        loader = [f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries, "--argv0", "python3.13"]
        yield [*loader, "/compiler/usr/bin/python3.13"]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _compile(root: Path, python: Sequence[str], *places: str) -> None:
    # A pyc that names its source's time would be stale: the file system gives every file one time. One process for a
    # part, so that the interpreter's state, which gets into the bytes, is the same each time.
    command = [*python, "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    _chroot(root, *command, "-x", "/(lib2to3|bad_coding)/", *places)


def _root_image(setting: Setting, root: Path, work: Path) -> tuple[Path, dict[str, Any]]:
    """One file: the file system, then its hash tree. Returns it and what the kernel must be told to trust it."""
    image = work / "root.img"
    # Every file has a time that stays from release to release, so that an update fetches what is another and no more.
    # systemd takes the time of one file for the least that a clock without a battery can say.
    for path in [root, *root.rglob("*")]:
        time_s = setting.epoch_unix_s if path == root / CLOCK_EPOCH else BASE_EPOCH_UNIX_S
        os.utime(path, (time_s, time_s), follow_symlinks=False)
    fixed = [f"-T{setting.epoch_unix_s}", f"-U{fixed_id(setting.board, 'root')}", "--all-root", "-x-1"]
    _run(["mkfs.erofs", "-zlz4hc,12", *fixed, str(image), str(root)])
    size = image.stat().st_size
    size += -size % VERITY_BLOCK_BYTES
    os.truncate(image, size)
    tree = work / "root.verity"
    salt = hashlib.sha256(fixed_id(setting.board, "verity").encode()).hexdigest()
    blocks = [f"--{kind}-block-size={VERITY_BLOCK_BYTES}" for kind in ("data", "hash")]
    told = _run(
        ["veritysetup", "format", "--no-superblock", f"--salt={salt}", "--hash=sha256", *blocks, str(image), str(tree)]
    )
    found = re.search(r"Root hash:\s*([0-9a-f]{64})", told)
    if found is None:
        raise ImageMismatchError("veritysetup told no root hash")
    with image.open("ab") as file:
        file.write(tree.read_bytes())
    limit = setting.profile.root_mib << 20
    if image.stat().st_size > limit:
        raise RecipeError(f"the root is {image.stat().st_size >> 20} MiB; {setting.board} has room for {limit >> 20}")
    return image, {"root_hash": found[1], "salt": salt, "data_blocks": size // VERITY_BLOCK_BYTES}


def _boot_image(setting: Setting, work: Path, root: Path, release: str, verity: dict[str, Any]) -> Path:
    """The slot's boot partition: kernel, initial RAM disk, and the command line that names the root by its hash."""
    boot = work / "boot"
    boot.mkdir()
    kernel = next((work / "kernel" / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernel, boot / "kernel.img")
    with (boot / "initrd.img").open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as packed:
        draft = work / "initrd.cpio"
        _initrd(setting, work, root, release)
        write_cpio(work / "initrd", draft)
        packed.write(draft.read_bytes())
    words = [setting.profile.command_line, f"tillsyn.disk={setting.profile.disk}"]
    words += [f"tillsyn.hash={verity['root_hash']}", f"tillsyn.salt={verity['salt']}"]
    words += [f"tillsyn.blocks={verity['data_blocks']}"]
    (boot / "cmdline.txt").write_text(" ".join(words) + "\n")
    (boot / "config.txt").write_text("kernel=kernel.img\ninitramfs initrd.img followkernel\ncmdline=cmdline.txt\n")
    image = work / "boot.vfat"
    make_fat(image, setting.profile.boot_mib, boot, label="BOOT", epoch_unix_s=setting.epoch_unix_s)
    return image


def make_fat(image: Path, size_mib: int, source: Path, *, label: str, epoch_unix_s: int) -> None:
    """A FAT file system that holds the files of `source`, the same bytes each time."""
    image.unlink(missing_ok=True)
    image.touch()
    os.truncate(image, size_mib << 20)
    volume = hashlib.sha256(label.encode()).hexdigest()[:8]
    _run(["mkfs.vfat", "--invariant", "-i", volume, "-n", label, "-F", "32" if size_mib >= 64 else "16", str(image)])
    for path in sorted(source.iterdir()):
        os.utime(path, (epoch_unix_s, epoch_unix_s))
        _run(["mcopy", "-m", "-i", str(image), str(path), f"::{path.name}"])


def _initrd(setting: Setting, work: Path, root: Path, release: str) -> None:
    target = work / "initrd"
    for name in ("bin", "dev", "proc", "sys", "modules", "sysroot", "select"):
        (target / name).mkdir(parents=True)
    shutil.copyfile(root / "usr/bin/busybox", target / "bin/busybox")
    (target / "bin/busybox").chmod(0o755)
    shutil.copyfile(root / "usr/sbin/dmsetup", target / "bin/dmsetup")
    (target / "bin/dmsetup").chmod(0o755)
    for library in _libraries(root, "/usr/sbin/dmsetup"):
        place = target / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile((root / library.lstrip("/")).resolve(), place)
        place.chmod(0o755)
    modules = next(p for p in (work / "kernel/lib/modules", work / "kernel/usr/lib/modules") if p.is_dir()) / release
    order = []
    for relative in module_order(modules, setting.profile.early_modules):
        name = f"{_module_name(relative)}.ko"
        (target / "modules" / name).write_bytes(module_bytes(modules / relative))
        order.append(name)
    (target / "modules/order").write_text("".join(f"{name}\n" for name in order))
    shutil.copyfile(RECIPE / "initrd" / "init", target / "init")
    (target / "init").chmod(0o755)


def _libraries(root: Path, program: str) -> list[str]:
    """The loader and libraries of a program, as the board's own loader finds them."""
    loader = next(root.glob("usr/lib/ld-linux-*.so.*"))
    told = _chroot(root, f"/usr/lib/{loader.name}", "--list", program)
    found = [match[1] for match in re.finditer(r"=> (/\S+)", told)]
    return [f"/lib/{loader.name}", *found]


def _chroot(root: Path, *command: str) -> str:
    """Run a program of the new root, with nothing of the host in sight but the kernel."""
    environment = {
        "PATH": "/usr/bin:/usr/sbin",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": os.environ["SOURCE_DATE_EPOCH"],
        "PYTHONHASHSEED": "0",
    }
    return _run(["chroot", str(root), *command], environment)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode != 0:
        raise RecipeError(f"{' '.join(command[:3])} … failed: {(result.stderr or result.stdout).strip()[-3000:]}")
    return result.stdout
