"""The chain of trust as the authority signs it: each statement follows the one before, and a device takes it.

Mutations that turn a test here red (provisioning/authority/trust_statement.py unless said):
* `put.version <= previous.version` → `<` → test_a_version_that_is_not_above_the_previous_is_refused
* drop the check of the epoch → test_an_epoch_below_the_previous_is_refused
* `sign_with(put, second)` with `root` in its place → test_a_chain_of_three_roots…
* `read_previous` believing the statement's own roots → test_a_previous_statement_that_somebody_made_up_is_refused
* drop `coming - {…}` → test_a_root_that_comes_must_sign_itself
* drop the comparison of the two payloads → test_a_previous_statement_with_a_foreign_first_half_is_refused
* act.py: `_revoke` with epoch + 0 → test_a_revocation_kills_every_earlier_grant
* act.py: `rotate-root` keeps the old root → test_a_chain_of_three_roots…
* act.py: drop `out.exists()` and let `write_public` replace → test_no_statement_is_overwritten
* gateway/cli.py: `joined` returns its argument → test_a_root_whose_thumbprint_begins_with_a_dash_can_be_dropped
* drop `if previous is None: … version != 1` → test_only_the_first_statement_has_no_predecessor
"""

from __future__ import annotations

import json
import time

import pytest
from test_authority_files import Ceremony, private

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol.envelope import make_trust, sign, verify_command
from gateway.protocol.key import SigningKey
from gateway.protocol.message import Challenge, Close, TrustPut, audience

pytestmark = pytest.mark.slow

HOME = "gw-a1"


@pytest.fixture
def ceremony(tmp_path, capfd):
    return Ceremony(tmp_path, capfd)


@pytest.fixture
def begun(ceremony):
    """A root, an issuer, and the first statement."""
    ceremony.key("root", "r1")
    ceremony.key("issuer", "i1")
    first(ceremony, "--version", 1, "--epoch", 0)
    return ceremony


def first(ceremony, *words, out="trust-1.jws"):
    return ceremony(
        "trust", "sign", "--root", ceremony.path("r1/root.pem"), "--issuer", ceremony.path("i1/issuer.jwk"),
        "--out", ceremony.path(out), *words,
    )  # fmt: skip


def follow(ceremony, *words, root="r1", previous="trust-1.jws", out="trust-2.jws", act=("trust", "sign")):
    return ceremony(
        *act, "--root", ceremony.path(f"{root}/root.pem"), "--previous", ceremony.path(previous),
        "--out", ceremony.path(out), *words,
    )  # fmt: skip


def test_a_first_statement_is_believed_by_a_device_with_its_root(begun):
    trust = make_trust(begun.path("trust-1.jws").read_bytes(), begun.held("r1"))
    assert (trust.version, trust.epoch) == (1, 0)
    assert set(trust.issuers) == {private(begun.path("i1/issuer.pem")).verifying.kid}


def test_a_chain_of_three_roots_is_followed_step_by_step_and_by_no_shortcut(begun):
    begun.key("root", "r2")
    begun.key("root", "r3")
    told = follow(begun, "--new-root", begun.path("r2/root.pem"), act=("rotate-root",))
    assert told.status == 0, told.err
    assert "Both keys sign" in told.err
    assert "GOES" in told.err
    assert "COMES" in told.err
    last = follow(
        begun, "--new-root", begun.path("r3/root.pem"), act=("rotate-root",), root="r2", previous="trust-2.jws",
        out="trust-3.jws",
    )  # fmt: skip
    assert last.status == 0, last.err
    second, third = (begun.path(f"trust-{number}.jws").read_bytes() for number in (2, 3))

    trust = make_trust(second, begun.held("r1"))
    assert trust.version == 2
    assert set(trust.roots) == set(begun.held("r2"))
    trust = make_trust(third, trust.roots)
    assert trust.version == 3
    assert set(trust.roots) == set(begun.held("r3"))
    for statement, roots in ((third, "r1"), (second, "r2"), (second, "r3"), (third.split(b"~")[0], "r2")):
        with pytest.raises(RefusedError):
            make_trust(statement, begun.held(roots))


