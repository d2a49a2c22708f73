"""Callers that do not wait for one another: requests leave when they are due.

`python -m tests.overload.load PORT RATE SECONDS` prints one JSON object: `asked`, `statuses` (how
many of each; `none` got no answer while it ran) and `good`, pairs of seconds since the beginning
(when a request was due) and of its latency, of those that were answered 200.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import time

import uvloop

MOST = 1000
"""Connections. Who finds none free then does not ask, as with any client's pool; counted so."""
TICK = 0.002
REQUEST = b"GET /work HTTP/1.1\r\nHost: api\r\n\r\n"


class Call(asyncio.Protocol):
    def __init__(self, run: Run) -> None:
        self._run = run
        self._due = 0.0
        self._data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def ask(self, due: float) -> None:
        self._due = due
        self._data = b""
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, content = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(content) == length:
            self._run.answered(head[9:12].decode(), self._due)
            self._run.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._run.free:
            self._run.free.remove(self)
        self._run.open -= 1


class Run:
    def __init__(self, port: int) -> None:
        self.free: collections.deque[Call] = collections.deque()
        self.open = 0
        self.statuses: collections.Counter[str] = collections.Counter()
        self.good: list[tuple[float, float]] = []
        self._port = port
        self._begin = time.monotonic()
        self._dials: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float) -> dict[str, object]:
        asked = 0
        while (now := time.monotonic()) < self._begin + seconds:
            due = int((now - self._begin) * rate) + 1
            for _ in range(due - asked):
                self._ask(now)
            asked = due
            await asyncio.sleep(TICK)
        self.statuses["none"] = asked - self.statuses.total()
        return {"asked": asked, "statuses": dict(self.statuses), "good": self.good}

    def _ask(self, due: float) -> None:
        if self.free:
            self.free.pop().ask(due)
        elif self.open < MOST:
            self.open += 1
            dial = asyncio.ensure_future(self._dial(due))
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)

    async def _dial(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        _, call = await loop.create_connection(lambda: Call(self), "127.0.0.1", self._port)
        call.ask(due)

    def answered(self, status: str, due: float) -> None:
        now = time.monotonic()
        self.statuses[status] += 1
        if status == "200":
            self.good.append((due - self._begin, now - due))


if __name__ == "__main__":
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    print(json.dumps(uvloop.run(Run(port).run(rate, seconds))))
