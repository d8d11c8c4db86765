"""The factory's stub and label. Mutations that turn safety tests red:

* `make_word` without `is_trivial`: test_a_trivial_word_is_thrown_away.
* the code itself in contact.json: test_the_code_is_on_the_label_and_nowhere_on_the_device.
* one salt for all: test_two_devices_share_nothing_but_the_centre.
* write contact.json among `public`: test_others_may_not_read_the_devices_secrets.
"""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pypdf
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from gateway.core.error import ConfigError
from provisioning.authority.x509 import CertificateAuthority
from provisioning.factory.label import access_point, address, as_pdf, as_png
from provisioning.factory.stub import Stub, make_stub, pin_of, read_stub
from provisioning.factory.word import ALPHABET, CODE_LENGTH, in_groups, is_trivial, make_word, read_word

AT = "https://centre.example.org:8444"


@pytest.fixture(scope="module")
def centre_ca() -> bytes:
    return CertificateAuthority.make("a CA").pem()


@pytest.fixture(scope="module")
def stub(centre_ca) -> Stub:
    return make_stub(enrol_at=AT, centre_ca=centre_ca)


def test_a_code_has_at_least_forty_random_bits():
    assert len(ALPHABET) == len(set(ALPHABET)) == 32
    assert CODE_LENGTH * 5 >= 40


@pytest.mark.parametrize("word", ["0000000000", "0123456789", "9876543210", "ABCDEABCDE", "AAAAABBBBB", "ACEGJMPRTW"])
def test_a_word_that_somebody_would_try_first_is_trivial(word):
    assert is_trivial(word)
    assert not is_trivial("7KQ2XR9MVD")


def test_a_trivial_word_is_thrown_away():
    good = "7KQ2XR9MVD"
    numbers = iter([0] * 10 + list(range(10)) + [ALPHABET.index(char) for char in good])
    assert make_word(10, lambda _: next(numbers)) == good


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("ABCDE-01234", "ABCDE01234"),
        (" abcde 01234 ", "ABCDE01234"),
        ("abcdeoil34", "ABCDE01134"),
        ("ABCDE0123", None),
        ("ABCDE012345", None),
        ("ABCDE0123U", None),
        ("ABCDE0123é", None),
        ("", None),
        (" " * 10_000 + "ABCDE01234", None),
    ],
)
def test_what_is_typed_is_read_with_slips_forgiven(typed, read):
    assert read_word(typed, 10) == read


@pytest.mark.slow
def test_the_code_is_on_the_label_and_nowhere_on_the_device(stub, tmp_path):
    stub.write(tmp_path / "factory")
    label = pypdf.PdfReader(io.BytesIO(as_pdf(stub))).pages[0].extract_text()
    assert in_groups(stub.code) in label
    for path in (tmp_path / "factory").iterdir():
        content = path.read_text()
        assert stub.code not in content
        assert in_groups(stub.code) not in content
    _, contact = read_stub(tmp_path / "factory")
    assert contact.is_code(stub.code)
    wrong = make_word(CODE_LENGTH)
    assert not contact.is_code(wrong)
    assert stub.code not in stub.register_line()


@pytest.mark.slow
def test_others_may_not_read_the_devices_secrets(stub, tmp_path):
    stub.write(tmp_path / "factory")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "factory").iterdir()}
    assert modes["setup-key.pem"] == modes["contact.json"] == 0o600
    (tmp_path / "factory" / "contact.json").chmod(0o644)
    with pytest.raises(ConfigError):
        read_stub(tmp_path / "factory")


@pytest.mark.slow
def test_two_devices_share_nothing_but_the_centre(centre_ca, tmp_path):
    trees: list[dict[str, str]] = []
    for name in ("one", "other"):
        make_stub(enrol_at=AT, centre_ca=centre_ca).write(tmp_path / name)
        tree: dict[str, str] = {}
        for path in (tmp_path / name).iterdir():
            if path.suffix == ".json":
                tree |= {f"{path.name}:{key}": value for key, value in json.loads(path.read_text()).items()}
            else:
                tree[path.name] = path.read_text()
        trees.append(tree)
    one, other = trees
    assert set(one) == set(other)
    same = {name for name in one if one[name] == other[name]}
    assert same == {"setup.json:enrol_at", "centre-ca.pem"}


@pytest.mark.slow
def test_the_label_names_the_certificate_that_the_device_shows(stub, tmp_path):
    stub.write(tmp_path / "factory")
    shown = x509.load_pem_x509_certificate((tmp_path / "factory" / "setup-cert.pem").read_bytes())
    text = pypdf.PdfReader(io.BytesIO(as_pdf(stub))).pages[0].extract_text()
    assert shown.fingerprint(hashes.SHA256()).hex().upper() in text.replace(" ", "").replace("\n", "")
    assert address(stub).endswith(pin_of(shown))
    assert json.loads(stub.register_line())["certificate_sha256"] == shown.fingerprint(hashes.SHA256()).hex()


def test_the_names_that_the_air_hears_say_nothing_of_the_gateway(stub):
    assert stub.setup.host.removeprefix("gw-") not in stub.setup.gateway
    assert stub.contact.ssid.removeprefix("tillsyn-") not in stub.setup.gateway
    assert stub.setup.gateway not in stub.certificate.subject.rfc4514_string()


@pytest.mark.parametrize("enrol_at", ["http://centre.example.org", "centre.example.org", "https://a b", ""])
def test_an_address_that_is_none_is_refused(enrol_at, centre_ca):
    with pytest.raises(ConfigError):
        make_stub(enrol_at=enrol_at, centre_ca=centre_ca)


@pytest.mark.slow
def test_a_scanner_reads_both_codes_of_the_label(stub, tmp_path):
    import subprocess

    (tmp_path / "label.png").write_bytes(as_png(stub))
    told = subprocess.run(
        ["zbarimg", "-q", "--raw", "--nodbus", str(tmp_path / "label.png")], check=True, capture_output=True, text=True
    )
    assert set(told.stdout.split()) == {address(stub), access_point(stub)}


def test_a_devices_directory_is_never_overwritten(stub, tmp_path: Path):
    stub.write(tmp_path / "factory")
    with pytest.raises(FileExistsError):
        stub.write(tmp_path / "factory")
