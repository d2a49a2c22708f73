"""Workers that accept from one socket: none starves the others, and none is missed for long."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.hostile.backend import Backend
from tests.hostile.pair import pair
from tests.soak.site import site


async def test_connections_are_shared_and_counted_by_worker() -> None:
    """Of those that come one by one each worker gets a part. A burst may go to whoever wakes first,
    but is accepted whole."""
    async with pair() as there:
        held = []
        for _ in range(200):
            held += await there.burst(1)
            await asyncio.sleep(0.003)
        one_by_one = [opened for opened, _ in await there.counts()]
        held += await there.burst(1000)
        async with asyncio.timeout(10):
            while sum(active for _, active in await there.counts()) < 1200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        both = [opened for opened, _ in await there.counts()]
        burst = [after - before for before, after in zip(one_by_one, both, strict=True)]
        print(f"by worker: of 200 one by one {one_by_one}, of 1,000 at once {burst}")
        assert sum(both) == 1200
        assert min(one_by_one) >= 2
        for sock in held:
            sock.close()


async def test_a_stopped_worker_does_not_starve_the_other() -> None:
    """What it has not accepted is there for whoever can."""
    async with pair() as there:
        there.stop(0)
        held = await there.burst(200)
        begin = time.monotonic()
        assert all(await asyncio.gather(*(there.ask(sock, 10) for sock in held)))
        print(f"200 connections beside a stopped worker: {time.monotonic() - begin:.2f} s")
        there.go_on(0)
        assert [opened for opened, _ in await there.counts()] == [0, 200]
        for sock in held:
            sock.close()


async def test_an_overloaded_worker_leaves_new_connections_to_the_other() -> None:
    """It runs a fifth of the time; those that come meanwhile do not wait for it."""
    async with pair() as there:

        async def starve() -> None:
            while True:
                there.stop(0)
                await asyncio.sleep(0.16)
                there.go_on(0)
                await asyncio.sleep(0.04)

        starving = asyncio.ensure_future(starve())
        held = []
        for _ in range(100):
            held += await there.burst(1)
            assert await there.ask(held[-1], 5)
            await asyncio.sleep(0.02)
        starving.cancel()
        there.go_on(0)
        (slow, _), (quick, _) = await there.counts()
        print(f"of 100 connections the overloaded worker has {slow}, the other {quick}")
        assert quick > 2 * slow
        for sock in held:
            sock.close()


async def test_a_killed_worker_is_missed_by_its_own_connections_only(tmp_path: Path) -> None:
    """A real data plane of two workers: new connections are served throughout, and by two again."""
    async with Backend() as backend:
        applications = {"api": (backend.port,) * 2, "echo": (backend.port,) * 2}
        with site(tmp_path, applications, workers=2) as there:

            async def ask() -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", there.entry["api"])
                writer.write(b"GET /small/1 HTTP/1.1\r\nHost: api\r\n\r\n")
                async with asyncio.timeout(5):
                    answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                writer.close()

            before = there.workers
            assert len(before) == 4
            for _ in range(10):
                await ask()
            victim = before[0]
            os.kill(victim, signal.SIGKILL)
            begin = time.monotonic()
            async with asyncio.timeout(10):
                while victim in there.workers or len(there.workers) < 4:
                    await ask()
            print(f"a killed worker has a successor after {time.monotonic() - begin:.2f} s")
            for _ in range(10):
                await ask()
