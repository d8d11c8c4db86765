"""The page docs/ledger-faults.md: what can be done to a stored ledger, and who finds it.

One row a deed; a column for the device, for `tillsyn ledger verify`, for the centre as witness, and for a second
witness. The device is the whole guard, started on the card as the deed left it, by people who do everything right: it
must never open. The command is the real one. Both witnesses get what the device sends next; where the deed was made
good with the ledger's key, what was signed with it. `python tests/unit/test_ledger_tampered.py` writes the page,
`pytest -s` prints it.

Mutations tried, each red: `witnessed=` out of `Ledger.open`; `--witnessed` not passed on; `FORKED` out of
`BREAKS_THE_LOG` in centre/witness.py; in guard_command.py the refusal while `unwitnessed` out; in guard_state.py a
checkpoint that was never signed here taken for granted; the CRC out of `parse_line`; in witness_service.py 422 for a
forked checkpoint; nothing said back by the centre to a forked one.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import pytest
from guard_harness import GATEWAY, INSTALL_EPOCH, World, home, ledger_signer, witness

from centre.intake import parse_ledger_line
from centre.store import Store
from centre.witness import BREAKS_THE_LOG, Log, Witness, Witnessed, format_submission
from centre.witness_service import make_app
from gateway.cli import main
from gateway.ipc import frame
from gateway.ledger import consistency_proof, read_records, sign_checkpoint, verify_checkpoint
from gateway.ledger.record import FIRST_PREV, Record, new_line
from gateway.ledger.tree import root_of
from gateway.protocol.message import Verdict

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "ledger-faults.md"
T = TypeVar("T")
LOG = Log(GATEWAY, INSTALL_EPOCH, ledger_signer().verifier)


@dataclass
class Scene:
    """A home, its centre, and a card of a week ago (`old`)."""

    world: World
    store: Store
    old: tuple[Path, object]

    @property
    def ledger(self) -> Path:
        return self.world.ledger_dir

    @property
    def segment(self) -> Path:
        return self.ledger / "segments" / "000000.log"

    @property
    def kept(self) -> bytes:
        """What the witness cosigned last."""
        return self.store.witnessed()[GATEWAY, INSTALL_EPOCH]["note"].encode()

    def tell_centre(self) -> tuple[Witnessed, bool]:
        """The centre gets every line that it lacks, and the newest checkpoint; what it says goes back.

        Also whether a line stands under another's number.
        """
        agrees = [self.store.put_ledger_row(GATEWAY, parse_ledger_line(each)) for each in lines_of(self.ledger)]
        said = Witness(self.store, witness()).take(LOG, newest(self.ledger), now_unix_s=self.world.true_unix_s)
        if said.newest is not None:
            self.world.say_cosigned(said.newest)
        return said, not all(agrees)


def lines_of(ledger: Path) -> list[bytes]:
    return [stored.line for stored in read_records(ledger)]


def newest(ledger: Path) -> bytes:
    return (ledger / "checkpoint").read_bytes()


def size_of(note: bytes) -> int:
    return verify_checkpoint(note, LOG.key).size


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    with home() as world:
        store = Store(world.directory / "witness.sqlite")
        try:
            made = Scene(world, store, ("", None))  # type: ignore[arg-type]
            made.tell_centre()
            a_night(world)
            made.tell_centre()
            made.old = world.copy_card()
            a_night(world)
            made.tell_centre()
            yield made
        finally:
            store.close()


def a_night(world: World) -> None:
    assert world.watch()
    world.verdict(Verdict.SEEN)
    world.advance(4.0)


# The deeds


def rewrite(scene: Scene, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines on the card, and nothing else."""
    scene.world.power_cut()
    scene.segment.write_bytes(b"".join(change(scene.segment.read_bytes().splitlines(keepends=True))))


def remake(scene: Scene, change: Callable[[list[Record]], list[Record]]) -> None:
    """Change the records, and make CRC, digest, chain and checkpoint anew with the ledger's own key."""
    scene.world.power_cut()
    bodies = [stored.body for stored in read_records(scene.ledger) if stored.body is not None]
    lines, prev, leaves = [], FIRST_PREV, []
    for seq, body in enumerate(change(bodies)):
        stored = new_line(body, seq=seq, prev=prev)
        leaves.append(stored.leaf_hash())
        prev = leaves[-1].hex()
        lines.append(stored.encode())
    scene.segment.write_bytes(b"".join(lines))
    (scene.ledger / "checkpoints.log").unlink()
    (scene.ledger / "checkpoint").write_bytes(sign_checkpoint(ledger_signer(), len(leaves), root_of(leaves)))


