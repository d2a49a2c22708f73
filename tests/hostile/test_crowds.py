"""More connections than an agent can hold: the newest go, what it has is served, and it says so."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from tests.hostile.backend import Backend
from tests.hostile.watch import FLOOR, Site, received, site
from tests.support.ca import Authority
from tests.support.worker import listening, local_service, outbound, port_of, snapshot, upstream

from fleetmesh.edge.metrics import Figures, application
from fleetmesh.model.snapshot import encode
from fleetmesh.plan.totals import total
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.workers import Publication
from fleetmesh.settings import WorkerSettings

SMALL = b"GET /small/1 HTTP/1.1\r\nHost: api\r\n\r\n"
NEVER = b"GET /never HTTP/1.1\r\nHost: api\r\n\r\n"
TICKS = os.sysconf("SC_CLK_TCK")


async def head(sock: socket.socket, request: bytes = SMALL, seconds: float = 5.0) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, request)
    async with asyncio.timeout(seconds):
        return await loop.sock_recv(sock, 65536)


def cpu(pid: int) -> float:
    """Seconds that the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def crowd(there: Site, seconds: float) -> tuple[int, int]:
    """Connect over and over; how many were turned away at once, and how many were not."""
    turned = held = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock = there.dial()
        await asyncio.sleep(0.01)
        data, over = received(sock)
        assert data == b""
        turned += over
        held += not over
        sock.close()
    return turned, held


async def test_the_newest_connections_are_turned_away() -> None:
    """Those that were there first do not notice, and are counted on."""
    async with site(WorkerSettings(max_connections=40)) as there:
        normal = await there.p99(2)
        measuring = asyncio.ensure_future(there.p99(5))
        await asyncio.sleep(1.5)  # until its eight are connected
        idle = [there.dial() for _ in range(60)]
        crowds = [asyncio.ensure_future(crowd(there, 3)) for _ in range(4)]
        seen = await measuring
        outcomes = await asyncio.gather(*crowds)
        turned = sum(turned for turned, _ in outcomes)
        print(
            f"{turned} turned away; p99 {normal / 1000:.1f} ms alone, {seen / 1000:.1f} meanwhile"
        )
        assert seen <= max(3 * normal, 2 * FLOOR)
        assert turned > 100
        assert (await there.refusals())["too_many_connections"] >= turned
        kept = [sock for sock in idle if not received(sock)[1]]
        assert 30 <= len(kept) <= 40
        assert (await head(kept[0])).startswith(b"HTTP/1.1 200 ")
        for sock in idle:
            sock.close()
        async with asyncio.timeout(10):
            while await there.active():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await head(there.dial())).startswith(b"HTTP/1.1 200 ")


async def test_without_file_descriptors_it_serves_what_it_has() -> None:
    """It neither spins nor holds endpoints for broken; connections that wait are given up for
    those that are wanted."""
    async with site(WorkerSettings()) as there:
        pid = there.caller.process.pid
        first, second, third = (there.dial() for _ in range(3))
        loop = asyncio.get_running_loop()
        assert (await head(first)).startswith(b"HTTP/1.1 200 ")
        await loop.sock_sendall(second, NEVER)
        await asyncio.sleep(0.2)
        assert (await head(third)).startswith(b"HTTP/1.1 200 ")
        files = open_files(pid)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files + 10, files + 10))
        held = [there.dial() for _ in range(60)]
        await asyncio.sleep(0.5)
        used, begin = cpu(pid), time.monotonic()
        await asyncio.sleep(2)
        share = (cpu(pid) - used) / (time.monotonic() - begin)
        print(f"{share:.0%} of a core while no connection can be accepted")
        assert share < 0.2
        answers = [await head(sock) for sock in (first, third)]
        assert all(b" 200 " in answer.partition(b"\r\n")[0] for answer in answers), answers
        # The one connection to the endpoint that was free is taken, too.
        await loop.sock_sendall(first, NEVER)
        await asyncio.sleep(0.2)
        answer = await head(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"x-fleetmesh-reason: too_many_connections" in answer
        report = await asyncio.wait_for(there.caller.report(), 2)
        assert not report.ejections
        for sock in held:
            sock.close()
        await asyncio.sleep(0.5)
        assert (await head(third)).startswith(b"HTTP/1.1 200 ")
        assert (await head(there.dial())).startswith(b"HTTP/1.1 200 ")
        for sock in (first, second, third):
            sock.close()


@asynccontextmanager
async def supervised(most: int) -> AsyncIterator[tuple[int, str]]:
    """A controller's workers and its metrics page: web's calls to api, and the page's address."""
    authority, out = Authority(), listening()
    supervisor = Supervisor(1, WorkerSettings(max_connections=most, log_level="error"), 1.0)
    await supervisor.start()
    async with Backend() as backend:
        calls = outbound("web", "api")
        what = snapshot(
            authority,
            (local_service("web", backend.port, authority.leaf("web")),),
            (upstream("api", 1),),
        )
        assert not await supervisor.publish(
            Publication(1, encode(what), (calls,), {calls.name: out})
        )

        async def figures() -> Figures:
            traffic = total(await supervisor.collect())
            return Figures("1", traffic, {}, {}, None, True, supervisor.restarts, True)

        runner = web.AppRunner(application(figures, lambda: supervisor.serving))
        await runner.setup()
        page = web.TCPSite(runner, "127.0.0.1", 0)
        await page.start()
        port = runner.addresses[0][1]
        yield port_of(out), f"http://127.0.0.1:{port}"
        await runner.cleanup()
    await supervisor.drain()
    out.close()


async def test_metrics_and_health_answer_meanwhile() -> None:
    async with supervised(20) as (port, page), aiohttp.ClientSession() as session:

        async def push() -> None:
            while True:
                sock = socket.create_connection(("127.0.0.1", port))
                await asyncio.sleep(0.002)
                sock.close()

        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        pushing = [asyncio.ensure_future(push()) for _ in range(4)]
        counted = [0.0]
        for _ in range(5):
            await asyncio.sleep(0.3)
            async with asyncio.timeout(2):
                async with session.get(f"{page}/metrics") as answer:
                    text = await answer.text()
                async with session.get(f"{page}/readyz") as answer:
                    assert answer.status == 200
            refused = re.findall(r'refusals_total\{.*too_many_connections".*\} ([0-9.]+)', text)
            counted.append(sum(map(float, refused)))
        assert counted == sorted(set(counted)), counted
        for task in pushing:
            task.cancel()
        for sock in held:
            sock.close()
