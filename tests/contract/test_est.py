"""Enrolment by EST (RFC 7030): our client against our server, each against OpenSSL, and what must be refused.

There is no living independent EST implementation to be had from the registries, so the other side is made of
independent pieces: curl and `openssl req|pkcs7|x509` against our server; a plain HTTPS server whose CA is
`openssl x509 -req` and whose PKCS#7 is `openssl crl2pkcs7` against our client.

Mutations that turn safety tests red:

* `claim_enrolment_code` without its comparison of `spki_sha256`: test_a_code_that_was_used_buys_no_second_key.
* no counting of tries: test_after_five_wrong_codes_the_right_one_is_void.
* `read_csr` without `signed`: test_a_request_that_its_key_did_not_sign_is_refused.
* `_demand_ours` without `verify_directly_issued_by`: test_a_certificate_of_another_ca_is_not_taken.
* `_register` without `issued_certificate`: test_the_certificate_of_an_earlier_installation_registers_nothing.
* `_renew` without `is_same`: test_nobody_renews_before_the_codes_were_compared.
* `_tunnel` without `given`: test_a_home_gets_the_tunnel_for_its_own_key_and_the_next_free_address.
* `_registered` comparing two keys of three: the same.
* `serve` without `clients_of`: test_a_client_of_another_ca_is_not_let_in.
"""

from __future__ import annotations

import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from est_support import GATEWAY, EstCentre, est_centre, keys_of

from centre.config import EstTunnelConfig
from centre.est import peers
from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.tunnel_key import new_private_key, public_key
from provisioning.authority.tunnel_config import Peer, parse_peers
from provisioning.authority.x509 import CertificateAuthority, private_pem
from provisioning.enrolment import pkcs
from provisioning.enrolment.est_client import EstClient, Identity, UnreachableError
from provisioning.enrolment.renewal import PAIR_FILE, due, read_pair, renew, write_pair
from provisioning.enrolment.word import EnrolmentRefusedError, Keys, Place, decode, encode, short_code

pytestmark = pytest.mark.slow

CENTRE_KEY = public_key(new_private_key())


@pytest.fixture(scope="module")
def centre(tmp_path_factory) -> Iterator[EstCentre]:
    with est_centre(tmp_path_factory.mktemp("est")) as running:
        yield running


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def enrolled(centre: EstCentre, *, compared: bool | None = True) -> tuple[Identity, Keys]:
    """A device that went the whole way; `compared` is what the centre's side said of the codes."""
    key, keys = new_key(), keys_of()
    identity = Identity(centre.client().enrol(GATEWAY, key, centre.code()), key)
    place = centre.client().with_identity(identity).register(keys)
    if compared is not None:
        assert centre.store.compare_enrolment(GATEWAY, place.install_epoch, is_same=compared, who="in-1")
        if compared:
            known = centre.store.newest_enrolment(GATEWAY)
            assert known is not None
            centre.desk.admit(known)
    return identity, keys


def refused_with(code: str):
    return pytest.raises(EnrolmentRefusedError, match=f"^{code}$")


# The way as it should be


def test_a_device_enrols_and_both_ends_show_the_same_short_code(centre):
    key, keys = new_key(), keys_of()
    client = centre.client()
    assert client.cacerts() == [centre.authority.certificate]
    certificate = client.enrol(GATEWAY, key, centre.code())
    identity = Identity(certificate, key)
    place = client.with_identity(identity).register(keys)
    here = short_code(certificate_der=certificate.public_bytes(serialization.Encoding.DER), keys=keys, place=place)
    known = centre.store.newest_enrolment(GATEWAY)
    assert known is not None
    assert known.short_code == here
    assert client.with_identity(identity).standing().compared is None
    assert (place.gateway, place.groups, place.broker.port) == (GATEWAY, ["g-1"], 8883)


