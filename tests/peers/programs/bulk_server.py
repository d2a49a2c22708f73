"""Content without end on aiohttp: bulk_server.py PORT.

GET `/SIZE` is so many bytes of it, chunked with `/SIZE?chunked`; a POST is answered with the
size of what came, and whether it was as it should be. `/?late=SECONDS` waits before it reads.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web
from content import Meter, endless


async def download(request: web.Request) -> web.StreamResponse:
    size = int(request.match_info["size"])
    response = web.StreamResponse()
    if "chunked" in request.query:
        response.enable_chunked_encoding()
    else:
        response.content_length = size
    await response.prepare(request)
    for piece in endless(size):
        await response.write(piece)
    return response


async def upload(request: web.Request) -> web.Response:
    meter = Meter()
    await asyncio.sleep(float(request.query.get("late", "0")))
    async for piece in request.content.iter_any():
        meter.take(piece)
    return web.json_response({"size": meter.size, "good": meter.good})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/{size}", download)
    app.router.add_post("/", upload)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
