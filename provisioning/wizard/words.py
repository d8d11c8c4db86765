"""The wizard's words. English in the code; a language is a catalogue in locale/<code>/LC_MESSAGES/setup.po.

A third language needs its catalogue and nothing else: it is found by its folder.
"""

from __future__ import annotations

import gettext
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from gateway.core.catalogue import compile_po

LOCALE: Final = Path(__file__).parent / "locale"
Say = Callable[[str], str]


def later(message: str) -> str:
    """Mark a message that stands in a table and is translated where it is used."""
    return message


@cache
def languages() -> tuple[str, ...]:
    """Codes of what there is: English, and each catalogue."""
    found = sorted(path.parent.parent.name for path in LOCALE.glob("*/LC_MESSAGES/setup.po"))
    return ("en", *found)


@cache
def say_in(language: str) -> Say:
    """The catalogue's function; English for a code that has no catalogue."""
    if language == "en" or language not in languages():
        return gettext.NullTranslations().gettext
    text = (LOCALE / language / "LC_MESSAGES" / "setup.po").read_text(encoding="utf-8")
    return gettext.GNUTranslations(io.BytesIO(compile_po(text))).gettext


def language_for(accept: str) -> str:
    """The first of a browser's languages that we have, else Swedish: the service is a Swedish one."""
    for each in accept.split(","):
        code = each.partition(";")[0].strip().partition("-")[0].lower()
        if code in languages():
            return code
    return "sv"


LINES: Final = {
    "dns": (later("Names are found"), later("The network does not answer questions for names. Try another network.")),
    "centre": (
        later("The centre answers"),
        later(
            "The centre can't be reached. If other pages open on this network, call the centre; else try another one."
        ),
    ),
    "time": (
        later("The clock is right"),
        later("The device's clock is wrong. Wait a minute and test again; it sets itself when the network lets it."),
    ),
    "broker": (
        later("The message line is open"),
        later("The network closes the message line (port 8883 outward). Use the mobile router instead."),
    ),
    "relay": (
        later("The picture's relay answers"),
        later("The network closes the way of the picture (UDP outward). Use the mobile router instead."),
    ),
    "loss-percent": (
        later("Few packets are lost (percent)"),
        later("Too many packets are lost. Move the device or the router, or use the cable."),
    ),
    "width-kbps": (
        later("The line is wide enough (kbit/s)"),
        later("The line is too narrow for a picture. Use another network, or the mobile router nearer to a window."),
    ),
}
"""What a line of the test is called, and what to do when it is not good."""

NOT_TRIED: Final = "not tried"
"""Value of a line that could not be tried, because one before it is bad: there is nothing to be done about it."""
VALUES: Final = {
    "none": later("none here"),
    "not measured": later("not measured"),
    NOT_TRIED: later("not tried"),
    "not told": later("not told"),
    "connect": later("no answer"),
    "answer": later("no answer"),
    "tls": later("no secure connection"),
    "certificate": later("another certificate"),
    "broken off": later("broken off"),
    "wifi": later("Wi-Fi"),
    "ethernet": later("cable"),
    "mobile": later("mobile router"),
}
"""What stands beside a result, where it is a word; in the signed protocol it stays as it is."""


PROTOCOL_LINES: Final = {
    **{name: words for name, (words, _) in LINES.items()},
    "network": later("Network"),
    "information-read": later("The information was read together"),
    "consent-resident": later("The resident's consent"),
    "consent-cohabitant": later("Consent of who else lives here"),
    "loan-receipt": later("Number of the loan's receipt"),
    "key-receipt": later("Key tag"),
    "aim-deg": later("Aim of the camera (degrees)"),
    "room-dark": later("The bed was seen in the dark"),
    "lamp-seen": later("The resident saw the lamp"),
    "noise-heard": later("The camera turned quietly"),
    "check-frames": later("Pictures in the real check"),
    "check-s": later("Length of the real check (s)"),
    "test-alarm": later("The test alarm was answered"),
}
"""What a line of the protocol is called on the resident's paper; in the signed protocol it is the name."""

UNMEASURED: Final = frozenset({"none", "not measured"})
"""Values of a line of which nothing was found out, because there is nothing here to find out: neither good nor bad."""


def decimal_in(language: str, number: float) -> str:
    """One decimal, as it is written in that language: English with a point, every other with a comma."""
    text = f"{number:.1f}"
    return text if language == "en" else text.replace(".", ",")


def value_in(say: Say, value: str) -> str:
    """A line's value for a person."""
    return say(VALUES[value]) if value in VALUES else value.removesuffix(" off")


JOININGS: Final = {
    "wrong-password": later("The password is not right. Nothing was saved; try again."),
    "not-found": later("The network is not in sight any more. Look again, or move the device."),
    "no-address": later(
        "The network let the device in, but gave it no address. Restart the router, or choose another."
    ),
    "portal": later(
        "This network wants somebody to log in on a web page, which no device can. Choose another network."
    ),
    "no-cable": later("There is no cable in the device, or nothing at its other end."),
    "too-slow": later("The network did not answer in time. Move the device nearer to the router, or choose another."),
    "failed": later("The network did not let the device in."),
}

REFUSALS: Final = {
    "code-wrong": later("The installer's code is not right. Read it again from the centre's message."),
    "code-expired": later("The installer's code is too old. Ask the centre for a new one."),
    "code-used": later("The installer's code was used by another device. Ask the centre for a new one, and tell them."),
    "connect": later("The centre can't be reached now. Test the line, then try again."),
    "certificate": later("What answers at the centre's address is not the centre. Do not go on; call the centre."),
    "guard": later("The device does not answer itself yet. Wait a moment, then try again."),
    "other": later("The centre did not take it. Call the centre."),
}

PREVIEWS: Final = {
    "busy": later("The camera is in use. Wait until it is up, then try again."),
    "paused": later("The resident has paused the camera. It stays off."),
    "withdrawn": later("The resident has withdrawn the consent. The camera stays off."),
    "camera-fault": later("The camera does not work."),
    "mount-fault": later("It can't turn further this way."),
    "other": later("The camera did not open. Wait until it is up, then try again."),
}

TROUBLES: Final = {
    "fields": later("Something is missing or can't be read. Look at each line once more."),
    "not-up": later(
        "The camera is not up. Do not leave it like this: wait, look, and call the centre if it stays down."
    ),
    "consent-refused": later(
        "The device does not take this consent: it is of another day or device, or was used. Ask for a new one."
    ),
    "centre-silent": later(
        "The centre has not said yet that the codes are the same. Read yours to them once more, then press again."
    ),
}
