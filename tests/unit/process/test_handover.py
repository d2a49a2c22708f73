"""An agent that is restarted: its workers serve on without it, until the next agent's do."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.app import Scripted
from tests.support.mesh import Streams, mesh
from tests.support.worker import WorkerProcess
from tests.unit.process.test_supervisor import publication
from tests.unit.process.test_worker import ask

from fleetmesh.edge.ipc import Drain, HandedOver
from fleetmesh.process import succession, workers
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]


async def leave(worker: WorkerProcess, sign: socket.socket, seconds: float = 2.0) -> None:
    """As a controller does that another follows: the worker is told, and on its own."""
    await worker.channel.send(Drain(seconds, handover=True), [sign.fileno()])
    answer, _ = await worker.channel.receive()
    assert isinstance(answer, HandedOver)
    worker.channel.close()


async def test_a_worker_serves_on_as_if_nothing_were_until_its_successor_does() -> None:
    """Kept connections stay kept, new ones are accepted, more than once each."""
    ours, theirs = socket.socketpair()
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:
        client = await running.call()
        await leave(running.callee, theirs)
        theirs.close()
        await asyncio.sleep(1.5)  # longer than a drain would accept
        for streams in (client, await running.call()):
            for _ in range(2):
                status, head, _ = await ask(streams)
                assert status == 200
                assert "connection: close" not in head.lower()
        assert running.callee.process.returncode is None

        await running.hand_over_callee(successor)
        ours.close()
        assert await asyncio.wait_for(running.callee.process.wait(), 5) == 0
        assert (await ask(client))[0] == 200


async def test_what_is_under_way_ends_after_the_successor_began() -> None:
    """A download that began before, and one that begins while there is no controller."""
    ours, theirs = socket.socketpair()
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:
        download = b"GET /drip?n=30&gap=0.05 HTTP/1.0\r\n\r\n"
        whole = b"".join(b"%02d" % number for number in range(30))
        first = await running.call()
        first[1].write(download)
        await first[0].readuntil(b"\r\n\r\n")
        await leave(running.callee, theirs)
        second = await running.call()
        second[1].write(download)
        await second[0].readuntil(b"\r\n\r\n")
        await running.hand_over_callee(successor)
        ours.close()
        theirs.close()
        assert await first[0].read() == whole
        assert await second[0].read() == whole
        assert await asyncio.wait_for(running.callee.process.wait(), 5) == 0


async def test_a_kept_connection_stays_for_a_last_request_as_long_as_the_drain() -> None:
    """Its client is told with the answer; closed at once it might be used at that very moment."""
    ours, theirs = socket.socketpair()
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:
        client = await running.call_inbound()
        assert (await ask(client))[0] == 200
        await leave(running.callee, theirs, 4.0)
        await running.hand_over_callee(successor)
        ours.close()
        theirs.close()
        await asyncio.sleep(2.5)
        status, head, _ = await ask(client)
        assert (status, "connection: close" in head.lower()) == (200, True)
        assert await asyncio.wait_for(running.callee.process.wait(), 5) == 0


async def test_what_begins_while_it_drains_has_as_long_as_what_began_before() -> None:
    """On a connection that was busy when the drain began, so that its client could not be told.
    What began before that is cut when the drain is over."""
    ours, theirs = socket.socketpair()
    async with mesh(Scripted()) as running, WorkerProcess(2) as successor:

        async def drip(streams: Streams, count: int) -> bytes:
            streams[1].write(b"GET /drip?n=%d&gap=0.05 HTTP/1.1\r\nHost: api\r\n\r\n" % count)
            return await streams[0].readuntil(b"\r\n0\r\n\r\n")

        kept, older = await running.call(), await running.call()
        first = asyncio.ensure_future(drip(kept, 24))
        cut = asyncio.ensure_future(drip(older, 200))
        await asyncio.sleep(0.2)
        await leave(running.callee, theirs, 2.5)
        await running.hand_over_callee(successor)
        ours.close()
        theirs.close()
        began = time.monotonic()
        assert b"\r\n23\r\n" in await first
        assert b"\r\n39\r\n" in await drip(kept, 40)
        assert time.monotonic() - began > 2.6
        with pytest.raises(asyncio.IncompleteReadError):
            await cut
        assert await asyncio.wait_for(running.callee.process.wait(), 5) == 0


async def test_a_worker_that_nobody_succeeds_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of an agent that never starts again: systemd drops the sign, and it drains."""
    assert succession.HANDOVER <= 60
    ours, theirs = socket.socketpair()
    async with mesh(Scripted()) as running:
        held = await running.call()
        assert (await ask(held))[0] == 200
        await leave(running.callee, theirs, 1.0)
        theirs.close()
        ours.close()
        begin = time.monotonic()
        assert await asyncio.wait_for(running.callee.process.wait(), 5) == 0
        assert time.monotonic() - begin < 3


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKER_MODULE", "tests.support.fake_worker")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'agent'}")


@pytest.mark.usefixtures("fake_worker")
async def test_the_supervisor_does_not_wait_for_workers_that_it_handed_over() -> None:
    supervisor = Supervisor(2, WorkerSettings(), 1.0)
    await supervisor.start()
    assert await supervisor.publish(publication(1)) == []
    pids = [worker.pid for worker in supervisor.workers]
    ours, theirs = socket.socketpair()
    await asyncio.wait_for(supervisor.hand_over(theirs.fileno()), 5)
    theirs.close()
    assert all(alive(pid) for pid in pids)
    ours.close()
    await eventually(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.usefixtures("fake_worker")
async def test_a_worker_that_does_not_take_over_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "REPORT_TIMEOUT", 0.3)
    monkeypatch.setattr(workers, "APPLY_TIMEOUT", 0.3)
    supervisor = Supervisor(1, WorkerSettings(), 1.0)
    await supervisor.start()
    await supervisor.publish(publication(1))
    (worker,) = supervisor.workers
    os.kill(worker.pid, 19)  # SIGSTOP
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await asyncio.wait_for(supervisor.hand_over(theirs.fileno()), 5)
        await eventually(lambda: not alive(worker.pid))


def alive(pid: int) -> bool:
    """Zombies are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
