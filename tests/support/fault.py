"""A proxy before Consul's HTTP API that can be made to fail in every way that a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import aiohttp
from aiohttp import web

REFUSED = ("/v1/acl/token/self", "/v1/connect/intentions/check")
LISTS = ("/v1/health/connect/", "/v1/connect/intentions")


class Faults:
    """`mode` is pass, cut (connections are closed without a word), hang (nothing answers), error
    (500 as without a leader), back (indexes fall), empty (no services, no instances), denied (as
    Consul 1.8 answers a token without rights) or unsigned (its CA is gone: neither roots nor
    leaves); `mute` is the beginning of paths that alone have no leader; `delay` is in seconds.
    `requests` has the moment of each request that came."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode = "pass"
        self.delay = 0.0
        self.mute = ""
        self.requests: list[float] = []
        self.port = 0
        self._index = 1 << 20
        self._open: set[asyncio.Task[object]] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def become(self, mode: str = "pass", delay: float = 0.0, mute: str = "") -> None:
        """What is under way now ends without an answer, except where the mode is to hang."""
        self.mode, self.delay, self.mute = mode, delay, mute
        if mode != "hang":
            self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for task in list(self._open):
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as self._session:
            self._started.set()
            await self._stop.wait()
            self._cut()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(time.monotonic())
        task: asyncio.Task[web.Response] = asyncio.ensure_future(self._answer(request))
        self._open.add(task)
        try:
            return await task
        except (asyncio.CancelledError, aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # to nobody
        finally:
            self._open.discard(task)

    async def _answer(self, request: web.Request) -> web.Response:
        mode = self.mode
        if mode == "cut":
            raise ConnectionResetError
        if mode == "hang":
            await asyncio.sleep(3600)
        if mode == "error" or (self.mute and request.path.startswith(self.mute)):
            return web.Response(status=500, text="No cluster leader")
        if mode == "unsigned" and request.path.startswith("/v1/agent/connect/ca/"):
            return web.Response(status=500, text="error signing: CA is uninitialized")
        if mode == "denied":
            if request.path in REFUSED or request.method == "PUT":
                return web.Response(status=403, text="ACL not found")
            if request.path.startswith(LISTS):
                return web.Response(text="[]", headers={"X-Consul-Index": "1"})
        if mode == "empty":
            text = {"/v1/catalog/services": '{"consul":[]}'}.get(request.path)
            if text is None and request.path.startswith("/v1/health/connect/"):
                text = "[]"
            if text is not None:
                await asyncio.sleep(0.5)
                return web.Response(text=text, headers={"X-Consul-Index": "1"})
        await asyncio.sleep(self.delay)
        async with self._session.request(
            request.method,
            self.target + request.raw_path,
            data=await request.read(),
            headers={k: v for k, v in request.headers.items() if k.startswith("X-")},
        ) as answer:
            headers = {
                name: value
                for name, value in answer.headers.items()
                if name.startswith("X-") or name == "Age"
            }
            if mode == "back" and "X-Consul-Index" in headers:
                self._index -= 1
                headers["X-Consul-Index"] = str(self._index)
            body = await answer.read()
            kind = answer.headers.get("Content-Type", "text/plain").partition(";")[0]
            return web.Response(status=answer.status, body=body, headers=headers, content_type=kind)


@contextlib.contextmanager
def faults(target: str) -> Iterator[Faults]:
    one = Faults(target)
    one.start()
    try:
        yield one
    finally:
        one.close()
