"""What stands in the guard's place before there is one: keys, and the one file that makes the device somebody's.

Mutations, each tried and red: write guard.toml before tunnel.json; keep `tunnel_socket` in guard.toml without a tunnel;
leave the tunnel's key out of `KEYS`; leave the check for it out of `_install`; leave `witness` out of `_guard_toml`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.file import GuardConfig, load
from gateway.core.refusal import RefusedError
from gateway.ipc import setup
from gateway.ledger.disk import Disk
from gateway.protocol.envelope import sign
from gateway.protocol.key import SigningKey
from gateway.protocol.message import TrustPut, TunnelSettings
from gateway.protocol.tunnel_key import new_private_key, public_key
from gateway.services import fresh

GATEWAY = "gw-abc234defgh5"
WITNESS = "tillsyn/centre+12345678+AAAA"
CENTRE_KEY = public_key(new_private_key())
SETTINGS = TunnelSettings(1, "10.90.128.2", ["10.90.0.1"], CENTRE_KEY, "centre.example", 51820, 1200)


def made(folder: Path, *, has_tunnel: bool = True, **named: str) -> fresh.Fresh:
    template: dict[str, Any] = {
        "state_dir": "/v/state",
        "guard_socket": "/run/t/guard.sock",
        "control_socket": "/run/t/control.sock",
        "eye_socket": "/run/t/eye.sock",
        "mount": {"driver": "bench", "pan_pin": 12, "lamp_pin": 18},
        "lamp_brightness": 0.2,
        "demand_isolation": True,
        "world": "/v/world",
    }
    if has_tunnel:
        template["tunnel_socket"] = "/run/t/tunnel.sock"
    (folder / "template.toml").write_bytes(msgspec.toml.encode(template))
    return fresh.Fresh(
        fresh.FreshConfig(
            GATEWAY, "/run/t/setup.sock", str(folder / "identity"), str(folder / "template.toml"), True, **named
        )
    )


def place(**changes: Any) -> setup.Install:
    root, issuer = SigningKey.generate(), SigningKey.generate()
    trust = TrustPut(version=1, epoch=0, roots=[root.verifying.jwk()], issuers=[issuer.verifying.jwk()])
    return setup.Install(GATEWAY, 3, ["g-1"], [root.verifying.jwk()], sign(trust, root), **changes)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "identity").iterdir()}


@pytest.mark.slow
def test_a_place_with_a_tunnel_and_a_witness_makes_a_guard_that_has_both(tmp_path):
    service = made(tmp_path)
    keys = service._obey(setup.MakeKeys())
    assert isinstance(keys, setup.KeysMade)
    assert service._obey(setup.MakeKeys()) == keys
    word = place(witness=WITNESS, tunnel=SETTINGS, fallback=["192.0.2.7"])
    assert service._obey(word) == setup.Done()
    config = load(tmp_path / "identity" / "guard.toml", GuardConfig)
    assert (config.gateway, config.install_epoch, config.witness) == (GATEWAY, 3, WITNESS)
    assert config.tunnel_socket == "/run/t/tunnel.sock"
    assert json.loads((tmp_path / "identity" / "tunnel.json").read_bytes()) == msgspec.to_builtins(SETTINGS)
    private = tmp_path / "identity" / "tunnel.key"
    assert public_key(private.read_bytes()) == keys.tunnel_key
    assert private.stat().st_mode & 0o777 == 0o600
    assert b"{ 192.0.2.7 }" in (tmp_path / "identity" / "centre.nft").read_bytes()


def test_without_a_tunnel_there_is_none(tmp_path):
    service = made(tmp_path)
    service._obey(setup.MakeKeys())
    service._obey(place())
    config = load(tmp_path / "identity" / "guard.toml", GuardConfig)
    assert (config.tunnel_socket, config.witness) == (None, None)
    service = made(tmp_path / "identity", has_tunnel=False)
    assert service._obey(setup.MakeKeys()).tunnel_key is None


def test_a_tunnel_without_a_key_for_it_is_refused_and_leaves_the_device_fresh(tmp_path):
    service = made(tmp_path)
    service._obey(setup.MakeKeys())
    (tmp_path / "identity" / "tunnel.key").unlink()
    with pytest.raises(RefusedError):
        service._obey(place(tunnel=SETTINGS))
    assert not fresh.is_enrolled(service._config)


def test_what_is_forgotten_is_all_keys(tmp_path):
    service = made(tmp_path)
    first = service._obey(setup.MakeKeys())
    assert names(tmp_path) == {"device.pem", "ledger.pem", "tunnel.key"}
    service._obey(setup.ForgetKeys())
    assert names(tmp_path) == set()
    assert service._obey(setup.MakeKeys()).tunnel_key != first.tunnel_key


class PowerCutError(BaseException):
    """Nothing runs after it, no clean-up either."""


class CutDisk(Disk):
    """The power goes before the `left`-th file of an installation is in its place."""

    left = 0

    def rename(self, old: Path, new: Path) -> None:
        if CutDisk.left == 0:
            raise PowerCutError
        CutDisk.left -= 1
        super().rename(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("files", range(5))
def test_a_cut_anywhere_leaves_a_fresh_device_and_after_it_all_is_there(tmp_path, monkeypatch, files):
    service = made(tmp_path)
    service._obey(setup.MakeKeys())
    monkeypatch.setattr(fresh, "Disk", CutDisk)
    CutDisk.left = files
    with pytest.raises(PowerCutError):
        service._obey(place(tunnel=SETTINGS, witness=WITNESS))
    assert not fresh.is_enrolled(service._config)
    CutDisk.left = 99
    service._obey(place(tunnel=SETTINGS, witness=WITNESS))
    assert {"roots.json", "trust.jws", "tunnel.json", "centre.nft", "guard.toml"} <= names(tmp_path)


def test_the_guard_finds_its_keys_where_root_puts_them(tmp_path):
    service = made(tmp_path, keys_named_in="/run/credentials/guard", trust_named_in="/v/config")
    service._obey(setup.MakeKeys())
    service._obey(place())
    config = load(tmp_path / "identity" / "guard.toml", GuardConfig)
    assert config.device_key == "/run/credentials/guard/device.pem"
    assert config.trust == "/v/config/trust.jws"
