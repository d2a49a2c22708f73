"""An open-loop caller: requests leave on time, whether or not earlier ones were answered.

`python -m tests.bench.openloop PORT RATE SECONDS [IDLE]`. Every request takes a free connection or
opens one, so that a slow answer holds up nothing. IDLE more connections are opened first, each
asks once, and from then on the requests go round all of them. Prints one JSON object; latencies
are in microseconds from the write to the last byte.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import random
import sys
import time

import uvloop

SETTLE = 1.0
TICK = 0.001
MOST = 4000  # connections
LAST_CHANCE = 1.0


class Call(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sent = 0.0
        self._counts = False
        self._missing = 0
        self._head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._run.free.append(self)

    def ask(self, request: bytes) -> None:
        self._missing = 0
        self._head = b""
        self._counts = self._run.measuring
        self._sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._head[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                self._run.errors += 1
            at = head.index(b"content-length:") + 15
            length = int(head[at:].split(b"\r\n", 1)[0])
            self._missing = length - (len(self._head) - end - 4)
        if self._missing == 0:
            if self._counts:
                self._run.latencies.append(time.perf_counter() - self._sent)
            self._run.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.over:
            self._run.errors += 1
            if self in self._run.free:
                self._run.free.remove(self)


class Run:
    def __init__(self, port: int, rate: float, seconds: float, idle: int) -> None:
        self.free: collections.deque[Call] = collections.deque()
        self.latencies: list[float] = []
        self.errors = 0
        self.over = False
        self.opened = 0
        self.measuring = False
        self._port = port
        self._rate = rate
        self._seconds = seconds
        self._idle = idle
        self._count = 0
        self._asked = 0
        self._late = 0.0

    async def run(self) -> dict[str, float]:
        for _ in range(max(self._idle, 16)):
            await self._open()
        for call in tuple(self.free):
            await asyncio.sleep(0.001)
            self.free.remove(call)
            call.ask(self._request())
        await self._send(SETTLE)
        self.measuring = True
        self._asked = 0
        await self._send(self._seconds)
        for _ in range(100):
            if len(self.latencies) >= self._asked:
                break
            await asyncio.sleep(LAST_CHANCE / 100)
        self.over = True
        return self._result()

    async def _send(self, seconds: float) -> None:
        """A tick sends what is due."""
        start = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) < start + seconds:
            due = int((now - start) * self._rate) + 1
            if sent < due:
                self._late = max(self._late, now - start - sent / self._rate)
            while sent < due:
                if not self.free and self.opened < MOST:
                    await self._open()
                if not self.free:
                    self._asked += 1  # and never answered
                    sent += 1
                    continue
                # The one that was free longest goes next: with IDLE connections all take turns.
                call = self.free.popleft() if self._idle else self.free.pop()
                call.ask(self._request())
                self._asked += 1
                sent += 1
            await asyncio.sleep(TICK)

    async def _open(self) -> None:
        self.opened += 1
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: Call(self), "127.0.0.1", self._port)

    def _request(self) -> bytes:
        self._count += 1
        mark = f"{random.getrandbits(64):016x}"
        return (
            f"GET /small/{random.randrange(1000)} HTTP/1.1\r\nHost: api.example\r\n"
            "User-Agent: bench/1.0\r\nAccept: application/json\r\n"
            f"Accept-Encoding: gzip, deflate\r\nX-Request-Id: {mark}\r\n"
            f"Cookie: session={mark}; theme=dark\r\n"
            f"traceparent: 00-{mark}{mark}-{mark}-01\r\n\r\n"
        ).encode()

    def _result(self) -> dict[str, float]:
        ordered = sorted(self.latencies) or [float("inf")]

        def percentile(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e6

        return {
            "requests": len(self.latencies),
            "sent": self._count,
            "errors": self.errors + self._asked - len(self.latencies),
            "opened": self.opened,
            "lateness": self._late * 1e6,
            "p50": percentile(0.50),
            "p90": percentile(0.90),
            "p99": percentile(0.99),
            "p999": percentile(0.999),
        }


def main() -> None:
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    idle = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    gc.disable()
    print(json.dumps(uvloop.run(Run(port, rate, seconds, idle).run())))


if __name__ == "__main__":
    main()
