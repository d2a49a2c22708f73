"""What the kernel does about connections on which nothing passes."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from tests.support.mesh import Mesh, mesh

from fleetmesh.model.traffic import Protocol
from fleetmesh.proxy.keepalive import INTERVAL, PROBES, keep_alive
from fleetmesh.settings import TcpSettings, WorkerSettings

KEEPALIVE = "02"  # Documentation/networking/proc_net_tcp.rst: another timer is pending
ESTABLISHED = "01"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


def timers(port: int) -> tuple[set[str], set[str]]:
    """Of established connections: the kernel's timers at the end with this port, and at the
    other end."""
    there, back = set(), set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = line.split()
        if state == ESTABLISHED:
            if int(local.partition(":")[2], 16) == port:
                there.add(timer.partition(":")[0])
            elif int(remote.partition(":")[2], 16) == port:
                back.add(timer.partition(":")[0])
    return there, back


async def quiet(running: Mesh, timer: str) -> None:
    """Wait until accepted and dialled connections both have only this timer."""
    async with asyncio.timeout(5):
        while True:
            accepted, _ = timers(running.outbound_port)
            seen = accepted, *timers(running.sidecar_port)
            if seen == ({timer}, {timer}, {timer}):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("idle", "timer"), [(60.0, KEEPALIVE), (0.0, "00")])
async def test_accepted_and_dialled_connections_are_probed_when_asked_to(
    idle: float, timer: str
) -> None:
    settings = WorkerSettings(tcp=TcpSettings(keepalive=idle))
    async with mesh(echo, protocol=Protocol.TCP, settings=settings) as running:
        reader, writer = await running.call()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await quiet(running, timer)


def test_connections_inherit_what_their_listening_socket_was_told() -> None:
    """So that accepting costs no call more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        keep_alive(server, 0.2)  # less than the kernel's grain
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            found = [accepted.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            assert found == [1, INTERVAL, PROBES]
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.HTTP])
async def test_how_long_connections_lasted_is_counted_when_they_end(protocol: Protocol) -> None:
    begin = time.monotonic()
    async with mesh(echo, protocol=protocol) as running:
        _, writer = await running.call()
        await asyncio.sleep(0.3)
        assert (await running.caller.report()).connections[0].seconds == 0
        writer.close()
        async with asyncio.timeout(5):
            one = (await running.caller.report()).connections[0]
            while one.active:
                one = (await running.caller.report()).connections[0]
        assert 0.25 < one.seconds < time.monotonic() - begin
