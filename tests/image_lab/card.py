"""The card as a file: its partitions, the firmware's choice of a slot, and the opened data partition.

Everything here is done from outside, while the machine is off. Nothing in the image takes any of it from outside while
it runs: the lab holds the data partition's key because it hands it to the machine.

LUKS2 with PBKDF2 and aes-xts-plain64 only, which is what the image makes. Source: LUKS2 on-disk format 1.1.2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SECTOR = 512
LUKS_BYTES = 16 << 20
"""Of header and key slots, as cryptsetup makes it."""


class CardError(Exception):
    """The card does not hold what it should."""


@dataclass(frozen=True)
class Part:
    number: int
    name: str
    start: int
    size: int


def sh(*words: str, data: bytes | None = None, env: dict[str, str] | None = None, ok: tuple[int, ...] = (0,)) -> bytes:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        words, input=data, capture_output=True, check=False, env={**os.environ, "PATH": path} | (env or {}), timeout=300
    )
    if done.returncode not in ok:
        raise CardError(f"{' '.join(words[:4])}: {done.stderr.decode(errors='replace').strip()[-600:]}")
    return done.stdout


class Card:
    """A disk image that outlives its machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, image: Path, path: Path, *, mib: int) -> Card:
        """What somebody does who writes the image to a card that is larger."""
        sh("cp", "--sparse=always", str(image), str(path))
        os.truncate(path, mib << 20)
        return cls(path)

    def parts(self) -> dict[str, Part]:
        table = json.loads(sh("sfdisk", "--json", str(self.path)))["partitiontable"]
        found = {}
        for row in table["partitions"]:
            match = re.search(r"(\d+)$", row["node"])
            assert match
            name = row.get("name", "")
            found[name] = Part(int(match[1]), name, row["start"] * SECTOR, row["size"] * SECTOR)
        return found

    def read_part(self, part: str) -> bytes:
        found = self.parts()[part]
        with self.path.open("rb") as file:
            file.seek(found.start)
            return file.read(found.size)

    # The firmware's part

    def read_fat(self, part: str, name: str) -> bytes | None:
        at = self.parts()[part].start
        done = subprocess.run(["mtype", "-i", f"{self.path}@@{at}", f"::{name}"], capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def choice(self, *, tryboot: bool) -> int:
        """The partition that the firmware boots. Source: Raspberry Pi documentation, "autoboot.txt"."""
        text = self.read_fat("select", "autoboot.txt")
        if text is None:
            raise CardError("no autoboot.txt: the card boots nothing")
        section, chosen = "all", {}
        for line in text.decode().splitlines():
            if line.startswith("["):
                section = line.strip("[] ")
            elif "=" in line:
                key, value = line.split("=", 1)
                chosen[section, key] = value.strip()
        if tryboot and chosen.get(("all", "tryboot_a_b")) == "1":
            return int(chosen["tryboot", "boot_partition"])
        return int(chosen["all", "boot_partition"])

    def take_boot_files(self, number: int, to: Path) -> str:
        """Kernel and initial RAM disk of a boot partition; its command line."""
        part = next(part for part in self.parts().values() if part.number == number)
        for name in ("kernel.img", "initrd.img", "cmdline.txt"):
            (to / name).unlink(missing_ok=True)
            sh("mcopy", "-n", "-i", f"{self.path}@@{part.start}", f"::{name}", str(to / name))
        return (to / "cmdline.txt").read_text().strip()

    def flip_bit(self, part: str, at: int) -> None:
        place = self.parts()[part].start + at
        with self.path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1]))

    # The data partition

    def make_data(self, key_hex: str, scratch: Path, folders: dict[str, tuple[int, int, int]]) -> None:
        """What the first boot makes (see data-partition), for a lab that begins with the second. Slower there."""
        sh("sfdisk", "--quiet", "--no-reread", "--force", "-N", "6", str(self.path), data=b", +\n")
        part, header, plain = self.parts()["data"], scratch / "header", scratch / "plain"
        for path, size in ((header, 20 << 20), (plain, part.size - LUKS_BYTES)):
            path.unlink(missing_ok=True)
            path.touch()
            os.truncate(path, size)
        words = "--batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 --hash sha256 --pbkdf pbkdf2"
        words += " --sector-size 512"  # the partition is not a multiple of more
        sh("cryptsetup", "luksFormat", *words.split(), "--label", "tillsyn-data", "--pbkdf-force-iterations", "1000",
           "--key-file=-", str(header), data=key_hex.encode())  # fmt: skip
        with self.path.open("r+b") as file:
            file.seek(part.start)
            file.write(header.read_bytes()[:LUKS_BYTES])
        sh("mke2fs", "-q", "-t", "ext4", "-L", "tillsyn-data", "-m", "0", str(plain))
        data = Data(self, key_hex, plain, made=True)
        data.put({f"{name}/": (b"", mode, uid, gid) for name, (mode, uid, gid) in folders.items()}, scratch)
        data.write_back()

    def data(self, key_hex: str, plain: Path, *, head: bytes | None = None) -> Data:
        return Data(self, key_hex, plain, head=head)

    def head(self) -> bytes:
        """Header and key slots of the data partition."""
        with self.path.open("rb") as file:
            file.seek(self.parts()["data"].start)
            return file.read(LUKS_BYTES)


