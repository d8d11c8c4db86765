"""The image's recipe and lock, checked without building: what an image may be made of, and what is known about it.

Mutations tried, each turns a test here red:
  image/lock.py, `require_same`: leave out the first `faults`            -> a package outside the lock is refused
  image/lock.py, `parse`: leave out the check for a name that is there   -> a package stands in a lock once
  image/archive.py, `fetch`: leave out `raise ImageMismatchError`        -> other bytes than the lock's are refused
  image/vulnerability.py, `findings`: `<` for 0 becomes `<=`             -> our own version is no finding
  image/vulnerability.py, `_weight`: the tilde weighs 0                  -> versions are ordered as dpkg orders them
  image/compare.py, `require_published`: leave out the second `raise`    -> other bytes than published are refused
  image/cpio.py: the file's own mode                                     -> the same archive whatever the umask
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import tomllib
from pathlib import Path

import pytest

from gateway.core.error import ConfigError
from provisioning.image import archive, build, compare, lock, profile, sbom, vulnerability
from provisioning.image.cpio import write_cpio
from provisioning.image.disk import table
from provisioning.image.error import ImageMismatchError, RecipeError
from provisioning.image.lock import LockedPackage
from provisioning.image.vulnerability import Statement

RECIPE = Path(__file__).parents[2] / "image-build"
LOCK = RECIPE / "lock" / "qemu.debs"
WHEELS = RECIPE / "lock" / "wheels-arm64.lock"


def package(name: str = "bash", version: str = "5.2-1", **changes: object) -> LockedPackage:
    facts = {
        "architecture": "arm64",
        "sha256": "a" * 64,
        "size_bytes": 3,
        "archive": "main",
        "path": f"pool/main/b/{name}_{version}_arm64.deb",
        "source": name,
        "source_version": version,
    }
    return LockedPackage(name, version, **{**facts, **changes})


# The lock in the tree


def test_the_lock_holds_every_package_once_with_a_hash_and_no_address():
    packages = lock.read(LOCK)
    assert len(packages) > 100
    assert len({each.name for each in packages}) == len(packages)
    assert "://" not in LOCK.read_text()
    assert "://" not in WHEELS.read_text()


def test_the_lock_reads_back_as_it_was_written():
    packages = lock.read(LOCK)
    assert lock.parse(lock.render(packages, head="x")) == packages


def test_everything_the_recipe_asks_for_is_in_the_lock():
    names = {each.name for each in lock.read(LOCK)}
    assert set(profile.wanted(profile.read("qemu"))) <= names


def test_the_lock_holds_one_kernel_and_nothing_to_log_in_by():
    names = [each.name for each in lock.read(LOCK)]
    assert len([name for name in names if name.startswith("linux-image-")]) == 1
    assert not [name for name in names if re.match(r"openssh-server|dropbear|telnet|agetty|getty", name)]


def test_every_wheel_has_a_hash_and_our_dependencies_are_all_there():
    text = WHEELS.read_text()
    wheels = dict(sbom.wheels_of(text))
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=\S)", text.strip()))
    asked = tomllib.loads((RECIPE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.match(r"[A-Za-z0-9-]+", each)[0] for each in asked} <= set(wheels)


@pytest.mark.parametrize(
    "line",
    [
        "bash 5.2-1 arm64",
        f"bash 5.2-1 arm64 {'a' * 63} 3 main pool/b.deb bash 5.2-1",
        f"bash 5.2-1 arm64 {'a' * 64} 3 main https://example.org/pool/b.deb bash 5.2-1",
        f"bash 5.2-1 arm64 {'a' * 64} 3 main pool/../../etc/b.deb bash 5.2-1",
        f"bash 5.2-1 m68k {'a' * 64} 3 main pool/b.deb bash 5.2-1",
        f"bash 5.2-1 arm64 {'a' * 64} 3 elsewhere pool/b.deb bash 5.2-1",
    ],
)
def test_a_line_that_is_not_a_locked_package_is_refused(line):
    with pytest.raises(RecipeError, match="x:1"):
        lock.parse(line + "\n", where="x")


def test_a_package_stands_in_a_lock_once():
    text = lock.render([package()], head="x")
    with pytest.raises(RecipeError, match="twice"):
        lock.parse(text + lock.render([package(version="5.3-1")], head="x"))


@pytest.mark.parametrize(
    ("installed", "complaint"),
    [
        ({"bash": "5.2-1", "curl": "8-1"}, "curl 8-1 is not in the lock"),
        ({}, "bash 5.2-1 is missing"),
        ({"bash": "5.2-2"}, "bash is 5.2-2, the lock says 5.2-1"),
    ],
)
def test_a_root_that_is_not_the_lock_is_refused(installed, complaint):
    with pytest.raises(ImageMismatchError, match=re.escape(complaint)):
        lock.require_same(installed, [package()])


def test_other_bytes_than_the_locks_are_refused(tmp_path):
    place = tmp_path / "mirror/pool/main/b/bash_5.2-1_arm64.deb"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"abc")
    mirror = archive.Mirror((tmp_path / "mirror").as_uri(), (tmp_path / "mirror").as_uri())
    good = package(sha256=hashlib.sha256(b"abc").hexdigest())
    assert archive.fetch(good, mirror, tmp_path / "cache").read_bytes() == b"abc"
    for bad in (package(), package(sha256=good.sha256, size_bytes=4)):
        with pytest.raises(ImageMismatchError):
            archive.fetch(bad, mirror, tmp_path / "other")


def test_a_mirror_that_forgot_a_version_is_told_with_what_to_do(tmp_path):
    mirror = archive.Mirror(tmp_path.as_uri(), tmp_path.as_uri())
    with pytest.raises(RecipeError, match="snapshot"):
        archive.fetch(package(), mirror, tmp_path / "cache")


# Boards


def test_there_is_a_profile_for_each_board():
    assert profile.boards() == ["qemu", "rpi4", "rpi5", "zero2w"]


@pytest.mark.parametrize("board", ["rpi4", "rpi5", "zero2w"])
def test_a_board_whose_archive_is_out_of_reach_stops_with_what_is_missing(board):
    facts = profile.read(board)
    assert facts.archive is not None
    assert facts.archive.pins
    with pytest.raises(RecipeError, match=r"out of reach.*ever built"):
        profile.require_buildable(board, facts)


@pytest.mark.parametrize("board", ["rpi4", "rpi5", "zero2w"])
def test_a_boards_drop_ins_open_no_more_than_its_pins_and_its_buffers(board):
    allowed = set()
    for drop in (RECIPE / "board" / board).rglob("*.conf"):
        allowed |= set(re.findall(r"^DeviceAllow=(.+)$", drop.read_text(), re.MULTILINE))
    assert allowed == {"char-gpiochip rw", "char-dma_heap rw"}


def test_qemu_can_be_built_and_says_what_it_does_not_show():
    facts = profile.read("qemu")
    profile.require_buildable("qemu", facts)
    assert facts.unverified


def test_an_unknown_board_is_told_which_there_are():
    with pytest.raises(ConfigError, match="qemu, rpi4, rpi5, zero2w"):
        profile.read("rpi1")


@pytest.mark.parametrize("board", ["qemu", "rpi4", "rpi5", "zero2w"])
def test_no_board_brings_sound(board):
    facts = profile.read(board)
    assert not [name for name in (*facts.modules, *facts.early_modules) if "snd" in name or "sound" in name]


def test_partitions_follow_one_another_and_fit_their_slots():
    facts = profile.read("qemu")
    script, begins = table(facts, lambda name: name)
    starts = [int(found) for found in re.findall(r"start=(\d+)", script)]
    sizes = [int(found) for found in re.findall(r"size=(\d+)", script)]
    assert all(start + size == after for start, size, after in zip(starts, sizes, starts[1:], strict=False))
    assert list(begins)[:6] == ["select", "boot-a", "boot-b", "root-a", "root-b", "data"]


# Known vulnerabilities


def tracker(fixed: str, status: str = "resolved") -> dict[str, object]:
    return {"bash": {"CVE-2026-1": {"releases": {"trixie": {"status": status, "fixed_version": fixed}}}}}


def test_a_package_that_the_archive_has_fixed_fails_the_gate():
    (found,) = vulnerability.findings(tracker("5.2-2"), [package()], suite="trixie")
    assert (found.cve, found.fixed_in) == ("CVE-2026-1", "5.2-2")


@pytest.mark.parametrize(
    ("fixed", "suite"), [("5.2-1", "trixie"), ("5.1-9", "trixie"), ("5.2-2", "forky"), ("0", "trixie")]
)
def test_what_is_fixed_here_or_elsewhere_passes_the_gate(fixed, suite):
    assert vulnerability.findings(tracker(fixed), [package()], suite=suite) == ()


def test_what_nobody_has_fixed_is_listed_and_decides_nothing():
    (found,) = vulnerability.findings(tracker("", "open"), [package()], suite="trixie")
    assert found.fixed_in is None


def test_a_binary_is_judged_by_its_source():
    library = package("libbash", source="bash", source_version="5.2-1")
    assert len(vulnerability.findings(tracker("5.2-2"), [library], suite="trixie")) == 1


def test_a_statement_excuses_one_vulnerability_of_one_source():
    why = Statement("CVE-2026-1", "bash", "not_affected", "the program is not in the image")
    assert vulnerability.findings(tracker("5.2-2"), [package()], suite="trixie", statements=[why]) == ()
    other = Statement("CVE-2026-2", "bash", "not_affected", "the program is not in the image")
    assert vulnerability.findings(tracker("5.2-2"), [package()], suite="trixie", statements=[other])


def test_a_statement_without_a_reason_is_refused(tmp_path):
    file = tmp_path / "vex.toml"
    file.write_text('[[statement]]\ncve="CVE-2026-1000"\nsource="bash"\nstatus="not_affected"\njustification="no"\n')
    with pytest.raises(RecipeError):
        vulnerability.read_statements(file)
    assert vulnerability.read_statements(RECIPE / "vex.toml") == ()


@pytest.mark.parametrize("wrong", [[], {}, "x", {"bash": []}])
def test_what_is_not_the_trackers_json_is_refused(wrong):
    with pytest.raises(RecipeError):
        vulnerability.findings(wrong, [package()], suite="trixie")


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0+b1"),
        ("1.9", "1.10"),
        ("9", "1:0"),
        ("1.0-1", "1.0-1.1"),
        ("1.0-1~deb13u1", "1.0-1"),
        ("1.0a", "1.0+"),
        ("1.2.3", "1.2.3a"),
        ("2.41-4", "2.41.5-0+deb13u1"),
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(lower, higher):
    assert vulnerability.compare(lower, higher) < 0 < vulnerability.compare(higher, lower)
    assert vulnerability.compare(lower, lower) == 0


# Bill of materials


def test_the_bill_of_materials_names_every_package_and_wheel_and_is_the_same_twice():
    def made() -> dict[str, object]:
        return sbom.document(
            lock.read(LOCK),
            sbom.wheels_of(WHEELS.read_text()),
            board="qemu",
            version="0.1.0",
            suite="trixie",
            epoch_unix_s=0,
            licences={"bash": ["GPL-3+"]},
            support_until="2028-08-09",
        )

    document = made()
    assert json.dumps(document) == json.dumps(made())
    names = {each["name"] for each in document["components"]}
    assert {each.name for each in lock.read(LOCK)} <= names
    assert "aiortc" in names
    (bash,) = [each for each in document["components"] if each["name"] == "bash"]
    assert bash["licenses"] == [{"license": {"name": "GPL-3+"}}]
    assert re.fullmatch(r"pkg:deb/debian/bash@[^?]+\?arch=arm64&distro=trixie", bash["purl"])
    assert len({each["bom-ref"] for each in document["components"]}) == len(document["components"])


def test_a_package_that_is_only_unpacked_brings_its_licence_or_is_not_built_in(tmp_path):
    target, unpacked = tmp_path / "licences.tar.gz", tmp_path / "unpacked"
    (tmp_path / "usr/share/doc/bash").mkdir(parents=True)
    (tmp_path / "usr/share/doc/bash/copyright").write_bytes(b"bash")
    build._licences(tmp_path, [package()], target)
    with pytest.raises(RecipeError, match="linux-image-1: no usr/share/doc"):
        build.add_licence("linux-image-1", unpacked, target)
    (unpacked / "usr/share/doc/linux-image-1").mkdir(parents=True)
    (unpacked / "usr/share/doc/linux-image-1/copyright").write_bytes(b"GPL-2")
    build.add_licence("linux-image-1", unpacked, target)
    with tarfile.open(target) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == {
            "bash/copyright": b"bash", "linux-image-1/copyright": b"GPL-2"
        }  # fmt: skip


def test_licences_are_read_from_a_machine_readable_file_and_guessed_from_no_other():
    assert sbom.licence_names("Format: x\n\nFiles: *\nLicense: MIT\n\nLicense: GPL-2+\n text\n") == ("GPL-2+", "MIT")
    assert sbom.licence_names("This is free software.\nLicense: perhaps\n") == ()


def test_security_txt_says_whom_to_tell_and_until_when():
    assert sbom.security_txt("mailto:x@example.org", 0) == (
        "Contact: mailto:x@example.org\nExpires: 1970-12-27T00:00:00Z\nPreferred-Languages: sv, en\n"
    )


# Two builds


@pytest.fixture
def built(tmp_path):
    def make(name: str, root: bytes = b"root") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        contents = {"root.img": root, "boot.vfat": b"boot", "disk.img": b"disk"}
        for file, content in contents.items():
            (directory / file).write_bytes(content)
        facts = dict.fromkeys(compare.SAME, "x")
        files = {file: {"sha256": hashlib.sha256(content).hexdigest()} for file, content in contents.items()}
        (directory / "release.json").write_text(json.dumps({**facts, "files": files}))
        return directory

    return make


def test_the_first_differing_byte_is_told(built):
    found = {each.name: each for each in compare.compare(built("one"), built("two", b"rOot"))}
    assert (found["root.img"].same, found["root.img"].first_difference) == (False, 1)
    assert found["boot.vfat"].same


def test_the_published_bytes_pass_and_any_others_are_refused(built):
    release = compare.read_release(built("published"))
    assert len(compare.require_published(release, built("same"))) == 3
    with pytest.raises(ImageMismatchError, match=r"root\.img"):
        compare.require_published(release, built("other", b"rOot"))


def test_a_build_that_only_says_so_is_measured(built):
    release = compare.read_release(built("published"))
    liar = built("liar")
    (liar / "disk.img").write_bytes(b"evil")
    with pytest.raises(ImageMismatchError, match=r"disk\.img"):
        compare.require_published(release, liar)


def test_a_build_of_another_release_is_told_apart(built):
    release = {**compare.read_release(built("published")), "keyring_sha256": "y"}
    with pytest.raises(ImageMismatchError, match="keyring_sha256"):
        compare.require_published(release, built("mine"))


def test_an_initial_ram_disk_is_the_same_whatever_the_umask_was(tmp_path):
    archives = []
    for mode in (0o600, 0o644):
        root = tmp_path / str(mode)
        (root / "bin").mkdir(parents=True)
        (root / "bin/a").write_text("x")
        (root / "bin/a").chmod(mode)
        write_cpio(root, tmp_path / f"{mode}.cpio")
        archives.append((tmp_path / f"{mode}.cpio").read_bytes())
    assert archives[0] == archives[1]
