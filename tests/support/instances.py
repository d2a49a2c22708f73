"""Instances of api with their sidecars in one, which die and vanish, and web, which calls them
through a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.mesh import Handler
from tests.support.worker import (
    WorkerProcess,
    listening,
    local_service,
    outbound,
    port_of,
    snapshot,
    upstream,
)

from fleetmesh.edge.tls import server_context
from fleetmesh.model.traffic import Endpoint, Upstream
from fleetmesh.settings import WorkerSettings


class Instance:
    """Answers `answer` after `delay` seconds, or drops the connection where that is empty.
    `asked` has the head of every request."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.delay = 0.0
        self.asked: list[bytes] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                await asyncio.sleep(self.delay)
                if not self.answer:
                    break
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def kill(self) -> None:
        """As SIGKILL: every connection is reset, and nobody listens any more."""
        self.server.close()
        for writer in self._writers:
            writer.transport.abort()


class Load:
    """web, whose requests go out on `port`."""

    def __init__(self, worker: WorkerProcess, port: int, instances: list[Instance]) -> None:
        self.worker, self.port, self.instances = worker, port, instances

    async def ask(self, request: bytes = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n") -> bytes:
        """The answer to one request, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        content = await reader.readexactly(length)
        writer.close()
        return head + content

    async def run(
        self,
        seconds: float,
        lanes: int = 8,
        request: bytes = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n",
    ) -> list[tuple[float, int, float]]:
        """When each request of so many `lanes` was sent (seconds from the beginning), the status,
        and the seconds that it took. Ends when all are answered."""
        done: list[tuple[float, int, float]] = []
        zero = time.monotonic()

        async def lane() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            while (began := time.monotonic()) < zero + seconds:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                done.append((began - zero, int(head.split()[1]), time.monotonic() - began))
                await asyncio.sleep(0.002)
            writer.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())
        return done


@asynccontextmanager
async def instances(
    count: int = 4,
    *,
    settings: WorkerSettings | None = None,
    say: Callable[[Upstream], Upstream] = lambda api: api,
    addresses: Sequence[tuple[str, int]] = (),
    sockets: Sequence[object] = (),
    netns: str = "",
    app: Handler | None = None,
) -> AsyncIterator[Load]:
    """The listening `sockets` and their `addresses` may be another namespace's; then the worker is
    in `netns`. `app` serves in place of what an Instance does."""
    authority, out = Authority(), listening()
    context = server_context([authority.root], authority.leaf("api"))
    running = [Instance() for _ in range(count)]
    for number, one in enumerate(running):
        where = {"sock": sockets[number]} if sockets else {"host": "127.0.0.1", "port": 0}
        one.server = await asyncio.start_server(app or one, ssl=context, **where)  # type: ignore[arg-type]
    ends = addresses or [("127.0.0.1", port_of(one.server.sockets[0])) for one in running]  # type: ignore[arg-type]
    api = upstream("api", 1)
    endpoints = tuple(
        Endpoint(f"node{number}/api", address, port) for number, (address, port) in enumerate(ends)
    )
    api = say(replace(api, target=replace(api.target, endpoints=endpoints)))
    what = snapshot(authority, (local_service("web", 1, authority.leaf("web")),), (api,))
    async with WorkerProcess(0, settings, netns) as worker:
        assert not (await worker.publish(what, {outbound("web", "api"): out})).error
        yield Load(worker, port_of(out), running)
    for one in running:
        one.server.close()
    out.close()
