"""Clients that take their time: they cost little, and others do not notice them."""

from __future__ import annotations

import asyncio
import select
import socket
import time

from tests.hostile.watch import (
    Site,
    eventually,
    open_files,
    received,
    site,
    tls_hello,
    unharmed,
)

from fleetmesh.proxy.plane import HANDSHAKE_TIMEOUT, SWEEP
from fleetmesh.settings import HttpSettings, WorkerSettings

LATE = 2 * SWEEP + 2.0
"""Seconds after a deadline: two sweeps, and what a crowded machine adds."""
PER_HEAD = 16 * 1024
PER_IDLE = 8 * 1024
PER_HANDSHAKE = 96 * 1024
PER_UNREAD = (4 * 320 + 2 * 47) * 1024  # both hops' buffers, and TLS on either side of it
"""Bytes, as docs/limits.md states them."""


class Drip:
    """Connections that send `text` a byte a second each, for as long as they are let."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.at: dict[socket.socket, float] = {}
        self.answers: dict[socket.socket, tuple[bytes, float]] = {}
        """What came, and the seconds from the first byte to the end."""

    async def run(self, there: Site, count: int, port: int = 0) -> None:
        """Until all have ended. They come within a second, and so each tick has its share."""
        ticks = 50
        groups: list[list[socket.socket]] = [[] for _ in range(ticks)]
        begin = time.monotonic()
        for number in range(10_000):
            group = groups[number % ticks]
            if number < ticks:
                group.extend(there.dial(port) for _ in range(count // ticks))
            now = time.monotonic()
            group[:] = [sock for sock in group if self._sent(sock, number // ticks, now)]
            if number >= ticks and not any(groups):
                return
            await asyncio.sleep(max(0.0, begin + (number + 1) / ticks - time.monotonic()))

    def _sent(self, sock: socket.socket, byte: int, now: float) -> bool:
        self.at.setdefault(sock, now)
        data, ended = received(sock)
        if data or ended:
            self.answers[sock] = (data, now - self.at[sock])
            sock.close()
            return False
        try:
            sock.send(self._text[byte : byte + 1])
        except OSError:
            pass  # its end is seen a second from now
        return True


async def test_two_thousand_heads_of_a_byte_a_second() -> None:
    """Each gets its 408 once head_timeout has passed, however many bytes come meanwhile."""
    open_files(5000)
    timeout = 8.0
    async with site(WorkerSettings(http=HttpSettings(head_timeout=timeout))) as there:
        normal = await there.p99(3)
        before = there.memory()
        drip = Drip(b"GET /small/1 HTTP/1.1\r\nHost: api\r\n")
        dripping = asyncio.ensure_future(drip.run(there, 2000))
        watching = asyncio.ensure_future(unharmed(there, normal, 3, "2,000 slow heads"))
        await asyncio.sleep(3)
        assert await there.active() >= 2000
        each = (there.memory() - before) / 2000
        print(f"{each / 1024:.1f} KiB for each slow head")
        await watching
        await asyncio.wait_for(dripping, 15)
        assert len(drip.answers) == 2000
        for answer, seconds in drip.answers.values():
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b"x-fleetmesh-reason: head_timeout\r\n" in answer
            assert timeout <= seconds + 0.1 <= timeout + LATE + 1  # looked at once a second
        assert (await there.refusals())["head_timeout"] == 2000
        assert each <= PER_HEAD


async def test_handshakes_of_a_byte_a_second() -> None:
    """A peer that does not come to the end of its handshake is dropped without a word."""
    async with site(WorkerSettings()) as there:
        normal = await there.p99(2)
        before = there.memory()
        drip = Drip(tls_hello(there.authority))
        dripping = asyncio.ensure_future(drip.run(there, 500, there.sidecar))
        await asyncio.sleep(2)
        each = (there.memory() - before) / 500
        print(f"{each / 1024:.1f} KiB for each slow handshake")
        await unharmed(there, normal, 3, "500 slow handshakes")
        await asyncio.wait_for(dripping, 20)
        for answer, seconds in drip.answers.values():
            assert answer == b""
            assert HANDSHAKE_TIMEOUT <= seconds + 0.1 <= HANDSHAKE_TIMEOUT + LATE + 1
        assert each <= PER_HANDSHAKE


async def test_ten_thousand_idle_connections() -> None:
    """A kept connection costs a few KiB, and is closed when it was idle for idle_timeout."""
    count = 10_000
    open_files(count + 2000)
    timeout = 16.0
    request = b"GET /small/1 HTTP/1.1\r\nHost: api\r\n\r\n"
    # As many as the host's open files allow is less than that on some machines.
    settings = WorkerSettings(http=HttpSettings(idle_timeout=timeout), max_connections=2 * count)
    async with site(settings) as there:
        normal = await there.p99(3)
        before = there.memory()
        idle: list[socket.socket] = []
        for _ in range(count // 50):
            fresh = [there.dial() for _ in range(50)]
            for sock in fresh:
                sock.send(request)
            waiting = select.poll()
            for sock in fresh:
                waiting.register(sock, select.POLLIN)
            await eventually(lambda waiting=waiting: len(waiting.poll(0)) == 50)  # type: ignore[misc]
            for sock in fresh:
                answer, ended = received(sock)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert not ended
            idle += fresh
        opened = time.monotonic()
        assert await there.active() == count
        each = (there.memory() - before) / count
        print(f"{each / 1024:.1f} KiB for each idle connection")
        await unharmed(there, normal, 3, "10,000 idle connections")
        await asyncio.sleep(max(0.0, opened + timeout + LATE - time.monotonic()))
        assert {received(sock) for sock in idle} == {(b"", True)}
        for sock in idle:
            sock.close()
        assert each <= PER_IDLE
        await there.calm(0)


async def test_clients_that_never_read() -> None:
    """What they asked for stops at the application; after idle_timeout they are cut."""
    count = 50
    async with site(WorkerSettings(http=HttpSettings(idle_timeout=10.0))) as there:
        normal = await there.p99(3)
        before = there.memory()
        deaf = []
        for _ in range(count):
            sock = there.dial()
            sock.send(b"GET /big HTTP/1.1\r\nHost: api\r\n\r\n")
            deaf.append(sock)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        written = there.backend.written
        each = (there.memory() - before) / count
        print(f"{each / 1024:.0f} KiB for each client that never reads")
        print(f"{written / count / 1e6:.1f} MB left the application for each")
        await unharmed(there, normal, 3, f"{count} clients that never read")
        assert there.backend.written - written < count * 128 * 1024
        await there.calm(20)
        for sock in deaf:
            sock.setblocking(True)
            answer = b""
            try:
                while piece := sock.recv(1 << 20):
                    answer += piece
            except ConnectionError:
                pass
            assert len(answer) < 1 << 30
            sock.close()
        assert (await there.refusals())["request_timeout"] >= count
        assert each <= PER_UNREAD
