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
from reportlab.platypus import HRFlowable, LongTable, SimpleDocTemplate, Spacer, TableStyle
from reportlab.platypus import Paragraph as Flowing

from centre.export.document import Bullets, Caution, Document, Heading, Paragraph, Part, Signature, Table

LARGE_PT: Final = 16.0
"""What residents read; nothing on the page is smaller."""
OFFICE_PT: Final = 10.0
_MARGIN: Final = 18 * mm
_FRAME_PADDING: Final = 6.0
"""The library's own, on each side of what flows."""
_WIDTH: Final = A4[0] - 2 * _MARGIN - 2 * _FRAME_PADDING
_FONT: Final = "TillsynSans"
_BOLD: Final = "TillsynSansBold"


def render(document: Document, *, body_pt: float) -> bytes:
    """The document's pages; `body_pt` is the size of the text, and headings are larger."""
    _register_fonts()
    styles = _styles(body_pt)
    flow: list[Any] = [Flowing(escape(document.title), styles["title"])]
    for part in document.parts:
        flow += _flowables(part, styles)
    number_pt = max(9.0, body_pt)

    def number(canvas: Any, _: Any) -> None:
        canvas.setFont(_FONT, number_pt)
        canvas.drawRightString(A4[0] - _MARGIN - _FRAME_PADDING, 9 * mm, f"{document.page} {canvas.getPageNumber()}")

    buffer = io.BytesIO()
    SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=13 * mm,
        bottomMargin=16 * mm,
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
            leading=size_pt * 1.3,
            alignment=TA_LEFT,
            **more,
        )

    mark: dict[str, Any] = {"bulletIndent": 0, "bulletFontName": _FONT, "bulletFontSize": body_pt}
    return {
        "title": style("title", body_pt * 1.5, bold=True, spaceAfter=body_pt * 0.6),
        "heading": style(
            "heading", body_pt * 1.15, bold=True, spaceBefore=body_pt * 0.75, spaceAfter=body_pt * 0.2, keepWithNext=1
        ),
        "body": style("body", body_pt, spaceAfter=body_pt * 0.35),
        "bullet": style("bullet", body_pt, leftIndent=body_pt * 1.2, spaceAfter=body_pt * 0.25, **mark),
        "caution": style(
            "caution",
            body_pt,
            bold=True,
            borderWidth=1.5,
            borderColor=colors.black,
            borderPadding=6,
            spaceBefore=12,
            spaceAfter=14,
        ),
        "cell": style("cell", body_pt * 0.9),
        "head": style("head", body_pt * 0.9, bold=True),
    }


def _flowables(part: Part, styles: dict[str, ParagraphStyle]) -> list[Any]:
    match part:
        case Heading(text):
            return [Flowing(escape(text), styles["heading"])]
        case Paragraph(text):
            return [Flowing(escape(text), styles["body"])]
        case Caution(text):
            return [Flowing(escape(text), styles["caution"])]
        case Bullets(items):
            return [Flowing(escape(item), styles["bullet"], bulletText="•") for item in items]
        case Table():
            return [_table(part, styles)]
        case Signature(labels):
            flow: list[Any] = []
            for label in labels:
                line = HRFlowable(width="70%", thickness=0.8, color=colors.black, hAlign="LEFT")
                flow += [Spacer(1, 30), line, Flowing(escape(label), styles["body"])]
            for each in flow[:-1]:
                each.keepWithNext = 1
            return flow
        case _:
            assert_never(part)


def _table(table: Table, styles: dict[str, ParagraphStyle]) -> Any:
    rows = [[Flowing(escape(cell), styles["head"]) for cell in table.headings]]
    rows += [[Flowing(escape(cell), styles["cell"]) for cell in row] for row in table.rows]
    total = sum(table.weights)
    made = LongTable(rows, colWidths=[_WIDTH * weight / total for weight in table.weights], repeatRows=1)
    made.hAlign = "LEFT"
    made.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, 0), 1, colors.black),
                ("LINEBELOW", (0, 1), (-1, -1), 0.3, colors.grey),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ]
        )
    )
    return made
