"""The resources of `tests.peers.servers` on aiohttp: aiohttp_server.py PORT."""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web
from content import LARGE, SMALL

ETAG = '"small-1"'


async def small(request: web.Request) -> web.Response:
    if request.headers.get("If-None-Match") == ETAG:
        return web.Response(status=304, headers={"ETag": ETAG})
    return web.Response(body=SMALL, headers={"ETag": ETAG})


async def large(_request: web.Request) -> web.Response:
    return web.Response(body=LARGE)


async def chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for at in range(0, len(LARGE), 50_000):
        await response.write(LARGE[at : at + 50_000])
    await response.write_eof()
    return response


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def nothing(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def old(_request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "/small"})


async def caller(request: web.Request) -> web.Response:
    return web.Response(text=request.headers["X-Forwarded-Client-Cert"])


async def port(request: web.Request) -> web.Response:
    assert request.transport is not None
    return web.Response(text=str(request.transport.get_extra_info("peername")[1]))


async def events(request: web.Request) -> web.StreamResponse:
    """Three events, a tenth of a second apart; each says when it was sent."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(3):
        await asyncio.sleep(0.1)
        await response.write(b"data: %d\n\n" % time.monotonic_ns())
    return response


def main() -> None:
    app = web.Application(client_max_size=1 << 30)
    for handler in (small, large, chunked, nothing, old, caller, port, events):
        app.router.add_get(f"/{handler.__name__}", handler)
    app.router.add_post("/echo", echo)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
