"""Refusals and errors: a closed list, sorted by what the catcher must do, with nothing for the peer but a code."""

import re
from pathlib import Path

import pytest

from gateway.core import error
from gateway.core.refusal import RefusalCode, RefusedError

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
KINDS = (error.UntrustedInputError, error.TransientError, error.HardwareFaultError, error.ConfigError)


def test_codes_are_words_that_fit_a_ledger_record_and_a_frame():
    assert all(re.fullmatch(r"[a-z-]{1,40}", code.value) for code in RefusalCode)
    assert len({code.value for code in RefusalCode}) == len(RefusalCode)


def test_the_protocol_document_names_every_code():
    # Mutation: a code added to RefusalCode alone.
    told = PROTOCOL.read_text()
    assert [code.value for code in RefusalCode if code.value not in told] == []


def test_a_refusal_keeps_its_detail_from_the_code_and_knows_nobody_until_told():
    refused = RefusedError(RefusalCode.BUSY, "a check is running")
    assert refused.code is RefusalCode.BUSY
    assert (refused.re, refused.who) == (None, None)
    assert "a check is running" in str(refused)
    assert "a check is running" not in refused.code.value
    assert str(RefusedError(RefusalCode.BUSY)) == "busy"


@pytest.mark.parametrize("kind", [kind for kind in vars(error).values() if isinstance(kind, type)])
def test_every_error_says_what_its_catcher_must_do(kind):
    assert kind is error.GatewayError or issubclass(kind, KINDS)
    assert sum(issubclass(kind, one) for one in KINDS) <= 1


def test_a_refusal_is_untrusted_input():
    assert issubclass(RefusedError, error.UntrustedInputError)
