"""A child process of the benchmark that speaks one JSON object a line; ended by its own id, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.edge.service_systemd import die_with_parent

ANSWER_LIMIT_S = 30.0
_END_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Child:
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one line and take one. Raises RuntimeError when the child ended, TimeoutError after 30 s."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        await self.process.stdin.drain()
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(ANSWER_LIMIT_S):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError("a child of the benchmark ended early")
        return dict(json.loads(line))


def running(module: str, *arguments: str) -> AbstractAsyncContextManager[Child]:
    """Run `python -m module`; returns once it has said its first line, which means that its libraries are loaded."""
    return running_program(sys.executable, "-m", module, *arguments)


@asynccontextmanager
async def running_program(*command: str) -> AsyncIterator[Child]:
    """The same of any program that speaks so."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        preexec_fn=die_with_parent,
    )
    try:
        child = Child(process)
        await child.hear()
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_END_LIMIT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