def test_the_short_code_changes_with_everything_that_crossed(centre):
    identity, keys = enrolled(centre)
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    known = centre.store.newest_enrolment(GATEWAY)
    assert known is not None
    place = decode(known.place_json.encode(), Place)
    codes = {
        short_code(certificate_der=der, keys=keys, place=place),
        short_code(certificate_der=der + b"x", keys=keys, place=place),
        short_code(certificate_der=der, keys=keys_of(), place=place),
        short_code(
            certificate_der=der,
            keys=keys,
            place=decode(encode(place).replace(b'"install_epoch":', b'"install_epoch":9'), Place),
        ),
    }
    assert len(codes) == 4


def test_each_installation_has_an_epoch_of_its_own(centre):
    epochs = []
    for _ in range(2):
        enrolled(centre)
        known = centre.store.newest_enrolment(GATEWAY)
        assert known is not None
        epochs.append(known.install_epoch)
    assert epochs[1] == epochs[0] + 1


def test_an_answer_that_was_lost_is_given_again_to_the_same_key(centre):
    key, code = new_key(), centre.code()
    first = centre.client().enrol(GATEWAY, key, code)
    assert centre.client().enrol(GATEWAY, key, code) == first
    keys, device = keys_of(), centre.client().with_identity(Identity(first, key))
    assert device.register(keys) == device.register(keys)
    with refused_with("other-keys"):
        device.register(keys_of())


# The tunnel and the witness


@pytest.fixture
def tunnelled(centre) -> Iterator[EstCentre]:
    """The same centre with a tunnel of two addresses for homes, and a witness."""
    before = centre.desk.config, centre.desk.witness
    tunnel = EstTunnelConfig(
        "10.90.128.0/30", ["10.90.128.1"], CENTRE_KEY, "centre.example.org", 51820, "192.0.2.7", "192.0.2.8"
    )
    centre.desk.config = msgspec.structs.replace(before[0], tunnel=tunnel)
    centre.desk.witness = "tillsyn/centre+12345678+AAAA"
    yield centre
    centre.desk.config, centre.desk.witness = before


def registered(centre: EstCentre, gateway: str, tunnel_key: str | None) -> tuple[Identity, Keys, Place]:
    key, keys = new_key(), msgspec.structs.replace(keys_of(gateway), tunnel_key=tunnel_key)
    identity = Identity(centre.client().enrol(gateway, key, centre.code(gateway)), key)
    return identity, keys, centre.client().with_identity(identity).register(keys)


def test_a_home_gets_the_tunnel_for_its_own_key_and_the_next_free_address(tunnelled):
    home_key = public_key(new_private_key())
    identity, keys, place = registered(tunnelled, "gw-tunnel-one", home_key)
    assert place.witness == "tillsyn/centre+12345678+AAAA"
    assert place.tunnel is not None
    settings = place.tunnel.settings
    assert (settings.version, settings.address, settings.centre_key) == (1, "10.90.128.2", CENTRE_KEY)
    assert place.tunnel.home_key == home_key
    assert place.tunnel.fallback is not None
    assert place.tunnel.fallback.relay_host == "192.0.2.8"
    # Asked again it is the same; with another key for the tunnel it is another device.
    again = tunnelled.client().with_identity(identity)
    assert again.register(keys) == place
    with refused_with("other-keys"):
        again.register(msgspec.structs.replace(keys, tunnel_key=public_key(new_private_key())))
    # The network is full, and no address is given twice.
    key = new_key()
    identity = Identity(tunnelled.client().enrol("gw-tunnel-two", key, tunnelled.code("gw-tunnel-two")), key)
    keys = msgspec.structs.replace(keys_of("gw-tunnel-two"), tunnel_key=public_key(new_private_key()))
    with refused_with("no-address"):
        tunnelled.client().with_identity(identity).register(keys)
    # A device without a tunnel has a place all the same.
    assert registered(tunnelled, "gw-tunnel-none", None)[2].tunnel is None
    # The centre's end gets those whose codes were the same, in the form that the authority reads.
    assert peers(tunnelled.store.enrolments()) == ""
    assert tunnelled.store.compare_enrolment("gw-tunnel-one", place.install_epoch, is_same=True, who="in-1")
    text = peers(tunnelled.store.enrolments())
    assert parse_peers(text, network="10.90.128.0/30") == [Peer("gw-tunnel-one", home_key, "10.90.128.2")]