def edit(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[3].replace(b'"sw":"', b'"sw":"9'), *lines[4:]]


def edit_body(bodies: list[Record]) -> list[Record]:
    return [*bodies[:3], msgspec.structs.replace(bodies[3], boottime=1.0), *bodies[4:]]


def swap(each: list[T]) -> list[T]:
    return [*each[:2], each[3], each[2], *each[4:]]


def cut(lines: list[bytes]) -> list[bytes]:
    return lines[:-6]


def cut_the_unsigned(scene: Scene) -> None:
    """One record that is at the centre, and that no checkpoint covers yet."""
    scene.world.ask_again()
    scene.world.pause(60.0)
    scene.world.power_cut()
    signed = size_of(newest(scene.ledger))
    lines = lines_of(scene.ledger)
    if len(lines) == signed:
        raise AssertionError("every record is signed")
    for each in lines[signed:]:
        scene.store.put_ledger_row(GATEWAY, parse_ledger_line(each))
    scene.segment.write_bytes(b"".join(lines[:signed]))


def old_ledger(scene: Scene) -> None:
    scene.world.power_cut()
    shutil.rmtree(scene.ledger)
    shutil.copytree(scene.old[0] / "ledger", scene.ledger)


def old_card(scene: Scene) -> None:
    scene.world.restore_card(scene.old)


def a_clone(scene: Scene) -> None:
    """The card as it is now, in another device, while this one has gone on."""
    card = scene.world.copy_card()
    a_night(scene.world)
    scene.tell_centre()
    scene.world.restore_card(card)


def go_on(scene: Scene) -> None:
    """The device writes and signs until it has more than the witness knows."""
    while size_of(newest(scene.ledger)) <= size_of(scene.kept):
        scene.world.pause(60.0)
        scene.world.end_pause()
        scene.world.guard.chronicle.checkpoint()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Deed:
    name: str
    do: Callable[[Scene], None]
    start: str
    """What the device's start finds; "" where the card is whole in itself."""
    verify: str
    """What the command finds with nothing but the ledger; "" is exit status 0."""
    witnessed: str
    """What it finds with the checkpoint that the witness kept."""
    centre: str
    """The witness's ruling; "" where nothing is signed that could come to it."""
    second: int | None
    goes_on: bool = False
    """The device is let run until it has more records than the witness knows."""


REMADE = "all made good with the ledger's key"
DEEDS = (
    Deed("edited", lambda s: rewrite(s, edit), "edited", "edited", "edited", "", None),
    Deed(f"edited, {REMADE}", lambda s: remake(s, edit_body), "forked", "", "forked", "log-forked", 409),
    Deed("truncated", lambda s: rewrite(s, cut), "truncated", "truncated", "truncated", "", None),
    Deed("truncated to an older checkpoint", old_ledger, "truncated", "", "truncated", "repeated", 400),
    Deed("truncated to the newest checkpoint", cut_the_unsigned, "", "", "", "log-forked", 200),
    Deed("reordered", lambda s: rewrite(s, swap), "reordered", "reordered", "reordered", "", None),
    Deed(f"reordered, {REMADE}", lambda s: remake(s, swap), "forked", "", "forked", "log-forked", 409),
    Deed("a week-old card put back", old_card, "", "", "truncated", "log-forked", 400),
    Deed("a fork: a week-old card that went on", old_card, "", "", "truncated", "log-forked", 422, goes_on=True),
    Deed("a clone: this card in another device", a_clone, "", "", "truncated", "log-forked", 400),
)  # fmt: skip


# What each of them says


@dataclass(frozen=True)
class Said:
    """`start` and `later` are the guard's alarms, at its first start and after the witness's word; "" for none."""

    deed: Deed
    start: str
    later: str
    obstacle: str | None
    """What the device says at its door after that start."""
    opened: bool
    verify: tuple[int, str]
    witnessed: tuple[int, str]
    centre: str
    disabled: str | None
    two_lines: bool
    second: tuple[int, str] | None


