"""Echoes on a WebSocket with `websockets`: websockets_server.py PORT. It agrees to compression."""

from __future__ import annotations

import asyncio
import sys

import websockets


async def echo(connection: websockets.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=1 << 24) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
