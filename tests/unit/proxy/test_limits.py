"""What a request's content may weigh, as a client and as the application see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.support.app import Scripted
from tests.support.mesh import Mesh, Streams, mesh

from fleetmesh.settings import HttpSettings, WorkerSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 1000
SETTINGS = WorkerSettings(http=HttpSettings(max_body_bytes=LIMIT))
CHUNKED = b"POST /any HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def app() -> Scripted:
    return Scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(app: Scripted) -> AsyncIterator[Mesh]:
    async with mesh(app, settings=SETTINGS) as running:
        yield running


async def answer(streams: Streams) -> bytes:
    """The head."""
    async with asyncio.timeout(5):
        return await streams[0].readuntil(b"\r\n\r\n")


def counted(length: int) -> bytes:
    return b"POST /any HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n" % length


def chunks(*sizes: int) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (size, bytes(size)) for size in sizes)


async def test_content_up_to_the_limit_passes(limited: Mesh) -> None:
    """And the limit is each request's, not the connection's."""
    streams = await limited.call()
    for request in (counted(LIMIT) + bytes(LIMIT), CHUNKED + chunks(600, 400) + b"0\r\n\r\n") * 2:
        streams[1].write(request)
        head = await answer(streams)
        assert b" 200 " in head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert b'"length": 1000' in await streams[0].readexactly(length)


async def test_a_length_over_the_limit_is_refused_before_anything_goes_on(
    limited: Mesh, app: Scripted
) -> None:
    """A client that waits for 100 (Continue) is spared the sending, the application all of it."""
    served, connections = app.served, app.connections
    for request in (counted(LIMIT + 1), counted(10**17), counted(LIMIT + 1) + bytes(LIMIT + 1)):
        streams = await limited.call()
        streams[1].write(request)
        head = await answer(streams)
        assert b" 413 " in head
        assert b"x-fleetmesh-reason: body_too_large" in head
        assert b"Connection: close" in head
    assert (app.served, app.connections) == (served, connections)


async def test_chunked_content_is_cut_where_it_passes_the_limit(
    limited: Mesh, app: Scripted
) -> None:
    """The application never sees its end, so it cannot take a part for the whole."""
    aborted = app.aborted
    streams = await limited.call()
    streams[1].write(CHUNKED + chunks(900))
    await asyncio.sleep(0.1)
    streams[1].write(chunks(100, 1))
    head = await answer(streams)
    assert b" 413 " in head
    assert b"x-fleetmesh-reason: body_too_large" in head
    await app.abort_after(aborted)


async def test_an_answer_that_has_begun_is_cut_off_with_its_request(
    limited: Mesh, app: Scripted
) -> None:
    """There is no status any more to say it with."""
    streams = await limited.call()
    line = b"POST /drip?n=500&gap=0.02 HTTP/1.1\r\n"
    streams[1].write(line + CHUNKED.partition(b"\r\n")[2] + chunks(10))
    assert b" 200 " in await answer(streams)
    streams[1].write(chunks(LIMIT))
    received = b""
    async with asyncio.timeout(5):
        try:
            while data := await streams[0].read(4096):
                received += data
        except ConnectionError:
            pass
    assert not received.endswith(b"0\r\n\r\n")


async def test_no_limit_is_the_default(app: Scripted) -> None:
    assert HttpSettings().max_body_bytes == 0
    async with mesh(app) as running:
        streams = await running.call()
        streams[1].write(CHUNKED + chunks(100_000) + b"0\r\n\r\n")
        assert b" 200 " in await answer(streams)
