"""Clients that ask for more than they take: pipelined requests that the mesh answers itself."""

from __future__ import annotations

import asyncio

from tests.hostile.watch import Site, site, unharmed

from fleetmesh.settings import WorkerSettings

REQUEST = b"GET / HTTP/1.1\r\nHost: void\r\n\r\n"
PER_CLIENT = 3 * 320 * 1024
"""Bytes, as docs/limits.md states them."""


async def flood(there: Site, seconds: float) -> int:
    """Send without ever reading; how many bytes were taken."""
    loop = asyncio.get_running_loop()
    sock = there.dial(there.void)
    sent = 0
    piece = REQUEST * 1000
    try:
        async with asyncio.timeout(seconds):
            while True:
                await loop.sock_sendall(sock, piece)
                sent += len(piece)
    except TimeoutError:
        return sent
    finally:
        sock.close()


async def test_a_flood_of_refused_requests_is_not_read_faster_than_its_answers() -> None:
    """A client that reads none is read no more, and others have their turn meanwhile."""
    async with site(WorkerSettings(log_level="error")) as there:
        normal = await there.p99(3)
        before = there.memory()
        flooding = [asyncio.ensure_future(flood(there, 6)) for _ in range(4)]
        await unharmed(there, normal, 3, "four floods of refused requests")
        each = (there.memory() - before) / len(flooding)
        await asyncio.gather(*flooding)
        refused = (await there.refusals())["no_endpoint"]
        print(f"{each / 1024:.0f} KiB and {refused // len(flooding)} answers for each flood")
        assert each <= PER_CLIENT


async def test_whoever_reads_gets_every_answer() -> None:
    """In order, from one read's ten thousand requests, and after the client has ended its side."""
    count = 10_000
    async with site(WorkerSettings(log_level="error")) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.void)
        writer.write(REQUEST * count)
        answers = 0
        async with asyncio.timeout(30):
            for _ in range(count):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
                await reader.readuntil(b"}\n")
                answers += 1
        assert answers == count
        writer.write(REQUEST * 3)
        writer.write_eof()
        rest = await reader.read()
        assert rest.count(b"HTTP/1.1 503 ") == 3
        writer.close()
