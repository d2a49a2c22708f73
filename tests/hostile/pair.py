"""Several workers that accept from one socket: web's calls to an application in the clear."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.hostile.backend import Backend
from tests.support.ca import Authority
from tests.support.worker import (
    WorkerProcess,
    inbound,
    listening,
    local_service,
    outbound,
    port_of,
    snapshot,
    upstream,
)

from fleetmesh.model.report import Direction
from fleetmesh.settings import WorkerSettings

REQUEST = b"GET /small/1 HTTP/1.1\r\nHost: api\r\n\r\n"


@dataclass
class Pair:
    """Every worker serves `port`, web's calls to api, and api's sidecar."""

    workers: list[WorkerProcess]
    port: int

    async def counts(self) -> list[tuple[int, int]]:
        """By worker: web's connections that were opened, and those that are open."""
        counts = []
        for worker in self.workers:
            connections = [
                c for c in (await worker.report()).connections if c.direction is Direction.OUTBOUND
            ]
            counts.append((sum(c.opened for c in connections), sum(c.active for c in connections)))
        return counts

    def stop(self, number: int) -> None:
        self.workers[number].process.send_signal(signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        self.workers[number].process.send_signal(signal.SIGCONT)

    async def burst(self, count: int) -> list[socket.socket]:
        """So many connections that are open at once, as fast as the kernel makes them."""
        return [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]

    async def ask(self, sock: socket.socket, seconds: float) -> bool:
        """Whether a request on `sock` is answered in time."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        await loop.sock_sendall(sock, REQUEST)
        try:
            async with asyncio.timeout(seconds):
                return (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200 ")
        except TimeoutError:
            return False


@asynccontextmanager
async def pair(count: int = 2) -> AsyncIterator[Pair]:
    authority, out, side = Authority(), listening(), listening()
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(Backend())
        what = snapshot(
            authority,
            (
                local_service("web", 1, authority.leaf("web")),
                local_service("api", backend.port, authority.leaf("api")),
            ),
            (upstream("api", port_of(side)),),
        )
        workers = [
            await stack.enter_async_context(WorkerProcess(number, WorkerSettings()))
            for number in range(count)
        ]
        for worker in workers:
            listeners = {outbound("web", "api"): out, inbound("api"): side}
            assert not (await worker.publish(what, listeners)).error
        try:
            yield Pair(workers, port_of(out))
        finally:
            for worker in workers:
                worker.process.send_signal(signal.SIGCONT)
    out.close()
    side.close()
