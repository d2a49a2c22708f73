"""One of four endpoints is bad, over real sockets: what callers notice and what it still gets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import (
    WorkerProcess,
    listening,
    local_service,
    outbound,
    port_of,
    snapshot,
    upstream,
)

from fleetmesh.edge.tls import server_context
from fleetmesh.model.report import Ejected, Ejection, EjectionCount
from fleetmesh.model.traffic import Balancing, Protocol
from fleetmesh.settings import HttpSettings, OutlierSettings, UpstreamSettings, WorkerSettings

LANES = 8  # requests under way
QUICK = WorkerSettings(upstream=UpstreamSettings(slow_start=0.5, outlier=OutlierSettings()))


class Instance:
    """A sidecar with its application in one: answers `status` after `delay` seconds; status 0
    drops the connection instead."""

    def __init__(self) -> None:
        self.status, self.delay, self.asked = 200, 0.0, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                await asyncio.sleep(self.delay)
                if not self.status:
                    break
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % self.status)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Fleet:
    """web calls api's four instances through `worker`."""

    def __init__(self, worker: WorkerProcess, port: int, instances: list[Instance]) -> None:
        self.worker, self.port, self.instances = worker, port, instances

    async def ask(
        self, count: int, patience: float = 30.0, method: bytes = b"GET"
    ) -> tuple[list[int], list[float]]:
        """Statuses and seconds of so many requests, in the order of their answers. A caller with no
        more `patience` goes away."""
        statuses: list[int] = []
        times: list[float] = []
        left = iter(range(count))

        async def lane() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for _ in left:
                began = time.monotonic()
                writer.write(method + b" / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")
                try:
                    async with asyncio.timeout(patience):
                        head = await reader.readuntil(b"\r\n\r\n")
                except TimeoutError:
                    writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    continue
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                statuses.append(int(head.split()[1]))
                times.append(time.monotonic() - began)
            writer.close()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(LANES):
                group.create_task(lane())
        return statuses, times

    async def ejections(self) -> tuple[tuple[EjectionCount, ...], tuple[Ejected, ...]]:
        report = await self.worker.report()
        return report.ejections, report.ejected


@asynccontextmanager
async def fleet(
    refusing: bool = False,
    policy: str = "",
    protocol: Protocol = Protocol.HTTP,
    settings: WorkerSettings = QUICK,
) -> AsyncIterator[Fleet]:
    """Of four; the first is another port, where nobody listens, if one is `refusing`."""
    authority, out = Authority(), listening()
    leaf = authority.leaf("api")
    instances = [Instance() for _ in range(4)]
    context = server_context([authority.root], leaf)
    servers = [await asyncio.start_server(one, "127.0.0.1", 0, ssl=context) for one in instances]
    ports = [port_of(server.sockets[0]) for server in servers]
    closed = socket.create_server(("127.0.0.1", 0))
    if refusing:
        ports[0] = port_of(closed)
    closed.close()
    api = upstream("api", *ports, protocol=protocol)
    api = replace(api, target=replace(api.target, balancing=Balancing(policy)))
    what = snapshot(authority, (local_service("web", 1, authority.leaf("web")),), (api,))
    async with WorkerProcess(0, settings) as worker:
        assert not (await worker.publish(what, {outbound("web", "api"): out})).error
        yield Fleet(worker, port_of(out), instances)
    for server in servers:
        server.close()


@pytest.mark.parametrize("policy", ["", "round_robin", "maglev"])
async def test_one_that_refuses_connections_is_never_noticed(policy: str) -> None:
    async with fleet(refusing=True, policy=policy) as running:
        statuses, _ = await running.ask(800)
        assert statuses == [200] * 800
        assert (await running.ejections())[1] in ((), (Ejected("api", "node0/api", "unanswered"),))
        assert min(one.asked for one in running.instances[1:]) > 80


@pytest.mark.parametrize("policy", ["", "least_request", "round_robin"])
async def test_one_that_fails_at_once_is_left_after_five(policy: str) -> None:
    """The fifth, and those that are under way by then, are answered by others."""
    async with fleet(policy=policy) as running:
        running.instances[2].status = 500
        for one in running.instances:
            one.delay = 0.005
        statuses, _ = await running.ask(1200)
        assert statuses.count(500) == 4
        assert 500 not in statuses[400:]
        counted, out = await running.ejections()
        assert EjectionCount("api", "5xx", 1) in counted
        assert out == (Ejected("api", "node2/api", "5xx"),)


async def test_what_is_not_idempotent_is_answered_by_whom_it_was_asked() -> None:
    async with fleet() as running:
        bad = running.instances[2]
        bad.status = 500
        statuses, _ = await running.ask(400, method=b"POST")
        assert (await running.ejections())[1] == (Ejected("api", "node2/api", "5xx"),)
        assert statuses.count(500) == bad.asked >= 5
        assert sum(one.asked for one in running.instances) == 400


