"""Whether a private file is private: asked by everybody who reads a key or a secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

OTHERS: Final = 0o077
OTHERS_OF_A_CREDENTIAL: Final = 0o007


def is_open_to_others(path: Path, mode: int) -> bool:
    """Whether others than its owner may use the file at `path`, whose `st_mode` is `mode`.

    A file that systemd handed to our unit (LoadCredential) is read by our user alone by an access list, whose mask then
    stands where the group's permissions would: 0440. Source: systemd.exec(5), acl(5).
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    is_credential = folder is not None and path.parent == Path(folder)
    return bool(mode & (OTHERS_OF_A_CREDENTIAL if is_credential else OTHERS))
