"""Asks one URL twenty times a second, each time over a new connection; a JSON line per answer.

poll.py URL — event "answer" with status (0 without any) and the time the request began. Ends when
its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import aiohttp


async def ask(url: str) -> int:
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            async with session.get(url) as response:
                await response.read()
                return response.status
        except (TimeoutError, OSError, aiohttp.ClientError):
            return 0


async def poll(url: str) -> None:
    while True:
        began = time.time()
        status = await ask(url)
        print(json.dumps({"event": "answer", "status": status, "time": began}), flush=True)
        await asyncio.sleep(0.05)


async def main() -> None:
    stdin = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    polling = asyncio.ensure_future(poll(sys.argv[1]))
    await asyncio.wait([stdin, polling], return_when=asyncio.FIRST_COMPLETED)


if __name__ == "__main__":
    asyncio.new_event_loop().run_until_complete(main())
    # The thread that waits for standard input would hold up an ordinary exit.
    os._exit(0)
