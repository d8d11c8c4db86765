"""The TLS proxy in front of the console, and its other end: lab equipment, as a reverse proxy would be in a centre.

`serve PORT CERT KEY UNIX` in the centre: TLS on the console's public address, and a Unix socket for the lab itself,
both to the console on the loopback. `dial PORT CA` at the operator: the loopback to the console's TLS, for programs
that speak HTTP; a browser uses TLS itself. `show HOST PORT CERT KEY` shows one more server on a port of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys

from tests.net_lab.network import CENTRE_CONSOLE

NAME = "console.example"
SHOW_PORT = 8443


async def join(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter], other: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Carry bytes both ways until both have ended."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(pump(one[0], other[1]))
        group.create_task(pump(other[0], one[1]))


def to(how):
    async def serve(reader, writer):
        try:
            other = await how()
        except OSError:
            writer.close()
            return
        await join((reader, writer), other)

    return serve


async def serve(port: int, certificate: str, key: str, unix: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    console = to(lambda: asyncio.open_connection("127.0.0.1", port))
    await asyncio.start_server(console, CENTRE_CONSOLE, 443, ssl=context)
    await asyncio.start_unix_server(console, unix)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def show(host: str, port: int, certificate: str, key: str) -> None:
    """Show one more server to the operator, on a port of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    await asyncio.start_server(to(lambda: asyncio.open_connection(host, port)), CENTRE_CONSOLE, SHOW_PORT, ssl=context)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def dial(port: int, ca: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    far = to(lambda: asyncio.open_connection(CENTRE_CONSOLE, 443, ssl=context, server_hostname=NAME))
    await asyncio.start_server(far, "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port, certificate, key, unix]:
            asyncio.run(serve(int(port), certificate, key, unix))
        case ["show", host, port, certificate, key]:
            asyncio.run(show(host, int(port), certificate, key))
        case ["dial", port, ca]:
            asyncio.run(dial(int(port), ca))
