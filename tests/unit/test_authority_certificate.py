"""Certificates and the broker's two files: no name is issued that would be a right, and no list is ever empty.

Mutations that turn a test here red:
* x509.py: drop the check of names in `issue` → test_no_certificate_for_a_name_that_is_no_gateways
* broker_config.py: `_GATEWAY` with `$` for `\\Z` → the same test (a newline behind the name)
* broker_config.py: drop the check in `acl` → test_a_list_takes_gateway_ids_only
* broker_config.py: drop the check of paths → test_nothing_breaks_out_of_its_line
* act.py: drop `_check_issued` → test_the_brokers_certificate_must_be_of_the_ca_and_the_key_its_own
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from test_authority_files import Ceremony

from gateway.core.error import ConfigError
from gateway.protocol.message import GatewayId
from provisioning.authority import broker_config
from provisioning.authority.error import AuthorityError
from provisioning.authority.x509 import CertificateAuthority

pytestmark = pytest.mark.slow

CA = CertificateAuthority.make("test CA")


@pytest.fixture
def ceremony(tmp_path, capfd):
    made = Ceremony(tmp_path, capfd)
    made.well("ca", "new", "--out", made.path("ca"))
    return made


BAD_IDS = [
    "", "gw-", "gw-A", "GW-a", "gw-a b", "gw-+", "gw-#", "#", "+", "$SYS", "gw-a/command", "%u", "gw-%u", "gw-a\n",
    "gw-ä", "gw-" + "a" * 41, "a", "broker", "Centre", "gw-a\x00", "gw_a",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_IDS)
def test_no_certificate_for_a_name_that_is_no_gateways(ceremony, name):
    with pytest.raises(ValueError, match="no certificate"):
        CA.issue(name)
    answer = ceremony("ca", "issue-gateway", "--ca", ceremony.path("ca"), "--out", ceremony.path("g"), "--", name)
    assert answer.status == 78
    assert not ceremony.path("g").exists()


@pytest.mark.parametrize("name", ["centre", "gw-a", "gw-#", "*", "a b", "-a"])
def test_a_server_has_no_clients_name(name):
    with pytest.raises(ValueError, match="no certificate"):
        CA.issue(name, server_names=("localhost",))


@pytest.mark.parametrize("name", ["*", "*.example.org", "a b", "", "A.example", "http://x", "x\n"])
def test_a_server_is_reached_by_plain_names(ceremony, name):
    with pytest.raises(ValueError, match="not a host"):
        CA.issue("broker", server_names=("localhost", name))


@given(st.text(max_size=50) | st.from_regex(r"gw-[a-z0-9-]{0,42}\n?", fullmatch=True))
@example("gw-a\n")
def test_a_gateways_name_is_what_the_protocol_calls_one(name):
    try:
        msgspec.convert(name, GatewayId, strict=True)
        known = True
    except msgspec.ValidationError:
        known = False
    assert broker_config.is_gateway(name) is known


def test_a_gateways_certificate_says_its_id_and_that_it_is_a_client(ceremony):
    ceremony.well("ca", "issue-gateway", "gw-a1", "--ca", ceremony.path("ca"), "--out", ceremony.path("g"))
    certificate = x509.load_pem_x509_certificate(ceremony.path("g/cert.pem").read_bytes())
    authority = x509.load_pem_x509_certificate(ceremony.path("g/ca.pem").read_bytes())
    certificate.verify_directly_issued_by(authority)
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "gw-a1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    key = serialization.load_pem_private_key(ceremony.path("g/key.pem").read_bytes(), None)
    assert key.public_key() == certificate.public_key()


def ended_ca(ends: datetime) -> CertificateAuthority:
    made = CertificateAuthority.make("old")
    builder = (
        x509.CertificateBuilder()
        .subject_name(made.certificate.subject)
        .issuer_name(made.certificate.subject)
        .public_key(made.key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=9))
        .not_valid_after(ends)
    )
    return CertificateAuthority(builder.sign(made.key, hashes.SHA256()), made.key)


def test_no_certificate_outlives_its_ca():
    now = datetime.now(UTC).replace(microsecond=0)
    soon = now + timedelta(days=3)
    leaf = x509.load_pem_x509_certificate(ended_ca(soon).issue("gw-a").certificate)
    assert leaf.not_valid_after_utc == soon
    with pytest.raises(AuthorityError, match="new CA"):
        ended_ca(now - timedelta(days=1)).issue("gw-a")


def test_a_ca_of_two_halves_or_one_that_others_may_read_is_refused(ceremony):
    ceremony.well("ca", "new", "--out", ceremony.path("other"))
    whole = ceremony.path("ca/ca.pem").read_bytes()
    ceremony.path("ca/ca.pem").write_bytes(ceremony.path("other/ca.pem").read_bytes())
    with pytest.raises(ConfigError, match="pair"):
        CertificateAuthority.load(ceremony.path("ca"))
    ceremony.path("ca/ca.pem").write_bytes(whole)
    ceremony.path("ca/ca-key.pem").chmod(0o640)
    answer = ceremony("ca", "issue-centre", "--ca", ceremony.path("ca"), "--out", ceremony.path("c"))
    assert answer.status == 78
    assert "chmod 600" in answer.err
    assert not ceremony.path("c").exists()


# The broker's two files


@pytest.fixture
def broker(ceremony):
    ceremony.well("ca", "issue-broker", "localhost", "--ca", ceremony.path("ca"), "--out", ceremony.path("b"))
    return ceremony


def config(ceremony, *words, ca="b/ca.pem", key="b/key.pem"):
    return ceremony(
        "broker-config", "--out", ceremony.path("m"), "--ca", ceremony.path(ca), "--cert", ceremony.path("b/cert.pem"),
        "--key", ceremony.path(key), *words,
    )  # fmt: skip


def test_the_list_is_never_empty():
    for text in (broker_config.acl(None), broker_config.acl([]), broker_config.acl(["gw-a"])):
        assert "user centre" in text
        assert "topic read tillsyn/v1/+/reply" in text


def test_no_line_gives_a_gateway_a_wildcard_or_the_client_id():
    lines = (broker_config.acl(None) + broker_config.acl(["gw-a", "gw-b"]).split("user gw-a")[1]).splitlines()
    patterns = [line for line in lines if line.startswith("pattern")]
    assert len(patterns) == 12
    assert all("+" not in line and "#" not in line.split()[-1] and "%c" not in line for line in patterns)
    by_name = broker_config.acl(["gw-a"]).split("user gw-a")[1]
    assert "+" not in by_name
    assert "#" not in by_name
    assert "readwrite" not in broker_config.acl(None)


@pytest.mark.parametrize("name", [name for name in BAD_IDS if name] + ["centre"])
def test_a_list_takes_gateway_ids_only(broker, name):
    with pytest.raises(ValueError, match="not a gateway"):
        broker_config.acl([name])


def test_homes_are_read_with_the_number_of_a_wrong_line(broker):
    broker.path("homes").write_text("# ours\ngw-a\n\n  gw-b  # Ms. N.\n")
    assert config(broker, "--homes", broker.path("homes")).status == 0
    assert "user gw-b\n" in broker.path("m/acl").read_text()
    assert "pattern" not in broker.path("m/acl").read_text()
    for text, number in (("gw-a\n#\ngw-A\n", 3), ("gw-a\ngw-a\n", 2), ("+\n", 1)):
        broker.path("homes").write_text(text)
        answer = config(broker, "--homes", broker.path("homes"), "--replace")
        assert answer.status == 78
        assert f"line {number}" in answer.err
    assert "user gw-b\n" in broker.path("m/acl").read_text()


def test_an_empty_list_of_homes_lets_no_home_in(broker):
    broker.path("homes").write_text("")
    assert config(broker, "--homes", broker.path("homes")).status == 0
    text = broker.path("m/acl").read_text()
    assert "pattern" not in text
    assert "gw-" not in text
    assert "user centre" in text


def test_the_brokers_files_are_replaced_only_when_asked(broker):
    assert config(broker).status == 0
    answer = config(broker, "--port", 1)
    assert answer.status == 1
    assert "--replace" in answer.err
    assert config(broker, "--port", 1, "--replace").status == 0
    assert "listener 1 0.0.0.0" in broker.path("m/mosquitto.conf").read_text()


def test_the_brokers_certificate_must_be_of_the_ca_and_the_key_its_own(broker):
    broker.well("ca", "new", "--out", broker.path("other"))
    broker.well("ca", "issue-broker", "localhost", "--ca", broker.path("other"), "--out", broker.path("o"))
    assert config(broker, ca="other/ca.pem").status == 78
    assert config(broker, key="o/key.pem").status == 78
    broker.path("b/key.pem").chmod(0o644)
    assert config(broker).status == 78
    assert not broker.path("m").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--address", "::1\nallow_anonymous true"), ("--address", "a b"), ("--port", "0"), ("--port", "65536"),
        ("--user", "root\nallow_anonymous true"), ("--user", ""),
    ],
)  # fmt: skip
def test_nothing_breaks_out_of_its_line(broker, words):
    assert config(broker, *words).status == 78
    assert not broker.path("m").exists()


def test_a_path_with_a_newline_is_refused(broker):
    place = broker.path("x\nallow_anonymous true")
    place.mkdir()
    answer = broker(
        "broker-config", "--out", place, "--ca", broker.path("b/ca.pem"), "--cert", broker.path("b/cert.pem"),
        "--key", broker.path("b/key.pem"),
    )  # fmt: skip
    assert answer.status == 78
    assert list(place.iterdir()) == []


def test_every_command_has_a_help_that_says_what_it_does(ceremony):
    for words in (
        (), ("root",), ("root", "new"), ("issuer", "new"), ("trust",), ("trust", "sign"), ("trust", "show"), ("grant",),
        ("revoke",), ("rotate-root",), ("rotate-issuer",), ("broker-config",), ("ca",), ("ca", "new"),
        ("ca", "issue-gateway"), ("ca", "issue-centre"), ("ca", "issue-broker"),
    ):  # fmt: skip
        answer = ceremony(*words, "--help")
        assert answer.status == 0
        assert len(answer.out) > 150


@pytest.mark.parametrize(
    "words",
    [
        ("ca", "issue-centre", "--ca", "nowhere", "--out", "x"),
        ("revoke", "--previous", "nowhere", "--root", "nowhere", "--out", "x"),
        ("trust", "show", "nowhere", "--known-root", "nowhere"),
    ],
)
def test_a_file_that_is_missing_is_named_in_one_line(ceremony, monkeypatch, words):
    monkeypatch.chdir(ceremony.directory)
    answer = ceremony(*words)
    assert answer.status == 1
    assert "nowhere" in answer.err
    assert answer.err.count("\n") == 1
