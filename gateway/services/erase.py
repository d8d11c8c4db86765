"""Erases a returned device, and makes it what the factory made. Root, and alone: before any other service of ours.

Unit: tillsyn-erase. It begins with the guard's mark, which is there only once a second person has confirmed with the
device in the hand and the centre has the device's last word. The order is what a power cut leaves:

1. `begun`, a mark of its own, durable. Until it is there the device is returned and waits; from then on each start goes
   on here, before anything else starts.
2. What arms a home, its configuration and whatever a service would make that from again. From then on there is no home.
3. Keys, trust, and everything in the services' directories, overwritten and removed.
4. Where the state lies on an encrypted volume: what the factory put there is carried aside, sealed under the volume's
   own pass key; the volume is marked as never made, its key slots and salts are overwritten, its blocks given back. The
   next start makes a new one, with a new key, and this service brings back what was carried aside.
   Elsewhere: `begun` goes, as the last.

So a cut leaves a returned device that goes on at the next start, or one that is factory-fresh; never an armed home.
What is overwritten in a file is not promised to be gone from a flash card: see docs/return.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from gateway.config.file import AbsolutePath, Config, load
from gateway.core.error import ConfigError, IntegrityError
from gateway.edge.slots_tryboot import replace_on_fat
from gateway.edge.volume_cryptsetup import CryptsetupVolume
from gateway.edge.volume_port import VolumePort
from gateway.ledger.disk import Disk, replace_durably, sync_directory, write_all

LOG = logging.getLogger("tillsyn.erase")

NONCE_BYTES: Final = 12
MAX_CARRIED_BYTES: Final = 1 << 20
"""What the factory puts on a device is a hundredth of this."""


class VolumeConfig(Config, frozen=True):
    """The encrypted volume below the state."""

    device: AbsolutePath
    key: AbsolutePath
    """The file with the pass key under which what is carried aside is sealed."""
    carry: AbsolutePath
    """Where it waits, outside the volume; may be on FAT, beside files that a left-over name must not break."""
    kept: Annotated[list[AbsolutePath], Meta(max_length=32)]
    """The factory's files and directories."""


class EraseConfig(Config, frozen=True):
    mark: AbsolutePath
    """The guard's word that the device may be erased. Lies in one of `trees`."""
    begun: AbsolutePath
    """Lies in none of `trees`, and where only root may write."""
    arming: Annotated[list[AbsolutePath], Meta(min_length=1, max_length=32)]
    """Files without which there is no home; what others are made from again stands before them."""
    files: Annotated[list[AbsolutePath], Meta(max_length=64)]
    trees: Annotated[list[AbsolutePath], Meta(min_length=1, max_length=32)]
    """Directories; they stay, and nothing in them does."""
    volume: VolumeConfig | None = None


class Carried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the factory's files."""

    path: str
    mode: int
    uid: int
    gid: int
    content: bytes


class RemovingDisk(Disk):
    """What erasing needs beside writing."""

    def rmdir(self, path: Path) -> None:
        path.rmdir()


def is_wanted(config: EraseConfig) -> bool:
    """Whether there is something to erase, or something that was begun."""
    return Path(config.begun).exists() or Path(config.mark).exists()


def erase(config: EraseConfig, disk: RemovingDisk, volume: VolumePort | None) -> None:
    """From the beginning, or from wherever a cut left it. Raises OSError, HardwareFaultError, ConfigError."""
    begun = Path(config.begun)
    if not begun.exists():
        replace_durably(disk, begun, b"")
    for name in (*config.arming, *config.files):
        _remove(disk, Path(name))
    for name in config.trees:
        _empty(disk, Path(name))
    if config.volume is None or volume is None:
        disk.unlink(begun)
        sync_directory(disk, begun.parent)
        return
    carry_aside(config.volume, disk)
    volume.mark_unmade()
    volume.erase_keys()
    if not volume.wipe():
        LOG.warning("the card takes no block back: destroy it if it is not used again")


