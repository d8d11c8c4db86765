"""The lab's stand-in for the firmware reads what the slot selection writes, as Raspberry Pi's firmware does.

Mutations tried, each turns a test here red:
  image_lab/card.py, `choice`: leave out the tryboot branch      -> a try boots the other slot
  gateway/update/slot.py, `render_autoboot`: the same slot twice  -> a try boots the other slot
  image_lab/card.py, `choice`: `chosen["tryboot", …]` at the end  -> a plain power-on boots the primary
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest

from gateway.config import EyeConfig
from gateway.update.slot import PARTITION, Slot, render_autoboot
from provisioning import bench_home
from provisioning.image import archive, build, commands, profile
from tests.image_lab import kept, write_log
from tests.image_lab.card import Card, CardError
from tests.image_lab.machine import SHELL_UNIT
from tests.net_lab.lab import PLACES

TREE = Path(__file__).parents[2]


class Written(Card):
    def __init__(self, text: str | None) -> None:
        super().__init__(Path("/nonexistent"))
        self.text = text

    def read_fat(self, part: str, name: str) -> bytes | None:
        assert (part, name) == ("select", "autoboot.txt")
        return None if self.text is None else self.text.encode()


@pytest.mark.parametrize("primary", list(Slot))
def test_a_plain_power_on_boots_the_primary(primary):
    assert Written(render_autoboot(primary)).choice(tryboot=False) == PARTITION[primary]


@pytest.mark.parametrize("primary", list(Slot))
def test_a_try_boots_the_other_slot(primary):
    assert Written(render_autoboot(primary)).choice(tryboot=True) == PARTITION[primary.other]


def test_a_card_without_a_choice_boots_nothing():
    with pytest.raises(CardError):
        Written(None).choice(tryboot=False)


def log_of(*entries: tuple[int, int, bytes]) -> bytes:
    """(begin in sectors, flags, content) as QEMU logs them."""
    log = write_log.SUPER.pack(write_log.MAGIC, 1, 0, write_log.SECTOR).ljust(write_log.SECTOR, b"\0")
    for begin, flags, content in entries:
        # A discard names sectors and brings none.
        count = 7 if flags & write_log.DISCARD else len(content) // write_log.SECTOR
        log += write_log.ENTRY.pack(begin, count, flags, 0).ljust(write_log.SECTOR, b"\0")
        log += content
    return log


def test_a_part_of_the_card_is_seen_after_each_write_to_it_and_after_no_other(tmp_path):
    """Mutations: `begin` for `begin - start`; the content not cut at either end; discards not left out; the head not
    skipped.
    """
    a, b, c = (bytes([each]) * 512 for each in b"abc")
    path = tmp_path / "writes.log"
    path.write_bytes(log_of((0, 0, a), (3, 0, b + c), (0, 1, b""), (4, write_log.DISCARD, b""), (5, 0, a + b)))
    part, start = bytes(2 * 512), 4 * 512
    assert [bytes(state) for state in write_log.states(path, part, start)] == [c + bytes(512), c + a]
    path.write_bytes(log_of((4, 0, a))[:-1])
    with pytest.raises(write_log.WriteLogError, match="ends in a write"):
        list(write_log.writes(path))


def test_nothing_of_the_lab_is_in_the_image():
    # Mutation: put the shell's unit below image-build/root.
    recipe = [path for path in (TREE / "image-build").rglob("*") if path.is_file() and path.suffix != ".lock"]
    texts = [path.read_text() for path in [*recipe, *(TREE / "systemd").rglob("*.service")]]
    assert not any("virtio-ports/lab" in text for text in texts)
    assert "virtio-ports/lab" in SHELL_UNIT


def test_the_image_lets_nobody_set_the_second_of_a_picture_but_the_data_partition():
    # The lab raises it there; no file of the image does.
    assert EyeConfig(camera="room", eye_socket="/run/eye.sock", demand_isolation=True).picture_limit_s == 1.0
    named = [
        path for path in (TREE / "image-build").rglob("*") if path.is_file() and b"picture_limit" in path.read_bytes()
    ]
    assert named == []


def test_the_packet_filter_in_the_image_is_the_one_that_is_tried():
    # Mutation: a ruleset of its own in image-build/root/etc/nftables.conf.
    assert not (TREE / "image-build/root/etc/nftables.conf").exists()
    overlay = (TREE / "provisioning/image/build.py").read_text()
    assert re.search(r'"systemd" / "nftables" / "tillsyn\.nft", root / "etc/nftables\.conf"', overlay)
    modules = json.dumps((TREE / "image-build/boards/qemu.toml").read_text())
    assert "nf_tables" in modules
    assert "nft_ct" in modules


def setting(variant: str) -> build.Setting:
    here = Path("/nonexistent")
    return build.Setting("qemu", profile.read("qemu"), variant, archive.Mirror("", ""), here, here, here, 0, "1")


def test_a_developers_image_is_another_system_with_another_signer(tmp_path):
    # Mutations: `compatible` is the profile's for both; make_signer(…, "release") for both.
    assert setting("release").compatible == "tillsyn-qemu"
    assert setting("developer").compatible == "tillsyn-qemu-developer"
    signers = {}
    for variant in build.VARIANTS:
        options = argparse.Namespace(board="qemu", keyring=None, epoch=0, cache=tmp_path, out=tmp_path, variant=variant)
        options.mirror = options.security_mirror = "x"
        options.version = "1"
        signers[variant] = commands._setting(options).keyring.read_bytes()
    assert signers["release"] != signers["developer"]


def test_only_the_developers_image_has_a_shell():
    # Mutation: move tillsyn-developer.service to systemd/unit.
    shells = {
        path.relative_to(TREE).parts[:3]
        for folder in ("image-build", "systemd")
        for path in (TREE / folder).rglob("*.service")
        if path.is_file() and re.search(r"^ExecStart=\S*/(ba|da)?sh( |$)", path.read_text(), re.MULTILINE)
    }
    assert shells == {("image-build", "variant", "developer")}


def test_a_kept_lab_begins_with_the_same_keys_and_on_its_own_build_only(tmp_path):
    # Mutations: leave a key out of `kept.KEYS`; `read` without its comparison of builds.
    home = bench_home.make(tmp_path / "bench", places=PLACES, http_port=1)
    kept.write(kept.Kept(home, 1, "00" * 32, version=3, build="this"), tmp_path)
    assert (tmp_path / kept.FILE).stat().st_mode & 0o777 == 0o600
    again = kept.read(tmp_path, build="this")
    assert (again.http_port, again.key_hex, again.version) == (1, "00" * 32, 3)
    for name in kept.KEYS:
        assert getattr(again.home, name).to_pem() == getattr(home, name).to_pem()
    assert again.home.authority.pem() == home.authority.pem()
    assert again.home.authority.key.private_numbers() == home.authority.key.private_numbers()
    plain = [f for f in dataclasses.fields(home) if f.name not in (*kept.KEYS, "authority")]
    assert all(getattr(again.home, each.name) == getattr(home, each.name) for each in plain)
    with pytest.raises(CardError, match="another build"):
        kept.read(tmp_path, build="that")
    with pytest.raises(CardError, match="no lab was kept"):
        kept.read(tmp_path / "elsewhere", build="this")
