"""Files of the authority: private ones for their owner only, whole or not there, never over another.

Mutations that turn a test here red (provisioning/authority/secret_file.py):
* `mode & 0o077` dropped or `& 0o007` → test_a_key_that_others_may_read_is_refused
* `hardlink_to` → `rename` → test_no_key_is_ever_overwritten
* write straight into the directory's place → test_a_cut_leaves_a_whole_directory_or_none
* write straight into the file's place → test_a_cut_leaves_a_whole_file_or_none
* drop `os.fsync(fd)` before the name is given → test_the_content_is_durable_before_it_has_its_name
* drop the clean-up in `write_directory` → test_a_full_disk_leaves_nothing
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.core.error import ConfigError
from gateway.protocol.key import SigningKey, VerifyingKey
from provisioning.authority.secret_file import read_secret, write_directory, write_public, write_secret

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


class Ceremony:
    """A directory, and the commands that are given in it."""

    def __init__(self, directory: Path, capfd) -> None:
        self.directory = directory
        self._capfd = capfd

    def __call__(self, *words: object) -> Answer:
        """`tillsyn authority WORDS…`; names of files are below the directory where they say so with `path`."""
        self._capfd.readouterr()
        try:
            status = main(["authority", *map(str, words)])
        except SystemExit as exc:  # argparse
            status = int(exc.code or 0)
        out, err = self._capfd.readouterr()
        return Answer(status, out, err)

    def well(self, *words: object) -> Answer:
        answer = self(*words)
        assert answer.status == 0, answer.err
        return answer

    def path(self, name: str) -> Path:
        return self.directory / name

    def key(self, word: str, name: str) -> tuple[Path, Path]:
        """A new root or issuer: (private, public)."""
        self.well(word, "new", "--out", self.path(name))
        return self.path(name) / f"{word}.pem", self.path(name) / f"{word}.jwk"

    def held(self, *names: str) -> dict[str, VerifyingKey]:
        """A device's roots, by the names of their directories."""
        keys = [VerifyingKey.from_jwk(json.loads((self.path(name) / "root.jwk").read_text())) for name in names]
        return {key.kid: key for key in keys}

    def files(self) -> set[str]:
        return {str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file()}


def private(path: Path) -> SigningKey:
    return SigningKey.from_pem(path.read_bytes())


@pytest.fixture
def ceremony(tmp_path, capfd):
    return Ceremony(tmp_path, capfd)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


SECRET_MAKERS = {
    "r/root.pem": ("root", "new", "--out", "r"),
    "i/issuer.pem": ("issuer", "new", "--out", "i"),
    "ca/ca-key.pem": ("ca", "new", "--out", "ca"),
    "g/key.pem": ("ca", "issue-gateway", "gw-a", "--ca", "ca", "--out", "g"),
    "c/key.pem": ("ca", "issue-centre", "--ca", "ca", "--out", "c"),
    "b/key.pem": ("ca", "issue-broker", "localhost", "127.0.0.1", "--ca", "ca", "--out", "b"),
}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_private_key_has_mode_0600_whatever_the_umask(ceremony, monkeypatch, umask):
    monkeypatch.chdir(ceremony.directory)
    before = os.umask(umask)
    try:
        for words in SECRET_MAKERS.values():
            ceremony.well(*words)
    finally:
        os.umask(before)
    private = {name for name in ceremony.files() if b"PRIVATE KEY" in ceremony.path(name).read_bytes()}
    assert private == set(SECRET_MAKERS)
    assert {name: mode(ceremony.path(name)) for name in private} == dict.fromkeys(private, 0o600)


@pytest.mark.parametrize("words", SECRET_MAKERS.values(), ids=SECRET_MAKERS)
def test_no_key_is_ever_overwritten(ceremony, monkeypatch, words):
    monkeypatch.chdir(ceremony.directory)
    if words[:2] != ("ca", "new"):
        ceremony.well("ca", "new", "--out", "ca")
    ceremony.well(*words)
    before = {name: ceremony.path(name).read_bytes() for name in ceremony.files()}
    answer = ceremony(*words)
    assert answer.status == 1
    assert "exists" in answer.err
    assert {name: ceremony.path(name).read_bytes() for name in ceremony.files()} == before


def test_a_file_in_the_place_of_a_key_stays(tmp_path):
    (tmp_path / "key.pem").write_text("mine")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "key.pem", b"new")
    (tmp_path / "link.pem").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "link.pem", b"new")
    assert (tmp_path / "key.pem").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "link.pem"]


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o660, 0o644, 0o620, 0o610, 0o601])
def test_a_key_that_others_may_read_is_refused_with_what_to_do(ceremony, wide):
    key, _ = ceremony.key("root", "r1")
    _, issuer = ceremony.key("issuer", "i1")
    key.chmod(wide)
    answer = ceremony(
        "trust",
        "sign",
        "--root",
        key,
        "--issuer",
        issuer,
        "--version",
        1,
        "--epoch",
        0,
        "--out",
        ceremony.path("t.jws"),
    )
    assert answer.status == 78
    assert f"chmod 600 {key}" in answer.err
    assert not ceremony.path("t.jws").exists()


