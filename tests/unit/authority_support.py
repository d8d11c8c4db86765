"""The command line of the authority in a directory of a test's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gateway.cli import main
from gateway.protocol.key import SigningKey, VerifyingKey


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


class Ceremony:
    """A directory, and the commands that are given in it."""

    def __init__(self, directory: Path, capfd) -> None:
        self.directory = directory
        self._capfd = capfd

    def __call__(self, *words: object) -> Answer:
        """`tillsyn authority WORDS…`; names of files are below the directory where they say so with `path`."""
        self._capfd.readouterr()
        try:
            status = main(["authority", *map(str, words)])
        except SystemExit as exc:  # argparse
            status = int(exc.code or 0)
        out, err = self._capfd.readouterr()
        return Answer(status, out, err)

    def well(self, *words: object) -> Answer:
        answer = self(*words)
        assert answer.status == 0, answer.err
        return answer

    def path(self, name: str) -> Path:
        return self.directory / name

    def key(self, word: str, name: str) -> tuple[Path, Path]:
        """A new root or issuer: (private, public)."""
        self.well(word, "new", "--out", self.path(name))
        return self.path(name) / f"{word}.pem", self.path(name) / f"{word}.jwk"

    def held(self, *names: str) -> dict[str, VerifyingKey]:
        """A device's roots, by the names of their directories."""
        keys = [VerifyingKey.from_jwk(json.loads((self.path(name) / "root.jwk").read_text())) for name in names]
        return {key.kid: key for key in keys}

    def files(self) -> set[str]:
        return {str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file()}


def private(path: Path) -> SigningKey:
    return SigningKey.from_pem(path.read_bytes())
