"""What the resident keeps on paper: the receipts, and the installation's protocol. PDF, in the language of the set-up.

No name and no address is printed: there is a line to write them on. Large print, because it is read at home.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final
from xml.sax.saxutils import escape

import reportlab
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from gateway.protocol.message import ProtocolLine
from provisioning.wizard.machine import Progress, protocol_lines
from provisioning.wizard.words import PROTOCOL_LINES, UNMEASURED, Say, decimal_in, value_in

BODY_PT: Final = 14
# The face that ReportLab brings along, with å, ä and ö; a paragraph asks for it when it is made.
for _face in ("Vera", "VeraBd"):
    pdfmetrics.registerFont(TTFont(_face, f"{reportlab.__path__[0]}/fonts/{_face}.ttf"))
    pdfmetrics.registerFontFamily(_face, normal=_face, bold="VeraBd", italic=_face, boldItalic="VeraBd")
_BODY: Final = ParagraphStyle("body", fontName="Vera", fontSize=BODY_PT, leading=20, spaceAfter=8)
_CELL: Final = ParagraphStyle("cell", parent=_BODY, fontSize=10, leading=13, spaceAfter=0)
_HEAD: Final = ParagraphStyle("head", parent=_BODY, fontName="VeraBd", fontSize=20, leading=26, spaceAfter=14)


def receipts(say: Say, progress: Progress, *, gateway: str, date: str) -> bytes:
    """The loan's receipt, and the keys' where any were handed over."""
    story: list[Any] = [
        Paragraph(say("Receipt: a camera on loan"), _HEAD),
        Paragraph(say("The device is lent to the resident and stays the property of the service."), _BODY),
        _facts(((say("Device"), gateway), (say("Receipt"), progress.loan or ""), (say("Date"), date))),
        Spacer(1, 10 * mm),
        *_signatures(say),
    ]
    if progress.key_tags:
        story += [
            Spacer(1, 14 * mm),
            Paragraph(say("Receipt: keys"), _HEAD),
            Paragraph(say("The service has received keys to the home. They are kept under these tags:"), _BODY),
            _facts(tuple((say("Key tag"), tag) for tag in progress.key_tags)),
            Spacer(1, 10 * mm),
            *_signatures(say),
        ]
    return _page(story, say("Receipts"))


def protocol(say: Say, progress: Progress, *, gateway: str, date: str, sha256: str | None, language: str) -> bytes:
    """Every line of the installation that the device has signed, in words."""
    rows = [
        [Paragraph(cell, _CELL) for cell in (_name(say, line), _how(say, line), _result(say, line), value)]
        for line in protocol_lines(progress)
        for value in (_value(say, line, language),)
    ]
    table = Table(
        [[say("Line"), say("How"), say("Result"), say("Value")], *rows],
        colWidths=[62 * mm, 26 * mm, 22 * mm, 50 * mm],
        hAlign="LEFT",
        repeatRows=1,
    )
    table.setStyle(
        TableStyle(
            [
                ("FONT", (0, 0), (-1, 0), "VeraBd", 10),
                ("FONT", (0, 1), (-1, -1), "Vera", 10),
                ("LINEBELOW", (0, 0), (-1, -1), 0.4, "#888888"),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ]
        )
    )
    story: list[Any] = [
        Paragraph(say("Protocol of the installation"), _HEAD),
        _facts(((say("Device"), gateway), (say("Date"), date))),
        Spacer(1, 6 * mm),
        table,
        Spacer(1, 6 * mm),
    ]
    if sha256 is not None:
        story.append(Paragraph(say("Signed by the device. SHA-256 of the signed protocol:"), _BODY))
        story.append(Paragraph(f"{sha256[:32]}<br/>{sha256[32:]}", _BODY))
    return _page(story, say("Protocol of the installation"))


def _name(say: Say, line: ProtocolLine) -> str:
    return escape(say(PROTOCOL_LINES.get(line.name, line.name)))


def _how(say: Say, line: ProtocolLine) -> str:
    if line.value in UNMEASURED:
        return "-"
    return {"measured": say("measured"), "ticked": say("ticked off"), "recorded": say("recorded")}[line.how]


def _result(say: Say, line: ProtocolLine) -> str:
    if line.value in UNMEASURED:
        return "-"
    return say("good") if line.is_good else say("not good")


def _value(say: Say, line: ProtocolLine, language: str) -> str:
    value = value_in(say, line.value or "")
    return escape(decimal_in(language, float(value)) if re.fullmatch(r"[0-9]+\.[0-9]", value) else value)


def _facts(rows: tuple[tuple[str, str], ...]) -> Table:
    table = Table([list(row) for row in rows], colWidths=[50 * mm, 110 * mm], hAlign="LEFT")
    table.setStyle(TableStyle([("FONT", (0, 0), (-1, -1), "Vera", BODY_PT), ("BOTTOMPADDING", (0, 0), (-1, -1), 6)]))
    return table


def _signatures(say: Say) -> list[Any]:
    return [
        Paragraph(f"{say('Resident')}: ______________________________", _BODY),
        Spacer(1, 6 * mm),
        Paragraph(f"{say('Installer')}: ______________________________", _BODY),
    ]


def _page(story: list[Any], title: str) -> bytes:
    page = io.BytesIO()
    SimpleDocTemplate(page, pagesize=A4, title=title, author="tillsyn", invariant=1).build(story)
    return page.getvalue()
