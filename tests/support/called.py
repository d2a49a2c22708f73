"""A service that `web` calls through two workers; its upstream says what the test wants."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msgspec.structs import replace
from tests.support.app import Scripted
from tests.support.ca import Authority
from tests.support.mesh import Handler
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

from fleetmesh.core.lane import DEFAULTS
from fleetmesh.model.fault import Fault
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.model.traffic import Endpoint, Route, Upstream
from fleetmesh.settings import AccessLogMode, AccessLogSettings, UpstreamSettings, WorkerSettings


class Called:
    """`web` calls `api`, whose upstream and local service are to be changed by the test."""

    def __init__(
        self, caller: WorkerProcess, what: Snapshot, out: socket.socket, sidecar: int
    ) -> None:
        self.caller = caller
        self._what = what
        self._out = out
        self.port = port_of(out)
        self.sidecar = sidecar

    async def inject(self, *faults: Fault) -> None:
        """These hold from now on, and no others."""
        listeners = {outbound("web", "api"): self._out}
        assert not (await self.caller.publish(self._what, listeners, faults)).error

    async def send(self, request: bytes) -> bytes:
        """All that is answered; on a connection of its own, whose end the request asks for."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        async with asyncio.timeout(20):
            answer = await reader.read(-1)
        writer.close()
        return answer

    async def ask(self, line: str, *fields: str) -> tuple[int, dict[str, str], bytes]:
        """Status, fields by name, content."""
        head = "\r\n".join([f"{line} HTTP/1.1", "Host: api", "Connection: close", *fields])
        answer, _, content = (await self.send(f"{head}\r\n\r\n".encode())).partition(b"\r\n\r\n")
        status, *lines = answer.decode().split("\r\n")
        told = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split(" ")[1]), told, content


@asynccontextmanager
async def called(
    api: LocalService | None = None,
    *,
    app: Handler | None = None,
    dead: bool = False,
    keep: UpstreamSettings = DEFAULTS,
    say: Callable[[Upstream], Upstream] = lambda api: api,
) -> AsyncIterator[Called]:
    """`say` makes the upstream say more. `dead`: most of it is an endpoint that is nobody's."""
    server = await asyncio.start_server(app or Scripted(), "127.0.0.1", 0, limit=1 << 20)
    authority, out, side = Authority(), listening(), listening()
    own = local_service("api", port_of(server.sockets[0]), authority.leaf("api"))
    if api is not None:
        own = replace(api, port=own.port, leaf=own.leaf)
    theirs = upstream("api", port_of(side))
    if dead:
        with listening() as nobody:
            corpse = Endpoint("dead", "127.0.0.1", port_of(nobody), weight=1000)
        target = replace(theirs.target, endpoints=(*theirs.target.endpoints, corpse))
        theirs = replace(theirs, target=target)
    what = snapshot(
        authority,
        (local_service("web", 1, authority.leaf("web")), own),
        (say(theirs),),
    )
    settings = WorkerSettings(upstream=keep, access_log=AccessLogSettings(mode=AccessLogMode.RING))
    async with WorkerProcess(0, settings) as caller, WorkerProcess(1) as callee:
        assert not (await callee.publish(what, {inbound("api"): side})).error
        assert not (await caller.publish(what, {outbound("web", "api"): out})).error
        yield Called(caller, what, out, port_of(side))
    server.close()


def routes(*routes: Route) -> Callable[[Upstream], Upstream]:
    return lambda api: replace(api, routes=routes)
