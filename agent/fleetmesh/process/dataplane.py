"""`fleetmesh dataplane`: workers that serve a file, with no Consul, capture or privilege."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from fleetmesh.edge import systemd
from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import encode
from fleetmesh.process.snapshot_file import ListenerEntry, Plan, load
from fleetmesh.process.sockets import Address, Sockets, Wanted
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.tasks import TaskSet
from fleetmesh.process.workers import Publication

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_INVALID = 2


def run(file: Path, workers: int, drain_timeout: float) -> int:
    """Serve `file` until SIGTERM; the exit status. SIGHUP reads it again. `workers` 0 means one
    per core, `drain_timeout` is in seconds. What is wrong with the file is told on standard
    error and ends it with 2, a port that cannot be had with 1."""
    plan = load(file)
    if not isinstance(plan, Plan):
        return _tell(plan, EXIT_INVALID)
    systemd.setup_logging(plan.settings.log_level)
    count = workers or len(os.sched_getaffinity(0))
    return uvloop.run(_DataPlane(file, plan, count, drain_timeout).run())


class _DataPlane:
    def __init__(self, file: Path, plan: Plan, workers: int, drain_timeout: float) -> None:
        self._file = file
        self._plan = plan
        self._workers = workers
        self._drain_timeout = drain_timeout
        self._sockets = Sockets({})
        self._supervisor = Supervisor(workers, plan.settings, drain_timeout)
        self._generation = 0
        self._tasks = TaskSet()
        self._reloading = asyncio.Lock()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup)
        if problems := self._sockets.open(_wanted(self._plan)):
            return _tell(problems, EXIT_FAILED)
        await self._supervisor.start()
        await self._publish()
        for entry in self._plan.listeners:
            print(self._spoken(entry), flush=True)
        print("ready", flush=True)
        await stop.wait()
        await self._supervisor.drain()
        await self._tasks.close()
        return 0

    def _hangup(self) -> None:
        self._tasks.spawn(self._reload(), "reload")

    async def _reload(self) -> None:
        async with self._reloading:
            plan = load(self._file)
            problems = self._sockets.open(_wanted(plan)) if isinstance(plan, Plan) else plan
            if problems or not isinstance(plan, Plan):
                for problem in problems:
                    log.error("not reloaded: %s", problem)
                return
            self._plan = plan
            await self._supervisor.reconfigure(self._workers, plan.settings, self._drain_timeout)
            self._sockets.close_unwanted(_wanted(plan))
            await self._publish()

    async def _publish(self) -> None:
        self._generation += 1
        plan, sockets = self._plan, self._sockets
        await self._supervisor.publish(
            Publication(self._generation, encode(plan.snapshot), sockets.listeners, sockets.sockets)
        )
        log.info("generation %d is served", self._generation)

    def _spoken(self, entry: ListenerEntry) -> str:
        """`outbound web => api on 127.0.0.1:40123`, with the port that the kernel chose."""
        port = self._sockets.sockets[entry.name].getsockname()[1]
        host = f"[{entry.address}]" if ":" in entry.address else entry.address
        call = f"{entry.service} => {entry.upstream}" if entry.upstream else entry.service
        return f"{entry.kind} {call} on {host}:{port}"


def _wanted(plan: Plan) -> tuple[Wanted, ...]:
    return tuple(
        Wanted(
            Listener(entry.name, ListenerKind(entry.kind), entry.service, entry.upstream),
            Address(entry.address, entry.port),
        )
        for entry in plan.listeners
    )


def _tell(problems: Sequence[Problem], status: int) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return status
