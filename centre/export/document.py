"""A document as its parts in reading order, whatever it is then rendered to."""

from __future__ import annotations

from dataclasses import dataclass

from centre.export.words import Language


@dataclass(frozen=True, slots=True)
class Heading:
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Caution:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """`weights` are the columns' shares of the width on paper."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """Lines to write on, each under its label."""

    labels: tuple[str, ...]


Part = Heading | Paragraph | Caution | Bullets | Table | Signature


@dataclass(frozen=True, slots=True)
class Document:
    """`page` is the word before a page's number."""

    title: str
    language: Language
    page: str
    parts: tuple[Part, ...]
