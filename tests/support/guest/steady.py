"""Asks one URL at a steady pace and accounts for every single request.

steady.py URL SECONDS CLIENTS PER_SECOND

Each of CLIENTS keeps one connection alive and asks PER_SECOND times. Nothing is tried twice. The
last line is JSON: requests, answers by status and by instance, failures with their time, the
longest answer in seconds. Ends early when its standard input does.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
import time

import aiohttp


class Account:
    def __init__(self) -> None:
        self.requests = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.instances: collections.Counter[str] = collections.Counter()
        self.failures: list[dict[str, object]] = []
        self.longest = 0.0

    def fail(self, began: float, why: str) -> None:
        self.failures.append({"time": began, "took": round(time.time() - began, 3), "why": why})


async def client(url: str, until: float, pause: float, account: Account) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        while time.monotonic() < until:
            began = time.time()
            account.requests += 1
            try:
                async with session.get(url) as response:
                    body = await response.read()
                account.statuses[response.status] += 1
                if response.status == 200:
                    account.instances[json.loads(body)["instance"]] += 1
                else:
                    account.fail(began, f"{response.status} {body[:200]!r}")
            except (TimeoutError, OSError, ValueError, aiohttp.ClientError) as error:
                account.fail(began, f"{type(error).__name__}: {error}")
            account.longest = max(account.longest, time.time() - began)
            await asyncio.sleep(pause)


async def main() -> None:
    url, seconds, clients, rate = sys.argv[1], *map(float, sys.argv[2:])
    account = Account()
    until = time.monotonic() + seconds
    print(json.dumps({"event": "open", "time": time.time()}), flush=True)
    stdin = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    load = asyncio.gather(*(client(url, until, 1 / rate, account) for _ in range(int(clients))))
    await asyncio.wait([stdin, load], return_when=asyncio.FIRST_COMPLETED)
    summary = {
        "event": "done",
        "requests": account.requests,
        "statuses": dict(account.statuses),
        "instances": dict(account.instances),
        "failures": account.failures[:50],
        "failed": len(account.failures),
        "longest": round(account.longest, 3),
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    asyncio.new_event_loop().run_until_complete(main())
    # The thread that waits for standard input would hold up an ordinary exit.
    os._exit(0)