async def test_one_that_is_slow_gets_next_to_nothing() -> None:
    async with fleet() as running:
        usual = sorted((await running.ask(400))[1])[396]
        running.instances[1].delay = 2.0
        before = running.instances[1].asked
        await running.ask(400)
        assert running.instances[1].asked - before <= LANES
        met = running.instances[1].asked
        statuses, times = await running.ask(1200)
        assert running.instances[1].asked - met <= 0.01 * 1200
        assert statuses == [200] * 1200
        assert sorted(times)[1187] < max(5 * usual, 0.2)  # a busy machine's p99 is no constant


async def test_workers_heed_what_others_found_and_tell_what_they_find() -> None:
    async with fleet() as running:
        worker, told = running.worker, running.instances[3]
        target = "api.default.dc1"
        await worker.hear(Ejection(target, 5.0, "node3/api", "5xx", 30.0))
        await worker.report()
        await running.ask(200)
        assert told.asked == 0
        assert (await running.ejections())[0] == ()
        await worker.hear(Ejection(target, 5.0, "node3/api", "", 0.0))
        running.instances[0].status = 503
        await running.ask(200)
        async with asyncio.timeout(5):
            while not worker.shared:
                await asyncio.sleep(0.1)
                await worker.report()
        (found,) = worker.shared
        assert (found.target, found.endpoint, found.reason) == (target, "node0/api", "gateway")
        assert 5.0 <= found.seconds <= 6.25
        assert told.asked > 0


async def test_one_that_is_slow_in_its_turn_is_ejected_for_that() -> None:
    outlier = OutlierSettings(interval=4.0)
    settings = WorkerSettings(upstream=UpstreamSettings(slow_start=0.5, outlier=outlier))
    async with fleet(policy="round_robin", settings=settings) as running:
        running.instances[1].delay = 0.3
        async with asyncio.timeout(30):
            while not (await running.ejections())[1]:
                await running.ask(300)
        assert (await running.ejections())[1] == (Ejected("api", "node1/api", "latency"),)
        met = running.instances[1].asked
        _, times = await running.ask(400)
        assert running.instances[1].asked == met
        assert max(times) < 0.3


async def test_it_comes_back_by_one_request_and_then_with_all() -> None:
    """A request that finds it ill still is answered by another."""
    outlier = OutlierSettings(ejection_time=0.4)
    settings = WorkerSettings(upstream=UpstreamSettings(slow_start=0.5, outlier=outlier))
    async with fleet(settings=settings) as running:
        bad = running.instances[0]
        bad.status = 503
        await running.ask(60)
        assert (await running.ejections())[1] == (Ejected("api", "node0/api", "gateway"),)
        met = bad.asked
        await asyncio.sleep(1.0)
        statuses, _ = await running.ask(100)
        assert 1 <= bad.asked - met <= 2
        assert statuses == [200] * 100
        counted, out = await running.ejections()
        counts = {one.reason: one.count for one in counted}
        assert (counts["gateway"], counts["probe"] > 0) == (1, True)
        assert len(out) == 1
        bad.status = 200
        await asyncio.sleep(2.5)
        await running.ask(100)
        assert (await running.ejections())[1] == ()
        await asyncio.sleep(2.0)
        met = bad.asked
        statuses, _ = await running.ask(800)
        assert statuses == [200] * 800
        assert bad.asked - met > 40  # of a fair share of 200; the others' latency is proven


async def test_one_that_drops_its_requests_is_left_after_three() -> None:
    async with fleet() as running:
        running.instances[3].status = 0
        statuses, _ = await running.ask(800)
        assert 200 in statuses
        assert statuses.count(502) + statuses.count(503) <= 3 + 2 * LANES
        assert statuses[400:] == [200] * 400
        assert (await running.ejections())[1] == (Ejected("api", "node3/api", "unanswered"),)


async def test_one_that_lets_the_time_pass_is_left_after_three() -> None:
    settings = WorkerSettings(http=HttpSettings(request_timeout=0.5), upstream=QUICK.upstream)
    async with fleet(policy="round_robin", settings=settings) as running:
        running.instances[3].delay = 5.0
        statuses, _ = await running.ask(400)
        assert 3 <= statuses.count(504) <= 3 + LANES
        assert (await running.ejections())[1] == (Ejected("api", "node3/api", "unanswered"),)


async def test_callers_who_give_up_make_it_the_last_choice() -> None:
    """The mesh saw no failure: that they waited in vain is what it knows."""
    async with fleet() as running:
        running.instances[1].delay = 30.0
        await running.ask(40, patience=1.0)
        met = running.instances[1].asked
        statuses, _ = await running.ask(400, patience=1.0)
        assert running.instances[1].asked - met <= 4
        assert statuses.count(200) >= 396


async def test_tcp_leaves_one_that_cannot_be_reached_too() -> None:
    async with fleet(refusing=True, protocol=Protocol.TCP) as running:
        for _ in range(8):
            statuses, _ = await running.ask(16)
            assert statuses == [200] * 16
        assert (await running.ejections())[1] == (Ejected("api", "node0/api", "unanswered"),)


async def test_half_may_be_out_and_the_rest_serve_whatever_they_do() -> None:
    async with fleet() as running:
        for one in running.instances:
            one.status = 500
        statuses, _ = await running.ask(400)
        assert statuses == [500] * 400
        assert len((await running.ejections())[1]) == 2
