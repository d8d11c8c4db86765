"""What the centre's ends are given: WireGuard's peers, the relay's limits, and the files' modes.

Mutations that turn these red, each tried: `denied-peer-ip` left out; the relay's own address inside the homes' network
accepted; `use-auth-secret` left out; a peer's AllowedIPs wider than /32; the key written readable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli import main as tillsyn
from gateway.protocol.message import TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key
from provisioning.authority import relay_config, tunnel_config

HOMES = "10.90.128.0/17"
KEYS = [public_key(new_private_key()) for _ in range(2)]


def enrol(folder: Path, **changed: Any) -> str:
    given: dict[str, Any] = {
        "address": "10.90.128.5",
        "centre": ["10.90.0.1", "10.90.0.2"],
        "centre_key": KEYS[0],
        "endpoint_host": "centre.example",
        "endpoint_port": 51820,
    }
    return tunnel_config.enrol(folder, **given | changed)


def test_an_enrolment_leaves_a_private_key_for_its_owner_alone_and_settings_without_it(tmp_path: Path) -> None:
    public = enrol(tmp_path)
    key, settings = tmp_path / "tunnel.key", tmp_path / "tunnel.json"
    assert key.stat().st_mode & 0o777 == 0o600
    assert public_key(key.read_bytes()) == public
    assert key.read_bytes().strip() not in settings.read_bytes()
    assert msgspec.json.decode(settings.read_bytes(), type=TunnelSettings).version == 1


def test_an_enrolment_overwrites_no_key_and_writes_nothing_that_the_device_would_refuse(tmp_path: Path) -> None:
    for wrong in ({"address": "10.90.128.256"}, {"centre": []}, {"centre_key": "x"}, {"endpoint_host": "a b"}):
        with pytest.raises((ValueError, msgspec.ValidationError)):
            enrol(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []
    first = tunnel_config.make_key(tmp_path)
    assert first == tunnel_config.make_key(tmp_path) == enrol(tmp_path)
    with pytest.raises(FileExistsError):
        enrol(tmp_path)


def test_each_home_has_its_one_address_and_no_other(tmp_path: Path) -> None:
    peers = tunnel_config.parse_peers(
        f"gw-a {KEYS[0]} 10.90.128.1\n# no\n gw-b {KEYS[1]} 10.90.128.2 # x\n", network=HOMES
    )
    conf = tunnel_config.endpoint_conf(new_private_key(), port=51820, peers=peers)
    allowed = [line for line in conf.splitlines() if line.startswith("AllowedIPs")]
    assert allowed == ["AllowedIPs = 10.90.128.1/32", "AllowedIPs = 10.90.128.2/32"]
    assert "Keepalive" not in conf


@pytest.mark.parametrize(
    "line",
    [
        "gw-b {taken} 10.90.128.2",
        "gw-b {key} 10.90.128.1",
        "gw-b {key} 10.90.0.1",
        "gw-b {key}",
        "x {key} 10.90.128.2",
        "gw-b AAAA 10.90.128.2",
        "gw-b {misspelt} 10.90.128.2",
        "gw-b {key} nowhere",
    ],
)
def test_a_list_of_peers_that_is_not_understood_whole_is_refused(line: str) -> None:
    line = line.format(taken=KEYS[0], key=KEYS[1], misspelt=f"{KEYS[1][:-2]}B=")
    with pytest.raises(ValueError):
        tunnel_config.parse_peers(f"gw-a {KEYS[0]} 10.90.128.1\n{line}\n", network=HOMES)


def relay(**changed: Any) -> list[str]:
    given: dict[str, Any] = {
        "listen": "198.51.100.11",
        "relay": "10.90.0.2",
        "homes": HOMES,
        "udp_port": 3478,
        "tls_port": 443,
        "realm": "centre.example",
        "secret": "s" * 43,
        "certificate": Path("/c"),
        "key": Path("/k"),
        "user": "turnserver",
    }
    return relay_config.turnserver_conf(**given | changed).splitlines()


def test_the_relay_lets_nobody_in_without_credentials_and_reaches_homes_only() -> None:
    lines = relay()
    assert {"use-auth-secret", "no-tcp-relay", "no-multicast-peers", "no-cli", "fingerprint"} <= set(lines)
    assert [line for line in lines if line.startswith("denied-peer-ip")] == [
        "denied-peer-ip=0.0.0.0-255.255.255.255",
        "denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]
    assert [line for line in lines if line.startswith("allowed-peer-ip")] == [
        "allowed-peer-ip=10.90.128.0-10.90.255.255",
        "allowed-peer-ip=10.90.0.2",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"homes": "0.0.0.0/0"},
        {"homes": "198.51.100.0/24"} | {"homes": "8.8.8.0/24"},
        {"homes": "127.0.0.0/8"},
        {"homes": "10.90.0.0/16"},
        {"relay": "10.90.128.9"},
        {"secret": "a\nno-auth"},
        {"realm": ""},
        {"listen": "nowhere"},
    ],
)
def test_a_relay_that_would_open_more_than_the_homes_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        relay(**wrong)


@pytest.mark.slow
def test_the_commands_write_what_they_say_and_keep_secrets_private(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tillsyn(["authority", "tunnel-key", "--out", str(tmp_path / "key")]) == 0
    public = capsys.readouterr().out.strip()
    (tmp_path / "peers").write_text(f"gw-a {KEYS[0]} 10.90.128.1\n")
    where = ["--homes", HOMES, "--relay", "10.90.0.2"]
    tunnel = ["authority", "tunnel-config", "--key", str(tmp_path / "key" / "tunnel.key"), "--broker", "10.90.0.1"]
    assert tillsyn([*tunnel, "--peers", str(tmp_path / "peers"), *where, "--out", str(tmp_path / "end")]) == 0
    coturn = ["authority", "relay-config", "--listen", "198.51.100.11", "--realm", "centre.example"]
    files = ["--cert", str(tmp_path / "c.pem"), "--key", str(tmp_path / "k.pem")]
    assert tillsyn([*coturn, *files, *where, "--out", str(tmp_path / "relay")]) == 0
    assert public_key((tmp_path / "key" / "tunnel.key").read_bytes()) == public
    for secret in ("key/tunnel.key", "end/wg.conf", "relay/turnserver.conf", "relay/relay.secret"):
        assert (tmp_path / secret).stat().st_mode & 0o777 == 0o600, secret
    assert (tmp_path / "relay" / "relay.secret").read_text().strip() in (
        tmp_path / "relay" / "turnserver.conf"
    ).read_text()


def test_a_home_reaches_the_server_with_the_updates_only_where_there_is_one():
    """Mutation: the port let in whatever was asked for."""
    words = {"interface": "wg0", "broker": "10.90.0.1", "broker_port": 8883, "relay": "10.90.0.2"}
    without = tunnel_config.firewall(**words)
    assert 'iifname "wg0" ip daddr 10.90.0.1 tcp dport 8883 accept' in without
    with_one = tunnel_config.firewall(**words, bundles_port=8443)
    assert with_one.replace("{ 8883, 8443 }", "8883") == without
    assert "ip daddr 10.90.0.1 tcp dport { 8883, 8443 } accept" in with_one
