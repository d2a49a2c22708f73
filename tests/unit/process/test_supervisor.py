from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.report import Report
from fleetmesh.process import supervisor as supervisors
from fleetmesh.process import workers
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.workers import Publication
from fleetmesh.settings import TcpSettings, WorkerSettings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKER_MODULE", "tests.support.fake_worker")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'agent'}")


@contextlib.asynccontextmanager
async def supervised(count: int = 1) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(count, WorkerSettings(), 1.0)
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.drain()


def publication(generation: int, snapshot: bytes = b"well", sockets: int = 0) -> Publication:
    listeners = tuple(Listener(f"in.s{n}", ListenerKind.INBOUND, f"s{n}") for n in range(sockets))
    return Publication(
        generation, snapshot, listeners, {item.name: socket.socket() for item in listeners}
    )


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def pids(supervisor: Supervisor) -> set[int]:
    return {worker.pid for worker in supervisor.workers}


def opened(reports: tuple[Report, ...]) -> list[int]:
    return [c.opened for report in reports for c in report.connections]


async def test_publication_is_applied_by_every_worker() -> None:
    async with supervised(2) as supervisor:
        assert not supervisor.serving
        assert await supervisor.publish(publication(1)) == []
        assert [worker.generation for worker in supervisor.workers] == [1, 1]
        assert supervisor.serving


async def test_an_ejection_is_told_to_every_other_worker_and_to_those_that_start_later() -> None:
    async with supervised(2) as supervisor:
        await supervisor.publish(publication(1))
        first, second = supervisor.workers
        await first.publish(publication(2, b"eject"))
        await eventually(lambda: bool(supervisor._ejections.current(0.0)))
        first_report, second_report = await first.collect(), await second.collect()
        assert first_report is not None
        assert second_report is not None
        assert (opened((first_report,)), opened((second_report,))) == ([0], [1])
        before = pids(supervisor)
        second.kill()
        await eventually(lambda: len(supervisor.workers) == 2 and pids(supervisor) != before)
        newest = max(supervisor.workers, key=lambda worker: worker.number)
        async with asyncio.timeout(10):
            while (report := await newest.collect()) is None or opened((report,)) != [1]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_workers_question_waits_until_somebody_can_answer_it() -> None:
    """As at a start, when workers serve before there is anything that speaks with Consul."""
    asked = []

    async def resolver(address: str, port: int) -> None:
        asked.append((address, port))

    async with supervised() as supervisor:
        await supervisor.publish(publication(1, b"ask"))
        assert opened(await supervisor.collect())[0] == 0
        supervisor.resolve_with(resolver)
        async with asyncio.timeout(10):
            while opened(await supervisor.collect())[0] == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert asked == [("10.0.0.9", 8000)]


async def test_access_records_of_all_workers_are_in_the_order_of_time() -> None:
    """The newest of all, however they are spread."""
    async with supervised(2) as supervisor:
        await supervisor.publish(publication(1))
        assert [record.time for record in await supervisor.records(4)] == [6, 7, 8, 9]
        assert [record.time for record in await supervisor.records(99)] == list(range(1, 10))


async def test_sockets_travel_once_and_more_than_one_message_takes() -> None:
    async with supervised() as supervisor:
        many = publication(1, sockets=workers.MAX_FDS + 10)
        assert await supervisor.publish(many) == []
        assert await supervisor.publish(Publication(2, b"well", many.listeners, many.sockets)) == []
        assert opened(await supervisor.collect())[0] == workers.MAX_FDS + 10
        name = many.listeners[0].name
        rebound = {**many.sockets, name: socket.socket()}
        assert await supervisor.publish(Publication(3, b"well", many.listeners, rebound)) == []
        assert opened(await supervisor.collect())[0] == workers.MAX_FDS + 11


