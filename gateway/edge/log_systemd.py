"""Logging to systemd's journal with structured fields, where there is a journal; else plain lines on standard error.

systemd says so by JOURNAL_STREAM (systemd.exec(5)). The library is imported only then, and where it is not installed
standard error, which is the journal's too, does. Fields: systemd.journal-fields(7), and TILLSYN_SERVICE and
TILLSYN_EVENT, by which `journalctl TILLSYN_EVENT=link-lost` finds what the centre was told.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from gateway.core.log_digest import LogDigest, Service, event_of

Send = Callable[..., Any]
_PRIORITY: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Source: syslog(3)."""


class JournalLines(logging.Handler):
    """One journal entry a record. `send` is systemd.journal.send; a journal that does not take it loses the entry."""

    def __init__(self, service: Service, send: Send) -> None:
        super().__init__()
        self._service = service
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "PRIORITY": next((number for level, number in _PRIORITY if record.levelno >= level), 7),
            "SYSLOG_IDENTIFIER": f"tillsyn-{self._service}",
            "LOGGER": record.name,
            "TILLSYN_SERVICE": self._service,
            "TILLSYN_EVENT": event_of(record),
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName,
        }
        if record.exc_info:
            fields["EXCEPTION_TEXT"] = logging.Formatter().formatException(record.exc_info)
        try:
            self._send(record.getMessage(), **fields)
        except OSError:
            return


def start_logging(service: Service, digest: LogDigest) -> None:
    """Have this process's records counted in `digest`, and sent to the journal where there is one."""
    root = logging.getLogger()
    root.addHandler(digest)
    send = _journal_send() if os.environ.get("JOURNAL_STREAM") else None
    if send is None:
        return
    for plain in [each for each in root.handlers if getattr(each, "stream", None) is sys.stderr]:
        root.removeHandler(plain)
    root.addHandler(JournalLines(service, send))


def _journal_send() -> Send | None:
    try:
        journal = importlib.import_module("systemd.journal")  # only boards with the extra `pi` have it
    except ImportError:
        return None
    send: Send = journal.send
    return send
