"""The protocol of a return: who took a device back, who confirmed, and what it signed before it was erased.

From the centre's row and the device's own statement. It has no name: people stand in it by their pseudonyms.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from centre.export.document import Caution, Document, Paragraph, Part, Signature, Table
from centre.export.words import Words, later

_CLOSINGS: Final = {
    "lost": later("the device is lost"),
    "broken": later("the device is broken"),
    "destroyed": later("the device was destroyed"),
}


def make(row: Mapping[str, Any], statement: Mapping[str, Any] | None, say: Words) -> Document:
    """`row` is the store's; `statement` the verified `device.returned`, None while the device has not said it."""
    facts = [
        (say("Device"), str(row["gateway"])),
        (say("Installation"), str(row["install_epoch"])),
        (say("Ordered back by"), row["ordered_by"] or "-"),
        (say("Ordered"), _moment(row["ordered_unix_s"])),
    ]
    parts: list[Part] = []
    if statement is None:
        parts.append(Caution(say("The device has not confirmed that it was erased. Do not lend it; destroy its card.")))
    else:
        root = statement.get("cosigned_root")
        facts += [
            (say("Confirmed by a second person"), str(statement["second"])),
            (say("The device's last word"), _moment(row["attested_unix_s"])),
            (say("Records in its log"), str(statement["ledger_size"])),
            (say("Witnessed, of them"), str(statement.get("cosigned_size") or 0)),
            (say("Witnessed root"), "-" if root is None else str(root)),
        ]
        parts.append(Paragraph(say("The device has signed this before it erased its keys and everything it kept.")))
    if row["closed_unix_s"] is not None:
        facts += [
            (say("Closed at the centre by"), str(row["closed_by"])),
            (say("Closed"), _moment(row["closed_unix_s"])),
            (say("Why"), say(_CLOSINGS.get(row["closed_why"], "-"))),
        ]
    parts.append(Table((say("What"), say("Recorded")), tuple(facts), (2.0, 3.0)))
    if statement is not None:
        parts.append(
            Paragraph(say("A memory card can keep old cells that nobody can erase. For certainty destroy it."))
        )
    parts.append(Signature((say("Steward"), say("Second person"))))
    return Document(say("Return of a lent device"), say.language, say("Page"), tuple(parts))


def _moment(unix_s: float | None) -> str:
    return "-" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