class Alarms(logging.Handler):
    """What the guard's log says of its ledger."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "integrity alarm" in record.getMessage():
            self.heard.append(record.getMessage().removeprefix("integrity alarm: "))


def command(ledger: Path, *more: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["ledger", "verify", str(ledger), *more])
    return status, (err.getvalue() or out.getvalue()).splitlines()[0]


def ask_second(scene: Scene, kept: bytes) -> tuple[int, str]:
    """What a second witness that has cosigned the same as the centre answers to the newest checkpoint on the card."""
    note = newest(scene.ledger)
    leaves = [stored.leaf_hash for stored in read_records(scene.ledger)][: size_of(note)]
    old = size_of(kept)
    proof = consistency_proof(leaves, old) if old <= len(leaves) else ()

    async def ask() -> httpx.Response:
        with contextlib.closing(Store(scene.world.directory / "second.sqlite")) as store:
            app = make_app(Witness(store, witness()), {LOG.key.name: LOG}, clock=lambda: scene.world.true_unix_s)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://witness") as client:
                first = await client.post("/add-checkpoint", content=format_submission(0, (), kept))
                assert first.status_code == 200
                return await client.post("/add-checkpoint", content=format_submission(old, proof, note))

    response = asyncio.run(ask())
    return response.status_code, "a cosignature" if response.status_code == 200 else response.text.strip()


def play(deed: Deed) -> Said:
    alarms = Alarms()
    logger = logging.getLogger("tillsyn.guard")
    logger.addHandler(alarms)
    try:
        with scene() as made:
            return _play(deed, made, alarms)
    finally:
        logger.removeHandler(alarms)


def _play(deed: Deed, scene: Scene, alarms: Alarms) -> Said:
    world, kept = scene.world, scene.world.directory / "kept"
    deed.do(scene)
    world.cosigns, world.judge.tampered = "nothing", True
    before = scene.kept
    kept.write_bytes(before)
    verify, witnessed = command(scene.ledger), command(scene.ledger, "--witnessed", str(kept))
    world.note, starts = b"", world.judge.starts
    world.boot()
    world.join_link()
    world.ask_again()
    assert world.guard is not None
    opened = world.try_open()
    facts = world.hand(frame.AskState())
    assert facts is not None
    start, alarms.heard = "".join(alarms.heard), []
    assert bool(start) == (world.guard.gate.obstacle == "integrity-alarm")
    if start:
        assert not world.note, "it signs on a ledger that it does not believe"
    elif deed.goes_on:
        go_on(scene)
    two_lines, centre, disabled, second = False, "", None, None
    if deed.centre:
        result, two_lines = scene.tell_centre()
        centre = result.ruling.value
        disabled = scene.store.disabled({GATEWAY: INSTALL_EPOCH}).get(GATEWAY, {}).get("why")
        second = ask_second(scene, before)
    world.advance(4.0)
    world.up()
    opened = opened or world.try_open()
    later = "" if start else "".join(alarms.heard[-1:])
    opened = opened or world.judge.starts > starts
    return Said(deed, start, later, facts.obstacle, opened, verify, witnessed, centre, disabled, two_lines, second)


@pytest.fixture(scope="module")
def all_said() -> list[Said]:
    return [play(deed) for deed in DEEDS]


@pytest.fixture(params=range(len(DEEDS)), ids=[deed.name for deed in DEEDS])
def said(all_said: list[Said], request: pytest.FixtureRequest) -> Said:
    return all_said[request.param]


def test_on_a_ledger_that_is_not_what_was_written_nothing_opens(said: Said) -> None:
    assert not said.opened
    assert said.obstacle == ("integrity-alarm" if said.deed.start else "busy")


def test_the_device_finds_it_at_its_start_or_by_the_witnesss_word(said: Said) -> None:
    assert said.start.startswith(f"{said.deed.start}: " if said.deed.start else "")
    assert bool(said.start) == bool(said.deed.start)
    if not said.start and said.deed.do is not cut_the_unsigned:
        assert said.later.startswith(("truncated: ", "forked: "))
        assert "the witnessed checkpoint" in said.later


def test_the_command_finds_it_and_says_so_by_its_exit_status(said: Said) -> None:
    for found, (status, words) in ((said.deed.verify, said.verify), (said.deed.witnessed, said.witnessed)):
        assert status == (1 if found else 0)
        assert words.startswith(f"refused ({found}): " if found else "verified: ")


def test_the_centre_as_witness_finds_what_is_signed_and_disables_the_home(said: Said) -> None:
    assert said.centre == said.deed.centre
    breaks = {ruling.value for ruling in BREAKS_THE_LOG}
    assert said.disabled == (said.centre if said.centre in breaks else None)


def test_a_second_witness_answers_what_the_specification_names(said: Said) -> None:
    assert (said.second and said.second[0]) == said.deed.second


def test_what_the_device_does_not_see_a_witness_does_and_the_other_way_round(said: Said) -> None:
    assert said.start or said.disabled


def test_the_page_says_what_was_found(all_said: list[Said], capsys: pytest.CaptureFixture[str]) -> None:
    found = page(all_said)
    with capsys.disabled():
        print(f"\n{found}")
    assert PAGE.read_text() == found, "python tests/unit/test_ledger_tampered.py"


def test_an_exit_status_tells_a_good_ledger(tmp_path: Path) -> None:
    with scene() as made:
        (tmp_path / "kept").write_bytes(made.kept)
        assert command(made.ledger, "--witnessed", str(tmp_path / "kept"))[0] == 0
        assert main(["ledger", "verify", str(made.ledger), "--witnessed", str(tmp_path / "missing")]) == 1


# The page

HEAD = """\
# Faults of the ledger: who finds what

