"""Keys in a real PKCS #11 token (SoftHSM): what it signs is believed like any other, and it never gives the key out.

Mutations that turn a test here red (provisioning/authority/token_pkcs11.py):
* EXTRACTABLE True → test_a_key_made_in_the_token_can_not_be_taken_out
* drop the search for the name in `generate` → test_no_key_of_a_token_is_overwritten
* sign `data` instead of its digest → test_statements_signed_in_a_token_are_believed
* drop the check of the curve → test_a_key_of_another_kind_is_refused
* drop the check under the public key in `sign` → test_two_halves_that_are_no_pair_are_noticed
* allow `pin-value` → test_a_pin_on_the_command_line_is_refused_and_not_repeated
* `_session` without `close` → test_two_keys_of_one_token_sign_one_statement
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_authority_files import Ceremony

from gateway.core.error import ConfigError
from gateway.protocol.envelope import make_trust, sign, verify_command
from gateway.protocol.key import SigningKey, VerifyingKey
from gateway.protocol.message import Challenge, audience
from provisioning.authority import token_pkcs11
from provisioning.authority.error import AuthorityError

pytestmark = pytest.mark.slow

TOKEN = "tillsyn test"
PIN = "471100"
MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """SoftHSM's library, with a fresh token. Its configuration is read once in a process, so it is made once."""
    found = next((path for path in MODULES if Path(path).is_file()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        pytest.fail("no SoftHSM on this machine; `make apt-test` installs it (apt-get install softhsm2)")
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    (place / "softhsm2.conf").write_text(f"directories.tokendir = {place}/tokens\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(place / "softhsm2.conf"))
        for label in (TOKEN, "twin", "twin"):
            subprocess.run(
                ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "0815471100"],
                check=True, capture_output=True,
            )  # fmt: skip
        yield Path(found)


@pytest.fixture
def hsm(module, tmp_path, capfd):
    """A ceremony with a PIN in a file."""
    made = Ceremony(tmp_path, capfd)
    made.path("pin").write_text(PIN + "\n")
    made.path("pin").chmod(0o600)
    made.module = module
    made.name = tmp_path.name
    return made


def uri(hsm, name, *, token="tillsyn%20test", pin="pin"):
    source = f"&pin-source=file:{hsm.path(pin)}" if pin else ""
    return f"pkcs11:token={token};object={hsm.name}-{name}?module-path={hsm.module}{source}"


def new(hsm, word, name):
    """A key in the token, and its JWK in a file."""
    answer = hsm.well(word, "new", "--token", uri(hsm, name))
    hsm.path(f"{name}.jwk").write_text(answer.out)
    return VerifyingKey.from_jwk(json.loads(answer.out))


def begun(hsm):
    root, issuer = new(hsm, "root", "r1"), new(hsm, "issuer", "i1")
    hsm.well(
        "trust", "sign", "--root", uri(hsm, "r1"), "--issuer", hsm.path("i1.jwk"), "--version", 1, "--epoch", 0,
        "--out", hsm.path("trust-1.jws"),
    )  # fmt: skip
    return root, issuer


def session(hsm, **kwargs):
    import pkcs11

    return pkcs11, pkcs11.lib(str(hsm.module)).get_token(token_label=TOKEN).open(user_pin=PIN, **kwargs)


def test_statements_signed_in_a_token_are_believed(hsm):
    root, issuer = begun(hsm)
    trust = make_trust(hsm.path("trust-1.jws").read_bytes(), {root.kid: root})
    assert set(trust.issuers) == {issuer.kid}
    person = SigningKey.generate()
    hsm.path("person.jwk").write_text(json.dumps(person.verifying.jwk()))
    grant = hsm.well(
        "grant", "--issuer", uri(hsm, "i1"), "--jwk", hsm.path("person.jwk"), "--who", "op-7", "--role", "operator",
        "--home", "gw-a", "--hours", 1, "--epoch", 0,
    ).out.strip()  # fmt: skip
    command = grant.encode() + b"~" + sign(Challenge(aud=audience("gw-a", 1), jti="j-1"), person)
    verified = verify_command(command, trust, audience=audience("gw-a", 1), gateway="gw-a", groups=frozenset())
    assert verified.who == "op-7"


def test_two_keys_of_one_token_sign_one_statement(hsm):
    old, issuer = begun(hsm)
    fresh = new(hsm, "root", "r2")
    hsm.well(
        "rotate-root", "--root", uri(hsm, "r1"), "--new-root", uri(hsm, "r2"), "--previous", hsm.path("trust-1.jws"),
        "--out", hsm.path("trust-2.jws"),
    )  # fmt: skip
    trust = make_trust(hsm.path("trust-2.jws").read_bytes(), {old.kid: old})
    assert set(trust.roots) == {fresh.kid}
    assert set(trust.issuers) == {issuer.kid}


def test_a_root_in_a_file_hands_over_to_one_in_the_token(hsm):
    root, _ = hsm.key("root", "file")
    _, issuer = hsm.key("issuer", "i")
    hsm.well(
        "trust",
        "sign",
        "--root",
        root,
        "--issuer",
        issuer,
        "--version",
        1,
        "--epoch",
        0,
        "--out",
        hsm.path("trust-1.jws"),
    )
    fresh = new(hsm, "root", "r2")
    hsm.well(
        "rotate-root", "--root", root, "--new-root", uri(hsm, "r2"), "--previous", hsm.path("trust-1.jws"),
        "--out", hsm.path("trust-2.jws"),
    )  # fmt: skip
    assert set(make_trust(hsm.path("trust-2.jws").read_bytes(), hsm.held("file")).roots) == {fresh.kid}


def test_a_key_made_in_the_token_can_not_be_taken_out(hsm):
    new(hsm, "root", "r1")
    pkcs11, opened = session(hsm)
    with opened:
        key = opened.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label=f"{hsm.name}-r1")
        assert key[pkcs11.Attribute.EXTRACTABLE] is False
        assert key[pkcs11.Attribute.NEVER_EXTRACTABLE] is True
        assert key[pkcs11.Attribute.SENSITIVE] is True
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]
    assert not any(b"PRIVATE" in hsm.path(name).read_bytes() for name in hsm.files())