def test_the_short_code_covers_tunnel_and_witness(tunnelled):
    identity, keys, place = registered(tunnelled, "gw-tunnel-code", None)
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    other_witness = msgspec.structs.replace(place, witness="tillsyn/centre+12345678+BBBB")
    codes = {short_code(certificate_der=der, keys=keys, place=each) for each in (place, other_witness)}
    codes.add(
        short_code(
            certificate_der=der,
            keys=msgspec.structs.replace(keys, tunnel_key=public_key(new_private_key())),
            place=place,
        )
    )
    assert len(codes) == 3


# Codes


def test_a_code_that_was_used_buys_no_second_key(centre):
    code = centre.code()
    centre.client().enrol(GATEWAY, new_key(), code)
    with refused_with("code-used"):
        centre.client().enrol(GATEWAY, new_key(), code)


def test_after_five_wrong_codes_the_right_one_is_void(centre):
    code = centre.code()
    for wrong in ("7KQ2XR9MVD", "8KQ2XR9MVD", "9KQ2XR9MVD", "AKQ2XR9MVD", "BKQ2XR9MVD"):
        with refused_with("code-wrong"):
            centre.client().enrol(GATEWAY, new_key(), wrong)
    with refused_with("code-wrong"):
        centre.client().enrol(GATEWAY, new_key(), code)


def test_an_expired_code_is_refused(centre):
    code = centre.code()
    centre.clock[0] += 3 * 3600
    with refused_with("code-expired"):
        centre.client().enrol(GATEWAY, new_key(), code)


def test_a_gateway_that_has_no_code_hears_what_a_wrong_code_hears(centre):
    with refused_with("code-wrong"):
        centre.client().enrol("gw-nobody", new_key(), "7KQ2XR9MVD")


# Requests


def test_a_request_under_another_name_is_refused(centre):
    key, code = new_key(), centre.code()
    with pytest.raises(EnrolmentRefusedError, match="wrong-device"):
        post_csr(centre, pkcs.make_csr("gw-other", key), code)
    centre.client().enrol(GATEWAY, key, code)  # and the code is still good


def post_csr(centre: EstCentre, der: bytes, code: str) -> bytes:
    import base64

    login = base64.b64encode(f"{GATEWAY}:{code}".encode()).decode()
    return centre.client()._ask(
        "POST", "/.well-known/est/simpleenroll", pkcs.to_base64(der), {"Authorization": f"Basic {login}"}, limit=65536
    )


def test_a_request_that_its_key_did_not_sign_is_refused(centre):
    der = bytearray(pkcs.make_csr(GATEWAY, new_key()))
    der[-1] ^= 1
    with pytest.raises(RefusedError) as refused:
        pkcs.read_csr(bytes(der))
    assert refused.value.code is RefusalCode.BAD_SIGNATURE
    with pytest.raises(EnrolmentRefusedError, match="bad-signature"):
        post_csr(centre, bytes(der), centre.code())


@pytest.mark.parametrize("size", [0, 1, 8193, 100_000])
def test_a_request_of_any_other_size_is_refused(size, centre):
    with pytest.raises(EnrolmentRefusedError):
        post_csr(centre, b"\x30" * size, centre.code())


def test_a_request_for_another_kind_of_key_is_refused():
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, GATEWAY)])
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        der = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        with pytest.raises(RefusedError):
            pkcs.read_csr(der.public_bytes(serialization.Encoding.DER))


def test_what_a_request_asks_for_beside_its_name_is_not_given(centre):
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, GATEWAY)])
    der = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.example.org")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    (given,) = pkcs.read_certs(pkcs.from_base64(post_csr(centre, der, centre.code())))
    assert given.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    with pytest.raises(x509.ExtensionNotFound):
        given.extensions.get_extension_for_class(x509.SubjectAlternativeName)


# Who may


def test_a_client_of_another_ca_is_not_let_in(centre):
    other = CertificateAuthority.make("another CA")
    key = new_key()
    stranger = Identity(other.certify(GATEWAY, key.public_key()), key)
    with pytest.raises(UnreachableError):
        centre.client().with_identity(stranger).standing()


