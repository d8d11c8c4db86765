"""A returned device is erased whole, wherever the power goes: it waits, goes on at the next start, or is factory-fresh.

The power is cut before every single change that erasing makes to the disk and to the volume, each a case of its own,
and then once more while the next start goes on. After each cut `starts` says what the next start would begin, by the
rules of the units and of take-place: an armed home is never among it.

Mutations, each tried and red: `begun` not written; written after `arming`; removed before the trees; `arming` after
`files` and `trees`; `_empty` without its inner call; `_overwrite` left out; `carry_aside` after `mark_unmade`, and left
out; `erase_keys` before `mark_unmade`; the carry removed before the factory's files are back; `restore` without the
mode; InvalidTag taken for "nothing there"; a link followed in `_empty`; `is_wanted` out of `run`.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from gateway.core.error import ConfigError, IntegrityError
from gateway.ledger.disk import PARTIAL_SUFFIX
from gateway.services.erase import EraseConfig, RemovingDisk, VolumeConfig, is_wanted, read, run
from tests.fakes.volume import FakeVolume

PLANTED = b"MARKER-of-the-resident"
FACTORY = {"factory/setup.json": b"label", "factory/setup-key.pem": b"label key", "config/fresh.toml": b"fresh"}
PERSONAL = (
    "config/guard.toml", "config/link.toml", "config/tunnel.toml", "config/trust.jws", "config/ca.pem",
    "secret/device.pem", "secret/ledger.pem", "secret/link-key.pem", "secret/tunnel.key",
    "guard/identity/guard.toml", "guard/returned.json", "guard/agreement-1.json", "guard/ledger/segments/000000.log",
    "link/outbox.sqlite", "tunnel/tunnel.json", "setup/link/link.toml", "setup/link/identity.pem", "setup/done",
    "setup/progress.json", "journal/tillsyn/system.journal",
)  # fmt: skip


class PowerCutError(Exception):
    """The power goes before this change."""


@dataclass
class CutDisk(RemovingDisk):
    """The real calls; the power goes before the `at`-th that changes something."""

    at: int = 10**9
    changes: int = 0

    def change(self) -> None:
        self.changes += 1
        if self.changes == self.at:
            raise PowerCutError

    def write(self, fd: int, content: bytes) -> int:
        self.change()
        return super().write(fd, content)

    def rename(self, old: Path, new: Path) -> None:
        self.change()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        # Only the cut itself may leave something behind; replace_durably tidies up after errors, and after no cut.
        self.change()
        super().unlink(path)

    def rmdir(self, path: Path) -> None:
        self.change()
        super().rmdir(path)


@dataclass
class Device:
    """The card: what lies on the data partition, and what lies beside it."""

    root: Path
    with_volume: bool
    volume: FakeVolume = field(default_factory=FakeVolume)

    def __post_init__(self) -> None:
        data = self.root / "data"
        for name in PERSONAL:
            self.put(data / name, PLANTED)
        for name, content in FACTORY.items():
            self.put(data / name, content)
        (data / "factory" / "setup-key.pem").chmod(0o400)
        self.put(data / "guard" / "erase-now", b"")
        (self.root / "select").mkdir()
        self.put(self.root / "key", b"0" * 64)

    @staticmethod
    def put(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    @property
    def config(self) -> EraseConfig:
        data = self.root / "data"
        of = lambda *names: [str(data / name) for name in names]  # noqa: E731 - four lists of the same form
        return EraseConfig(
            mark=str(data / "guard" / "erase-now"),
            begun=str(data / "erasing"),
            arming=of("guard/identity/guard.toml", "setup/link/link.toml", "config/guard.toml", "config/link.toml",
                      "config/tunnel.toml"),
            files=of("config/trust.jws", "config/ca.pem"),
            trees=of("secret", "guard", "link", "tunnel", "setup", "journal"),
            volume=VolumeConfig(str(self.root / "disk"), str(self.root / "key"), str(self.root / "select" / "carry"),
                                of("factory", "config/fresh.toml")) if self.with_volume else None,
        )  # fmt: skip

    def start(self, disk: CutDisk) -> set[str]:
        """One start of the device: the partition, then erasing, then what is started. May be cut."""
        if self.with_volume and self.volume.is_made_anew:
            shutil.rmtree(self.root / "data")
            (self.root / "data").mkdir()
            self.volume = FakeVolume()
        assert self.volume.opens, "a partition that was made and can't be opened is never touched: the device is dead"
        self.volume.cut = disk.change
        run(self.config, disk, self.volume if self.with_volume else None)
        return self.starts()

    def starts(self) -> set[str]:
        """By the units' conditions, with what `take-place` makes anew first."""
        data = self.root / "data"
        if is_wanted(self.config):
            return {"erase"}
        found = set()
        if (data / "config/guard.toml").exists() or (data / "guard/identity/guard.toml").exists():
            found.add("guard")
        elif (data / "config/fresh.toml").exists():
            found.add("fresh")
        if (data / "config/link.toml").exists() or (data / "setup/link/link.toml").exists():
            found.add("link")
        return found

    def is_safe(self) -> bool:
        """The next start begins no home; on a volume that is made anew there is nothing to begin one from."""
        return (self.with_volume and self.volume.is_made_anew) or not {"guard", "link"} & self.starts()

    def is_disarmed(self) -> bool:
        """No service of a home could start, even if erasing never went on."""
        return not any(Path(name).exists() for name in self.config.arming)

    def is_whole(self) -> bool:
        """Nothing but what arms a home was touched."""
        data, arming = self.root / "data", {Path(name) for name in self.config.arming}
        return all((data / name).read_bytes() == PLANTED for name in PERSONAL if data / name not in arming)

    def is_fresh(self) -> bool:
        data = self.root / "data"
        left = {str(path.relative_to(data)): path for path in data.rglob("*") if path.is_file()}
        modes = oct((data / "factory" / "setup-key.pem").stat().st_mode)[-3:] if left else ""
        return {name: path.read_bytes() for name, path in left.items()} == FACTORY and modes == "400"


