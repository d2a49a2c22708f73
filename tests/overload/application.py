"""An application of a fixed capacity, with a queue that has no end: whoever waits is served in its
turn, also when nobody wants the answer any more.

`python -m tests.overload.application PLACES SECONDS` prints its port.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"


class Work(asyncio.Protocol):
    """A connection; its requests have no content."""

    def __init__(self, queue: asyncio.Queue[Work]) -> None:
        self._queue = queue
        self._head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            _, _, self._head = self._head.partition(b"\r\n\r\n")
            self._queue.put_nowait(self)

    def answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


async def place(queue: asyncio.Queue[Work], seconds: float) -> None:
    while True:
        work = await queue.get()
        await asyncio.sleep(seconds)
        work.answer()


async def main(places: int, seconds: float) -> None:
    queue: asyncio.Queue[Work] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Work(queue), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.gather(*(place(queue, seconds) for _ in range(places)))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
