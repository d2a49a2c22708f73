"""Server-sent events between implementations that others wrote: nothing in between holds them
back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
import pytest_asyncio
import requests
from tests.peers import servers
from tests.peers.clients import PATIENCE, present
from tests.peers.servers import PROGRAMS
from tests.support.mesh import Mesh, mesh_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = 3
PROMPT = 0.05  # seconds from an event's sending to its arrival
ROUNDS = 3  # so many streams may be slow because the machine is


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["aiohttp", "gunicorn", "gunicorn-sync"]
)
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    with servers.SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as port:
        async with mesh_to(port) as running:
            yield running


async def heard_by_aiohttp(url: str) -> list[float]:
    """The seconds that each event was on its way, as for all of these."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return [delay(line[6:]) async for line in answer.content if line.startswith(b"data: ")]


async def heard_by_requests(url: str) -> list[float]:
    def read() -> list[float]:
        with requests.get(url, stream=True, timeout=PATIENCE) as answer:
            lines = answer.iter_lines(chunk_size=None)
            return [delay(line[6:]) for line in lines if line.startswith(b"data: ")]

    return await asyncio.to_thread(read)


async def heard_by_curl(url: str) -> list[float]:
    command = (present("curl"), "--silent", "--no-buffer", "--http1.1", url)
    process = await asyncio.create_subprocess_exec(*command, stdout=-1)
    assert process.stdout is not None
    lines = [delay(line[6:]) async for line in process.stdout if line.startswith(b"data: ")]
    assert await process.wait() == 0
    return lines


async def heard_by_node(url: str, kind: str) -> list[float]:
    command = (present("node"), str(PROGRAMS / "events.mjs"), kind, url)
    process = await asyncio.create_subprocess_exec(*command, stdout=-1)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return [delay(*line.split()) for line in out.splitlines()]


def delay(sent: bytes, arrived: bytes | None = None) -> float:
    """Both in nanoseconds of the monotonic clock, which all processes share."""
    return (int(arrived or time.monotonic_ns()) - int(sent)) / 1e9


HEARD: dict[str, Callable[[str], Awaitable[list[float]]]] = {
    "aiohttp": heard_by_aiohttp,
    "requests": heard_by_requests,
    "curl": heard_by_curl,
    "node-fetch": lambda url: heard_by_node(url, "fetch"),
    "node-http": lambda url: heard_by_node(url, "http"),
}


@pytest.mark.parametrize("client", HEARD)
async def test_an_event_arrives_when_it_is_sent(client: str, server: Mesh) -> None:
    """Each within 50 ms, the first already; they are sent 100 ms apart."""
    url = f"http://127.0.0.1:{server.outbound_port}/events"
    heard = []
    for _ in range(ROUNDS):
        async with asyncio.timeout(PATIENCE):
            heard.append(await HEARD[client](url))
        assert len(heard[-1]) == EVENTS
        if max(heard[-1]) < PROMPT:
            return
    pytest.fail(f"seconds on the way, event by event: {heard}")
