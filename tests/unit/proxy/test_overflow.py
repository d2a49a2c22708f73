"""No more requests and connections to an endpoint than it may have."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.app import Scripted
from tests.support.mesh import Mesh, Streams, mesh

from fleetmesh.model.report import Direction
from fleetmesh.model.traffic import Protocol
from fleetmesh.settings import UpstreamSettings, WorkerSettings


def limited(**limits: int) -> WorkerSettings:
    return WorkerSettings(upstream=UpstreamSettings(**limits))


async def send(running: Mesh, path: str) -> Streams:
    streams = await running.call()
    streams[1].write(f"GET {path} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
    return streams


async def head(streams: Streams) -> bytes:
    async with asyncio.timeout(5):
        return await streams[0].readuntil(b"\r\n\r\n")


async def overflows(running: Mesh) -> int:
    report = await running.caller.report()
    assert {one.direction for one in report.refusals} <= {Direction.OUTBOUND}
    return sum(one.count for one in report.refusals if one.code == "overflow")


@pytest.mark.parametrize("limits", [{"max_requests": 2}, {"max_connections": 2}])
async def test_one_request_too_many_is_refused_and_the_next_one_served(
    limits: dict[str, int],
) -> None:
    """Its connection is kept: the client may come again."""
    async with mesh(Scripted(), settings=limited(**limits)) as running:
        slow = [await send(running, "/drip?n=1&gap=0.7") for _ in range(2)]
        for streams in slow:
            assert b" 200 " in await head(streams)
        third = await send(running, "/any")
        refused = await head(third)
        assert b" 503 " in refused
        assert b"x-fleetmesh-reason: overflow" in refused
        assert b"Connection: close" not in refused
        for streams in slow:
            async with asyncio.timeout(5):
                await streams[0].readuntil(b"0\r\n\r\n")
        length = int(refused.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await third[0].readexactly(length)
        third[1].write(b"GET /any HTTP/1.1\r\nHost: api\r\n\r\n")
        assert b" 200 " in await head(third)
        assert await overflows(running) == 1


async def test_connections_that_are_being_opened_count() -> None:
    """Or a burst would pass while the first handshakes last."""
    async with mesh(Scripted(), settings=limited(max_requests=2)) as running:
        burst = await asyncio.gather(*(send(running, "/drip?n=1&gap=0.5") for _ in range(6)))
        answers = [await head(streams) for streams in burst]
        assert sum(b" 503 " in answer for answer in answers) == 4 == await overflows(running)


async def test_a_tunnel_counts_as_long_as_it_lives() -> None:
    async with mesh(Scripted(), settings=limited(max_connections=1)) as running:
        tunnel = await running.call()
        tunnel[1].write(
            b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        assert b" 101 " in await head(tunnel)
        assert b"overflow" in await head(await send(running, "/any"))
        tunnel[1].close()
        await served_again(running)


async def served_again(running: Mesh) -> None:
    for _ in range(100):
        if b" 200 " in await head(await send(running, "/any")):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("still full")


async def test_relayed_connections_are_limited_and_let_others_in_when_they_end() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def served(streams: Streams) -> bool:
        streams[1].write(b"x")
        try:
            return await streams[0].read(1) == b"x"
        except ConnectionError:
            return False

    settings = limited(max_connections=2, max_requests=1)
    async with mesh(echo, protocol=Protocol.TCP, settings=settings) as running:
        async with asyncio.timeout(10):
            one, two = await running.call(), await running.call()
            assert await served(one)
            assert await served(two)
            assert not await served(await running.call())
            one[1].close()
            again = await running.call()
            while not await served(again):
                again = await running.call()
        assert await overflows(running) >= 1
