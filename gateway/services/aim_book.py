"""What the aimed camera is compared with: one signature of the picture, kept for one calibration of the mount.

The eye, which has no memory, takes it from the first picture after a calibration that was clear for some seconds: that
is the installer's own check, with which an installation ends. The guard keeps it beside the agreement and gives it to
each later eye. 54 bytes of pattern; see gateway.view.signature for what is not in it. A calibration that changes, or
`aim.json` removed, lets the next clear check teach it anew. Without one, signals say `commanded` instead of `measured`,
and nothing else depends on it: a file that can't be read or written is logged and left.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from gateway.config import GuardConfig
from gateway.ledger.disk import Disk, replace_durably
from gateway.protocol.picture import SignatureText

LOG = logging.getLogger("tillsyn.guard")


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    calibration: str
    signature: SignatureText


class AimBook:
    """Reads once, writes once for each calibration."""

    def __init__(self, config: GuardConfig) -> None:
        self._path = Path(config.state_dir) / "aim.json"
        self._calibration = hashlib.sha256(msgspec.json.encode(config.mount)).hexdigest()
        self._signature = self._load()

    @property
    def signature(self) -> str | None:
        """That of this calibration, or None."""
        return self._signature

    def learn(self, signature: str) -> None:
        """Keep it, unless there is one: what a check shows later doesn't change what was calibrated."""
        if self._signature is not None:
            return
        try:
            replace_durably(Disk(), self._path, msgspec.json.encode(_Kept(self._calibration, signature)))
        except OSError as exc:
            LOG.warning("the picture's signature is not kept: %s", exc)
            return
        self._signature = signature
        LOG.info("the aimed picture's signature is kept for this calibration")

    def _load(self) -> str | None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            LOG.warning("the picture's signature can't be read: %s", exc)
            return None
        return kept.signature if kept.calibration == self._calibration else None
