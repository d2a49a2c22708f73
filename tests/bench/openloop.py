"""An open-loop caller: requests leave on time, whether or not earlier ones were answered.

`python -m tests.bench.openloop PORT RATE SECONDS [CONNECTIONS]`. All connections are opened first
and ask once each; from then on the requests go round them. One that finds none free waits, and its
latency counts from when it was due. Prints one JSON object; latencies are in microseconds, from
the tick that a request was due at to the last byte of its answer.
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
CONNECTIONS = 64
LAST_CHANCE = 1.0


class Call(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._due = 0.0
        self._missing = 0
        self._head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._run.free.append(self)

    def ask(self, request: bytes, due: float) -> None:
        """`due` is 0 when the latency is of no interest."""
        self._missing = 0
        self._head = b""
        self._due = due
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
            if self._due:
                self._run.latencies.append(time.perf_counter() - self._due)
            self._run.free.append(self)
            self._run.send_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.over:
            self._run.errors += 1
            if self in self._run.free:
                self._run.free.remove(self)


class Run:
    def __init__(self, port: int, rate: float, seconds: float, connections: int) -> None:
        self.free: collections.deque[Call] = collections.deque()
        self.latencies: list[float] = []
        self.errors = 0
        self.over = False
        self._waiting: collections.deque[float] = collections.deque()
        self._port = port
        self._rate = rate
        self._seconds = seconds
        self._connections = connections
        self._count = 0
        self._asked = 0

    async def run(self) -> dict[str, float]:
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            await loop.create_connection(lambda: Call(self), "127.0.0.1", self._port)
        for call in tuple(self.free):
            await asyncio.sleep(TICK)
            self.free.remove(call)
            call.ask(self._request(), 0.0)
        await self._send(SETTLE, measuring=False)
        await self._send(self._seconds, measuring=True)
        for _ in range(100):
            if len(self.latencies) >= self._asked:
                break
            await asyncio.sleep(LAST_CHANCE / 100)
        self.over = True
        return self._result()

    async def _send(self, seconds: float, *, measuring: bool) -> None:
        """A tick sends what is due."""
        start = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) < start + seconds:
            due = int((now - start) * self._rate) + 1
            self._waiting.extend([now if measuring else 0.0] * (due - sent))
            self._asked += (due - sent) * measuring
            sent = due
            self.send_waiting()
            await asyncio.sleep(TICK)

    def send_waiting(self) -> None:
        """The connection that was free longest goes next: all take turns."""
        while self._waiting and self.free:
            self.free.popleft().ask(self._request(), self._waiting.popleft())

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
            "p50": percentile(0.50),
            "p90": percentile(0.90),
            "p99": percentile(0.99),
            "p999": percentile(0.999),
        }


def main() -> None:
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    connections = int(sys.argv[4]) if len(sys.argv) > 4 else CONNECTIONS
    gc.disable()
    print(json.dumps(uvloop.run(Run(port, rate, seconds, connections).run())))


if __name__ == "__main__":
    main()
