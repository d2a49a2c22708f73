"""An open-loop caller: requests leave on time, whether or not earlier ones were answered.

paced.py URL RATE SECONDS [CONNECTIONS]

RATE requests a second go round CONNECTIONS kept connections, and as many more up to MOST as are
needed to leave on time; one that finds none free waits, and its time counts from when it was due.
Nothing is tried twice. A request without an answer after PATIENCE seconds has failed.

Every FLUSH seconds a line of JSON accounts for each request that ended:
rows of [when it was due (s since the epoch), milliseconds until its answer was whole, status,
instance or what was wrong]. Status 0 is no answer. The last line says how many were sent and how
many ended. Ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import os
import sys
import time
from urllib.parse import urlsplit

import uvloop

TICK = 0.002
FLUSH = 0.25
PATIENCE = 20.0
CONNECTIONS = 48
MOST = 1024


class Call(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._due = 0.0
        self._answer = b""
        self._end = -1
        self._over = False
        self.asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, due: float) -> None:
        self._due, self._answer, self._end, self.asking = due, b"", -1, True
        self.transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._end < 0:
            head = self._answer.find(b"\r\n\r\n")
            if head < 0:
                return
            lower = self._answer[:head].lower()
            at = lower.find(b"\r\ncontent-length:")
            if at < 0:
                self._ended(0, f"an answer without a length: {lower[:200]!r}")
                return
            self._end = head + 4 + int(lower[at + 17 :].split(b"\r\n", 1)[0])
        if len(self._answer) >= self._end:
            self._whole()

    def _whole(self) -> None:
        head, _, body = self._answer.partition(b"\r\n\r\n")
        status = int(head[9:12])
        at = body.find(b'"instance": "')
        instance = body[at + 13 : body.find(b'"', at + 13)].decode() if at >= 0 else ""
        if status != 200:
            instance = instance or repr(body[:200])
            if b'"called"' in body:
                instance += " " + body[body.find(b'"called"') :][:200].decode()
        self.asking = False
        self._run.ended(self._due, status, instance)
        if b"\r\nconnection: close" in head.lower():
            self._over = True
            self._run.gone(self)
            self.transport.close()
        else:
            self._run.freed(self)

    def finish(self) -> None:
        self._over = True
        self._run.gone(self)
        self.transport.close()

    def give_up(self, now: float) -> None:
        if self.asking and now > self._due + PATIENCE:
            self._ended(0, "no answer in time")

    def _ended(self, status: int, why: str) -> None:
        self.asking = False
        self._over = True
        self._run.ended(self._due, status, why)
        self._run.gone(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asking:
            why = f"connection lost: {exc}" if exc else "connection closed"
            self._ended(0, f"{why} after {len(self._answer)} bytes")
        elif not self._over:
            self._run.gone(self)


class Run:
    def __init__(self, url: str, rate: float, connections: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.request = (
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: paced/1.0\r\n\r\n"
        ).encode()
        self._rate = rate
        self._kept = connections
        self._calls: set[Call] = set()
        self._free: collections.deque[Call] = collections.deque()
        self._waiting: collections.deque[float] = collections.deque()
        self._dialling: set[asyncio.Task[None]] = set()
        self._rows: list[tuple[float, float, int, str]] = []
        self._sent = 0
        self._ended = 0
        # Monotonic times are what counts, the epoch is what other hosts understand.
        self._epoch = time.time() - time.monotonic()

    def ended(self, due: float, status: int, what: str) -> None:
        took = (time.monotonic() - due) * 1000
        self._rows.append((round(due + self._epoch, 3), round(took, 2), status, what))
        self._ended += 1

    def freed(self, call: Call) -> None:
        self._free.append(call)
        self._serve()
        if len(self._free) > self._kept:
            self._free.popleft().finish()

    def gone(self, call: Call) -> None:
        self._calls.discard(call)
        if call in self._free:
            self._free.remove(call)
        self._serve()

    def _serve(self) -> None:
        """The connection that was free longest goes next: all take turns."""
        while self._waiting and self._free:
            self._free.popleft().ask(self._waiting.popleft())
        wanted = min(len(self._waiting), MOST - len(self._calls)) - len(self._dialling)
        for _ in range(wanted):
            task = asyncio.ensure_future(self._dial())
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                _, call = await loop.create_connection(lambda: Call(self), self._host, self._port)
        except (OSError, TimeoutError) as error:
            if self._waiting:
                self.ended(self._waiting.popleft(), 0, f"connect: {error!r}")
            return
        self._calls.add(call)
        self._free.append(call)
        self._serve()

    async def run(self, seconds: float, stop: asyncio.Future[str]) -> None:
        start = flushed = time.monotonic()
        while (now := time.monotonic()) < start + seconds and not stop.done():
            due = int((now - start) * self._rate) + 1
            self._waiting.extend(start + number / self._rate for number in range(self._sent, due))
            self._sent = due
            self._serve()
            if now > flushed + FLUSH:
                flushed = now
                self.flush(now)
            await asyncio.sleep(TICK)
        until = time.monotonic() + PATIENCE + 1
        while self._ended < self._sent and (now := time.monotonic()) < until:
            self.flush(now)
            await asyncio.sleep(FLUSH)
        self.flush(time.monotonic())
        print(json.dumps({"event": "done", "sent": self._sent, "ended": self._ended}), flush=True)

    def flush(self, now: float) -> None:
        for call in tuple(self._calls):
            call.give_up(now)
        while self._waiting and now > self._waiting[0] + PATIENCE:
            self.ended(self._waiting.popleft(), 0, "no connection in time")
        rows, self._rows = self._rows, []
        print(json.dumps({"event": "rows", "rows": rows}), flush=True)


async def main() -> None:
    url, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    connections = int(sys.argv[4]) if len(sys.argv) > 4 else CONNECTIONS
    stdin = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps({"event": "open", "time": time.time()}), flush=True)
    await Run(url, rate, connections).run(seconds, stdin)


if __name__ == "__main__":
    gc.disable()
    uvloop.install()
    asyncio.new_event_loop().run_until_complete(main())
    # The thread that waits for standard input would hold up an ordinary exit.
    os._exit(0)
