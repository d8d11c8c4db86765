"""The second witness over HTTP, as https://c2sp.org/tlog-witness has it, and its configuration.

Mutations that turn it red: answer 422 for another old size (tried); leave the size out of the answer; sign for an
origin that is not configured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from centre.config import load_witness
from centre.store import Store
from centre.witness import Cosigner, Log, Witness, format_submission, read_cosigner
from centre.witness_service import make_app
from gateway.core.error import ConfigError
from gateway.ledger import NoteSigner, consistency_proof, sign_checkpoint
from gateway.ledger.tree import leaf_hash, root_of
from gateway.protocol.key import SigningKey

NOW_UNIX_S = 1_795_000_000.0
LEAVES = [leaf_hash(bytes([number])) for number in range(20)]
FORKED = [leaf_hash(b"x"), *LEAVES[1:]]


class Asker:
    """A log, and whoever brings its checkpoints."""

    def __init__(self, client: httpx.AsyncClient, signer: NoteSigner) -> None:
        self.client = client
        self.signer = signer

    def note(self, size: int, leaves: list[bytes] = LEAVES) -> bytes:
        return sign_checkpoint(self.signer, size, root_of(leaves[:size]))

    async def ask(self, old: int, new: int, leaves: list[bytes] = LEAVES) -> httpx.Response:
        proof = consistency_proof(leaves[:new], old) if old <= new else ()
        return await self.post(format_submission(old, proof, self.note(new, leaves)))

    async def post(self, body: bytes) -> httpx.Response:
        return await self.client.post("/add-checkpoint", content=body)


def play(folder: Path, act: Callable[[Asker, Cosigner], Awaitable[None]]) -> None:
    signer = NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate())
    cosigner = Cosigner("witness.example.se/w1", Ed25519PrivateKey.generate())
    store = Store(folder / "witness.sqlite")
    logs = {"tillsyn/gw-a": Log("gw-a", 1, signer.verifier)}
    app = make_app(Witness(store, cosigner), logs, clock=lambda: NOW_UNIX_S)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://witness") as client:
            await act(Asker(client, signer), cosigner)

    try:
        asyncio.run(run())
    finally:
        store.close()


def test_an_honest_log_gets_a_cosignature_for_every_extension_and_repetition(tmp_path: Path):
    async def act(asker: Asker, cosigner: Cosigner) -> None:
        for old, new in ((0, 5), (5, 5), (5, 6), (6, 20)):
            response = await asker.ask(old, new)
            assert response.status_code == 200, (old, new)
            assert cosigner.public.verify(asker.note(new) + response.content) == int(NOW_UNIX_S)
            assert response.content.startswith("\N{EM DASH} witness.example.se/w1 ".encode())

    play(tmp_path, act)


def test_every_refusal_has_the_status_that_the_specification_names(tmp_path: Path):
    async def act(asker: Asker, _cosigner: Cosigner) -> None:
        assert (await asker.ask(0, 10)).status_code == 200
        for old, new, leaves, status in (
            (0, 12, LEAVES, 409),  # what an asker who knows nothing gets: the size to prove from
            (5, 8, LEAVES, 409),  # shorter than what was cosigned
            (12, 14, LEAVES, 409),
            (12, 10, LEAVES, 400),
            (10, 10, FORKED, 409),
            (10, 12, FORKED, 422),
        ):
            response = await asker.ask(old, new, leaves)
            assert response.status_code == status, (old, new)
            if status == 409:
                assert response.text == "10\n"
                assert response.headers["content-type"].partition(";")[0] == "text/x.tlog.size"
        stranger = NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate())
        unknown = NoteSigner("tillsyn/gw-b", asker.signer.private_key)
        for signer, status in ((stranger, 403), (unknown, 404)):
            note = sign_checkpoint(signer, 12, root_of(LEAVES[:12]))
            body = format_submission(10, consistency_proof(LEAVES[:12], 10), note)
            assert (await asker.post(body)).status_code == status
        assert (await asker.post(b"rubbish")).status_code == 400
        assert (await asker.post(b"old 0\n\n" + b"x" * 20_000)).status_code in (400, 413)
        assert (await asker.client.get("/add-checkpoint")).status_code == 405
        assert (await asker.ask(10, 12)).status_code == 200, "and nothing of that has moved it"

    play(tmp_path, act)


@pytest.mark.slow
def test_of_two_extensions_at_once_only_one_is_cosigned(tmp_path: Path):
    async def act(asker: Asker, _cosigner: Cosigner) -> None:
        assert (await asker.ask(0, 3)).status_code == 200
        answers = await asyncio.gather(*(asker.ask(3, new) for new in range(4, 12)))
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7

    play(tmp_path, act)


def good_toml(folder: Path) -> str:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "witness.pem").write_bytes(pem)
    vkey = NoteSigner("tillsyn/gw-a", Ed25519PrivateKey.generate()).verifier
    return f"""
database_path = "witness.sqlite"
witness_key_path = "witness.pem"
witness_name = "witness.example.se/w1"
http = {{ host = "127.0.0.1", port = 0 }}

[[logs]]
gateway = "gw-a"
install_epoch = 1
ledger_vkey = "{vkey}"
"""


def test_a_good_file_is_read(tmp_path: Path):
    path = tmp_path / "witness.toml"
    path.write_text(good_toml(tmp_path))
    config = load_witness(path)
    assert read_cosigner(config.witness_key_path, config.witness_name).name == "witness.example.se/w1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('host = "127.0.0.1"', 'host = "0.0.0.0"'),
        ("tillsyn/gw-a+", "tillsyn/gw-b+"),
        ("install_epoch = 1", "install_epoch = 0"),
        ('witness_name = "witness.example.se/w1"', 'witness_name = "two words"'),
        ('gateway = "gw-a"', 'gateway = "gw-b"'),
        ("[[logs]]", "[[homes]]"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str):
    path = tmp_path / "witness.toml"
    text = good_toml(tmp_path)
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError):
        load_witness(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path):
    path = tmp_path / "witness.pem"
    with pytest.raises(ConfigError):
        read_cosigner(path, "w")
    path.write_bytes(SigningKey.generate().to_pem())
    with pytest.raises(ConfigError):
        read_cosigner(path, "w")
