"""What is called: HTTP as Scripted has it, with resets, and an echo of bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.support.app import Scripted

BULK = 64 * 1024
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Application(Scripted):
    """Beside Scripted's: `/mirror` answers a body with 64 KiB, `/reset` stops in the middle of
    its answer, `/reset-me` in the middle of a body, both with RST."""

    async def do_chunked(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        await self.body(reader, writer, fields)
        return bool(await super().do_chunked(reader, writer, method, target, fields, query))

    async def do_mirror(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        await self.body(reader, writer, fields)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BULK + bytes(BULK))
        return True

    async def do_reset(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BULK + bytes(BULK // 2))
        await writer.drain()
        return await self._reset(writer)

    async def do_reset_me(self, reader, writer, method, target, fields, query) -> bool:  # type: ignore[no-untyped-def]
        await reader.readexactly(1024)
        return await self._reset(writer)

    async def _reset(self, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.02)  # a RST would throw away what has just been written
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def applications() -> AsyncIterator[dict[str, tuple[int, int]]]:
    """Two ports each, by service."""
    servers = []
    ports = {}
    handlers: dict[str, Handler] = {"api": Application(), "echo": echo}
    for name, handler in handlers.items():
        pair = [await asyncio.start_server(handler, "127.0.0.1", 0) for _ in range(2)]
        servers += pair
        first, second = (server.sockets[0].getsockname()[1] for server in pair)
        ports[name] = (first, second)
    try:
        yield ports
    finally:
        for server in servers:
            server.close()
