"""The controller: composition root of `fleetmesh agent`. Signals, readiness, watchdog, the admin
API and the metrics page around one Mesh."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from fleetmesh import __version__
from fleetmesh.edge import admin, metrics, systemd, users
from fleetmesh.edge.consul import ConsulClient, ConsulError, read_token
from fleetmesh.edge.metrics import Figures
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.status import ConsulStatus, Status
from fleetmesh.plan.ports import Allocation, allocate
from fleetmesh.process import reporting
from fleetmesh.process.memory import load_ports
from fleetmesh.process.mesh import Mesh
from fleetmesh.process.tasks import TaskSet
from fleetmesh.settings import Settings
from fleetmesh.settings.load import load

log = logging.getLogger(__name__)

READY_PATIENCE = 5.0
"""Seconds until the agent is READY although Consul has not answered."""
EXIT_FAILED = 1
EXIT_INVALID = 2


def run(agent_file: Path, services_dir: Path) -> int:
    """Run the agent until SIGTERM; the exit status. Invalid settings are told on standard error
    and end it with 2, a port or socket that cannot be had with 1."""
    settings = load(agent_file, services_dir, users.resolve)
    if not isinstance(settings, Settings):
        return _refuse(settings)
    systemd.setup_logging(settings.log_level)
    ports = allocate(settings, load_ports(settings.state_dir))
    if not isinstance(ports, Allocation):
        return _refuse(ports)
    return uvloop.run(_main((agent_file, services_dir), settings, ports))


async def _main(files: tuple[Path, Path], settings: Settings, ports: Allocation) -> int:
    try:
        client = ConsulClient(settings.consul.address, read_token(settings.consul.token_file))
    except ConsulError as error:
        return _refuse([Problem(str(files[0]), str(error))])
    controller = Controller(files, settings, ports, client)
    try:
        return await controller.run()
    finally:
        await client.close()


def _refuse(problems: Sequence[Problem]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return EXIT_INVALID


class Controller:
    """Implements edge.admin.Agent."""

    def __init__(
        self, files: tuple[Path, Path], settings: Settings, ports: Allocation, client: ConsulClient
    ) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._mesh = Mesh(files, settings, ports, client, systemd.take_inherited(), self._changed)
        self._servers: list[admin.Server] = []
        self._tasks = TaskSet()
        self._stop = asyncio.Event()
        self._ready = False

    async def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hangup)
        problems = self._mesh.open()
        for problem in problems:
            log.error("%s", problem, extra={"fields": {"event": "start_failed"}})
        if problems:
            return EXIT_FAILED
        if (interval := systemd.watchdog_interval()) is not None:
            self._tasks.spawn(_beat(interval), "watchdog")
        try:
            await self._serve()
        except OSError as error:
            log.error("admin API or metrics page: %s", error)
            return EXIT_FAILED
        await self._mesh.start()
        self._changed()
        self._tasks.spawn(self._be_patient(), "patience")
        log.info(
            "agent %s started with %d services",
            __version__,
            len(self._mesh.settings.services),
            extra={"fields": {"event": "started", "version": __version__}},
        )
        await self._stop.wait()
        await self._end()
        return 0

    async def _serve(self) -> None:
        """Raises OSError."""
        settings, sockets = self._mesh.settings, self._mesh.sockets
        page = metrics.application(self.figures, lambda: self._mesh.supervisor.serving)
        self._servers = [
            admin.Server(admin.application(self), sockets.admin(settings.admin_socket)),
            admin.Server(page, sockets.metrics(settings.metrics_address)),
        ]
        for server in self._servers:
            await server.start()

    async def _end(self) -> None:
        systemd.notify("STOPPING=1", "STATUS=Draining")
        log.info("stopping", extra={"fields": {"event": "stopping"}})
        await self._mesh.end()
        for server in self._servers:
            await server.close()
        await self._tasks.close()

    async def _be_patient(self) -> None:
        await asyncio.sleep(READY_PATIENCE)
        self._be_ready()

    def _be_ready(self) -> None:
        if not self._ready:
            self._ready = True
            systemd.notify("READY=1")

    def _changed(self) -> None:
        """The mesh has something new: be ready with the first snapshot, tell systemd."""
        mesh = self._mesh
        if mesh.snapshot is not None:
            self._be_ready()
        systemd.notify(
            "STATUS="
            + reporting.sentence(
                mesh.snapshot,
                mesh.generation,
                [*mesh.refused, *mesh.problems],
                self._consul_error,
                mesh.keeper.status().state,
            )
        )

    def _hangup(self) -> None:
        self._tasks.spawn(self.reload(), "reload")

    async def reload(self) -> Sequence[Problem]:
        problems = await self._mesh.reload()
        systemd.setup_logging(self._mesh.settings.log_level)
        return problems

    async def status(self) -> Status:
        mesh = self._mesh
        reports = await mesh.supervisor.collect()
        snapshot, observed = mesh.snapshot, mesh.observer.observed
        error, last_contact = self._consul_error, self._last_contact
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime=self._loop.time() - self._started,
            node=observed.node or (snapshot.node if snapshot else ""),
            datacenter=observed.datacenter or (snapshot.datacenter if snapshot else ""),
            trust_domain=snapshot.trust_domain if snapshot else "",
            generation=mesh.generation,
            digest=mesh.digest,
            consul=ConsulStatus(
                address=self._client.address,
                reachable=not error and last_contact is not None,
                last_contact=last_contact,
                error=error,
            ),
            capture=mesh.keeper.status(),
            services=tuple(
                reporting.service_status(
                    service, snapshot, mesh.ports, mesh.uids, mesh.registrar.registered, reports
                )
                for service in mesh.settings.services
            ),
            upstreams=snapshot.upstreams if snapshot else (),
            workers=reporting.worker_statuses(mesh.supervisor),
            problems=(*mesh.refused, *mesh.problems),
            default_allow=snapshot.default_allow if snapshot else False,
        )

    async def figures(self) -> Figures:
        supervisor = self._mesh.supervisor
        return reporting.figures(
            supervisor,
            await supervisor.collect(),
            self._mesh.keeper.status(),
            self._last_contact,
            not self._consul_error,
        )

    def snapshot(self) -> Snapshot | None:
        return self._mesh.snapshot

    async def capture_view(self) -> Any:
        return await self._mesh.keeper.view()

    async def capture_apply(self, confirm_within: float | None) -> Any:
        return await self._mesh.keeper.insist(confirm_within)

    async def capture_confirm(self) -> bool:
        return await self._mesh.keeper.confirm()

    async def capture_remove(self) -> Any:
        return await self._mesh.keeper.remove()

    @property
    def _consul_error(self) -> str:
        failing = self._mesh.observer.failing
        return next(iter(failing.values()), self._mesh.registrar.error)

    @property
    def _last_contact(self) -> float | None:
        """Seconds since the last good answer."""
        at = self._mesh.observer.last_contact
        return None if at is None else self._loop.time() - at


async def _beat(interval: float) -> None:
    """Tell the watchdog that the event loop turns."""
    while True:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)
