"""How the API answers: JSON, and errors in plain words with what to do."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response


class TooLargeError(Exception):
    """The request's body is longer than its route takes."""


class ErrorResponse(Response):
    """An error whose code the audit log keeps."""

    code: str


def answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def error(status: int, code: str, message: str) -> ErrorResponse:
    response = ErrorResponse(
        msgspec.json.encode({"error": code, "message": message}), status, media_type="application/json"
    )
    response.code = code
    return response


async def body_of(request: Request, *, max_bytes: int) -> bytes:
    """The whole body; raises TooLargeError as soon as it is longer, so that no more than that is ever held."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLargeError
    return bytes(body)
