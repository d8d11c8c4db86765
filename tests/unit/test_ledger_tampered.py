"""Everything that can be done to a stored ledger, and who finds it: device, `tillsyn ledger verify`, witness.

One row a deed. The device opens the ledger with the note that it kept of the witness; the command is the real one, with
the witness's checkpoint in a file where it needs it; the witness is the centre's, with what the device would send it
next. `pytest -s` prints the table. Mutations tried, each red: `witnessed=` out of `Ledger.open`; `--witnessed` not
passed on; `FORKED` out of `BREAKS_THE_LOG` in centre/witness.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_support import QuickDisk, a_record, new_signer

from centre.intake import parse_ledger_line
from centre.store import Store
from centre.witness import BREAKS_THE_LOG, Cosigner, Log, Witness
from gateway.cli import main
from gateway.ledger import Ledger, LedgerRefusedError, NoteSigner, read_records

NOW_S = 1_795_000_000.0


@dataclass
class Home:
    """A card with a ledger, and the witness at the centre."""

    path: Path
    signer: NoteSigner
    store: Store
    cosigner: Cosigner

    def write(self, records: int) -> bytes:
        with Ledger.open(self.path, self.signer, disk=QuickDisk()) as ledger:
            for number in range(records):
                ledger.append(a_record(attempt=number))
            return ledger.checkpoint()

    def send(self, note: bytes, lines: list[bytes]) -> tuple[str, bytes]:
        """What the witness says to this checkpoint; and the note with its cosignature, where it gave one."""
        log = Log("gw-test", 1, self.signer.verifier)
        for line in lines:
            self.store.put_ledger_row("gw-test", parse_ledger_line(line))
        said = Witness(self.store, self.cosigner).take(log, note, now_unix_s=NOW_S)
        return said.ruling.value, note + (said.cosignature or b"")

    def lines(self) -> list[bytes]:
        return [stored.line for stored in read_records(self.path)]

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.path, self.path.parent / name))

    def put_back(self, copy: Path) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(copy, self.path)

    @property
    def segment(self) -> Path:
        return self.path / "segments" / "000000.log"


@pytest.fixture
def home(tmp_path):
    store = Store(tmp_path / "witness.sqlite")
    signer = new_signer("tillsyn/gw-test")
    yield Home(tmp_path / "ledger", signer, store, Cosigner("w", Ed25519PrivateKey.generate()))
    store.close()


def edited(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"attempt":3', b'"attempt":4') for line in lines]


def swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


LINES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "edited": (edited, "edited"),
    "truncated": (lambda lines: lines[:-2], "truncated"),
    "reordered": (swapped, "reordered"),
    "a line taken out": (lambda lines: [*lines[:2], *lines[3:]], "removed"),
    "a line put in twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "inserted"),
}


def open_as_the_device(home: Home, kept: bytes) -> str:
    """The finding, or "taken"."""
    try:
        Ledger.open(home.path, home.signer, disk=QuickDisk(), witnessed=kept).close()
    except LedgerRefusedError as error:
        return error.code.value
    return "taken"


def verify(home: Home, capsys, *more: str) -> tuple[int, str]:
    status = main(["ledger", "verify", str(home.path), *more])
    return status, capsys.readouterr().err.strip()


@pytest.mark.slow
@pytest.mark.parametrize("deed", LINES)
def test_what_is_done_to_the_lines_is_found_by_the_device_and_the_command(home, capsys, deed):
    note = home.write(6)
    _, kept = home.send(note, home.lines())
    change, finding = LINES[deed]
    home.segment.write_bytes(b"".join(change(home.segment.read_bytes().splitlines(keepends=True))))
    status, said = verify(home, capsys)
    assert status == 1
    assert said.startswith(f"refused ({finding}): "), said
    assert open_as_the_device(home, kept) == finding
    with capsys.disabled():
        print(f"\n{deed:22} device {finding:10} verify exit 1, {said}")


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["a week-old copy put back", "a fork", "a clone that goes on by itself"])
def test_what_is_whole_in_itself_is_found_against_what_the_witness_kept(home, capsys, tmp_path, deed):
    home.send(home.write(4), home.lines())
    old = home.copy("old")
    note = home.write(3)
    _, kept = home.send(note, home.lines())
    (tmp_path / "kept").write_bytes(kept)
    if deed == "a clone that goes on by itself":
        # Both cards go on from the same state; the other one's checkpoint came first.
        other = home.copy("other")
        home.send(home.write(2), home.lines())
        mine = home.copy("mine")
        _, kept = home.send((mine / "checkpoint").read_bytes(), [])
        (tmp_path / "kept").write_bytes((mine / "checkpoint").read_bytes())
        kept = (mine / "checkpoint").read_bytes()
        home.put_back(other)
        note = home.write(2)
    else:
        home.put_back(old)
        note = (home.path / "checkpoint").read_bytes() if deed.startswith("a week") else home.write(3)
    assert verify(home, capsys)[0] == 0, "by itself it is a good ledger"
    status, said = verify(home, capsys, "--witnessed", str(tmp_path / "kept"))
    assert status == 1
    finding = "truncated" if deed.startswith("a week") else "forked"
    assert said.startswith(f"refused ({finding}): "), said
    assert open_as_the_device(home, kept) == finding
    if deed.startswith("a week"):
        assert home.send(note, [])[0] == "repeated", "an old checkpoint played again proves nothing yet"
        note = home.write(1)  # the next one that the restored card signs
        finding_w = home.send(note, [])[0]
    else:
        finding_w = home.send(note, [])[0]
    assert finding_w in {ruling.value for ruling in BREAKS_THE_LOG}
    disabled = home.store.disabled({"gw-test": 1})["gw-test"]["why"]
    assert disabled == finding_w
    with capsys.disabled():
        print(f"\n{deed:22} device {finding:10} verify exit 1, {said}\n{'':22} witness {finding_w}, home disabled")


def test_an_exit_code_tells_a_good_ledger(home, capsys, tmp_path):
    note = home.write(3)
    (tmp_path / "kept").write_bytes(home.send(note, home.lines())[1])
    assert verify(home, capsys, "--witnessed", str(tmp_path / "kept"))[0] == 0
    assert verify(home, capsys, "--witnessed", str(tmp_path / "missing"))[0] == 1