async def test_dead_worker_is_replaced_and_gets_the_publication() -> None:
    async with supervised() as supervisor:
        await supervisor.publish(publication(1, sockets=3))
        (before,) = pids(supervisor)
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: supervisor.serving and pids(supervisor) != {before})
        assert supervisor.restarts == 1
        assert supervisor.workers[0].restarts == 1
        assert opened(await supervisor.collect())[0] == 3


async def test_counts_of_the_dead_are_kept() -> None:
    async with supervised() as supervisor:
        await supervisor.publish(publication(1))
        await supervisor.collect()
        (before,) = pids(supervisor)
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: supervisor.serving and pids(supervisor) != {before})
        counts = [r.count for report in await supervisor.collect() for r in report.requests]
        assert counts == [2, 1]  # worker 2 lives, worker 1 had one


async def test_refused_publication_is_told_and_the_worker_lives() -> None:
    async with supervised() as supervisor:
        before = pids(supervisor)
        assert await supervisor.publish(publication(1, b"refuse")) == ["worker 1: it is wrong"]
        assert pids(supervisor) == before


@pytest.mark.parametrize("snapshot", [b"mute", b"hang"])
async def test_worker_that_does_not_apply_in_time_is_killed(
    snapshot: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still allow what is now denied."""
    monkeypatch.setattr(workers, "APPLY_TIMEOUT", 0.5)
    monkeypatch.setattr(workers, "START_TIMEOUT", 3.0)
    async with supervised() as supervisor:
        await supervisor.publish(publication(1))
        (before,) = pids(supervisor)
        (failure,) = await supervisor.publish(publication(2, snapshot))
        assert "no answer" in failure
        await eventually(lambda: before not in pids(supervisor))
        await supervisor.publish(publication(3))
        await eventually(lambda: supervisor.serving)


async def test_hung_worker_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisors, "LIVENESS_INTERVAL", 0.2)
    monkeypatch.setattr(workers, "REPORT_TIMEOUT", 0.5)
    async with supervised() as supervisor:
        await supervisor.publish(publication(1))
        (before,) = pids(supervisor)
        os.kill(before, signal.SIGSTOP)
        await eventually(lambda: supervisor.serving and pids(supervisor) != {before})


async def test_workers_that_keep_dying_are_replaced_with_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisors, "REPLACEMENT_PAUSE", 3600.0)
    async with supervised() as supervisor:
        await supervisor.publish(publication(1, b"die"))
        await eventually(lambda: supervisor.restarts == supervisors.DEATHS + 1)
        await asyncio.sleep(0.5)
        assert supervisor.restarts == supervisors.DEATHS + 1
        assert supervisor.workers == ()


async def test_new_settings_replace_the_workers_after_new_ones_serve() -> None:
    async with supervised(2) as supervisor:
        await supervisor.publish(publication(1))
        before = pids(supervisor)
        await supervisor.reconfigure(1, WorkerSettings(tcp=TcpSettings(idle_timeout=5)), 1.0)
        assert supervisor.serving
        await eventually(lambda: len(supervisor.workers) == 1)
        assert not pids(supervisor) & before
        assert supervisor.restarts == 0


async def test_unchanged_settings_keep_the_workers() -> None:
    async with supervised() as supervisor:
        before = pids(supervisor)
        await supervisor.reconfigure(1, WorkerSettings(), 9.0)
        assert pids(supervisor) == before


async def test_worker_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No process or memory is left for a moment."""
    monkeypatch.setattr(supervisors, "REPLACEMENT_PAUSE", 0.01)
    spawn = asyncio.create_subprocess_exec
    failures = [OSError("no process"), OSError("no process")]

    async def reluctant(*args: Any, **more: Any) -> asyncio.subprocess.Process:
        if failures:
            raise failures.pop()
        return await spawn(*args, **more)

    async with supervised() as supervisor:
        await supervisor.publish(publication(1))
        monkeypatch.setattr(asyncio, "create_subprocess_exec", reluctant)
        os.kill(supervisor.workers[0].pid, signal.SIGKILL)
        await eventually(lambda: not failures and supervisor.serving)
