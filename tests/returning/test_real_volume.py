"""LUKS2 by cryptsetup, on a loop device that takes blocks back and in a file that does not. Root; `make return`.

The volume is opened in Python (tests/image_lab/card.py reads the header and has XTS), because a machine for tests need
not have a device mapper. Mutations, each tried and red: `cryptsetup erase` left out; the label left out; the header
left as it is; blkdiscard left out.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gateway.edge.volume_cryptsetup import HEADER_BYTES, CryptsetupVolume
from tests.contract.volume_suite import *  # noqa: F403 - the suite's tests
from tests.image_lab.card import CardError, _volume_key

PASS_KEY = b"5" * 64
PLANTED = b"MARKER-of-the-resident " * 20
SIZE_BYTES = 24 << 20
SECTOR_BYTES = 512
AT = 100


def sh(*words: str, data: bytes | None = None) -> str:
    return subprocess.run(words, input=data, capture_output=True, check=True, timeout=60).stdout.decode().strip()


class LuksLook:
    """`header` may be another than the device's own: one that somebody copied before."""

    def __init__(self, device: Path) -> None:
        self.device = device

    def _head(self) -> bytes:
        with self.device.open("rb") as file:
            return file.read(HEADER_BYTES)

    def label(self) -> str | None:
        head = self._head()
        return head[24:72].rstrip(b"\0").decode() if head[:6] == b"LUKS\xba\xbe" else None

    def key(self, head: bytes | None = None) -> bytes:
        """Raises KeyError, CardError when nothing opens it."""
        head = self._head() if head is None else head
        size = struct.unpack(">Q", head[8:16])[0]
        return _volume_key(head, json.loads(head[4096:size].split(b"\0", 1)[0]), PASS_KEY)

    def opens(self) -> bool:
        try:
            return PLANTED[:SECTOR_BYTES] in self.in_the_clear(self.key())
        except (KeyError, CardError, ValueError, struct.error):
            return False

    def _work(self, key: bytes, number: int, *, encrypt: bool) -> object:
        cipher = Cipher(algorithms.AES(key), modes.XTS(struct.pack("<QQ", number, 0)))
        return cipher.encryptor() if encrypt else cipher.decryptor()

    def plant(self) -> None:
        with self.device.open("r+b") as file:
            file.seek(HEADER_BYTES + AT * SECTOR_BYTES)
            work = self._work(self.key(), AT, encrypt=True)
            file.write(work.update(PLANTED[:SECTOR_BYTES].ljust(SECTOR_BYTES)) + work.finalize())  # type: ignore[attr-defined]

    def in_the_clear(self, key: bytes) -> bytes:
        with self.device.open("rb") as file:
            file.seek(HEADER_BYTES + AT * SECTOR_BYTES)
            work = self._work(key, AT, encrypt=False)
            return bytes(work.update(file.read(SECTOR_BYTES)) + work.finalize())  # type: ignore[attr-defined]

    def keeps_blocks(self) -> bool:
        with self.device.open("rb") as file:
            file.seek(HEADER_BYTES)
            return any(file.read())


@pytest.fixture(params=["loop device", "file"])
def device(request, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    sh("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--label", "tillsyn-data", "--cipher",
       "aes-xts-plain64", "--key-size", "512", "--hash", "sha256", "--sector-size", str(SECTOR_BYTES), "--pbkdf",
       "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file=-", str(path), data=PASS_KEY)  # fmt: skip
    LuksLook(path).plant()
    if request.param == "file":
        yield path
        return
    loop = sh("losetup", "--find", "--show", str(path))
    try:
        yield Path(loop)
    finally:
        sh("losetup", "--detach", loop)


@pytest.fixture
def volume(device: Path) -> CryptsetupVolume:
    return CryptsetupVolume(device)


@pytest.fixture
def look(device: Path) -> LuksLook:
    return LuksLook(device)


def test_the_header_that_somebody_copied_before_opens_what_the_card_kept_and_nothing_that_it_gave_back(volume, look):
    """What an SD card can't promise: see docs/return.md. Without the copy the same bytes are nobody's."""
    copied = look._head()
    assert look.in_the_clear(look.key(copied)).startswith(PLANTED[:100])
    volume.mark_unmade()
    volume.erase_keys()
    given_back = volume.wipe()
    assert not any(look._head()), "salts and digests are gone too"
    found = look.in_the_clear(look.key(copied)).startswith(PLANTED[:100])
    assert found is not given_back
