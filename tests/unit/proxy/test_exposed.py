"""What a service exposes is answered in the clear, and nothing else of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import WorkerProcess, listening, local_service, port_of, snapshot

from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import ExposedPath

EXPOSED = Listener("exposed", ListenerKind.EXPOSED, "")


@asynccontextmanager
async def application(name: str) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers with its `name`; its port, and the heads that it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(name))
                writer.write(name.encode())
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield port_of(server.sockets[0]), heads
    server.close()


class Client:
    """One connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, target: str, *lines: str) -> tuple[int, bytes]:
        head = "\r\n".join((f"GET {target} HTTP/1.1", "Host: scraper", *lines))
        self._writer.write(head.encode() + b"\r\n\r\n")
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(answer.split()[1]), await self._reader.readexactly(length)


async def test_exactly_the_exposed_paths_are_answered() -> None:
    authority, sock = Authority(), listening()
    port = port_of(sock)
    async with (
        application("web") as (web, web_heads),
        application("exporter") as (exporter, _),
        application("api") as (api, _),
        WorkerProcess() as worker,
    ):
        exposing = replace(
            local_service("web", web, None),
            exposed=(ExposedPath(port, "/health", web), ExposedPath(port, "/metrics", exporter)),
        )
        other = replace(
            local_service("api", api, None), exposed=(ExposedPath(port, "/ready", api),)
        )
        both = snapshot(authority, (exposing, other))
        assert not (await worker.publish(both, {EXPOSED: sock})).error
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        forged = "X-Forwarded-Client-Cert: URI=spiffe://forged"
        assert await client.get("/health", forged) == (200, b"web")
        assert await client.get("/health?full=1") == (200, b"web")
        assert [head.split(b" ")[1] for head in web_heads] == [b"/health", b"/health?full=1"]
        assert b"forged" not in web_heads[0]
        assert await client.get("/metrics") == (200, b"exporter")
        assert await client.get("/ready") == (200, b"api")
        for path in ("/", "/health/", "/HEALTH", "/%68ealth", "/metrics/../health"):
            status, body = await client.get(path)
            assert (path, status) == (path, 404)
            assert b"not_exposed" in body
        assert len(web_heads) == 2
        report = await worker.report()
        kinds = {(c.direction, c.kind, c.destination) for c in report.connections}
        assert kinds == {(Direction.PLAIN, "exposed", "api, web")}

        less = snapshot(authority, (replace(exposing, exposed=exposing.exposed[:1]),))
        assert not (await worker.publish(less, {EXPOSED: sock})).error
        assert (await client.get("/metrics"))[0] == 404
        assert await client.get("/health") == (200, b"web")

        assert not (await worker.publish(snapshot(authority), {})).error
        assert (await client.get("/health"))[0] == 404
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, TimeoutError)):
            async with asyncio.timeout(0.5):
                await Client(*await asyncio.open_connection("127.0.0.1", port)).get("/health")
    sock.close()
