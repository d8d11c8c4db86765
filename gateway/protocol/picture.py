"""What eye and page say beside the picture, on the check's data channel: JSON text messages, one closed struct a kind.

They come through DTLS from the process that holds the camera, so they are as authentic as the picture itself and are
not signed one by one. They describe the picture and never the person: no word here says that somebody was seen or not.
The browser's side is centre/static/picture.js. Source: docs/protocol.md, "Picture and lease".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from gateway.core.refusal import RefusalCode, RefusedError
from gateway.protocol import strict_json

MAX_WORD_BYTES: Final = 4096
"""A longer text is no word of ours, on either side."""

MAX_STILL_BYTES: Final = 32 * 1024

Number = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
CaptureUs = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""BOOTTIME at capture, in µs, as the camera's units have it; exact in a browser's numbers too."""


SignatureText = Annotated[str, Meta(pattern=r"^[0-7]{144}\Z")]
"""The text of a gateway.view.Signature: 9 rows of 16 tiles."""


class View(StrEnum):
    """What is to be said of a picture, in one word."""

    CLEAR = "clear"
    DARK = "dark"
    COVERED = "covered"
    BLURRED = "blurred"
    FROZEN = "frozen"
    MISAIMED = "misaimed"


class Aim(StrEnum):
    """How the camera's aim is known: compared with the picture at calibration, or only as it was commanded."""

    MEASURED = "measured"
    COMMANDED = "commanded"


class ViewSignal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The picture of about one second. `luma` is the mean, `contrast` the spread, of 0 to 1 from black to white."""

    t_us: CaptureUs
    view: View
    luma: Share
    contrast: Share
    sharpness: Share
    motion: Share
    aim: Aim


class PictureWord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all words; `kind` says which."""


class ViewWord(PictureWord, frozen=True, tag="view"):
    signal: ViewSignal


class Form(StrEnum):
    """What the picture is made of."""

    VIDEO = "video"
    STILLS = "stills"
    """The line carries no video; one JPEG a second follows its `still` word as a binary message."""


class FormWord(PictureWord, frozen=True, tag="form"):
    form: Form


class StillWord(PictureWord, frozen=True, tag="still"):
    """The next binary message is a JPEG of `size_bytes`, of a picture captured at `t_us`."""

    number: Number
    t_us: CaptureUs
    size_bytes: Annotated[int, Meta(ge=1, le=MAX_STILL_BYTES)]


class ClockWord(PictureWord, frozen=True, tag="clock"):
    """Answer to `ask-clock`: BOOTTIME now, and which RTP timestamp was captured at which BOOTTIME.

    From the round trip and `now_us` the page knows the eye's clock; from the other two, at 90 kHz and modulo 2³², when
    each picture of the video was taken. They are null until the first unit has left.
    """

    asked: Number
    now_us: CaptureUs
    rtp: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None
    rtp_us: CaptureUs | None


AnyWord = ViewWord | FormWord | StillWord | ClockWord
"""Every word of the eye; the table in centre/static/picture.js has the same."""


class AskClock(PictureWord, frozen=True, tag="ask-clock"):
    asked: Number


class StillShown(PictureWord, frozen=True, tag="still-shown"):
    """The page has put this still in front of the operator; the next one may come."""

    number: Number


PageWord = AskClock | StillShown
"""Every word of the page. They ask and acknowledge, and order nothing: what has an effect is signed."""


def encode(word: PictureWord) -> bytes:
    """One message's text, as UTF-8. Raises ValueError for one that is too long."""
    data = msgspec.json.encode(word)
    if len(data) > MAX_WORD_BYTES:
        raise ValueError(f"a word of {len(data)} bytes, at most {MAX_WORD_BYTES}")
    return data


def decode(untrusted: bytes) -> AnyWord:
    """A word of the eye. Raises RefusedError(malformed) for anything that is not exactly one of them."""
    word: AnyWord = _decode(untrusted, AnyWord)
    return word


def decode_page(untrusted: bytes) -> PageWord:
    """A word of the page. Raises RefusedError(malformed) for anything that is not exactly one of them."""
    word: PageWord = _decode(untrusted, PageWord)
    return word


def _decode(untrusted: bytes, union: Any) -> Any:
    value = strict_json.loads(untrusted, max_bytes=MAX_WORD_BYTES)
    try:
        return msgspec.convert(value, union)
    except msgspec.ValidationError as exc:
        raise RefusedError(RefusalCode.MALFORMED, str(exc)) from exc