def test_a_public_key_is_read_from_a_private_file_only_with_the_same_care(ceremony):
    key, _ = ceremony.key("root", "r1")
    issuer, _ = ceremony.key("issuer", "i1")
    issuer.chmod(0o644)
    answer = ceremony(
        "trust",
        "sign",
        "--root",
        key,
        "--issuer",
        issuer,
        "--version",
        1,
        "--epoch",
        0,
        "--out",
        ceremony.path("t.jws"),
    )
    assert answer.status == 78


def test_what_is_no_file_or_too_large_is_no_key(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "big").write_bytes(b"x" * 70_000)
    (tmp_path / "big").chmod(0o600)
    for name in ("fifo", "big"):
        with pytest.raises(ConfigError):
            read_secret(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"ed25519", b"p384", b"encrypted"])
def test_what_is_no_p256_key_is_refused_with_a_word_on_it(ceremony, content):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def pem(key, how=None):
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how or serialization.NoEncryption()
        )

    made = {
        b"ed25519": lambda: pem(ed25519.Ed25519PrivateKey.generate()),
        b"p384": lambda: pem(ec.generate_private_key(ec.SECP384R1())),
        b"encrypted": lambda: pem(
            ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"word")
        ),
    }.get(content, lambda: content)()
    write_secret(ceremony.path("root.pem"), made)
    _, issuer = ceremony.key("issuer", "i1")
    answer = ceremony(
        "trust", "sign", "--root", ceremony.path("root.pem"), "--issuer", issuer, "--version", 1, "--epoch", 0,
        "--out", ceremony.path("t.jws"),
    )  # fmt: skip
    assert answer.status == 78
    assert ("password" if content == b"encrypted" else "P-256") in answer.err
    assert not ceremony.path("t.jws").exists()


# A cut in the middle: the process dies at the n-th time it makes something durable, names or renames.

_CUT = """
import os, sys
from pathlib import Path
from provisioning.authority.secret_file import write_directory, write_secret, write_public
left = int(sys.argv[1])
def cutting(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*args, **kwargs)
    return wrapped
for name in ("fsync", "link", "rename", "replace", "unlink"):
    setattr(os, name, cutting(getattr(os, name)))
place = Path(sys.argv[2])
match sys.argv[3]:
    case "directory":
        write_directory(place / "new", public={"a": b"public" * 9}, secret={"b": b"secret" * 9})
    case "replace":
        write_public(place / "new", b"after" * 9, replace=True)
    case _:
        write_secret(place / "new", b"secret" * 9)
"""


def cut(place: Path, kind: str):
    """Each step at which the process may die, until one run comes through."""
    for step in range(40):
        folder = place / str(step)
        folder.mkdir()
        if kind == "replace":
            (folder / "new").write_bytes(b"before")
        done = subprocess.run([sys.executable, "-c", _CUT, str(step), str(folder), kind], check=False)
        yield folder
        if done.returncode == 0:
            assert step > 2
            return
        assert done.returncode == 9
    raise AssertionError("never done")


def test_a_cut_leaves_a_whole_directory_or_none(tmp_path):
    for folder in cut(tmp_path, "directory"):
        if (folder / "new").exists():
            assert {path.name: path.read_bytes() for path in (folder / "new").iterdir()} == {
                "a": b"public" * 9, "b": b"secret" * 9,
            }  # fmt: skip
    assert (folder / "new").exists()


def test_a_cut_leaves_a_whole_file_or_none(tmp_path):
    for folder in cut(tmp_path, "file"):
        if (folder / "new").exists():
            assert (folder / "new").read_bytes() == b"secret" * 9
        assert all(mode(path) == 0o600 for path in folder.iterdir())
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_cut_leaves_the_old_list_or_the_new_one(tmp_path):
    seen = set()
    for folder in cut(tmp_path, "replace"):
        seen.add((folder / "new").read_bytes())
    assert seen == {b"before", b"after" * 9}


def test_the_content_is_durable_before_it_has_its_name(tmp_path):
    """The first thing that happens is fsync: a run that may do none of the steps has named nothing."""
    steps = list(cut(tmp_path, "file"))
    assert not (steps[0] / "new").exists()
    assert not (steps[1] / "new").exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_full_disk_leaves_nothing(tmp_path, kind):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from provisioning.authority.secret_file import write_directory, write_secret\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))\n"
        "place = Path(sys.argv[1])\n"
        "try:\n"
        "    if sys.argv[2] == 'file': write_secret(place / 'new', b'secret' * 9)\n"
        "    else: write_directory(place / 'new', public={'a': b'short'}, secret={'b': b'secret' * 9})\n"
        "except OSError: sys.exit(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), kind], check=False)
    assert done.returncode == 5
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "d").mkdir()
    write_directory(tmp_path / "d", public={"a": b"1"}, secret={})
    with pytest.raises(FileExistsError):
        write_directory(tmp_path / "d", public={"b": b"1"}, secret={})
    (tmp_path / "to").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_directory(tmp_path / "to", public={"b": b"1"}, secret={})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "d", "to"]


def test_only_what_may_be_replaced_is(tmp_path):
    write_public(tmp_path / "acl", b"1")
    with pytest.raises(FileExistsError):
        write_public(tmp_path / "acl", b"2")
    write_public(tmp_path / "acl", b"2", replace=True)
    assert (tmp_path / "acl").read_bytes() == b"2"
    assert mode(tmp_path / "acl") == 0o644
