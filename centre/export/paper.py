"""A document as PDF: real text with an embedded font, a title and a language, on A4.

Not tagged (PDF/UA): the library has no structure tree. The text lies in reading order, and the plain form of the same
document is the accessible one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final, assert_never
from xml.sax.saxutils import escape

import reportlab
from reportlab.lib import colors
from reportlab.lib.enums import TA_LEFT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import HRFlowable, KeepTogether, LongTable, SimpleDocTemplate, Spacer, TableStyle
from reportlab.platypus import Paragraph as Flowing

from centre.export.document import Bullets, Caution, Document, Heading, Paragraph, Part, Signature, Table

LARGE_PT: Final = 17.0
"""Body of what residents read; nothing on the page is smaller than 16 pt."""
OFFICE_PT: Final = 10.0
_MARGIN: Final = 20 * mm
_FONT: Final = "TillsynSans"
_BOLD: Final = "TillsynSansBold"


def render(document: Document, *, body_pt: float) -> bytes:
    """The document's pages; `body_pt` is the size of the text, and headings are larger."""
    _register_fonts()
    styles = _styles(body_pt)
    flow: list[Any] = [Flowing(escape(document.title), styles["title"])]
    width = A4[0] - 2 * _MARGIN
    parts = list(document.parts)
    while parts:
        part = parts.pop(0)
        flowables = _flowables(part, styles, width)
        if isinstance(part, Heading) and parts and not isinstance(parts[0], Table):
            # A heading never stands alone at the foot of a page.
            following = _flowables(parts.pop(0), styles, width)
            flow += [KeepTogether([*flowables, *following[:1]]), *following[1:]]
        else:
            flow += flowables
    number_pt = max(9.0, body_pt - 1)

    def number(canvas: Any, _: Any) -> None:
        canvas.setFont(_FONT, number_pt)
        canvas.drawRightString(A4[0] - _MARGIN, 10 * mm, f"{document.page} {canvas.getPageNumber()}")

    buffer = io.BytesIO()
    SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=18 * mm,
        bottomMargin=20 * mm,
        title=document.title,
        author="",
        subject=document.title,
        creator="tillsyn",
        lang=document.language,
        displayDocTitle=1,
    ).build(flow, onFirstPage=number, onLaterPages=number)
    return buffer.getvalue()


def font_path(*, bold: bool = False) -> Path:
    """Bitstream Vera, which the library ships; it has the letters of Swedish."""
    return Path(reportlab.__file__).parent / "fonts" / ("VeraBd.ttf" if bold else "Vera.ttf")


def _register_fonts() -> None:
    for name, bold in ((_FONT, False), (_BOLD, True)):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, str(font_path(bold=bold))))


def _styles(body_pt: float) -> dict[str, ParagraphStyle]:
    def style(name: str, size_pt: float, *, bold: bool = False, **more: Any) -> ParagraphStyle:
        return ParagraphStyle(
            name,
            fontName=_BOLD if bold else _FONT,
            fontSize=size_pt,
            leading=size_pt * 1.35,
            alignment=TA_LEFT,
            **more,
        )

    return {
        "title": style("title", body_pt * 1.5, bold=True, spaceAfter=body_pt * 0.6),
        "heading": style("heading", body_pt * 1.15, bold=True, spaceBefore=body_pt * 0.9, spaceAfter=body_pt * 0.25),
        "body": style("body", body_pt, spaceAfter=body_pt * 0.35),
        "bullet": style("bullet", body_pt, leftIndent=body_pt * 1.1, bulletIndent=0, spaceAfter=body_pt * 0.25),
        "caution": style(
            "caution", body_pt, bold=True, borderWidth=1.5, borderColor=colors.black, borderPadding=6, spaceAfter=14
        ),
        "cell": style("cell", body_pt * 0.9),
        "head": style("head", body_pt * 0.9, bold=True),
    }


def _flowables(part: Part, styles: dict[str, ParagraphStyle], width: float) -> list[Any]:
    match part:
        case Heading(text):
            return [Flowing(escape(text), styles["heading"])]
        case Paragraph(text):
            return [Flowing(escape(text), styles["body"])]
        case Caution(text):
            return [Flowing(escape(text), styles["caution"])]
        case Bullets(items):
            # The list's mark must be the body's size too.
            return [
                Flowing(f'<bullet fontName="{_FONT}" fontSize="{styles["bullet"].fontSize}">•</bullet>{escape(item)}',
                        styles["bullet"])
                for item in items
            ]  # fmt: skip
        case Table():
            return [_table(part, styles, width)]
        case Signature(labels):
            flow: list[Any] = []
            for label in labels:
                line = HRFlowable(width="70%", thickness=0.8, color=colors.black, hAlign="LEFT")
                flow.append(KeepTogether([Spacer(1, 30), line, Flowing(escape(label), styles["body"])]))
            return flow
        case _:
            assert_never(part)


def _table(table: Table, styles: dict[str, ParagraphStyle], width: float) -> Any:
    rows = [[Flowing(escape(cell), styles["head"]) for cell in table.headings]]
    rows += [[Flowing(escape(cell), styles["cell"]) for cell in row] for row in table.rows]
    total = sum(table.weights)
    made = LongTable(rows, colWidths=[width * weight / total for weight in table.weights], repeatRows=1)
    made.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, 0), 1, colors.black),
                ("LINEBELOW", (0, 1), (-1, -1), 0.3, colors.grey),
                ("LEFTPADDING", (0, 0), (-1, -1), 2),
                ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ]
        )
    )
    return made
