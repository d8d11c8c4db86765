"""Where the wizard's state lies: two small files, each replaced whole: a power cut leaves the old or the new."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gateway.core.error import ConfigError
from gateway.ledger.disk import Disk, replace_durably, sync_directory
from provisioning.wizard.contact import Contact
from provisioning.wizard.machine import Progress

PROGRESS: Final = "progress.json"
CONTACT: Final = "contact.json"
DONE: Final = "done"
"""There when set-up is over: its unit does not start then."""

T = TypeVar("T", bound=msgspec.Struct)


class Keep:
    """The two files below one directory. Reading raises ConfigError for content that is not ours."""

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self._directory = directory
        self._disk = disk or Disk()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def progress(self) -> Progress:
        return self._read(PROGRESS, Progress)

    def contact(self) -> Contact:
        return self._read(CONTACT, Contact)

    def put(self, value: Progress | Contact) -> None:
        """Durable when it returns. Raises OSError with the old one in place."""
        name = PROGRESS if isinstance(value, Progress) else CONTACT
        replace_durably(self._disk, self._directory / name, msgspec.json.encode(value))

    def mark_done(self, *, is_done: bool) -> None:
        """Durable when it returns. Raises OSError."""
        if is_done:
            replace_durably(self._disk, self._directory / DONE, b"")
        elif (self._directory / DONE).exists():
            self._disk.unlink(self._directory / DONE)
            sync_directory(self._disk, self._directory)

    def _read(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode((self._directory / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return kind()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{name}: {exc}. Set this device up from the beginning: see docs/installer.md.") from exc
