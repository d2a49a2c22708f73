"""What one worker of a host finds, the others heed: the real workers under the real supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import listening, local_service, outbound, port_of, snapshot, upstream

from fleetmesh.edge.tls import server_context
from fleetmesh.model.report import Ejected, Report
from fleetmesh.model.snapshot import encode
from fleetmesh.model.traffic import Balancing
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.workers import Publication
from fleetmesh.settings import OutlierSettings, UpstreamSettings, WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
OUT = (Ejected("api", "node0/api", "gateway"),)


class Instance:
    def __init__(self) -> None:
        self.status = 200

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % self.status)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def reports(supervisor: Supervisor) -> list[Report]:
    found = [await worker.collect() for worker in supervisor.workers]
    return [report for report in found if report is not None]


async def until_all(supervisor: Supervisor, said: Callable[[Report], bool]) -> None:
    """Both workers say so."""
    async with asyncio.timeout(20):
        while True:
            found = await reports(supervisor)
            if len(found) == 2 and all(said(report) for report in found):
                return
            await asyncio.sleep(0.1)


async def test_two_workers_leave_an_endpoint_and_take_it_back_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All requests are of one connection, so that one worker alone has anything to judge by."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'agent'}")
    authority, out = Authority(), listening()
    context = server_context([authority.root], authority.leaf("api"))
    instances = [Instance() for _ in range(3)]
    servers = [await asyncio.start_server(one, "127.0.0.1", 0, ssl=context) for one in instances]
    api = upstream("api", *(port_of(server.sockets[0]) for server in servers))
    api = replace(api, target=replace(api.target, balancing=Balancing("round_robin")))
    what = snapshot(authority, (local_service("web", 1, authority.leaf("web")),), (api,))
    outlier = OutlierSettings(ejection_time=8.0)
    settings = WorkerSettings(upstream=UpstreamSettings(slow_start=0.0, outlier=outlier))
    supervisor = Supervisor(2, settings, 1.0)
    await supervisor.start()
    try:
        listener = outbound("web", "api")
        assert not await supervisor.publish(
            Publication(1, encode(what), (listener,), {listener.name: out})
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(out))

        async def ask(count: int) -> list[bytes]:
            answers = []
            for _ in range(count):
                writer.write(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")
                answers.append((await reader.readuntil(b"\r\n\r\n"))[9:12])
            return answers

        instances[0].status = 503
        assert (await ask(12)).count(b"503") == 3
        await until_all(supervisor, lambda report: report.ejected == OUT)
        found = {report.pid: report.ejections for report in await reports(supervisor)}
        (finder,) = [pid for pid, counted in found.items() if counted]

        (other,) = [worker for worker in supervisor.workers if worker.pid != finder]
        gone = other.pid
        other.kill()
        await until_all(supervisor, lambda report: report.pid != gone and report.ejected == OUT)

        instances[0].status = 200
        async with asyncio.timeout(20):
            while next(r for r in await reports(supervisor) if r.pid == finder).ejected:
                assert await ask(3) == [b"200"] * 3
                await asyncio.sleep(0.1)
        await until_all(supervisor, lambda report: not report.ejected)
        writer.close()
    finally:
        await supervisor.drain()
        for server in servers:
            server.close()
        out.close()