def carry_aside(config: VolumeConfig, disk: Disk) -> None:
    """Durable when it returns. One that is there already is whole, or is written anew."""
    carry = Path(config.carry)
    if _carried(config) is None:
        carried = [_read(path) for name in config.kept for path in _files(Path(name))]
        content = msgspec.msgpack.encode(carried)
        if len(content) > MAX_CARRIED_BYTES:
            raise ConfigError(f"kept: {len(content)} bytes are more than the factory ever puts there")
        nonce = os.urandom(NONCE_BYTES)
        replace_on_fat(disk, carry, nonce + AESGCM(_key(config)).encrypt(nonce, content, None))


def restore(config: VolumeConfig, disk: Disk) -> None:
    """Bring back what was carried aside; nothing where nothing was. Raises IntegrityError, OSError."""
    carry = Path(config.carry)
    if not carry.exists():
        return
    carried = _carried(config)
    if carried is None:
        raise IntegrityError(f"{carry}: not sealed under this device's key")
    for each in carried:
        path = Path(each.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(disk, path, each.content)
        path.chmod(each.mode)
        os.chown(path, each.uid, each.gid)
        sync_directory(disk, path.parent)
    disk.unlink(carry)
    sync_directory(disk, carry.parent)


def _carried(config: VolumeConfig) -> list[Carried] | None:
    try:
        sealed = Path(config.carry).read_bytes()
        content = AESGCM(_key(config)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        return msgspec.msgpack.decode(content, type=list[Carried])
    except (FileNotFoundError, InvalidTag, ValueError, msgspec.MsgspecError):
        return None


def _key(config: VolumeConfig) -> bytes:
    """Of its own for this use: the volume's pass key itself seals nothing else."""
    try:
        secret = Path(config.key).read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{config.key}: {exc.strerror}") from exc
    return HKDF(SHA256(), 32, salt=None, info=b"tillsyn carried over a return").derive(secret)


def _read(path: Path) -> Carried:
    found = path.stat()
    return Carried(str(path), found.st_mode & 0o7777, found.st_uid, found.st_gid, path.read_bytes())


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for each in sorted(path.iterdir()):
            yield from _files(each)
    elif path.is_file() and not path.is_symlink():
        yield path


def _empty(disk: RemovingDisk, tree: Path) -> None:
    """Nothing is followed: a link is a name, and the name goes."""
    if tree.is_symlink() or not tree.is_dir():
        return
    for each in sorted(tree.iterdir()):
        if each.is_dir() and not each.is_symlink():
            _empty(disk, each)
            disk.rmdir(each)
        else:
            _remove(disk, each)
    sync_directory(disk, tree)


def _remove(disk: RemovingDisk, path: Path) -> None:
    if path.is_symlink() or not path.exists():
        if path.is_symlink():
            disk.unlink(path)
        return
    if path.is_file():
        _overwrite(disk, path)
    disk.unlink(path)
    sync_directory(disk, path.parent)


def _overwrite(disk: RemovingDisk, path: Path) -> None:
    fd = disk.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        write_all(disk, fd, bytes(path.stat().st_size))
        disk.fsync(fd)
    finally:
        disk.close(fd)


def read(path: Path) -> EraseConfig:
    """Raises ConfigError."""
    config = load(path, EraseConfig)
    trees = [Path(tree) for tree in config.trees]
    if any(Path(config.begun).is_relative_to(tree) for tree in trees):
        raise ConfigError(f"{path}: `begun` lies in a tree that is emptied before it")
    if not any(Path(config.mark).is_relative_to(tree) for tree in trees):
        raise ConfigError(f"{path}: `mark` lies in no tree, and would stay")
    return config


def run(config: EraseConfig, disk: RemovingDisk, volume: VolumePort | None) -> None:
    """Erase what is marked; else bring back what was carried aside. Raises ConfigError, IntegrityError, OSError."""
    if is_wanted(config):
        LOG.warning("this device was returned: everything on it is erased")
        erase(config, disk, volume)
    elif config.volume is not None:
        restore(config.volume, disk)


def main(config: EraseConfig) -> None:
    """One start's part. Raises as `run` does."""
    run(config, RemovingDisk(), None if config.volume is None else CryptsetupVolume(Path(config.volume.device)))
