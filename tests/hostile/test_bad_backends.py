"""Applications that do not answer, or stop in the middle: the caller is told, others go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.hostile.watch import Site, eventually, site, unharmed

from fleetmesh.proxy.plane import LINGER, SWEEP
from fleetmesh.settings import HttpSettings, WorkerSettings

LATE = 2 * SWEEP + 2.0
BODY = 256 * 1024
PAUSE = 0.05
"""Seconds between two attacks: what is tried here is not how much the machine can do."""


def head(target: str, version: str = "1.1", *fields: str) -> bytes:
    lines = [f"GET {target} HTTP/{version}", "Host: api", *fields, "", ""]
    return "\r\n".join(lines).encode()


async def call(there: Site, request: bytes) -> tuple[bytes, bool]:
    """All that came, and whether a reset ended it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
    writer.write(request)
    data = b""
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionError:
        return data, True
    finally:
        writer.close()
    return data, False


@asynccontextmanager
async def repeated(attack: Callable[[], Awaitable[None]]) -> AsyncIterator[list[int]]:
    """Three do it over and over until the end, none may fail; the one item is how often it was."""
    count = [0]

    async def repeat() -> None:
        while True:
            await attack()
            count[0] += 1
            await asyncio.sleep(PAUSE)

    attacking = [asyncio.ensure_future(repeat()) for _ in range(3)]
    try:
        yield count
        for one in attacking:
            assert not one.done(), one.exception()
    finally:
        for one in attacking:
            one.cancel()
        await asyncio.gather(*attacking, return_exceptions=True)


async def test_a_backend_that_never_answers() -> None:
    """504 after request_timeout; the connection serves on, the application's is closed."""
    timeout, count = 2.0, 300
    async with site(WorkerSettings(http=HttpSettings(request_timeout=timeout))) as there:
        normal = await there.p99(3)

        async def wait() -> float:
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            begin = time.monotonic()
            writer.write(head("/never"))
            answer = await reader.readuntil(b"\r\n\r\n")
            seconds = time.monotonic() - begin
            assert answer.startswith(b"HTTP/1.1 504 "), answer
            assert b"x-fleetmesh-reason: request_timeout\r\n" in answer
            await reader.readuntil(b"}\n")
            writer.write(head("/small/1"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            return seconds

        async def all_wait() -> list[float]:
            waiting = []
            for _ in range(count):
                waiting.append(asyncio.ensure_future(wait()))
                await asyncio.sleep(0.02)
            return await asyncio.gather(*waiting)

        attack = asyncio.ensure_future(all_wait())
        await unharmed(there, normal, 3, f"{count} requests without an answer")
        took = await attack
        assert min(took) >= timeout
        assert max(took) <= timeout + LATE
        await eventually(lambda: len(there.backend.open) < 20)


async def test_a_backend_that_resets_in_the_middle_of_its_answer() -> None:
    """The caller's connection ends too, before the answer could seem complete."""
    async with site(WorkerSettings()) as there:
        normal = await there.p99(3)

        async def attack() -> None:
            data, _ = await call(there, head("/reset"))
            assert data.startswith(b"HTTP/1.1 200 OK\r\n")
            assert len(data) < 128 * 1024
            data, _ = await call(there, head("/reset-chunked"))
            assert b"Transfer-Encoding: chunked" in data
            assert not data.endswith(b"0\r\n\r\n")

        async with repeated(attack) as count:
            await unharmed(there, normal, 3, "answers that are cut")
        assert count[0] >= 10
        assert (await there.refusals())["upstream_reset"] >= 2 * count[0]


async def test_a_client_of_http_1_0_can_tell_a_cut_answer_from_a_whole_one() -> None:
    """Where the end of the connection is the end of the answer, a cut is a reset."""
    async with site(WorkerSettings()) as there:
        data, reset = await call(there, head("/reset-chunked", "1.0"))
        assert data.endswith(b"\r\n\r\nok")
        assert reset


async def test_a_backend_that_resets_in_the_middle_of_a_request() -> None:
    """503, even to a client that is still sending, and then the end."""
    async with site(WorkerSettings()) as there:
        normal = await there.p99(3)

        async def attack() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
            begin = time.monotonic()
            writer.write(head("/reset-me", "1.1", f"Content-Length: {BODY}"))
            writer.write(bytes(BODY // 2))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b"x-fleetmesh-reason: upstream_reset\r\n" in answer
            try:
                while await reader.read(65536):
                    pass
            except ConnectionError:
                pass
            assert time.monotonic() - begin < LINGER + LATE
            writer.transport.abort()

        async with repeated(attack) as count:
            await unharmed(there, normal, 3, "requests that are cut")
        assert count[0] >= 10
        assert (await there.refusals())["upstream_reset"] >= count[0]