Made by `python tests/unit/test_ledger_tampered.py`, which plays each deed on a home with guard, centre and witness, and
compares. Do not edit by hand.

**On none of these ledgers does the camera open.** The *device* is the guard, started on the card as the deed left it.
An alarm at its start does not end it (no exit status): it runs on, says `integrity-alarm` to the centre and to whoever
asks at the door, opens nothing and signs nothing more. A card that is whole in itself it takes for its own, but it
opens nothing (`busy`) until the witness has cosigned this very start, which no honest witness does; hearing what the
witness knows instead, it ends (exit status 1) and starts again with the alarm. The *command* is `tillsyn ledger verify
PATH`; `--witnessed FILE` is the checkpoint that the centre kept. The *centre* gets the lines and what is signed over
them next; the *second witness* (`tillsyn witness`) the same with a proof, by HTTP.

| done to the ledger | device | command: exit status, message | centre | second witness |
|---|---|---|---|---|"""

FOOT = """
Where somebody can't see it, and why:

- What is only changed on the card, no witness sees: the device finds it and signs nothing that could come to one. The
  centre knows it by `integrity-alarm` in the home's hello, a fault of the urgent kind.
- What was made good with the ledger's key is a good ledger in itself. Only what was cosigned before tells: the device
  has it in `cosigned.json`, the command by `--witnessed`.
- A cut to an older checkpoint gives the centre only a checkpoint that it had before, and an old one played again proves
  nothing (`repeated`). The device, whose kept note is newer, finds it.
- A whole card of before, or another device's, has its kept note with it: by itself it can't know. Its start's record
  makes its next checkpoint a fork.
- A cut to the newest checkpoint takes only records that nobody has signed. The centre, which had them as lines, finds
  the fork; the command and a second witness, which never had them, find nothing. The device is not told, and opens
  nothing, since its start is never cosigned. Records that were neither signed nor sent leave no trace anywhere: at most
  those of the last hour without a check, for each check's end is signed.
"""


def row(said: Said) -> str:
    device = f"`{said.start}`" if said.start else "opens nothing: not cosigned"
    if not said.start and said.later:
        device += f"; then `{said.later}`"
    commands = f"{said.verify[0]} `{said.verify[1]}`"
    if said.witnessed != said.verify:
        commands += f"; with `--witnessed` {said.witnessed[0]} `{said.witnessed[1]}`"
    centre = "nothing comes to it"
    if said.centre:
        centre = f"`{said.centre}`" + (", home disabled" if said.disabled else "")
        centre += "; `integrity-alarm`: two lines under one number" if said.two_lines else ""
    second = "nothing comes to it" if said.second is None else f"{said.second[0]} `{said.second[1]}`"
    cells = f"{said.deed.name} | {device} | {commands} | {centre} | {second}"
    cells = re.sub(r"\b[0-9a-f]{64}\b", "…", cells)
    return "| " + re.sub(r"\b\d+ records", "… records", re.sub(r"(has|409 `)( ?)\d+", r"\1\2…", cells)) + " |"


def page(all_said: list[Said]) -> str:
    return "\n".join([HEAD, *map(row, all_said)]) + "\n" + FOOT


if __name__ == "__main__":
    PAGE.write_text(page([play(deed) for deed in DEEDS]))
