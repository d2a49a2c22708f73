"""All workers together: as many as asked for, alive, serving the same."""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import time

from msgspec.structs import replace

from fleetmesh.core.buckets import BYTES
from fleetmesh.edge import shared_memory
from fleetmesh.edge.ipc import Ejections
from fleetmesh.model.record import Record
from fleetmesh.model.report import Ejection, Report
from fleetmesh.plan.ejections import KnownEjections
from fleetmesh.plan.totals import retire, total
from fleetmesh.process.tasks import TaskSet
from fleetmesh.process.workers import Publication, Resolve, Worker
from fleetmesh.settings import WorkerSettings

log = logging.getLogger(__name__)

LIVENESS_INTERVAL = 10.0
DEATHS = 5
DEATHS_WITHIN = 10.0
"""After `DEATHS` deaths within this many seconds the next replacement waits a second."""
REPLACEMENT_PAUSE = 1.0


class Supervisor:
    """`restarts` counts the workers that died and were replaced."""

    def __init__(self, count: int, settings: WorkerSettings, drain_timeout: float) -> None:
        self.restarts = 0
        self._count = count
        self._settings = settings
        self._shared = shared_memory.create(BYTES)
        self._drain_timeout = drain_timeout
        self._workers: dict[int, Worker] = {}
        self._leaving: set[Worker] = set()
        self._retired = Report(pid=0, generation=0)
        self._publication: Publication | None = None
        self._numbers = 0
        self._deaths: collections.deque[float] = collections.deque(maxlen=DEATHS)
        self._tasks = TaskSet()
        self._changing = asyncio.Lock()
        self._resolver: Resolve | None = None
        self._resolvable = asyncio.Event()
        self._stopping = False
        self._ejections = KnownEjections()

    @property
    def workers(self) -> tuple[Worker, ...]:
        return (*self._workers.values(), *self._leaving)

    @property
    def serving(self) -> bool:
        """Whether every worker serves the last publication."""
        publication = self._publication
        return (
            publication is not None
            and len(self._workers) == self._count
            and all(w.generation == publication.generation for w in self._workers.values())
        )

    async def start(self) -> None:
        for _ in range(self._count):
            await self._add()
        self._tasks.spawn(self._stay_alive(), "liveness of workers")

    async def publish(self, publication: Publication) -> list[str]:
        """Returns when every worker has applied it or failed to; the failures."""
        async with self._changing:
            self._publication = publication
            workers = list(self._workers.values())
            errors = await asyncio.gather(*(worker.publish(publication) for worker in workers))
        failures = []
        for worker, error in zip(workers, errors, strict=True):
            if error:
                failures.append(f"worker {worker.number}: {error}")
                log.error(
                    "worker %d did not apply generation %d: %s",
                    worker.number,
                    publication.generation,
                    error,
                    extra={"fields": {"event": "publish_failed", "worker": worker.number}},
                )
        return failures

    async def reconfigure(self, count: int, settings: WorkerSettings, drain_timeout: float) -> None:
        """New settings need new processes: they serve before the old ones are drained."""
        self._drain_timeout = drain_timeout
        if (count, settings) == (self._count, self._settings):
            return
        async with self._changing:
            old = list(self._workers.values())
            self._workers = {}
            self._count, self._settings = count, settings
            for _ in range(count):
                await self._add()
        for worker in old:
            self._leave(worker)

    async def collect(self) -> tuple[Report, ...]:
        """Fresh reports of the workers that answer, and last the totals of those that are gone."""
        reports = await asyncio.gather(*(worker.collect() for worker in self.workers))
        return (*(report for report in reports if report is not None), self._retired)

    async def records(self, limit: int) -> tuple[Record, ...]:
        """The newest access records of all workers, oldest first."""
        found = await asyncio.gather(*(worker.records(limit) for worker in self.workers))
        ordered = sorted(itertools.chain(*found), key=lambda record: record.time)
        return tuple(ordered[max(len(ordered) - limit, 0) :])

    async def part(self, service: str) -> None:
        """End what callers have to the local service."""
        await asyncio.gather(*(worker.part(service) for worker in self.workers))

    async def drain(self) -> None:
        """End all workers, each with the time to finish what it carries."""
        self._stopping = True
        await asyncio.gather(*(worker.drain(self._drain_timeout) for worker in self.workers))
        await self._tasks.close()

    async def hand_over(self, sign: int) -> None:
        """Let all workers serve on without us until the other end of the socket `sign` is closed.
        Those that are being drained already are waited for."""
        self._stopping = True
        leaving, staying = tuple(self._leaving), tuple(self._workers.values())
        await asyncio.gather(*(worker.hand_over(self._drain_timeout, sign) for worker in staying))
        await asyncio.gather(*(worker.wait() for worker in leaving))
        await self._tasks.close()

    async def _add(self, restarts: int = 0) -> None:
        self._numbers += 1
        settings = replace(self._settings, workers=self._count)
        worker = await Worker.spawn(
            self._numbers, settings, self._shared, self._tasks, self._resolve, self._share
        )
        worker.restarts = restarts
        self._workers[worker.number] = worker
        self._tasks.spawn(self._watch(worker), f"worker {worker.number}")
        if self._publication is not None:
            error = await worker.publish(self._publication)
            if error:
                log.error("worker %d did not begin: %s", worker.number, error)
        if known := self._ejections.current(time.monotonic()):
            await worker.tell(Ejections(known))

    def _share(self, finder: Worker, ejections: tuple[Ejection, ...]) -> None:
        self._ejections.learn(ejections, time.monotonic())
        for worker in self.workers:
            if worker is not finder:
                self._tasks.spawn(worker.tell(Ejections(ejections)), "ejections")

    def resolve_with(self, resolver: Resolve) -> None:
        """Let `resolver` answer the workers' questions; until then they wait."""
        self._resolver = resolver
        self._resolvable.set()

    async def _resolve(self, address: str, port: int) -> None:
        await self._resolvable.wait()
        if self._resolver is not None:
            await self._resolver(address, port)

    def _leave(self, worker: Worker) -> None:
        self._leaving.add(worker)
        self._tasks.spawn(worker.drain(self._drain_timeout), f"drain of worker {worker.number}")

    async def _watch(self, worker: Worker) -> None:
        status = await worker.wait()
        self._retired = total((self._retired, retire(worker.report)))
        self._leaving.discard(worker)
        if self._stopping or worker.draining or self._workers.pop(worker.number, None) is None:
            return
        self.restarts += 1
        log.error(
            "worker %d (pid %d) died with status %d and is replaced",
            worker.number,
            worker.pid,
            status,
            extra={"fields": {"event": "worker_died", "worker": worker.number, "status": status}},
        )
        await self._pause_after_many_deaths()
        async with self._changing:
            while len(self._workers) < self._count and not self._stopping:
                try:
                    await self._add(worker.restarts + 1)
                except OSError as error:
                    log.error("no worker could be started: %s", error)
                    await asyncio.sleep(REPLACEMENT_PAUSE)

    async def _pause_after_many_deaths(self) -> None:
        now = asyncio.get_running_loop().time()
        many = len(self._deaths) == DEATHS and now - self._deaths[0] < DEATHS_WITHIN
        self._deaths.append(now)
        if many:
            await asyncio.sleep(REPLACEMENT_PAUSE)

    async def _stay_alive(self) -> None:
        """A worker that does not answer is killed, and so replaced."""
        while True:
            await asyncio.sleep(LIVENESS_INTERVAL)
            # One that has applied nothing yet is still starting: its first publication has a limit.
            workers = [w for w in self._workers.values() if w.generation]
            reports = await asyncio.gather(*(worker.collect() for worker in workers))
            for worker, report in zip(workers, reports, strict=True):
                if report is None and not worker.draining:
                    log.error(
                        "worker %d (pid %d) does not answer and is killed",
                        worker.number,
                        worker.pid,
                        extra={"fields": {"event": "worker_hung", "worker": worker.number}},
                    )
                    worker.kill()