def test_without_a_certificate_nothing_is_said(centre):
    for ask in (centre.client().standing, lambda: centre.client().register(keys_of())):
        with refused_with("no-certificate"):
            ask()


def test_the_certificate_of_an_earlier_installation_registers_nothing(centre):
    old, _ = enrolled(centre)
    enrolled(centre)
    with refused_with("not-enrolled"):
        centre.client().with_identity(old).register(keys_of())
    with refused_with("not-enrolled"):
        centre.client().with_identity(old).standing()


def test_a_certificate_that_no_code_has_brought_registers_nothing(centre):
    key = new_key()
    made_by_the_ca = Identity(centre.authority.certify("gw-someone", key.public_key()), key)
    with refused_with("not-enrolled"):
        centre.client().with_identity(made_by_the_ca).register(keys_of("gw-someone"))


def test_a_ledger_key_of_another_home_is_refused(centre):
    key = new_key()
    identity = Identity(centre.client().enrol(GATEWAY, key, centre.code()), key)
    with refused_with("wrong-device"):
        centre.client().with_identity(identity).register(keys_of("gw-other"))


def test_a_device_whose_codes_differed_is_no_home(centre):
    identity, _ = enrolled(centre, compared=False)
    known = centre.store.newest_enrolment(GATEWAY)
    assert known is not None
    assert centre.client().with_identity(identity).standing().compared is False
    home = centre.desk.state.homes.get(GATEWAY)
    assert home is None or home.install_epoch != known.install_epoch
    with refused_with("not-enrolled"):
        centre.client().with_identity(identity).renew(GATEWAY, new_key())


def test_what_was_said_of_the_codes_is_not_said_twice(centre):
    enrolled(centre, compared=False)
    known = centre.store.newest_enrolment(GATEWAY)
    assert known is not None
    assert not centre.store.compare_enrolment(GATEWAY, known.install_epoch, is_same=True, who="in-1")


# The server that the device sees


def test_a_server_of_another_ca_is_not_believed(centre):
    other = CertificateAuthority.make("another CA")
    with pytest.raises(UnreachableError) as unreachable:
        EstClient(centre.url, other.pem()).cacerts()
    assert unreachable.value.step == "certificate"


def test_a_server_under_another_name_is_not_believed(centre, tmp_path):
    elsewhere = centre.authority.issue("other.example.org", server_names=("other.example.org",))
    with plain_server(tmp_path, elsewhere.certificate, elsewhere.key, {}) as url:
        with pytest.raises(UnreachableError) as unreachable:
            EstClient(url, centre.authority.pem()).cacerts()
        assert unreachable.value.step == "certificate"


def test_dates_are_looked_at_once_the_time_is_known(centre, tmp_path):
    """A device that knows no time takes a certificate that is over, and nothing else that is wrong with one."""
    past = expired(centre.authority)
    with plain_server(tmp_path, *past, {}) as url:
        with pytest.raises(UnreachableError, match="expired"):
            EstClient(url, centre.authority.pem(), knows_time=True).cacerts()
        with pytest.raises(EnrolmentRefusedError):  # the connection stands; there is just nothing at that path
            EstClient(url, centre.authority.pem(), knows_time=False).cacerts()
        with pytest.raises(UnreachableError):
            EstClient(url, CertificateAuthority.make("another CA").pem(), knows_time=False).cacerts()


def test_an_answer_without_end_is_cut_off(centre, tmp_path):
    server = centre.authority.issue("localhost", server_names=("localhost",))
    pages = {"/.well-known/est/cacerts": b"A" * (2 * pkcs.MAX_ANSWER_BYTES)}
    with plain_server(tmp_path, server.certificate, server.key, pages) as url, pytest.raises(RefusedError):
        EstClient(url, centre.authority.pem()).cacerts()


# Renewal


