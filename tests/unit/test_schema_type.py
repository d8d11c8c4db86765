"""Threads that read their first agreement or message at the same time don't end the process.

Mutations that turn it red, each in some of the forked processes: leave `make_ready` out of
`gateway.agreement.schema`, of `gateway.protocol.message`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from protocol_support import AGREEMENT

pytestmark = pytest.mark.slow
FIRST_USE = """
import contextlib, os, sys, threading
import msgspec
from gateway.agreement.schema import Agreement
from gateway.protocol.message import KINDS

sys.setswitchinterval(1e-6)
TYPES = {"agreement": [Agreement], "message": list(KINDS.values())}
TEXT = sys.argv[2].encode()

def first_use(kind, together):
    together.wait()
    with contextlib.suppress(msgspec.ValidationError):
        # What of it is no field of this kind is refused, and what is one has been looked at before.
        msgspec.json.decode(TEXT, type=kind)

ended = []
for _ in range(40):
    child = os.fork()
    if child == 0:
        for kind in TYPES[sys.argv[1]]:
            together = threading.Barrier(8)
            threads = [threading.Thread(target=first_use, args=(kind, together)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        os._exit(0)
    ended.append(os.waitpid(child, 0)[1])
print(sorted(set(ended)))
"""


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("agreement", AGREEMENT),
        ("message", {"gateway": "gw-a", "re": "j-1", "nonce": "A" * 22}),
    ],
)
def test_two_threads_may_read_the_first_of_a_kind_at_once(what: str, value: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, what, json.dumps(value)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[0]", ""), "by signal 11: a type that was half read"
