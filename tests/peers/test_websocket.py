"""WebSocket between implementations that others wrote, through the mesh."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
import websockets
from tests.peers.clients import present
from tests.peers.node import ws
from tests.peers.servers import PROGRAMS, served
from tests.support.mesh import Mesh, mesh_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = (0, 1, 125, 126, 65_535, 65_536, 1_500_000)
"""On both sides of where the length's own length changes, and more than any buffer."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["websockets", "ws"])
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """The mesh in front of an echo."""
    if request.param == "ws":
        command, variables = [present("node"), str(PROGRAMS / "ws_server.cjs")], ws()
    else:
        command, variables = [sys.executable, str(PROGRAMS / "websockets_server.py")], {}
    directory = tmp_path_factory.mktemp(request.param)
    with served(request.param, directory, lambda port: [*command, str(port)], **variables) as port:
        async with mesh_to(port) as running:
            yield running


async def test_echo_to_websockets(server: Mesh) -> None:
    """Text and bytes of every size come back; ping and close pass too."""
    url = f"ws://127.0.0.1:{server.outbound_port}/echo"
    async with websockets.connect(url, proxy=None, max_size=1 << 24) as connection:
        for size in SIZES:
            for message in ("x" * size, os.urandom(size)):
                await connection.send(message)
                assert await connection.recv() == message
        async with asyncio.timeout(5):
            await (await connection.ping("are you there"))
        await connection.close(4321, "enough")
        assert connection.close_code == 4321


async def test_echo_to_ws(server: Mesh) -> None:
    """As above; the client is Node's."""
    url = f"ws://127.0.0.1:{server.outbound_port}/echo"
    process = await asyncio.create_subprocess_exec(
        *(present("node"), str(PROGRAMS / "ws_client.cjs"), url, *map(str, SIZES)),
        env={**os.environ, **ws()},
        stderr=-1,
    )
    async with asyncio.timeout(20):
        _, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()


async def test_echo_to_aiohttp(server: Mesh) -> None:
    url = f"http://127.0.0.1:{server.outbound_port}/echo"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, compress=15, max_msg_size=1 << 24) as socket,
    ):
        for size in SIZES:
            await socket.send_bytes(message := os.urandom(size))
            assert await socket.receive_bytes(timeout=5) == message


async def test_many_messages_before_the_first_is_read(server: Mesh) -> None:
    """None is lost or overtaken while both directions are full."""
    url = f"ws://127.0.0.1:{server.outbound_port}/echo"
    async with websockets.connect(url, proxy=None, compression=None) as connection:
        messages = [os.urandom(20_000) for _ in range(200)]

        async def send() -> None:
            for message in messages:
                await connection.send(message)

        async def receive() -> list[str | bytes]:
            return [await connection.recv() for _ in messages]

        async with asyncio.timeout(20):
            _, received = await asyncio.gather(send(), receive())
        assert received == messages


async def test_no_upgrade_is_an_ordinary_answer(server: Mesh) -> None:
    """Who asks for no WebSocket where one is served hears what the server says to that: 426."""
    url = f"http://127.0.0.1:{server.outbound_port}/echo"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 426
        assert "x-fleetmesh-reason" not in answer.headers
        assert answer.headers.get("Upgrade", "websocket") == "websocket"