def test_renewal_is_due_at_two_thirds_of_life_and_not_before(centre, tmp_path):
    identity, _ = enrolled(centre)
    write_pair(tmp_path, identity)
    moment = due(identity.certificate)
    life = identity.certificate.not_valid_after_utc - identity.certificate.not_valid_before_utc
    assert moment.at == identity.certificate.not_valid_before_utc + life * 2 / 3
    assert renew(tmp_path, centre.client(), now=moment.at - timedelta(seconds=1)) is None
    assert read_pair(tmp_path).certificate == identity.certificate
    assert renew(tmp_path, centre.client(), now=moment.at) is not None
    fresh = read_pair(tmp_path)
    assert fresh.key.private_numbers() != identity.key.private_numbers()
    assert fresh.certificate.serial_number != identity.certificate.serial_number
    assert (tmp_path / PAIR_FILE).stat().st_mode & 0o777 == 0o600
    # The old one is worth nothing at the desk any more, the new one is.
    with refused_with("not-enrolled"):
        centre.client().with_identity(identity).standing()
    assert centre.client().with_identity(fresh).standing().compared is True


def test_a_renewal_that_is_refused_leaves_the_old_pair(centre, tmp_path):
    identity, _ = enrolled(centre)
    write_pair(tmp_path, identity)
    enrolled(centre)  # set up anew elsewhere in the meantime
    before = (tmp_path / PAIR_FILE).read_bytes()
    with refused_with("not-enrolled"):
        renew(tmp_path, centre.client(), now=due(identity.certificate).at)
    assert (tmp_path / PAIR_FILE).read_bytes() == before


def test_nobody_renews_before_the_codes_were_compared(centre):
    identity, _ = enrolled(centre, compared=None)
    with refused_with("not-enrolled"):
        centre.client().with_identity(identity).renew(GATEWAY, new_key())


# OpenSSL and curl on the other side


def openssl(*words: str, given: bytes | None = None) -> bytes:
    return subprocess.run(["openssl", *words], input=given, check=True, capture_output=True).stdout


