"""A second witness, elsewhere: one HTTP endpoint that cosigns the checkpoints of the logs it was told of.

It holds no ledger, so whoever asks brings a proof. It shares no machine, no key and no database with the centre: to
rewrite a home's log unseen, both would have to be taken. Nobody needs a login; what counts is the log's own signature.

Source: https://c2sp.org/tlog-witness.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from centre.answer import TooLargeError, body_of
from centre.config import WitnessConfig
from centre.service import listen
from centre.store import Store
from centre.witness import (
    BREAKS_THE_LOG,
    MAX_REQUEST_BYTES,
    Log,
    Ruling,
    Submission,
    Witness,
    Witnessed,
    parse_submission,
    read_cosigner,
    read_ledger_key,
)
from gateway.core.error import ConfigError
from gateway.edge.http_uvicorn import Server, server_config
from gateway.ledger import NoteError

SIZE_TYPE: Final = "text/x.tlog.size"

_log = logging.getLogger(__name__)


def make_app(witness: Witness, logs: Mapping[str, Log], *, clock: Callable[[], float] = time.time) -> Starlette:
    """The endpoint `add-checkpoint` for `logs`, by origin. `witness` must have a cosigner."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            submission = parse_submission(await body_of(request, max_bytes=MAX_REQUEST_BYTES))
        except TooLargeError:
            return PlainTextResponse("the request is too long\n", 413)
        except NoteError as exc:
            return PlainTextResponse(f"{exc}\n", 400)
        log = logs.get(_untrusted_origin(submission))
        if log is None:
            return PlainTextResponse("this log is not known here\n", 404)
        try:
            witnessed = await asyncio.to_thread(witness.submit, log, submission, now_unix_s=clock())
        except NoteError as exc:
            return PlainTextResponse(f"{exc}\n", 403)
        if witnessed.ruling in BREAKS_THE_LOG:
            _log.error("%s: %s; %d records were cosigned", log.key.name, witnessed.ruling, witnessed.known_size)
        elif witnessed.ruling is not Ruling.CONSISTENT:
            _log.warning("%s: %s", log.key.name, witnessed.ruling)
        return _answer(witnessed)

    return Starlette(routes=[Route("/add-checkpoint", add_checkpoint, methods=["POST"])])


def _untrusted_origin(submission: Submission) -> str:
    return submission.untrusted_note.split(b"\n", 1)[0].decode(errors="replace")


def _answer(witnessed: Witnessed) -> Response:
    match witnessed.ruling:
        case Ruling.CONSISTENT:
            assert witnessed.cosignature is not None
            return PlainTextResponse(witnessed.cosignature)
        case Ruling.TOO_OLD_SIZE:
            return PlainTextResponse("the old size is above the checkpoint's\n", 400)
        case Ruling.OTHER_OLD_SIZE | Ruling.FORKED:
            return Response(f"{witnessed.known_size}\n", 409, media_type=SIZE_TYPE)
        case _:
            return PlainTextResponse("the proof does not verify\n", 422)


async def run(config: WitnessConfig, *, ready: Callable[[str], None] = lambda _url: None) -> None:
    """Run until cancelled; `ready` gets the submission prefix once it answers. Raises as `centre.service.run` does."""
    cosigner = read_cosigner(config.witness_key_path, config.witness_name)
    if not config.database_path.parent.is_dir():
        raise ConfigError(f"{config.database_path.parent}: no such folder for the database")
    logs = {}
    for each in config.logs:
        key = read_ledger_key(each.gateway, each.ledger_vkey)
        logs[key.name] = Log(each.gateway, each.install_epoch, key)
    listening = listen(config.http.host, config.http.port)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    _log.info("witness: %s", cosigner.public)
    with contextlib.closing(listening), contextlib.closing(Store(config.database_path)) as store:
        server: uvicorn.Server = Server(
            server_config(make_app(Witness(store, cosigner), logs)), lambda: ready(f"{url}/")
        )
        try:
            await server.serve(sockets=[listening])
        finally:
            if server.started:
                await server.shutdown(sockets=[listening])
