"""Two devices as they are provisioned: what differs between them is the secret of each, and nothing else.

Mutation that turns it red: name the gateway in guard-template.toml (leave it out of `INSTALLATION`).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provisioning import bench_device
from provisioning.authority.x509 import CertificateAuthority
from provisioning.factory.stub import make_stub

PER_DEVICE = {
    "factory/setup.json",
    "factory/setup-cert.pem",
    "factory/setup-key.pem",
    "factory/contact.json",
    "etc/fresh.toml",
}
"""Each device's own: names, certificate and key, code and access point; `fresh.toml` names the gateway."""

VARIES = re.compile(rb"port = \d+")
"""The bench's ports."""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_two_provisioned_devices_differ_only_in_what_is_each_ones_own(tmp_path):
    trees = []
    for name in ("one", "other"):
        device = bench_device.make(tmp_path / name, bus="unix:path=/nowhere", isolate=False)
        # The benches' directories and ports are not the device's; on a board they are the same for all.
        text = {
            path: re.sub(VARIES, b"", content.replace(str(tmp_path / name).encode(), b"/dir"))
            for path, content in tree(device.directory).items()
        }
        trees.append(text)
    one, other = trees
    assert set(one) == set(other)
    # Each bench has a centre of its own; two devices of one centre share its CA: see the next test.
    assert {path for path in one if one[path] != other[path]} == PER_DEVICE | {"factory/centre-ca.pem"}


def test_two_devices_of_one_centre_share_its_address_and_ca_only(tmp_path):
    ca = CertificateAuthority.make("a CA").pem()
    for name in ("one", "other"):
        make_stub(enrol_at="https://centre.example.org", centre_ca=ca).write(tmp_path / name)
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other")
    assert {path for path in one if one[path] == other[path]} == {"centre-ca.pem"}


def test_no_secret_is_in_what_every_device_is_given(tmp_path):
    """The image's part holds no key: those are made by the device, or lie in its factory directory with mode 0600."""
    device = bench_device.make(tmp_path / "one", bus="unix:path=/nowhere", isolate=False)
    for path in (device.directory / "etc").iterdir():
        assert b"PRIVATE KEY" not in path.read_bytes()
        assert device.stub.code.encode() not in path.read_bytes()
        assert device.stub.contact.ap_key.encode() not in path.read_bytes()