def test_no_key_of_a_token_is_overwritten(hsm):
    first = new(hsm, "root", "r1")
    answer = hsm("root", "new", "--token", uri(hsm, "r1"))
    assert answer.status == 1
    assert "never overwritten" in answer.err
    assert token_pkcs11.open_token_signer(token_pkcs11.parse(uri(hsm, "r1"))).verifying == first


def refused_statement(hsm, root, status=78):
    """Ask for the next statement with this root; it must be refused and nothing written."""
    before = hsm.files()
    answer = hsm("revoke", "--root", root, "--previous", hsm.path("trust-1.jws"), "--out", hsm.path("trust-2.jws"))
    assert answer.status == status, answer.err
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert hsm.files() == before
    return answer.err


def test_a_wrong_pin_is_refused_and_nothing_is_written(hsm):
    begun(hsm)
    hsm.path("wrong").write_text("471101")
    hsm.path("wrong").chmod(0o600)
    said = refused_statement(hsm, uri(hsm, "r1", pin="wrong"))
    assert "wrong PIN" in said
    assert "471101" not in said


def test_a_missing_key_or_token_is_refused_and_nothing_is_written(hsm):
    begun(hsm)
    assert "no such private key" in refused_statement(hsm, uri(hsm, "r9"))
    assert "no token" in refused_statement(hsm, uri(hsm, "r1", token="another"))
    assert "2 tokens" in refused_statement(hsm, uri(hsm, "r1", token="twin"))
    assert "module-path" in refused_statement(hsm, f"pkcs11:token=x;object=y?module-path={hsm.path('none.so')}")
    hsm.path("text.so").write_text("no library")
    assert "does not load" in refused_statement(
        hsm, f"{uri(hsm, 'r1')}".replace(str(hsm.module), str(hsm.path("text.so")))
    )


def _plant(hsm, name, key_type, parameters):
    pkcs11, opened = session(hsm, rw=True)
    with opened:
        if key_type == "RSA":
            opened.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, label=f"{hsm.name}-{name}", id=name.encode())
            return
        curve = opened.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: bytes.fromhex(parameters)}, local=True
        )
        curve.generate_keypair(store=True, label=f"{hsm.name}-{name}", id=name.encode())


@pytest.mark.parametrize(("key_type", "parameters"), [("RSA", ""), ("EC", "06052b81040022")], ids=["rsa", "p384"])
def test_a_key_of_another_kind_is_refused(hsm, key_type, parameters):
    begun(hsm)
    _plant(hsm, "odd", key_type, parameters)
    assert "not a P-256 key" in refused_statement(hsm, uri(hsm, "odd"))


def test_two_keys_of_one_name_are_told_apart_by_id_or_refused(hsm):
    begun(hsm)
    for _ in range(2):
        _plant(hsm, "same", "EC", "06082a8648ce3d030107")
    assert "2 private keys" in refused_statement(hsm, uri(hsm, "same"))