def test_openssl_and_curl_enrol_at_our_server(centre, tmp_path):
    (tmp_path / "ca.pem").write_bytes(centre.authority.pem())
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(tmp_path / "key.pem"))
    csr = openssl("req", "-new", "-key", str(tmp_path / "key.pem"), "-subj", f"/CN={GATEWAY}", "-outform", "DER")
    (tmp_path / "csr.b64").write_bytes(openssl("base64", given=csr))
    curl = ["curl", "-sS", "--fail", "--tlsv1.3", "--cacert", str(tmp_path / "ca.pem")]
    taken = subprocess.run(
        [*curl, "--user", f"{GATEWAY}:{centre.code()}", "-H", "Content-Type: application/pkcs10", "--data-binary",
         f"@{tmp_path / 'csr.b64'}", f"{centre.url}/.well-known/est/simpleenroll"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem = openssl("pkcs7", "-inform", "DER", "-print_certs", given=openssl("base64", "-d", given=taken.stdout))
    (tmp_path / "cert.pem").write_bytes(pem)
    told = openssl("verify", "-purpose", "sslclient", "-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "cert.pem"))
    assert told.strip().endswith(b": OK")
    assert f"CN = {GATEWAY}".encode() in openssl("x509", "-in", str(tmp_path / "cert.pem"), "-noout", "-subject")
    public = openssl("x509", "-in", str(tmp_path / "cert.pem"), "-noout", "-pubkey")
    assert public == openssl("pkey", "-in", str(tmp_path / "key.pem"), "-pubout")
    cacerts = subprocess.run([*curl, f"{centre.url}/.well-known/est/cacerts"], check=True, capture_output=True)
    told = openssl("pkcs7", "-inform", "DER", "-print_certs", given=openssl("base64", "-d", given=cacerts.stdout))
    assert x509.load_pem_x509_certificate(told) == centre.authority.certificate


def test_our_client_enrols_at_a_server_made_of_openssl(tmp_path):
    """CA, signature and PKCS#7 are OpenSSL's; the HTTPS server is the standard library's."""
    run = tmp_path
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(run / "ca-key.pem"))
    openssl("req", "-x509", "-new", "-key", str(run / "ca-key.pem"), "-subj", "/CN=OpenSSL CA", "-days", "30", "-out",
            str(run / "ca.pem"))  # fmt: skip
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(run / "srv-key.pem"))
    (run / "ext").write_text("subjectAltName=DNS:localhost\n")
    csr = openssl("req", "-new", "-key", str(run / "srv-key.pem"), "-subj", "/CN=localhost")
    sign_by = ["x509", "-req", "-CA", str(run / "ca.pem"), "-CAkey", str(run / "ca-key.pem"), "-CAcreateserial"]
    server = openssl(*sign_by, "-days", "20", "-extfile", str(run / "ext"), given=csr)

    def enrol(body: bytes) -> bytes:
        request = openssl("req", "-inform", "DER", given=openssl("base64", "-d", given=body.replace(b"\r", b"")))
        openssl("req", "-verify", "-noout", given=request)
        (run / "leaf.pem").write_bytes(openssl(*sign_by, "-days", "20", given=request))
        return openssl(
            "base64", given=openssl("crl2pkcs7", "-nocrl", "-certfile", str(run / "leaf.pem"), "-outform", "DER")
        )

    cacerts = openssl(
        "base64", given=openssl("crl2pkcs7", "-nocrl", "-certfile", str(run / "ca.pem"), "-outform", "DER")
    )
    pages = {"/.well-known/est/cacerts": cacerts, "/.well-known/est/simpleenroll": enrol}
    with plain_server(run, server, (run / "srv-key.pem").read_bytes(), pages) as url:
        client = EstClient(url, (run / "ca.pem").read_bytes())
        assert [one.subject.rfc4514_string() for one in client.cacerts()] == ["CN=OpenSSL CA"]
        key = new_key()
        certificate = client.enrol(GATEWAY, key, "7KQ2XR9MVD")
        assert certificate.public_key() == key.public_key()


def test_a_certificate_of_another_ca_is_not_taken(centre, tmp_path):
    """The server is ours by its certificate, and gives out what another CA has signed."""
    other, key = CertificateAuthority.make("another CA"), new_key()
    server = centre.authority.issue("localhost", server_names=("localhost",))
    leaf = other.certify(GATEWAY, key.public_key())
    pages = {"/.well-known/est/simpleenroll": lambda _body: pkcs.to_base64(pkcs.certs_only([leaf]))}
    with (
        plain_server(tmp_path, server.certificate, server.key, pages) as url,
        pytest.raises(RefusedError) as refused,
    ):
        EstClient(url, centre.authority.pem()).enrol(GATEWAY, key, "7KQ2XR9MVD")
    assert refused.value.code is RefusalCode.BAD_SIGNATURE


def test_a_certificate_for_another_key_is_not_taken(centre, tmp_path):
    server = centre.authority.issue("localhost", server_names=("localhost",))
    leaf = centre.authority.certify(GATEWAY, new_key().public_key())
    pages = {"/.well-known/est/simpleenroll": lambda _body: pkcs.to_base64(pkcs.certs_only([leaf]))}
    with (
        plain_server(tmp_path, server.certificate, server.key, pages) as url,
        pytest.raises(RefusedError) as refused,
    ):
        EstClient(url, centre.authority.pem()).enrol(GATEWAY, new_key(), "7KQ2XR9MVD")
    assert refused.value.code is RefusalCode.UNKNOWN_KEY


@pytest.mark.parametrize("rubbish", [b"", b"\x30\x00", b"\x30\x80" * 1000, os.urandom(300), b"MIIB"])
def test_rubbish_in_the_place_of_pkcs7_is_refused(rubbish):
    with pytest.raises(RefusedError):
        pkcs.read_certs(rubbish)


# The other side, in the small


@contextmanager
def plain_server(folder: Path, certificate: bytes, key: bytes, pages: dict) -> Iterator[str]:
    """An HTTPS server on the standard library: path → content, or a function from the request's body to one."""
    (folder / "server.pem").write_bytes(certificate + b"\n" + key)

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            page = pages.get(self.path)
            content = page(body) if callable(page) else page
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that does not like our certificate

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with Quiet(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"https://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def expired(authority: CertificateAuthority) -> tuple[bytes, bytes]:
    key, now = new_key(), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=20))
        .not_valid_after(now - timedelta(days=10))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)
