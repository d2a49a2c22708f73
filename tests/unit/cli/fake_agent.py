"""An admin server that answers what a test tells it, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web


class FakeAgent:
    """`answers` by method and path: (status, JSON). `asked` records what came."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.body_exists else None
        self.asked.append((request.method, request.path, body))
        status, answer = self.answers.get(
            (request.method, request.path), (404, {"error": "no such thing"})
        )
        if isinstance(answer, str):
            return web.Response(status=status, text=answer)
        return web.json_response(answer, status=status)


@contextmanager
def serving(agent: FakeAgent) -> Iterator[FakeAgent]:
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", agent.handle)
    runner = web.AppRunner(app)

    async def start() -> None:
        await runner.setup()
        await web.UnixSite(runner, str(agent.socket_path)).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield agent
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()
