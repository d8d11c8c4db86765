"""Release keys and offers by the command line, read back as a device would.

Mutations that turn these red, each tried: the rotation leaves `releases` out; `previous.statement + 1` -> `1`; without
the comparison of versions; without the comparison of bundles.
"""

from __future__ import annotations

import json
import time

import pytest

from gateway.cli import main
from gateway.core.interval_clock import Interval
from gateway.protocol.envelope import make_trust, verify
from gateway.protocol.key import VerifyingKey
from gateway.protocol.message import UpdateOffer
from gateway.update.offer import Device, judge

pytestmark = pytest.mark.slow


def tillsyn(*words: object) -> int:
    return main([str(word) for word in ("authority", *words)])


@pytest.fixture
def keys(tmp_path):
    for word in ("root", "issuer", "release"):
        assert tillsyn(word, "new", "--out", tmp_path / word) == 0
    assert tillsyn("trust", "sign", "--root", tmp_path / "root/root.pem", "--issuer", tmp_path / "issuer/issuer.jwk",
                   "--release", tmp_path / "release/release.jwk", "--version", 1, "--epoch", 0,
                   "--out", tmp_path / "trust-1.jws") == 0  # fmt: skip
    return tmp_path


def offer(keys, out, **changes: object) -> int:
    words = {
        "version": "0.2.0", "compatible": "tillsyn-qemu", "url": "https://u.example/b.raucb",
        "manifest-sha256": "ab" * 32, "size-bytes": 1000,
    } | changes  # fmt: skip
    options = [word for name, value in words.items() for word in (f"--{name}", value)]
    return tillsyn("release", "offer", "--release", keys / "release/release.pem", "--out", out, *options)


def test_an_offer_is_what_a_device_with_this_trust_takes(keys):
    root = VerifyingKey.from_jwk(json.loads((keys / "root/root.jwk").read_text()))
    trust = make_trust((keys / "trust-1.jws").read_bytes(), {root.kid: root})
    assert offer(keys, keys / "offer-1.jws") == 0
    assert (
        offer(
            keys, keys / "offer-2.jws", previous=keys / "offer-1.jws", version="0.3.0", **{"manifest-sha256": "cd" * 32}
        )
        == 0
    )
    first, second = (verify((keys / f"offer-{n}.jws").read_bytes(), trust.releases, UpdateOffer) for n in (1, 2))
    assert (first.statement, second.statement) == (1, 2)
    now = Interval(time.time(), time.time() + 1)
    assert judge(first, Device("tillsyn-qemu", "0.1.0"), now)
    assert judge(second, Device("tillsyn-qemu", "0.2.0", statement=1), now)


def test_release_keys_outlive_a_rotation_of_the_issuer_and_a_revocation(keys):
    root = VerifyingKey.from_jwk(json.loads((keys / "root/root.jwk").read_text()))
    tillsyn("issuer", "new", "--out", keys / "issuer-2")
    previous = ("--previous", keys / "trust-1.jws", "--root", keys / "root/root.pem")
    assert tillsyn("revoke", *previous, "--out", keys / "trust-2.jws") == 0
    assert (
        tillsyn("rotate-issuer", *previous, "--issuer", keys / "issuer-2/issuer.jwk", "--out", keys / "trust-3.jws")
        == 0
    )
    for name in ("trust-1.jws", "trust-2.jws", "trust-3.jws"):
        assert len(make_trust((keys / name).read_bytes(), {root.kid: root}).releases) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.1.9"},
        {"manifest-sha256": "cd" * 32},
        {"version": "0.2"},
        {"url": "http://u.example/b"},
        {"days": 90},
    ],
    ids=["back", "other-bundle", "version", "plain-http", "too-long"],
)
def test_what_devices_would_refuse_is_not_signed(keys, change, capsys):
    assert offer(keys, keys / "offer-1.jws") == 0
    assert offer(keys, keys / "offer-2.jws", previous=keys / "offer-1.jws", **change) == 1
    assert not (keys / "offer-2.jws").exists()
    assert "tillsyn" in capsys.readouterr().err


def test_the_release_key_can_have_no_other_role(keys):
    named = ("--root", keys / "root/root.pem", "--issuer", keys / "issuer/issuer.jwk")
    again = ("--release", keys / "issuer/issuer.jwk", "--version", 1, "--epoch", 0, "--out", keys / "x.jws")
    assert tillsyn("trust", "sign", *named, *again) == 1
