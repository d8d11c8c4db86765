"""Who sees the picture: one fingerprint, found by us exactly where the one who sends the picture finds it.

Mutations that turn a test here red (gateway/protocol/sdp.py):
* `line.lower().startswith` → `line.startswith` → tests/vectors/sdp/upper-case-attribute
* return at the first fingerprint → test_two_that_differ_are_refused_wherever_they_stand
* `splitlines()` → `split("\\r\\n")` → test_aiortc_finds_the_same_fingerprint
* `match[1].lower() != "sha-256"` dropped → tests/vectors/sdp/sha-512-only
* keep_sha256: keep every fingerprint → test_our_own_answer_keeps_one_fingerprint
"""

from __future__ import annotations

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protocol_support import FINGERPRINT, OTHER_FINGERPRINT, SHA512_FINGERPRINT, tried

from gateway.core.refusal import RefusalCode
from gateway.protocol.sdp import keep_sha256, only_fingerprint

HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
MEDIUM = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=setup:actpass\r\n"
OURS = f"a=fingerprint:sha-256 {FINGERPRINT}"
THEIRS = f"a=fingerprint:sha-256 {OTHER_FINGERPRINT}"
BREAKS = ["\r\n", "\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]


def refused(text: str) -> bool:
    code, _ = tried(lambda: only_fingerprint(text))
    assert code in ("accepted", RefusalCode.MALFORMED)
    return code != "accepted"


@pytest.mark.parametrize("line_break", BREAKS)
@pytest.mark.parametrize("where", ["session", "medium", "before"])
def test_two_that_differ_are_refused_wherever_they_stand(line_break, where):
    hidden = f"a=note:x{line_break}{THEIRS}\r\n"
    ours = OURS + "\r\n"
    text = {
        "session": HEAD + ours + hidden + MEDIUM,
        "medium": HEAD + ours + MEDIUM + hidden,
        "before": HEAD + hidden + MEDIUM + ours,
    }[where]
    assert refused(text)


LINES = st.lists(
    st.sampled_from(
        [
            OURS,
            OURS.replace(FINGERPRINT, FINGERPRINT.lower()),
            THEIRS,
            f"a=fingerprint:sha-512 {SHA512_FINGERPRINT}",
            " " + THEIRS,
            "A" + THEIRS[1:],
            THEIRS + " ",
            "a=note:" + THEIRS,
            "a=setup:active",
            "i=" + THEIRS,
            "",
        ]
    ),
    max_size=5,
)


@pytest.mark.slow
@given(session=LINES, medium=LINES, breaks=st.lists(st.sampled_from(BREAKS), min_size=12, max_size=12))
@settings(max_examples=400, deadline=None)
@example(session=[OURS], medium=[OURS], breaks=["\r\n"] * 12)
@example(session=[OURS, "a=setup:active", THEIRS], medium=[""], breaks=["\r\n", "\n", *["\r\n"] * 10])
def test_aiortc_finds_the_same_fingerprint(session, medium, breaks):
    """aiortc builds the tunnel, so what it reads is what counts."""
    joints = iter(breaks)
    text = HEAD + "".join(line + next(joints) for line in session)
    text += MEDIUM + "".join(line + next(joints) for line in medium)
    if refused(text):
        return
    found = only_fingerprint(text)
    parsed = SessionDescription.parse(text)
    for part in parsed.media:
        for fingerprint in part.dtls.fingerprints if part.dtls else []:
            assert (fingerprint.algorithm, fingerprint.value.upper()) == ("sha-256", found)


@pytest.mark.slow
@given(
    text=st.text(st.characters(), max_size=200) | st.text(st.sampled_from("a=fingerprint:sh-256 AF:\r\n"), max_size=90)
)
@settings(max_examples=200)
def test_arbitrary_text_is_refused_and_raises_nothing_else(text):
    assert refused(text)


def test_our_own_answer_keeps_one_fingerprint():
    others = f"a=fingerprint:sha-384 {OTHER_FINGERPRINT}\r\na=fingerprint:sha-512 {SHA512_FINGERPRINT}\r\n"
    answer = HEAD + MEDIUM + OURS + "\r\n" + others + "a=setup:active\r\n"
    assert refused(answer)
    kept = keep_sha256(answer)
    assert only_fingerprint(kept) == FINGERPRINT
    assert kept == HEAD + MEDIUM + OURS + "\r\na=setup:active\r\n"
