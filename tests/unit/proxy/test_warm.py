"""Connections that are there before a request is."""

from __future__ import annotations

import asyncio

from tests.support.app import Scripted
from tests.support.mesh import Mesh, mesh

from fleetmesh.model.report import Direction, Report
from fleetmesh.model.traffic import Protocol
from fleetmesh.settings import UpstreamSettings, WorkerSettings

WARM = WorkerSettings(upstream=UpstreamSettings(warm_connections=3))


def opened(report: Report, direction: Direction = Direction.INBOUND) -> int:
    return sum(one.opened for one in report.connections if one.direction is direction)


async def until_opened(running: Mesh, count: int) -> None:
    """Wait until the callee has accepted so many connections, and see that no more come."""
    for _ in range(200):
        if opened(await running.callee.report()) >= count:
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    assert opened(await running.callee.report()) == count


async def get(running: Mesh) -> bytes:
    reader, writer = await running.call()
    writer.write(b"GET /any HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        return await reader.read()


async def test_requests_find_connections_open_where_a_call_is_declared() -> None:
    """Under the caller's identity, as if a request had opened them. Each of the two workers has
    that identity here, and opens its own."""
    async with mesh(Scripted(), settings=WARM, declared=True) as running:
        await until_opened(running, 6)
        answers = await asyncio.gather(*(get(running) for _ in range(3)))
        assert all(b" 200 " in answer and b"/svc/web" in answer for answer in answers)
        await until_opened(running, 6)


async def test_only_what_is_declared_or_called_is_warmed() -> None:
    async with mesh(Scripted(), settings=WARM) as running:
        await until_opened(running, 0)
        assert b" 200 " in await get(running)
        await running.renew()
        await until_opened(running, 3)


async def test_a_service_that_wants_none_gets_none() -> None:
    async with mesh(Scripted(), declared=True) as running:
        await until_opened(running, 0)


async def test_no_connection_waits_where_its_silence_would_mean_tcp() -> None:
    async with mesh(Scripted(), settings=WARM, declared=True, protocol=Protocol.AUTO) as running:
        await until_opened(running, 0)


async def test_an_endpoint_that_proves_another_identity_is_not_kept_warm() -> None:
    """The first request says so; nothing was sent to it before or is then."""
    app = Scripted()
    async with mesh(app, settings=WARM, declared=True, identity="web") as running:
        assert b"x-fleetmesh-reason: wrong_peer" in await get(running)
        assert app.connections == 0
