"""Independent HTTP clients and servers on both ends of the mesh."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from tests.support.mesh import Mesh, mesh_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYLOAD = bytes(range(256)) * 8192


async def digest(request: web.Request) -> web.Response:
    content = await request.read()
    return web.json_response(
        {
            "sha256": hashlib.sha256(content).hexdigest(),
            "peer": request.headers["X-Forwarded-Client-Cert"],
        }
    )


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for at in range(0, len(PAYLOAD), 50_000):
        await response.write(PAYLOAD[at : at + 50_000])
    await response.write_eof()
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meshed() -> AsyncIterator[Mesh]:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/digest", digest)
    app.router.add_get("/stream", stream)
    app.router.add_get("/echo", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with mesh_to(port) as running:
        yield running
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def client(meshed: Mesh) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{meshed.outbound_port}") as session:
        yield session


async def test_aiohttp_uploads_of_known_and_unknown_length(client: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(PAYLOAD), 33_333):
            yield PAYLOAD[at : at + 33_333]

    for data in (PAYLOAD, pieces()):
        async with client.post("/digest", data=data, expect100=data is PAYLOAD) as response:
            heard = await response.json()
        assert heard["sha256"] == hashlib.sha256(PAYLOAD).hexdigest()
        assert heard["peer"].endswith("/svc/web")


async def test_aiohttp_downloads_and_many_at_once(client: aiohttp.ClientSession) -> None:
    async def one() -> bool:
        async with client.get("/stream") as response:
            return await response.read() == PAYLOAD

    assert all(await asyncio.gather(*(one() for _ in range(20))))


async def test_aiohttp_websocket(client: aiohttp.ClientSession) -> None:
    async with client.ws_connect("/echo") as socket:
        for size in (1, 1000, 100_000):
            await socket.send_str("x" * size)
            assert await socket.receive_str(timeout=5) == "x" * size


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(meshed: Mesh) -> None:
    """Two requests on one connection, an upload with 100-continue, HTTP/1.0, HEAD."""
    url = f"http://127.0.0.1:{meshed.outbound_port}"

    async def curl(*arguments: str, data: bytes = b"") -> bytes:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--fail", "--max-time", "10", *arguments, stdin=-1, stdout=-1
        )
        out, _ = await process.communicate(data)
        assert process.returncode == 0
        return out

    twice = (f"{url}/stream", f"{url}/stream", "-o", "/dev/null", "-o", "/dev/null")
    connects = await curl("-w", "%{num_connects},", *twice)
    assert connects == b"1,0,"
    assert hashlib.sha256(PAYLOAD).hexdigest().encode() in await curl(
        "-T", "-", "-H", "Expect: 100-continue", f"{url}/digest", data=PAYLOAD
    )
    assert await curl("-0", f"{url}/stream") == PAYLOAD
    assert b"200 OK" in await curl("-I", f"{url}/stream")
