"""The server with the bundles, at the centre's end of the tunnel: HTTPS with client certificates of our own CA, ranges.

    python -m tests.image_lab.bundle_server FOLDER ADDRESS PORT CERTIFICATE KEY CA

Serves what lies in FOLDER, and `endless.raucb`, which is larger than anything and never ends. What it has sent of which
file is in FOLDER/sent.json, in bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import sys
from pathlib import Path

CHUNK_BYTES = 64 * 1024
ENDLESS = "endless.raucb"
ENDLESS_BYTES = 1 << 40


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: dict[str, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer)
            finally:
                writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        name = head.split(" ")[1].lstrip("/")
        wanted = re.search(r"^range: bytes=(\d+)-(\d+)\r$", head, re.IGNORECASE | re.MULTILINE)
        path = self.folder / name
        if wanted is None or "/" in name or not (path.is_file() or name == ENDLESS):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        first, last = int(wanted[1]), int(wanted[2])
        size = ENDLESS_BYTES if name == ENDLESS else path.stat().st_size
        if name == ENDLESS:
            last = size - 1
        writer.write(
            f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}\r\n"
            f"Content-Length: {last - first + 1}\r\nConnection: close\r\n\r\n".encode()
        )
        with (Path("/dev/zero") if name == ENDLESS else path).open("rb") as file:
            if name != ENDLESS:
                file.seek(first)
            left = last - first + 1
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                writer.write(piece)
                await writer.drain()
                left -= len(piece)
                self._count(name, len(piece))

    def _count(self, name: str, size: int) -> None:
        self.sent[name] = self.sent.get(name, 0) + size
        fresh = self.folder / "sent.json.new"
        fresh.write_text(json.dumps(self.sent))
        fresh.replace(self.folder / "sent.json")


async def main(folder: str, address: str, port: str, certificate: str, key: str, ca: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(certificate, key)
    server = await asyncio.start_server(Server(Path(folder)).serve, address, int(port), ssl=tls)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:7]))
