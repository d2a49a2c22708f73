"""Begins a download and a WebSocket every second, each SECONDS long, and says what became of them.

crossing.py URL SECONDS

A line of JSON for each that ended: kind, began, took, and why where it was not whole. Nothing is
tried twice. When its standard input ends, it begins no more and ends after the last.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

CHUNK = 100
PAUSE = 0.1


async def download(session: aiohttp.ClientSession, url: str, count: int) -> None:
    """Raises ValueError unless every byte comes."""
    query = {"stream": str(count), "interval": str(PAUSE), "size": str(CHUNK)}
    async with session.get(url, params=query) as response:
        body = await response.read()
    if response.status != 200 or len(body) != count * CHUNK:
        raise ValueError(f"{response.status}, {len(body)} bytes of {count * CHUNK}")


async def websocket(session: aiohttp.ClientSession, url: str, count: int) -> None:
    """Raises ValueError unless every message comes back."""
    async with session.ws_connect(url) as socket:
        for number in range(count):
            await socket.send_str(str(number))
            message = await socket.receive(timeout=15)
            if message.type is not aiohttp.WSMsgType.TEXT or int(message.data) != number:
                raise ValueError(f"{message.type.name} after {number} messages")
            await asyncio.sleep(PAUSE)


KINDS: dict[str, Callable[[aiohttp.ClientSession, str, int], Awaitable[None]]] = {
    "download": download,
    "websocket": websocket,
}


async def one(kind: str, url: str, count: int) -> None:
    began, why = time.time(), ""
    try:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await KINDS[kind](session, url, count)
    except (TimeoutError, OSError, ValueError, aiohttp.ClientError) as error:
        why = f"{type(error).__name__}: {error}"
    line = {"event": kind, "began": began, "took": round(time.time() - began, 2), "why": why}
    print(json.dumps(line), flush=True)


async def main() -> None:
    url, count = sys.argv[1], round(float(sys.argv[2]) / PAUSE)
    stdin = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps({"event": "open"}), flush=True)
    running: set[asyncio.Future[None]] = set()
    while not stdin.done():
        for kind in KINDS:
            task = asyncio.ensure_future(one(kind, url, count))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.wait([stdin], timeout=1.0)
    if running:
        await asyncio.wait(running)
    print(json.dumps({"event": "done"}), flush=True)


if __name__ == "__main__":
    asyncio.new_event_loop().run_until_complete(main())
    # The thread that waits for standard input would hold up an ordinary exit.
    os._exit(0)