class Data:
    """The data partition in the clear, as a file beside the card. `write_back` puts changes onto the card again."""

    def __init__(self, card: Card, key_hex: str, plain: Path, *, made: bool = False, head: bytes | None = None) -> None:
        """Open it into `plain`; with `made`, what is in `plain` already is to become it.

        `head` is another header than the card's: one that somebody copied earlier. No file system is looked for then.
        """
        self.card, self.plain, self._made = card, plain, made
        self._part = card.parts()["data"]
        self._copied = head is not None
        head = card.head() if head is None else head
        if head[:6] != b"LUKS\xba\xbe":
            raise CardError("the data partition was not made")
        size = struct.unpack(">Q", head[8:16])[0]
        self.label = head[24:72].rstrip(b"\0").decode()
        meta = json.loads(head[4096:size].split(b"\0", 1)[0])
        segment = meta["segments"]["0"]
        assert segment["encryption"] == "aes-xts-plain64"
        self._offset, self._sector = int(segment["offset"]), int(segment["sector_size"])
        self.volume_key = _volume_key(head, meta, key_hex.encode())
        if not made:
            self._decrypt()

    def _crypt(self, data: bytes, number: int, *, encrypt: bool) -> bytes:
        tweak = struct.pack("<QQ", number * (self._sector // SECTOR), 0)
        cipher = Cipher(algorithms.AES(self.volume_key), modes.XTS(tweak))
        work = cipher.encryptor() if encrypt else cipher.decryptor()
        return work.update(data) + work.finalize()

    def _decrypt(self) -> None:
        empty = bytes(self._sector)
        with self.card.path.open("rb") as file, self.plain.open("wb") as out:
            file.seek(self._part.start + self._offset)
            length = self._part.size - self._offset
            for number in range(length // self._sector):
                sealed = file.read(self._sector)
                # Never written: a hole of the file.
                if sealed == empty:
                    out.seek(self._sector, os.SEEK_CUR)
                else:
                    out.write(self._crypt(sealed, number, encrypt=False))
            out.truncate(length)
        if self._copied:
            return
        # What a power cut left in the journal is put in its place, as the next mount would.
        sh("e2fsck", "-fy", str(self.plain), ok=(0, 1, 2))

    def write_back(self) -> int:
        """Seal what differs. Returns how many sectors."""
        changed, empty = 0, bytes(self._sector)
        with self.card.path.open("r+b") as file, self.plain.open("rb") as plain:
            base = self._part.start + self._offset
            for number in range((self._part.size - self._offset) // self._sector):
                now = plain.read(self._sector)
                file.seek(base + number * self._sector)
                sealed = file.read(self._sector)
                # What a file system counts on as zero has to be zero once it is opened, where it is new.
                if sealed == empty and now == empty and not self._made:
                    continue
                fresh = self._crypt(now, number, encrypt=True)
                if fresh != sealed:
                    file.seek(base + number * self._sector)
                    file.write(fresh)
                    changed += 1
        return changed

    def put(self, files: dict[str, tuple[bytes, int, int, int]], scratch: Path) -> None:
        """Write files: name to (content, mode, uid, gid). A name that ends in / is a directory."""
        lines = []
        for number, (name, (content, mode, uid, gid)) in enumerate(files.items()):
            folder, _, last = name.rstrip("/").rpartition("/")
            lines.append(f"cd /{folder}")
            if name.endswith("/"):
                lines.append(f"mkdir {last}")
                kind = 0o040000
            else:
                source = scratch / f"put-{number}"
                source.write_bytes(content)
                lines += [f"rm {last}", f"write {source} {last}"]
                kind = 0o100000
            lines += [f"sif {last} mode 0{kind | mode:o}", f"sif {last} uid {uid}", f"sif {last} gid {gid}"]
        sh("debugfs", "-w", "-f", "/dev/stdin", str(self.plain), data="\n".join(lines).encode() + b"\n")
        for number in range(len(files)):
            (scratch / f"put-{number}").unlink(missing_ok=True)
        said = sh("e2fsck", "-fn", str(self.plain), ok=(0, 4))
        if b"errors" in said:
            raise CardError(said.decode()[-500:])

    def get(self, folder: str, to: Path) -> Path:
        """Copy a directory of it out; returns where it is."""
        to.mkdir(parents=True, exist_ok=True)
        sh("debugfs", "-R", f"rdump {folder} {to}", str(self.plain))
        return to / Path(folder).name


def _volume_key(head: bytes, meta: dict[str, Any], passphrase: bytes) -> bytes:
    slot = meta["keyslots"]["0"]
    kdf, area, af = slot["kdf"], slot["area"], slot["af"]
    assert kdf["type"] == "pbkdf2"
    assert area["encryption"] == "aes-xts-plain64"
    salt = base64.b64decode(kdf["salt"])
    slot_key = hashlib.pbkdf2_hmac(kdf["hash"], passphrase, salt, kdf["iterations"], area["key_size"])
    size, stripes = slot["key_size"], af["stripes"]
    sealed = head[int(area["offset"]) :][: size * stripes]
    clear = bytearray()
    for number in range(0, len(sealed), SECTOR):
        tweak = struct.pack("<QQ", number // SECTOR, 0)
        work = Cipher(algorithms.AES(slot_key), modes.XTS(tweak)).decryptor()
        clear += work.update(sealed[number : number + SECTOR]) + work.finalize()
    mixed = bytes(size)
    for number in range(stripes):
        mixed = bytes(a ^ b for a, b in zip(mixed, clear[number * size :][:size], strict=True))
        if number < stripes - 1:
            mixed = _diffuse(mixed, af["hash"])
    digest = meta["digests"]["0"]
    expected, salt = base64.b64decode(digest["digest"]), base64.b64decode(digest["salt"])
    if hashlib.pbkdf2_hmac(digest["hash"], mixed, salt, digest["iterations"], len(expected)) != expected:
        raise CardError("this is not the key of the data partition")
    return mixed


def _diffuse(block: bytes, name: str) -> bytes:
    size = hashlib.new(name).digest_size
    out = b""
    for number in range(0, len(block), size):
        piece = block[number : number + size]
        out += hashlib.new(name, struct.pack(">I", number // size) + piece).digest()[: len(piece)]
    return out