def finish(device: Device) -> None:
    """Start it until nothing is left to be done."""
    for _ in range(4):
        if device.start(CutDisk()) == {"fresh"} and device.is_fresh():
            return
    raise AssertionError(f"not factory-fresh, but {device.starts()}")


def changes_of(tmp_path: Path, with_volume: bool) -> int:
    """How many changes the whole way makes, with the start after it."""
    device = Device(tmp_path / "counted", with_volume)
    disk = CutDisk()
    device.start(disk)
    device.start(disk)
    assert device.is_fresh()
    return disk.changes


@pytest.mark.slow
@pytest.mark.parametrize("with_volume", [False, True])
def test_after_a_cut_at_any_point_it_goes_on_or_is_factory_fresh_and_never_an_armed_home(tmp_path, with_volume):
    total = changes_of(tmp_path, with_volume)
    assert total > 40
    for at in range(1, total + 1):
        device = Device(tmp_path / str(at), with_volume)
        disk = CutDisk(at=at)
        with pytest.raises(PowerCutError):
            for _ in range(3):
                device.start(disk)
        assert device.is_safe(), at
        assert device.is_disarmed() or device.is_whole(), f"{at}: something is gone of what could still be armed"
        # Cut once more on the way that goes on from there: in the middle of what is left.
        again = CutDisk(at=max(1, (total - at) // 2))
        with contextlib.suppress(PowerCutError):
            device.start(again)
        assert device.is_safe(), at
        finish(device)
        shutil.rmtree(device.root)


@pytest.mark.parametrize("with_volume", [False, True])
def test_nothing_of_the_resident_is_found_anywhere_afterwards(tmp_path, with_volume):
    device = Device(tmp_path / "device", with_volume)
    kept_open = [path.open("rb") for path in (tmp_path / "device").rglob("*") if path.is_file()]
    assert sum(PLANTED in file.read() for file in kept_open) == len(PERSONAL)
    finish(device)
    assert not any(PLANTED in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for file in kept_open:
        # Also through a name that is gone: what lay in the blocks was written over before they were given back.
        file.seek(0)
        assert PLANTED not in file.read()
        file.close()
    if with_volume:
        assert not (tmp_path / "device" / "select" / "carry").exists()


def test_what_is_carried_aside_is_sealed_and_only_this_device_opens_it(tmp_path):
    device = Device(tmp_path / "device", with_volume=True)
    device.start(CutDisk())
    sealed = (device.root / "select" / "carry").read_bytes()
    assert not any(content in sealed for content in FACTORY.values())
    assert not device.volume.opens
    assert not device.volume.has_blocks
    device.put(device.root / "key", b"1" * 64)
    with pytest.raises(IntegrityError):
        device.start(CutDisk())


def test_a_name_that_a_cut_left_beside_the_carried_files_is_never_used_again(tmp_path):
    """On FAT it may share its content with a good one. Mutation: `replace_durably` in carry_aside."""
    device = Device(tmp_path / "device", with_volume=True)
    left_over = [device.root / "select" / name for name in ("new-0.tmp", f"carry{PARTIAL_SUFFIX}")]
    for path in left_over:
        device.put(path, b"the firmware's")
    finish(device)
    assert [path.read_bytes() for path in left_over] == [b"the firmware's"] * 2


def test_a_link_is_a_name_and_what_it_leads_to_stays(tmp_path):
    device = Device(tmp_path / "device", with_volume=False)
    device.put(tmp_path / "elsewhere" / "file", b"not ours")
    (device.root / "data" / "guard" / "link").symlink_to(tmp_path / "elsewhere")
    (device.root / "data" / "link" / "link").symlink_to(tmp_path / "elsewhere" / "file")
    finish(device)
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"not ours"


def test_without_the_guards_mark_nothing_is_touched(tmp_path):
    device = Device(tmp_path / "device", with_volume=True)
    (device.root / "data" / "guard" / "erase-now").unlink()
    disk = CutDisk()
    assert {"guard", "link"} == device.start(disk)
    assert disk.changes == 0


@pytest.mark.parametrize(("name", "value"), [("begun", "guard/erasing"), ("mark", "erase-now")])
def test_marks_in_the_wrong_place_are_a_wrong_configuration(tmp_path, name, value):
    device = Device(tmp_path / "device", with_volume=False)
    path = tmp_path / "erase.toml"
    good = msgspec.to_builtins(device.config)
    del good["volume"]
    path.write_bytes(msgspec.toml.encode(good))
    assert read(path) == device.config
    path.write_bytes(msgspec.toml.encode(good | {name: str(device.root / "data" / value)}))
    with pytest.raises(ConfigError):
        read(path)
