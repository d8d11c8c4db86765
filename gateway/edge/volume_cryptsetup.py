"""A LUKS2 volume, by cryptsetup and blkdiscard. Source: cryptsetup-erase(8), cryptsetup-config(8), blkdiscard(8)."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Final

from gateway.core.error import HardwareFaultError
from gateway.edge.volume_port import UNMADE_LABEL

LIMIT_S: Final = 120.0
HEADER_BYTES: Final = 16 << 20
"""Both headers and all key slots, as cryptsetup makes them."""
_CHUNK: Final = bytes(1 << 20)


class CryptsetupVolume:
    """`device` is a block device, or a file with such a volume in it. Needs root."""

    def __init__(self, device: Path) -> None:
        self._device = device

    def mark_unmade(self) -> None:
        if self._is_luks():
            self._run("cryptsetup", "config", "--batch-mode", "--label", UNMADE_LABEL, str(self._device))

    def erase_keys(self) -> None:
        if self._is_luks():
            self._run("cryptsetup", "erase", "--batch-mode", str(self._device))

    def wipe(self) -> bool:
        try:
            fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
            try:
                left = min(HEADER_BYTES, os.lseek(fd, 0, os.SEEK_END))
                os.lseek(fd, 0, os.SEEK_SET)
                while left > 0:
                    left -= os.write(fd, _CHUNK[: min(left, len(_CHUNK))])
                os.fsync(fd)
                is_block = stat.S_ISBLK(os.fstat(fd).st_mode)
            finally:
                os.close(fd)
        except OSError as exc:
            raise HardwareFaultError(f"{self._device}: {exc.strerror}") from exc
        # A card that takes no discards keeps what nobody can read any more.
        return is_block and self._status("blkdiscard", "--force", str(self._device)) == 0

    def _is_luks(self) -> bool:
        return self._status("cryptsetup", "isLuks", str(self._device)) == 0

    def _run(self, *words: str) -> None:
        if status := self._status(*words):
            raise HardwareFaultError(f"{' '.join(words)}: status {status}")

    @staticmethod
    def _status(*words: str) -> int:
        try:
            return subprocess.run(words, capture_output=True, timeout=LIMIT_S, check=False).returncode
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise HardwareFaultError(f"{words[0]}: {exc}") from exc
