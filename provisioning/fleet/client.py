"""The acts of `tillsyn fleet` that ask a centre: one request each, the answer as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import httpx


def run(options: argparse.Namespace) -> int:
    """0: done. 1: the centre refused, or was not reached."""
    token = options.token.read_text().strip()
    method, path, body = _request(options)
    try:
        answer = httpx.request(
            method,
            f"{options.centre.rstrip('/')}/api/v1{path}",
            headers={"Authorization": f"Bearer {token}"},
            json=body,
            timeout=60,
        )
        told = answer.json()
    except (httpx.HTTPError, ValueError) as exc:
        print(f"tillsyn fleet: {options.centre}: {exc}", file=sys.stderr)
        return 1
    if answer.status_code != 200:
        print(f"tillsyn fleet: {told.get('message', answer.status_code)}", file=sys.stderr)
        return 1
    print(json.dumps(told, indent=1))
    return 0


def _request(options: argparse.Namespace) -> tuple[str, str, Any]:
    match options.act:
        case "plan":
            return "POST", "/fleet/plan", {"offer": options.offer.read_text().strip()}
        case "start":
            return "POST", "/fleet/rollouts", {"offer": options.offer.read_text().strip(), "plan": options.plan}
        case "show":
            return "GET", "/fleet/rollouts", None
        case "history":
            return "GET", f"/homes/{options.gateway}/updates", None
        case act:
            return "POST", f"/fleet/rollouts/{options.rollout}/{act}", {}
