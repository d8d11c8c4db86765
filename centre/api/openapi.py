"""The API as an OpenAPI 3.1 document, made from the same rows that route it. Source: OpenAPI 3.1.1; JSON Schema by
msgspec.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from centre.api.answers import Problem
from centre.api.endpoint import PREFIX, Endpoint
from centre.role import ANYBODY

VERSION: Final = "1"
_WORDS: Final = {
    400: "The request does not fit its schema.",
    401: "Not logged in.",
    403: "Not for this account, or not from this origin.",
    404: "There is no such thing, or it is not yours.",
    409: "Somebody else was first, or it is not the time for it.",
    413: "The request is too long.",
    415: "Not the media type that is taken here.",
    421: "Not this centre's address.",
    429: "Too many requests.",
    503: "The centre can't do it just now.",
    504: "The home did not answer.",
}
_PATTERNS: Final = {"gateway": r"^gw-[a-z0-9-]{1,40}$"}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The whole document."""
    types = [each for endpoint in endpoints for each in (endpoint.body, endpoint.answers) if each not in (None, str)]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template="#/components/schemas/{name}")
    by_type = dict(zip((repr(each) for each in [*types, Problem]), schemas, strict=True))
    problem = by_type[repr(Problem)]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(PREFIX + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_type, problem)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tillsyn centre",
            "version": VERSION,
            "description": "Agreements in, outcomes out. Residents are pseudonyms; no picture passes here.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "program": {"type": "http", "scheme": "bearer"},
                "page": {"type": "apiKey", "in": "cookie", "name": "tillsyn_session"},
            },
        },
        "security": [{"program": []}, {"page": []}],
    }


def _operation(endpoint: Endpoint, by_type: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    roles = "any account" if endpoint.roles == ANYBODY else ", ".join(sorted(endpoint.roles))
    ok: dict[str, Any] = {"type": "string"} if endpoint.answers is str else by_type[repr(endpoint.answers)]
    if endpoint.media_type == "text/event-stream":
        ok = {"type": "string", "description": "An endless stream."}
    statuses = {400, 401, 403, 404, 413, 421, *endpoint.errors} | (set() if endpoint.method == "GET" else {415, 429})
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": f"For: {roles}.",
        "responses": {
            "200": {"description": "Done.", "content": {endpoint.media_type: {"schema": ok}}},
            **{
                str(status): {"description": _WORDS[status], "content": {"application/json": {"schema": problem}}}
                for status in sorted(statuses)
            },
        },
    }
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": _PATTERNS.get(name, r"^[A-Za-z0-9._:-]{1,64}$")},
        }
        for name in names
    ]
    parameters += [
        {
            "name": query.name,
            "in": "query",
            "required": False,
            "description": query.summary,
            "schema": {"type": "integer", "minimum": query.least, "maximum": query.most},
        }
        for query in endpoint.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {"application/json": {"schema": by_type[repr(endpoint.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif endpoint.is_text:
        operation["requestBody"] = {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}
    return operation
