"""JSON in and out of the admin API."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from aiohttp import web


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; empty without a body. Raises web.HTTPBadRequest."""
    text = await request.text()
    try:
        body = json.loads(text) if text else {}
    except ValueError:
        raise web.HTTPBadRequest(reason="the body is not JSON") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(reason="the body is not a JSON object")
    return body


def json_of(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
