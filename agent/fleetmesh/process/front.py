"""What carries this host's traffic: the listening sockets, the workers, and what they serve.

Its imports are few on purpose: after a restart connections wait in the sockets' queues until a
worker serves what was served before, and everything else can be loaded meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from fleetmesh.edge import systemd
from fleetmesh.edge.ipc import Listener
from fleetmesh.model import snapshot as snapshots
from fleetmesh.model.fault import Fault
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.cache import SnapshotCache
from fleetmesh.process.memory import keep_snapshot, recall_snapshot, save_ports
from fleetmesh.process.sockets import (
    SUCCESSOR,
    Sockets,
    Wanted,
    exposed_listeners,
    wanted_listeners,
)
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.workers import Publication
from fleetmesh.settings import Settings, WorkerSettings

log = logging.getLogger(__name__)


class Front:
    """`snapshot` is what the workers serve, as `generation`; None before the first. `faults` are
    what they are to serve with the next."""

    def __init__(self, settings: Settings, ports: Allocation, inherited: dict[str, int]) -> None:
        self.settings = settings
        self.ports = ports
        self.snapshot: Snapshot | None = None
        self.digest = ""
        self.generation = 0
        self.faults: tuple[Fault, ...] = ()
        self._faults_served: tuple[Fault, ...] = ()
        self.sockets = Sockets(inherited)
        self._given: tuple[Listener, ...] = ()
        self.cache = SnapshotCache(settings.state_dir)
        self.supervisor = Supervisor(*_worker_arguments(settings))

    def open(self) -> list[Problem]:
        """Open the listeners; the problems of those that could not be had."""
        problems = self.sockets.open(wanted_listeners(self.ports, self.settings.ports.plain))
        if not problems:
            save_ports(self.settings.state_dir, self.ports)
        return problems

    async def start(self) -> None:
        """Start the workers and let them serve what the agent before us served, as systemd kept
        it, or else the disk."""
        await self.supervisor.start()
        fd = self.sockets.inherited_snapshot()
        snapshot = recall_snapshot(fd) if fd is not None else None
        if snapshot is None:
            snapshot = await self.cache.recall(time.time())
        if snapshot is not None:
            declared = {service.name for service in self.settings.services}
            services = tuple(s for s in snapshot.services if s.name in declared)
            log.info("serving the snapshot of before", extra={"fields": {"event": "restored"}})
            await self.publish(replace(snapshot, services=services))
        self.close_unwanted()

    async def publish(self, snapshot: Snapshot, again: bool = False) -> list[Problem]:
        """Let every worker serve `snapshot`; which of them do not. Nothing happens when they
        serve it already, with the same faults, unless `again`: because the listeners changed. A
        port to expose something on that cannot be had holds nothing up, and is asked for again each
        time."""
        digest, faults = snapshots.digest(snapshot), self.faults
        exposed = exposed_listeners(_exposed(snapshot))
        unopened = self.sockets.open(exposed)
        listeners = self._listeners(snapshot)
        served = (self.digest, self._given, self._faults_served)
        if (digest, listeners, faults) == served and not again:
            return unopened
        self.generation += 1
        failures = await self.supervisor.publish(
            Publication(
                self.generation,
                snapshots.encode(snapshot),
                listeners,
                self.sockets.sockets,
                faults,
            )
        )
        self.sockets.succeed()
        self.snapshot, self.digest, self._given = snapshot, digest, listeners
        self._faults_served = faults
        self.sockets.close_unexposed(exposed)
        keep_snapshot(snapshot)
        self.cache.keep(snapshot)
        log.info(
            "generation %d is served: %d services, %d upstreams",
            self.generation,
            len(snapshot.services),
            len(snapshot.upstreams),
            extra={
                "fields": {
                    "event": "published",
                    "generation": self.generation,
                    "digest": digest,
                }
            },
        )
        return [*unopened, *(Problem("workers", failure) for failure in failures)]

    async def hand_over(self, *others: Callable[[int], Awaitable[None]]) -> None:
        """Leave the workers to serve until those of the next agent do, and `others` too, who are
        given what they see it by: the socket whose other end waits in systemd's store, which drops
        it should the unit stop for good."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            systemd.store(SUCCESSOR, ours.fileno())
            await asyncio.gather(
                self.supervisor.hand_over(theirs.fileno()),
                *(other(theirs.fileno()) for other in others),
            )

    def _wanted(self, snapshot: Snapshot | None) -> tuple[Wanted, ...]:
        exposed = _exposed(snapshot) if snapshot is not None else []
        return wanted_listeners(self.ports, self.settings.ports.plain, exposed)

    def _listeners(self, snapshot: Snapshot) -> tuple[Listener, ...]:
        """Those of services that are gone are still open while settings are taken over."""
        names = {one.listener.name for one in self._wanted(snapshot)}
        return tuple(one for one in self.sockets.listeners if one.name in names)

    def try_listeners(self, settings: Settings, ports: Allocation) -> list[Problem]:
        """Open the listeners of new settings beside those of the old; when some cannot be had,
        only the old ones are left."""
        problems = self.sockets.open(wanted_listeners(ports, settings.ports.plain))
        if problems:
            before = self._wanted(self.snapshot)
            self.sockets.open(before)
            self.sockets.close_unwanted(before)
        return problems

    async def switch(self, settings: Settings, ports: Allocation) -> None:
        """Take over settings whose listeners are open; the next publication must be `again`."""
        self.settings, self.ports = settings, ports
        save_ports(settings.state_dir, ports)
        await self.supervisor.reconfigure(*_worker_arguments(settings))

    def close_unwanted(self) -> None:
        """Close the listeners of services that are gone."""
        self.sockets.close_unwanted(self._wanted(self.snapshot))


def _exposed(snapshot: Snapshot) -> list[tuple[int, str]]:
    """The port and the address of each listener for what is exposed."""
    paths = [path for service in snapshot.services for path in service.exposed]
    return sorted({path.listener_port: path.address for path in paths}.items())


def _worker_arguments(settings: Settings) -> tuple[int, WorkerSettings, float]:
    return (
        settings.workers or len(os.sched_getaffinity(0)),
        WorkerSettings(
            settings.http,
            settings.tcp,
            settings.log_level,
            settings.upstream,
            settings.tracing,
            settings.access_log,
            settings.on_demand.enabled,
            max_connections=settings.max_connections,
        ),
        settings.drain_timeout,
    )
