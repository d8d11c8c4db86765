"""The centre refuses to start with a wrong configuration, and says what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from centre import commands
from centre.config import load, read_issuing_key
from gateway.core.error import EXIT_CONFIG, ConfigError
from gateway.protocol.key import SigningKey


def good_toml() -> str:
    jwk = SigningKey.generate().verifying.jwk()
    return f"""
database_path = "centre.sqlite"
issuing_key_path = "issuing.pem"

[http]
host = "127.0.0.1"
port = 0

[broker]
host = "127.0.0.1"
port = 8883
server_name = "localhost"
client_id = "centre"
ca_path = "ca.pem"
cert_path = "centre.pem"
key_path = "centre.key"

[[accounts]]
who = "op-1"
roles = ["operator"]
login_sha256 = "{"a" * 64}"

[[homes]]
gateway = "gw-a"
install_epoch = 1
groups = ["g-1"]
device_jwk = {{ kty = "EC", crv = "P-256", x = "{jwk["x"]}", y = "{jwk["y"]}" }}

[ice]
policy = "relay"
servers = [{{ urls = ["turn:127.0.0.1:3478"], username = "u", credential = "c" }}]
"""


def test_a_good_file_is_read_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "centre.toml"
    path.write_text(good_toml())
    config = load(path)
    assert config.database_path == tmp_path / "centre.sqlite"
    assert config.grant_epoch == 0
    assert config.homes[0].gateway == "gw-a"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('host = "127.0.0.1"\nport = 0', 'host = "0.0.0.0"\nport = 0'),
        ('host = "127.0.0.1"\nport = 0', 'host = "localhost"\nport = 0'),
        ("port = 0", "port = 0\nextra = 1"),
        ("port = 0", 'port = "0"'),
        ('policy = "relay"', 'policy = "none"'),
        ('roles = ["operator"]', 'roles = ["admin"]'),
        ('roles = ["operator"]', "roles = []"),
        ('who = "op-1"', 'who = "19121212-1212"'),
        ('who = "op-1"', 'who = "Anna Andersson"'),
        ('login_sha256 = "aaaa', 'login_sha256 = "AAAA'),
        ("install_epoch = 1", "install_epoch = 0"),
        ('crv = "P-256"', 'crv = "P-384"'),
        ('database_path = "centre.sqlite"', ""),
        ('urls = ["turn:', 'urls = ["http:'),
        ("[ice]", "[["),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "centre.toml"
    good = good_toml()
    assert old in good
    path.write_text(good.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"centre\.toml"):
        load(path)


def test_the_same_home_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "centre.toml"
    good = good_toml()
    home = good[good.index("[[homes]]") : good.index("[ice]")]
    path.write_text(good.replace(home, home + home))
    with pytest.raises(ConfigError, match="twice"):
        load(path)


def test_a_file_that_is_no_p256_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "issuing.pem"
    with pytest.raises(ConfigError):
        read_issuing_key(path)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError):
        read_issuing_key(path)


def test_the_command_says_what_is_wrong_and_exits_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers())
    args = parser.parse_args(["centre", "--config", str(tmp_path / "missing.toml")])
    assert args.run(args) == EXIT_CONFIG
    assert "missing.toml" in capsys.readouterr().err
