"""The smallest mesh: `web` calls `api` through two worker processes, both on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
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

from fleetmesh.edge.tls import client_context
from fleetmesh.model.intention import Intention
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Protocol
from fleetmesh.settings import WorkerSettings

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Mesh:
    """`caller` serves web's outbound port, `callee` api's sidecar."""

    authority: Authority
    caller: WorkerProcess
    callee: WorkerProcess
    outbound_port: int
    sidecar_port: int
    publish: Callable[..., Awaitable[None]]
    renew: Callable[[], Awaitable[None]]
    hand_over_callee: Callable[[WorkerProcess], Awaitable[None]]
    hand_over_caller: Callable[[WorkerProcess], Awaitable[None]]

    async def call(self) -> Streams:
        """As web, through both workers."""
        return await asyncio.open_connection("127.0.0.1", self.outbound_port, limit=1 << 20)

    async def call_inbound(self, source: str = "web") -> Streams:
        """As a foreign sidecar of `source` would: TLS to api's sidecar port."""
        return await asyncio.open_connection(
            "127.0.0.1", self.sidecar_port, ssl=self.context(source), limit=1 << 20
        )

    def context(self, source: str) -> ssl.SSLContext:
        return client_context([self.authority.root], self.authority.leaf(source))


@asynccontextmanager
async def mesh(
    application: Handler,
    *,
    protocol: Protocol = Protocol.HTTP,
    called_as: Protocol | None = None,
    settings: WorkerSettings | None = None,
    declared: bool = False,
    identity: str = "",
) -> AsyncIterator[Mesh]:
    """`application` handles the connections to api."""
    server = await asyncio.start_server(application, "127.0.0.1", 0)
    async with mesh_to(
        port_of(server.sockets[0]),
        protocol=protocol,
        called_as=called_as,
        settings=settings,
        declared=declared,
        identity=identity,
    ) as running:
        yield running
    server.close()


@asynccontextmanager
async def mesh_to(
    app_port: int,
    *,
    protocol: Protocol = Protocol.HTTP,
    called_as: Protocol | None = None,
    settings: WorkerSettings | None = None,
    declared: bool = False,
    identity: str = "",
) -> AsyncIterator[Mesh]:
    """api is whatever listens on 127.0.0.1:`app_port` already, of `protocol`, also for its callers
    unless they know it as another: `called_as`. web may be `declared` to call api, and expect it
    to prove another service's `identity`."""
    authority = Authority()
    leaves = {name: authority.leaf(name) for name in ("web", "api")}
    out, side = listening(), listening()

    def state(intentions: tuple[Intention, ...]) -> Snapshot:
        return snapshot(
            authority,
            (
                msgspec.structs.replace(
                    local_service("web", 1, leaves["web"]), upstreams=("api",) if declared else ()
                ),
                local_service(
                    "api", app_port, leaves["api"], protocol=protocol, intentions=intentions
                ),
            ),
            (upstream("api", port_of(side), protocol=called_as or protocol, identity=identity),),
        )

    async with WorkerProcess(0, settings) as caller, WorkerProcess(1, settings) as callee:

        async def publish(*intentions: Intention) -> None:
            what = state(intentions)
            assert not (await caller.publish(what, {outbound("web", "api"): out})).error
            assert not (await callee.publish(what, {inbound("api"): side})).error

        async def renew() -> None:
            leaves.update({name: authority.leaf(name) for name in leaves})
            await publish()

        async def to_callee(successor: WorkerProcess) -> None:
            assert not (await successor.publish(state(()), {inbound("api"): side})).error

        async def to_caller(successor: WorkerProcess) -> None:
            assert not (await successor.publish(state(()), {outbound("web", "api"): out})).error

        await publish()
        yield Mesh(
            authority,
            caller,
            callee,
            port_of(out),
            port_of(side),
            publish,
            renew,
            to_callee,
            to_caller,
        )
    out.close()
    side.close()
