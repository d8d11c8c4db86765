"""A centre's enrolment desk on a loopback port, in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from centre.config import BrokerForHomesConfig, EstConfig, IceConfig
from centre.est import Desk, make_desk
from centre.exchange import Exchange
from centre.service import listen
from centre.state import CentreState
from centre.store import Store
from gateway.ledger import NoteSigner
from gateway.protocol.envelope import sign
from gateway.protocol.key import SigningKey
from gateway.protocol.message import TrustPut
from provisioning.authority.x509 import CertificateAuthority, private_pem
from provisioning.enrolment.est_client import EstClient
from provisioning.enrolment.word import Keys
from provisioning.factory.word import CODE_LENGTH, make_word

GATEWAY = "gw-abc234defgh5"


class NoBroker:
    """Nobody listens, and nobody is asked."""

    async def run(self) -> None:
        await asyncio.Event().wait()


@dataclass(slots=True)
class EstCentre:
    """What a test knows of the centre beside its port."""

    url: str
    desk: Desk
    authority: CertificateAuthority
    clock: list[float] = field(default_factory=lambda: [1_795_000_000.0])

    @property
    def store(self) -> Store:
        return self.desk.store

    def client(self, **changes: object) -> EstClient:
        return EstClient(self.url, self.authority.pem(), **changes)

    def code(self, gateway: str = GATEWAY) -> str:
        """A fresh one-time code of a registered gateway."""
        code = make_word(CODE_LENGTH)
        self.store.register_device(gateway, "0" * 64)
        self.store.put_enrolment_code(gateway, code, made_by="in-1", now_unix_s=self.clock[0])
        return code


def keys_of(gateway: str = GATEWAY) -> Keys:
    ledger = NoteSigner(f"tillsyn/{gateway}", Ed25519PrivateKey.generate())
    return Keys(SigningKey.generate().verifying.jwk(), str(ledger.verifier))


@contextlib.contextmanager
def est_centre(folder: Path) -> Iterator[EstCentre]:
    """Serve until left."""
    authority = CertificateAuthority.make("a CA for homes")
    server = authority.issue("localhost", server_names=("localhost", "127.0.0.1"))
    root, issuing = SigningKey.generate(), SigningKey.generate()
    trust = TrustPut(version=1, epoch=0, roots=[root.verifying.jwk()], issuers=[issuing.verifying.jwk()])
    files = {
        "cert.pem": server.certificate,
        "key.pem": server.key,
        "ca.pem": authority.pem(),
        "ca-key.pem": private_pem(authority.key),
        "roots.json": json.dumps([root.verifying.jwk()]).encode(),
        "trust.jws": sign(trust, root),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    config = EstConfig(
        "127.0.0.1", 0, folder / "cert.pem", folder / "key.pem", folder / "ca.pem", folder / "ca-key.pem",
        folder / "roots.json", folder / "trust.jws", BrokerForHomesConfig("127.0.0.1", 8883, "localhost"), ["g-1"],
    )  # fmt: skip
    store = Store(folder / "centre.sqlite")
    clock = [1_795_000_000.0]
    state = CentreState(
        accounts={}, homes={}, issuing_key=issuing, grant_epoch=0, ice=IceConfig("all", []), origins=frozenset(),
        store=store, exchange=Exchange(NoBroker()), clock=lambda: clock[0],
    )  # fmt: skip
    desk = make_desk(config, state)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    ready, stopping = threading.Event(), threading.Event()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(desk.serve(listening, ready.set))
            while not stopping.is_set():
                await asyncio.sleep(0.02)
            task.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield EstCentre(f"https://localhost:{port}", desk, authority, clock)
    finally:
        stopping.set()
        thread.join(10)
        listening.close()
        store.close()
