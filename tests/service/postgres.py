"""A PostgreSQL server of Debian's on a temporary directory and a free port, without the system's own cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from provisioning.bench_home import free_port


def program(name: str) -> str:
    found = shutil.which(name)
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    assert found or candidates, "no PostgreSQL on this machine: apt-get install postgresql (`make test` does it)"
    return str(candidates[-1]) if candidates else str(found)


def _as_server(*words: str) -> list[str]:
    # The server refuses to run as root.
    return ["runuser", "-u", "postgres", "--", *words] if os.getuid() == 0 else list(words)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A running server; gives the address of an empty database. fsync is on: what is durable is part of the promise."""
    folder = Path(tempfile.mkdtemp(prefix="tillsyn-pg-"))
    port = free_port()
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        subprocess.run(
            _as_server(program("initdb"), "-D", str(data), "-U", "tillsyn", "-A", "trust", "-E", "UTF8", "--no-locale"),
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        subprocess.run(
            _as_server(program("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start"),
            check=True,
            capture_output=True,
            cwd=folder,
        )
        try:
            subprocess.run(
                _as_server(program("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "tillsyn", "tillsyn"),
                check=True,
                capture_output=True,
                cwd=folder,
            )
            yield f"postgresql://tillsyn@127.0.0.1:{port}/tillsyn"
        finally:
            subprocess.run(
                _as_server(program("pg_ctl"), "-D", str(data), "-m", "immediate", "stop"),
                check=False,
                capture_output=True,
                cwd=folder,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
