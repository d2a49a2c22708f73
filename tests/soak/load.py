"""The mix: each kind is one exchange that knows what must come of it, provoked faults included."""

from __future__ import annotations

import asyncio
import collections
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.soak.application import BULK
from tests.soak.site import Site

TIMEOUT = 20.0
KEPT = 16
"""Connections that are kept for the small requests."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class WrongError(Exception):
    """Not what had to come; the text is the kind of error."""


@dataclass
class Load:
    """`done` and `errors` count by kind; an error's key ends with what it was."""

    site: Site
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    _kept: list[Streams] = field(default_factory=list)
    _busy: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, rate: float, seconds: float) -> None:
        """Begin `rate` exchanges a second for so long, whether or not earlier ones have ended."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
            kind = random.choices(list(KINDS), WEIGHTS)[0]
            task = loop.create_task(self._one(kind))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        await asyncio.gather(*self._busy)
        for _, writer in self._kept:
            writer.close()
        self._kept.clear()

    async def _one(self, kind: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                await KINDS[kind](self)
            self.done[kind] += 1
        except (WrongError, OSError, asyncio.IncompleteReadError) as error:
            what = str(error) if isinstance(error, WrongError) else type(error).__name__
            self.errors[f"{kind}: {what}"] += 1

    async def dial(self, to: str = "api") -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.site.entry[to])

    async def small(self) -> None:
        """On a kept connection, if one is free."""
        streams = self._kept.pop() if self._kept else await self.dial()
        while streams[0].at_eof():  # kept for longer than `http.idle_timeout`, which is its right
            streams = self._kept.pop() if self._kept else await self.dial()
        await ask(streams, "GET", "/any")
        if len(self._kept) < KEPT:
            self._kept.append(streams)
        else:
            streams[1].close()

    async def fresh(self) -> None:
        streams = await self.dial()
        await ask(streams, "GET", "/any", "Connection: close")
        await at_end(streams)

    async def mirror(self) -> None:
        streams = await self.dial()
        content = await ask(streams, "POST", "/mirror", body=bytes(BULK))
        expect(len(content) == BULK, "wrong length")
        streams[1].close()

    async def chunked(self) -> None:
        reader, writer = await self.dial()
        writer.write(_head("POST", "/chunked", "Transfer-Encoding: chunked"))
        for size in (1, 1000, 10_000):
            writer.write(b"%x\r\n%b\r\n" % (size, bytes(size)))
        writer.write(b"0\r\n\r\n")
        status, fields = await _answer(reader)
        expect(status == 200, f"status {status}")
        expect(fields.get("transfer-encoding") == "chunked", "not chunked")
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        writer.close()

    async def tunnel(self) -> None:
        streams = reader, writer = await self.dial()
        writer.write(_head("GET", "/upgrade", "Connection: Upgrade", "Upgrade: echo"))
        status, _ = await _answer(reader)
        expect(status == 101, f"status {status}")
        await _echoed(streams, rounds=5, pause=0.2)

    async def stream(self) -> None:
        await _echoed(await self.dial("echo"), rounds=5, pause=0.2)

    async def bulk_stream(self) -> None:
        await _echoed(await self.dial("echo"), rounds=1, size=4 * BULK)

    async def gone_before_the_answer(self) -> None:
        _, writer = await self.dial()
        writer.write(_head("GET", "/drip?n=3&gap=0.1"))
        await asyncio.sleep(random.random() * 0.2)
        writer.transport.abort()

    async def gone_within_the_request(self) -> None:
        _, writer = await self.dial()
        writer.write(_head("POST", "/mirror", f"Content-Length: {BULK}") + bytes(BULK // 2))
        await asyncio.sleep(random.random() * 0.05)
        writer.transport.abort()

    async def gone_within_the_answer(self) -> None:
        reader, writer = await self.dial()
        writer.write(_head("GET", f"/big?size={64 * BULK}"))
        await reader.readexactly(BULK)
        writer.transport.abort()

    async def reset_within_the_answer(self) -> None:
        reader, writer = await self.dial()
        writer.write(_head("GET", "/reset"))
        status, _ = await _answer(reader)
        expect(status == 200, f"status {status}")
        try:
            content = await reader.read(-1)
            expect(len(content) < BULK, "a cut answer is whole")
        except ConnectionError:
            pass
        writer.close()

    async def reset_within_the_request(self) -> None:
        reader, writer = await self.dial()
        writer.write(_head("POST", "/reset-me", f"Content-Length: {BULK}") + bytes(BULK // 2))
        status, _ = await _answer(reader)
        expect(status == 503, f"status {status}")
        writer.close()

    async def denied(self) -> None:
        reader, writer = await self.dial("eve")
        writer.write(_head("GET", "/any"))
        status, fields = await _answer(reader)
        expect((status, fields.get("x-fleetmesh-reason")) == (403, "denied"), f"status {status}")
        writer.close()


Kind = Callable[[Load], Awaitable[None]]
KINDS: dict[str, Kind] = {
    "small GET": Load.small,
    "new connection": Load.fresh,
    "64 KiB both ways": Load.mirror,
    "chunked both ways": Load.chunked,
    "tunnel": Load.tunnel,
    "TCP stream": Load.stream,
    "256 KiB by TCP": Load.bulk_stream,
    "client gone before the answer": Load.gone_before_the_answer,
    "client gone within its request": Load.gone_within_the_request,
    "client gone within the answer": Load.gone_within_the_answer,
    "backend resets its answer": Load.reset_within_the_answer,
    "backend resets a request": Load.reset_within_the_request,
    "denied": Load.denied,
}
WEIGHTS = [40, 8, 8, 8, 4, 4, 2, 3, 3, 1, 3, 3, 3]


def expect(so: bool, otherwise: str) -> None:
    if not so:
        raise WrongError(otherwise)


def _head(method: str, target: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: api", *fields, "", ""]).encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    return int(lines[0].split(" ")[1]), {n.lower(): v.strip() for n, _, v in fields}


async def ask(streams: Streams, method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
    """The content of a 200 whose length is known."""
    reader, writer = streams
    length = (f"Content-Length: {len(body)}",) if body else ()
    writer.write(_head(method, target, *fields, *length) + body)
    status, answered = await _answer(reader)
    content = await reader.readexactly(int(answered["content-length"]))
    expect(status == 200, f"status {status} {answered.get('x-fleetmesh-reason', '')}")
    return content


async def at_end(streams: Streams) -> None:
    expect(await streams[0].read(1) == b"", "more than the answer")
    streams[1].close()


async def _echoed(streams: Streams, rounds: int, size: int = 2000, pause: float = 0.0) -> None:
    reader, writer = streams
    for _ in range(rounds):
        data = os.urandom(size)
        writer.write(data)
        expect(await reader.readexactly(size) == data, "other bytes")
        await asyncio.sleep(pause)
    writer.write_eof()
    await at_end(streams)
