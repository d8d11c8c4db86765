"""The label on the device's underside, as PDF for the printer and as PNG to look at.

Two QR codes: the wizard's address with the pin of its key, and the device's own access point. In words: the host name,
the set-up code, the access point, and the certificate's SHA-256 as a browser shows it. One layout serves both forms.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import reportlab
import segno
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from provisioning.factory.stub import Stub
from provisioning.factory.word import in_groups

WIDTH_MM: Final = 90.0
HEIGHT_MM: Final = 60.0
QR_MM: Final = 27.0
DOTS_PER_MM: Final = 12
_POINT_MM: Final = 25.4 / 72


@dataclass(frozen=True, slots=True)
class Text:
    """`x` and `y` of the left end of the base line, from the upper left corner."""

    x_mm: float
    y_mm: float
    size_pt: float
    words: str
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """A QR code with its quiet zone, `QR_MM` wide."""

    x_mm: float
    y_mm: float
    content: str


def address(stub: Stub) -> str:
    """What the first QR code says. The pin is behind `#`: a browser does not send it to anybody."""
    return f"https://{stub.setup.host}.local/#pin-sha256={stub.pin}"


def access_point(stub: Stub) -> str:
    """What the second says, as phones' cameras take it. Nothing in our names needs escaping."""
    return f"WIFI:T:WPA;S:{stub.contact.ssid};P:{stub.contact.ap_key};;"


def layout(stub: Stub) -> Iterator[Text | Code]:
    """Everything on the label."""
    yield Text(4, 7, 10, "tillsyn", is_bold=True)
    yield Text(24, 7, 7, "set-up / installation")
    yield Code(2, 9, address(stub))
    yield Code(61, 9, access_point(stub))
    yield Text(31, 14, 6, "1  Wi-Fi")
    yield Text(31, 18, 8, stub.contact.ssid, is_bold=True)
    yield Text(31, 22, 8, stub.contact.ap_key)
    yield Text(31, 27, 6, "2  Address / adress")
    yield Text(31, 31, 7, f"https://{stub.setup.host}.local", is_bold=True)
    yield Text(31, 36, 6, "3  Set-up code / kod")
    yield Text(4, 43, 15, in_groups(stub.code), is_bold=True)
    yield Text(61, 43, 6, stub.setup.gateway)
    yield Text(4, 48, 6, "Compare before you type the code / jämför innan koden skrivs:  SHA-256")
    groups = [stub.fingerprint[start : start + 4].upper() for start in range(0, 64, 4)]
    yield Text(4, 52, 8, " ".join(groups[:8]))
    yield Text(4, 56, 8, " ".join(groups[8:]))


def as_pdf(stub: Stub) -> bytes:
    """One page of the label's size."""
    page = io.BytesIO()
    for name in ("Vera", "VeraBd"):
        pdfmetrics.registerFont(TTFont(name, _font(name)))
    canvas = Canvas(page, pagesize=(WIDTH_MM * mm, HEIGHT_MM * mm), invariant=True)
    canvas.setTitle("tillsyn")
    for item in layout(stub):
        match item:
            case Text():
                canvas.setFont("VeraBd" if item.is_bold else "Vera", item.size_pt)
                canvas.drawString(item.x_mm * mm, (HEIGHT_MM - item.y_mm) * mm, item.words)
            case Code():
                for x_mm, y_mm, size_mm in _modules(item):
                    canvas.rect(
                        x_mm * mm, (HEIGHT_MM - y_mm - size_mm) * mm, size_mm * mm, size_mm * mm, stroke=0, fill=1
                    )
    canvas.showPage()
    canvas.save()
    return page.getvalue()


def as_png(stub: Stub) -> bytes:
    """The same at 12 dots a millimetre (305 dpi)."""
    picture = Image.new("1", (round(WIDTH_MM * DOTS_PER_MM), round(HEIGHT_MM * DOTS_PER_MM)), 1)
    draw: Any = ImageDraw.Draw(picture)
    for item in layout(stub):
        match item:
            case Text():
                font = ImageFont.truetype(
                    _font("VeraBd" if item.is_bold else "Vera"), item.size_pt * _POINT_MM * DOTS_PER_MM
                )
                place = (item.x_mm * DOTS_PER_MM, item.y_mm * DOTS_PER_MM)
                draw.text(place, item.words, font=font, fill=0, anchor="ls")
            case Code():
                for x_mm, y_mm, size_mm in _modules(item, whole_dots=True):
                    corner = (round(x_mm * DOTS_PER_MM), round(y_mm * DOTS_PER_MM))
                    side = round(size_mm * DOTS_PER_MM) - 1
                    draw.rectangle((*corner, corner[0] + side, corner[1] + side), fill=0)
    page = io.BytesIO()
    picture.save(page, "PNG", dpi=(DOTS_PER_MM * 25.4, DOTS_PER_MM * 25.4))
    return page.getvalue()


def _font(name: str) -> str:
    """The face that ReportLab brings along: both renderers have it, with å, ä and ö."""
    return str(Path(reportlab.__file__).parent / "fonts" / f"{name}.ttf")


def _modules(code: Code, *, whole_dots: bool = False) -> Iterator[tuple[float, float, float]]:
    """(x, y, size) of each dark module in mm; with `whole_dots` each is as wide as the others on a pixel grid."""
    rows = [list(row) for row in segno.make(code.content, error="m", micro=False).matrix_iter(border=3)]
    size_mm = QR_MM / len(rows)
    if whole_dots:
        size_mm = int(size_mm * DOTS_PER_MM) / DOTS_PER_MM
    for number, row in enumerate(rows):
        for place, is_dark in enumerate(row):
            if is_dark:
                yield code.x_mm + place * size_mm, code.y_mm + number * size_mm, size_mm
