"""Holds one stream open and says what becomes of it, one JSON line per event.

stream.py websocket URL | tcp HOST PORT | http URL

Events: open, echo (every tenth of a second that comes back), end (with why and seconds since the
epoch), refused. Ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

TICK = 0.1


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "time": time.time(), **fields}), flush=True)


async def websocket(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        say("open")
        number = 0
        while True:
            number += 1
            await socket.send_str(str(number))
            message = await socket.receive(timeout=10)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return str(message.type.name)
            say("echo", number=int(message.data))
            await asyncio.sleep(TICK)


async def tcp(host: str, port: str) -> str:
    reader, writer = await asyncio.open_connection(host, int(port))
    number = 0
    while True:
        number += 1
        writer.write(b"%d\n" % number)
        line = await asyncio.wait_for(reader.readline(), 10)
        if not line:
            return "EOF"
        if number == 1:
            say("open")
        say("echo", number=int(line))
        await asyncio.sleep(TICK)


async def http(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        say("open", status=response.status)
        async for chunk in response.content.iter_any():
            say("echo", number=len(chunk))
    return "complete"


async def main() -> None:
    kinds: dict[str, Callable[..., Awaitable[str]]] = {
        "websocket": websocket,
        "tcp": tcp,
        "http": http,
    }
    stdin = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    stream = asyncio.ensure_future(kinds[sys.argv[1]](*sys.argv[2:]))
    await asyncio.wait([stdin, stream], return_when=asyncio.FIRST_COMPLETED)
    if not stream.done():
        stream.cancel()
        say("stopped")
        return
    try:
        say("end", why=stream.result())
    except aiohttp.WSServerHandshakeError as error:
        say("refused", why=str(error), status=error.status)
    except (TimeoutError, OSError, aiohttp.ClientError) as error:
        say("end", why=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    asyncio.new_event_loop().run_until_complete(main())
    # The thread that waits for standard input would hold up an ordinary exit.
    os._exit(0)