def test_after_a_rotation_the_new_root_signs_alone_and_the_old_one_no_more(begun):
    begun.key("root", "r2")
    assert follow(begun, "--new-root", begun.path("r2/root.pem"), act=("rotate-root",)).status == 0
    refused = follow(begun, act=("revoke",), root="r1", previous="trust-2.jws", out="trust-3.jws")
    assert refused.status == 1
    assert "none that the devices hold" in refused.err
    assert follow(begun, act=("revoke",), root="r2", previous="trust-2.jws", out="trust-3.jws").status == 0
    third = begun.path("trust-3.jws").read_bytes()
    assert b"~" not in third
    assert make_trust(third, begun.held("r2")).epoch == 1


def test_two_roots_may_stand_side_by_side_and_one_be_dropped_later(begun):
    begun.key("root", "r2")
    assert follow(begun, "--new-root", begun.path("r2/root.pem"), "--keep-old", act=("rotate-root",)).status == 0
    both = make_trust(begun.path("trust-2.jws").read_bytes(), begun.held("r1")).roots
    assert set(both) == set(begun.held("r1", "r2"))
    (gone,) = begun.held("r2")
    answer = follow(
        begun, "--version", 3, "--epoch", 0, "--drop-root", gone, "--known-root", begun.path("r2/root.jwk"),
        previous="trust-2.jws", out="trust-3.jws",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert set(make_trust(begun.path("trust-3.jws").read_bytes(), both).roots) == set(begun.held("r1"))


def test_a_root_whose_thumbprint_begins_with_a_dash_can_be_dropped(begun):
    for number in range(2_000):  # one key in 64
        begun.key("root", f"d{number}")
        (gone,) = begun.held(f"d{number}")
        if gone.startswith("-"):
            break
    assert gone.startswith("-")
    root = f"d{number}"
    assert follow(begun, "--new-root", begun.path(f"{root}/root.pem"), "--keep-old", act=("rotate-root",)).status == 0
    answer = follow(
        begun, "--version", 3, "--epoch", 0, "--drop-root", gone, "--known-root", begun.path(f"{root}/root.jwk"),
        previous="trust-2.jws", out="trust-3.jws",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    both = make_trust(begun.path("trust-2.jws").read_bytes(), begun.held("r1")).roots
    assert set(make_trust(begun.path("trust-3.jws").read_bytes(), both).roots) == set(begun.held("r1"))


def test_a_spare_root_of_the_first_statement_can_take_over_alone(begun):
    begun.key("root", "r2")
    assert first(
        begun, "--version", 1, "--epoch", 0, "--also-root", begun.path("r2/root.jwk"), out="spare.jws"
    ).status == 0  # fmt: skip
    (lost,) = begun.held("r1")
    answer = follow(
        begun, "--version", 2, "--epoch", 0, "--drop-root", lost, "--known-root", begun.path("r1/root.jwk"),
        root="r2", previous="spare.jws",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    trust = make_trust(begun.path("trust-2.jws").read_bytes(), begun.held("r1", "r2"))
    assert set(trust.roots) == set(begun.held("r2"))


@pytest.mark.parametrize("version", [1, 0, -1, 2**31 + 1])
def test_a_version_that_is_not_above_the_previous_is_refused(begun, version):
    assert follow(begun, "--version", version, "--epoch", 0).status == 1
    assert not begun.path("trust-2.jws").exists()


def test_an_epoch_below_the_previous_is_refused(begun):
    assert follow(begun, act=("revoke",)).status == 0
    answer = follow(begun, "--version", 3, "--epoch", 0, previous="trust-2.jws", out="trust-3.jws")
    assert answer.status == 1
    assert "epoch" in answer.err
    assert not begun.path("trust-3.jws").exists()


@pytest.mark.parametrize("words", [("--version", 1002, "--epoch", 0), ("--version", 2, "--epoch", 1001)])
def test_a_slip_that_could_never_be_taken_back_is_refused(begun, words):
    answer = follow(begun, *words)
    assert answer.status == 1
    assert "never be lowered" in answer.err


def test_only_the_first_statement_has_no_predecessor(begun):
    answer = first(begun, "--version", 2, "--epoch", 0, out="trust-2.jws")
    assert answer.status == 1
    assert "--previous" in answer.err
    assert not begun.path("trust-2.jws").exists()


def test_new_roots_need_the_old_key_and_the_new_one(begun):
    begun.key("root", "r2")
    (old,) = begun.held("r1")
    without_new = follow(begun, "--version", 2, "--epoch", 0, "--drop-root", old)
    assert without_new.status == 1
    new_alone = follow(
        begun, "--version", 2, "--epoch", 0, "--drop-root", old, "--known-root", begun.path("r1/root.jwk"), root="r2"
    )
    assert new_alone.status == 1
    assert not begun.path("trust-2.jws").exists()


def test_a_second_key_where_the_roots_stay_is_refused(begun):
    answer = follow(begun, "--version", 2, "--epoch", 0, "--new-root", begun.path("r1/root.pem"))
    assert answer.status == 1
    assert "Leave --new-root out" in answer.err


def test_a_root_that_comes_must_sign_itself():
    from provisioning.authority.error import AuthorityError
    from provisioning.authority.trust_statement import compose, sign_statement

    old, new, issuer = (SigningKey.generate() for _ in range(3))
    previous = compose(version=1, epoch=0, roots=[old.verifying], issuers=[issuer.verifying])
    put = compose(version=2, epoch=0, roots=[old.verifying, new.verifying], issuers=[issuer.verifying])
    with pytest.raises(AuthorityError, match="must sign too"):
        sign_statement(put, previous, old, None)
    with pytest.raises(AuthorityError, match="must sign too"):
        sign_statement(put, previous, old, old)
    assert set(make_trust(sign_statement(put, previous, old, new), {old.verifying.kid: old.verifying}).roots) == {
        old.verifying.kid, new.verifying.kid,
    }  # fmt: skip


def test_a_previous_statement_that_somebody_made_up_is_refused(begun):
    """Else whoever swaps that one file has his issuer signed by the root."""
    root, stranger, issuer = private(begun.path("r1/root.pem")), SigningKey.generate(), SigningKey.generate()
    made_up = TrustPut(
        version=7, epoch=0, roots=[root.verifying.jwk(), stranger.verifying.jwk()], issuers=[issuer.verifying.jwk()]
    )
    begun.path("made-up.jws").write_bytes(sign(made_up, stranger))
    answer = follow(begun, act=("revoke",), previous="made-up.jws")
    assert answer.status == 1
    assert "--known-root" in answer.err
    assert not begun.path("trust-2.jws").exists()


def test_a_previous_statement_of_two_contents_is_refused(begun):
    root, stranger = private(begun.path("r1/root.pem")), SigningKey.generate()
    keys = {"roots": [root.verifying.jwk(), stranger.verifying.jwk()], "issuers": [stranger.verifying.jwk()]}
    begun.path("two.jws").write_bytes(
        sign(TrustPut(version=2, epoch=0, **keys), root) + b"~" + sign(TrustPut(version=3, epoch=0, **keys), stranger)
    )
    assert follow(begun, act=("revoke",), previous="two.jws").status == 1


def test_a_previous_statement_with_a_foreign_first_half_is_refused(begun):
    begun.key("root", "r2")
    assert follow(begun, "--new-root", begun.path("r2/root.pem"), act=("rotate-root",)).status == 0
    first_half = begun.path("trust-1.jws").read_bytes()
    begun.path("odd.jws").write_bytes(first_half + b"~" + begun.path("trust-2.jws").read_bytes().split(b"~")[1])
    answer = follow(begun, act=("revoke",), root="r2", previous="odd.jws", out="trust-3.jws")
    assert answer.status == 1
    assert "different statements" in answer.err


@pytest.mark.parametrize("spoil", [lambda raw: raw + b"\n", lambda raw: raw[:-1], lambda raw: raw * 3, lambda raw: b""])
def test_a_spoilt_previous_statement_is_refused(begun, spoil):
    begun.path("spoilt.jws").write_bytes(spoil(begun.path("trust-1.jws").read_bytes()))
    assert follow(begun, act=("revoke",), previous="spoilt.jws").status == 1


def test_a_key_is_a_root_or_an_issuer_and_stands_there_once(begun):
    answer = first(begun, "--version", 1, "--epoch", 0, "--issuer", begun.path("r1/root.jwk"), out="x.jws")
    assert answer.status == 1
    answer = first(begun, "--version", 1, "--epoch", 0, "--issuer", begun.path("i1/issuer.jwk"), out="x.jws")
    assert answer.status == 1
    assert not begun.path("x.jws").exists()


def test_no_statement_is_overwritten(begun):
    before = begun.path("trust-1.jws").read_bytes()
    answer = first(begun, "--version", 1, "--epoch", 0)
    assert answer.status == 1
    assert "exists" in answer.err
    assert begun.path("trust-1.jws").read_bytes() == before


# Grants under the chain


def grant_of(ceremony, person, *, issuer="i1", epoch=0, role="operator"):
    jwk = ceremony.path("person.jwk")
    jwk.write_text(json.dumps(person.verifying.jwk()))
    answer = ceremony.well(
        "grant", "--issuer", ceremony.path(f"{issuer}/issuer.pem"), "--jwk", jwk, "--who", "op-7", "--role", role,
        "--home", HOME, "--hours", 8, "--epoch", epoch,
    )  # fmt: skip
    return answer.out.strip().encode()


def ask(grant, person, trust, message=Challenge):
    extra = {"check": "c-1"} if message is Close else {}
    command = grant + b"~" + sign(message(aud=audience(HOME, 1), jti="j-1", **extra), person)
    return verify_command(command, trust, audience=audience(HOME, 1), gateway=HOME, groups=frozenset())


def trust_of(ceremony, number, root="r1"):
    return make_trust(ceremony.path(f"trust-{number}.jws").read_bytes(), ceremony.held(root))


def test_a_revocation_kills_every_earlier_grant_and_none_that_comes_after(begun):
    person = SigningKey.generate()
    earlier = grant_of(begun, person)
    assert ask(earlier, person, trust_of(begun, 1)).who == "op-7"
    told = follow(begun, act=("revoke",))
    assert told.status == 0, told.err
    assert "grant_epoch = 1" in told.err
    with pytest.raises(RefusedError) as refused:
        ask(earlier, person, trust_of(begun, 2))
    assert refused.value.code is RefusalCode.UNKNOWN_KEY
    assert ask(earlier, person, trust_of(begun, 2), Close).who == "op-7"
    assert ask(grant_of(begun, person, epoch=1), person, trust_of(begun, 2)).who == "op-7"


@pytest.mark.parametrize("keep", [(), ("--keep-old",)])
def test_a_rotated_issuer_grants_and_the_old_one_only_where_it_was_kept(begun, keep):
    begun.key("issuer", "i2")
    person = SigningKey.generate()
    told = follow(begun, "--issuer", begun.path("i2/issuer.jwk"), *keep, act=("rotate-issuer",))
    assert told.status == 0, told.err
    assert "Rotation of the issuing key" in told.err
    trust = trust_of(begun, 2)
    assert ask(grant_of(begun, person, issuer="i2"), person, trust).who == "op-7"
    if keep:
        assert ask(grant_of(begun, person), person, trust).who == "op-7"
    else:
        with pytest.raises(RefusedError):
            ask(grant_of(begun, person), person, trust)


def test_what_a_statement_says_is_shown_only_under_a_root_that_is_named(begun):
    shown = begun.well("trust", "show", begun.path("trust-1.jws"), "--known-root", begun.path("r1/root.jwk"))
    assert json.loads(shown.out)["roots"] == list(begun.held("r1"))
    roots = begun.well("trust", "show", begun.path("trust-1.jws"), "--roots", "--known-root", begun.path("r1/root.jwk"))
    assert make_trust(
        begun.path("trust-1.jws").read_bytes(),
        {key.kid: key for key in map(_key, json.loads(roots.out))},
    ).version == 1  # fmt: skip
    begun.key("root", "r2")
    assert begun("trust", "show", begun.path("trust-1.jws"), "--known-root", begun.path("r2/root.jwk")).status == 1


def _key(jwk):
    from gateway.protocol.key import VerifyingKey

    return VerifyingKey.from_jwk(jwk)


def test_a_grant_begins_a_little_before_now_and_ends_with_the_shift(begun):
    person = SigningKey.generate()
    before = time.time()
    grant = ask(grant_of(begun, person), person, trust_of(begun, 1)).grant
    assert before - 62 <= grant.nbf <= time.time() - 59
    assert grant.exp - grant.nbf == 8 * 3600
