"""TCP streams that follow one another on one TLS connection between two workers."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from pathlib import Path

import pytest
from tests.support.mesh import Mesh, mesh
from tests.support.worker import WorkerProcess, deny

from fleetmesh.model.traffic import Protocol
from fleetmesh.settings import TcpSettings, WorkerSettings

ESTABLISHED = "01"


def carriers(running: Mesh) -> set[str]:
    """The callers' ends of the connections to the sidecar port."""
    local = f":{running.sidecar_port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[2] for row in rows if row[1].endswith(local) and row[3] == ESTABLISHED}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the caller's end, then its own."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def ask(running: Mesh, content: bytes) -> bytes:
    """One whole TCP connection of the caller: everything there, everything back."""
    reader, writer = await running.call()

    async def send() -> None:
        for at in range(0, len(content), 1 << 16):
            writer.write(content[at : at + (1 << 16)])
            await writer.drain()
        writer.write_eof()

    async with asyncio.timeout(20):
        _, answer = await asyncio.gather(send(), reader.read())
    writer.close()
    return answer


async def settled(running: Mesh) -> None:
    """No connection is under way in either worker."""
    for worker in (running.caller, running.callee):
        for _ in range(500):
            if not any(one.active for one in (await worker.report()).connections):
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("connections are still open")


async def test_connections_in_a_row_share_one_handshake() -> None:
    """Each is counted, each has its own ends, and a kept connection carries all of them."""
    async with mesh(echo, protocol=Protocol.TCP) as running:
        for number in range(5):
            assert await ask(running, b"%d" % number * 1000) == b"%d" % number * 1000
            await settled(running)
            if not number:
                first = carriers(running)
        assert len(first) == 1
        assert carriers(running) == first
        counted = (await running.callee.report()).connections[0]
        assert (counted.opened, counted.bytes_sent) == (5, 5000)


async def test_connections_at_once_have_one_each() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        calls = [await running.call() for _ in range(8)]
        for number, (reader, writer) in enumerate(calls):
            writer.write(b"%d" % number)
            assert await reader.readexactly(1) == b"%d" % number
        assert len(carriers(running)) == 8
        for reader, writer in calls:
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        await settled(running)
        assert len(carriers(running)) == 8


@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
async def test_a_long_stream_is_whole_and_keeps_its_connection_to_itself(size: int) -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        content = hashlib.sha256(b"seed").digest() * (size // 32)
        assert await ask(running, content) == content
        await settled(running)
        await asyncio.sleep(0.05)
        assert len(carriers(running)) == (1 if size == 1 << 20 else 0)


async def test_the_application_may_end_first() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async with mesh(greet, protocol=Protocol.TCP) as running:
        for _ in range(3):
            reader, writer = await running.call()
            assert await reader.read() == b"bye"
            writer.close()
            await settled(running)
        assert len(carriers(running)) == 1


async def test_a_reset_ends_that_stream_and_its_connection_only() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        _, doomed = await running.call()
        doomed.write(b"x")
        assert await ask(running, b"hello") == b"hello"
        linger = struct.pack("ii", 1, 0)
        doomed.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        doomed.transport.abort()
        await settled(running)
        assert len(carriers(running)) == 1
        assert await ask(running, b"again") == b"again"


async def test_a_connection_that_died_while_it_was_kept_costs_nobody_anything() -> None:
    """The callee's agent is another by then, as after an upgrade."""
    async with mesh(echo, protocol=Protocol.TCP) as running:
        assert await ask(running, b"before") == b"before"
        async with WorkerProcess(2) as successor:
            await running.hand_over_callee(successor)
            running.callee.process.kill()
            for _ in range(3):
                assert await ask(running, b"after") == b"after"


async def test_a_kept_connection_that_falls_silent_is_given_up() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        assert await ask(running, b"before") == b"before"
        await settled(running)
        running.callee.process.send_signal(19)  # SIGSTOP
        async with WorkerProcess(2) as successor:
            await running.hand_over_callee(successor)
            try:
                assert await ask(running, b"after") == b"after"
            finally:
                running.callee.process.send_signal(18)


async def test_a_new_denial_holds_for_streams_on_a_kept_connection() -> None:
    async with mesh(echo, protocol=Protocol.TCP) as running:
        assert await ask(running, b"before") == b"before"
        await running.publish(deny("web", "api"))
        reader, writer = await running.call()
        writer.write(b"x")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        await running.publish()
        assert await ask(running, b"after") == b"after"


async def test_idle_connections_end_with_their_time_and_with_the_drain() -> None:
    settings = WorkerSettings(tcp=TcpSettings(idle_timeout=0.3))
    async with mesh(echo, protocol=Protocol.TCP, settings=settings) as running:
        assert await ask(running, b"x") == b"x"
        await settled(running)
        await asyncio.sleep(1.5)
        assert not carriers(running)
    async with mesh(echo, protocol=Protocol.TCP) as running:
        assert await ask(running, b"x") == b"x"
        await settled(running)
        async with asyncio.timeout(3):
            assert await running.callee.drain(10) == 0


async def test_without_sharing_each_connection_has_its_own() -> None:
    settings = WorkerSettings(tcp=TcpSettings(share_connections=False))
    async with mesh(echo, protocol=Protocol.TCP, settings=settings) as running:
        for _ in range(3):
            assert await ask(running, b"x" * 1000) == b"x" * 1000
        await settled(running)
        assert not carriers(running)