def test_two_halves_that_are_no_pair_are_noticed(hsm):
    """The public object could be anybody's; a signature is checked under it before it leaves."""
    new(hsm, "root", "r1")
    signer = token_pkcs11.open_token_signer(token_pkcs11.parse(uri(hsm, "r1")))
    other = SigningKey.generate().verifying
    crossed = token_pkcs11.TokenSigner(signer.address, other, PIN)
    with pytest.raises(AuthorityError, match="one pair"):
        crossed.sign(b"x")


@pytest.mark.parametrize(("mode", "content"), [(0o644, PIN), (0o600, ""), (0o600, f"{PIN}\n{PIN}\n"), (0o600, "\xff")])
def test_a_pin_file_that_others_may_read_or_that_holds_no_pin_is_refused(hsm, mode, content):
    begun(hsm)
    hsm.path("odd").write_bytes(content.encode("latin-1"))
    hsm.path("odd").chmod(mode)
    said = refused_statement(hsm, uri(hsm, "r1", pin="odd"))
    assert "odd" in said
    assert PIN not in said


def test_a_pin_on_the_command_line_is_refused_and_not_repeated(hsm):
    begun(hsm)
    said = refused_statement(hsm, f"{uri(hsm, 'r1', pin='')}&pin-value={PIN}")
    assert "pin-value is refused" in said
    assert PIN not in said


def test_the_pin_stays_out_of_what_is_printed(hsm):
    new(hsm, "root", "r1")
    assert PIN not in repr(token_pkcs11.open_token_signer(token_pkcs11.parse(uri(hsm, "r1"))))


def command(hsm):
    return [sys.executable, "-m", "gateway.cli", "authority", "root", "new", "--token", uri(hsm, "asked", pin="")]


def test_without_a_terminal_and_a_file_nobody_waits_for_a_pin(hsm):
    done = subprocess.run(
        command(hsm), stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 78
    assert "pin-source" in done.stderr


def test_the_pin_is_asked_for_at_the_terminal_and_not_shown(hsm):
    child, terminal = pty.fork()
    if child == 0:
        words = command(hsm)
        os.execv(words[0], words)
    seen, answered, ends = b"", False, time.monotonic() + 60
    while time.monotonic() < ends:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux's word for the end of a pseudo-terminal
            break
        if not piece:
            break
        seen += piece
        if not answered and b"PIN of token" in seen:
            os.write(terminal, PIN.encode() + b"\n")
            answered = True
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert answered
    assert PIN.encode() not in seen
    assert b"New root key" in seen


# URIs


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:", "pkcs11:token=a", "pkcs11:object=a", "pkcs11:token=a;object=b",
        "pkcs11:token=a;object=b?module-path=x.so",
        "pkcs11:token=a;object=b;type=public?module-path=/x", "pkcs11:token=a;token=b;object=c?module-path=/x",
        "pkcs11:token=a;object=b?module-path=/x&module-path=/y", "pkcs11:token=a b;object=c?module-path=/x",
        "pkcs11:token=a;object=b;slot-id=1?module-path=/x", "pkcs11:token=%zz;object=b?module-path=/x",
        "pkcs11:token=%ff;object=b?module-path=/x", "pkcs11:token=;object=b?module-path=/x",
        "pkcs11:token=a;object=b?module-path=/x&pin-source=|cat", "pkcs11:token=a;object=b?module-path=/x&pin-source=",
        "pkcs11:token=a;object=b?module-path=/x&pin-source=https://h/p",
        "pkcs11:token=a;object=b?module-path=/x&pin-value=1",
        "pkcs11:token=a;object=b?module-path=/x&PIN-VALUE=1",
    ],
)  # fmt: skip
def test_a_uri_that_is_not_understood_whole_is_refused(text):
    with pytest.raises(ConfigError):
        token_pkcs11.parse(text)


def test_a_uri_names_token_key_and_pin_file():
    address = token_pkcs11.parse(
        "pkcs11:token=My%20token;object=r%C3%A5t;id=%01%02;type=private;serial=9?module-path=/l/x.so&pin-source=file:///p/q"
    )
    assert (address.token, address.label, address.id, address.serial) == ("My token", "råt", b"\x01\x02", "9")
    assert (address.module, address.pin_source) == (Path("/l/x.so"), Path("/p/q"))
    for source in ("file:/p/q", "/p/q"):
        again = token_pkcs11.parse(f"pkcs11:token=a;object=b?module-path=/x&pin-source={source}")
        assert again.pin_source == Path("/p/q")
