"""The controller: composition root of `fleetmesh agent`, and the order in which things happen.

A change, wherever it comes from, ends in one place (`_reconcile`), which makes before it breaks:
sockets, certificates and snapshot to the workers, their acknowledgements, only then capture
rules and registrations; what is gone loses its capture first and its sockets last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace

from fleetmesh import __version__
from fleetmesh.edge import admin, metrics, systemd, users
from fleetmesh.edge.consul import ConsulClient, ConsulError, read_token
from fleetmesh.edge.metrics import Figures
from fleetmesh.model import snapshot as snapshots
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.status import ConsulStatus, Status
from fleetmesh.plan.compile import compile_snapshot
from fleetmesh.plan.ports import Allocation, allocate
from fleetmesh.plan.registration import desired
from fleetmesh.process import reporting
from fleetmesh.process.capturing import CaptureKeeper
from fleetmesh.process.memory import keep_snapshot, load_ports, recall_snapshot, save_ports
from fleetmesh.process.observing import Observer
from fleetmesh.process.registering import Registrar
from fleetmesh.process.sockets import Sockets, wanted_listeners
from fleetmesh.process.supervisor import Supervisor
from fleetmesh.process.tasks import TaskSet
from fleetmesh.process.workers import Publication
from fleetmesh.settings import Settings, WorkerSettings
from fleetmesh.settings.load import load

log = logging.getLogger(__name__)

DEBOUNCE = 0.05
FIRST_PATIENCE = 5.0
"""Seconds until the agent is READY without Consul, and until it compiles from what there is."""
FULL_PATIENCE = 30.0
"""The same with a snapshot from before the restart: that one is worth waiting longer."""
EXIT_INVALID = 2
FIXED = ("admin_socket", "metrics_address", "state_dir", "consul")
"""Settings that only a restart changes."""


def run(agent_file: Path, services_dir: Path) -> int:
    """Run the agent until SIGTERM; the exit status. Invalid settings are told on standard error
    and end it with 2."""
    settings = load(agent_file, services_dir, users.resolve)
    if isinstance(settings, Settings):
        systemd.setup_logging(settings.log_level)
        ports = allocate(settings, load_ports(settings.state_dir))
        if isinstance(ports, Allocation):
            return uvloop.run(_main(agent_file, services_dir, settings, ports))
        settings = ports
    for problem in settings:
        print(problem, file=sys.stderr)
    return EXIT_INVALID


async def _main(agent_file: Path, services_dir: Path, settings: Settings, ports: Allocation) -> int:
    try:
        client = ConsulClient(settings.consul.address, read_token(settings.consul.token_file))
    except ConsulError as error:
        print(Problem(str(agent_file), str(error)), file=sys.stderr)
        return EXIT_INVALID
    controller = Controller(agent_file, services_dir, settings, ports, client)
    return await controller.run()


class Controller:
    """Implements edge.admin.Agent."""

    def __init__(
        self,
        agent_file: Path,
        services_dir: Path,
        settings: Settings,
        ports: Allocation,
        client: ConsulClient,
    ) -> None:
        self._files = (agent_file, services_dir)
        self._settings = settings
        self._ports = ports
        self._uids = _uids(settings)
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._sockets = Sockets(systemd.take_inherited())
        self._supervisor = Supervisor(*_worker_arguments(settings))
        self._observer = Observer(client, settings, self._mark)
        self._registrar = Registrar(client, self._observer.contact)
        self._keeper = CaptureKeeper(settings)
        self._servers: list[admin.Server] = []
        self._tasks = TaskSet()
        self._dirty = asyncio.Event()
        self._stop = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._ready = False
        self._snapshot: Snapshot | None = None
        self._digest = ""
        self._generation = 0
        self._refused: list[Problem] = []
        self._problems: list[Problem] = []

    async def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hangup)
        wanted = wanted_listeners(self._ports, self._settings.ports.plain)
        problems = self._sockets.open(wanted)
        if problems:
            for problem in problems:
                log.error("%s", problem, extra={"fields": {"event": "start_failed"}})
            return 1
        save_ports(self._settings.state_dir, self._ports)
        await self._start()
        await self._stop.wait()
        await self._end()
        return 0

    async def _start(self) -> None:
        self._servers = [
            admin.Server(admin.application(self), self._sockets.admin(self._settings.admin_socket)),
            admin.Server(
                metrics.application(self.figures, lambda: self._supervisor.serving),
                self._sockets.metrics(self._settings.metrics_address),
            ),
        ]
        for server in self._servers:
            await server.start()
        await self._supervisor.start()
        await self._keeper.start()
        await self._restore()
        self._sockets.close_unwanted(wanted_listeners(self._ports, self._settings.ports.plain))
        self._observer.start()
        self._registrar.start()
        self._tasks.spawn(self._reconcile_for_ever(), "reconcile")
        self._tasks.spawn(self._patience(), "patience")
        if (interval := systemd.watchdog_interval()) is not None:
            self._tasks.spawn(_beat(interval), "watchdog")
        log.info(
            "agent %s started with %d services",
            __version__,
            len(self._settings.services),
            extra={"fields": {"event": "started", "version": __version__}},
        )

    async def _restore(self) -> None:
        """Serve at once what the agent before us served, if systemd kept it."""
        fd = self._sockets.inherited_snapshot()
        snapshot = recall_snapshot(fd) if fd is not None else None
        if snapshot is None:
            return
        declared = {service.name for service in self._settings.services}
        services = tuple(s for s in snapshot.services if s.name in declared)
        log.info("serving the snapshot of before", extra={"fields": {"event": "restored"}})
        async with self._reconciling:
            await self._put_in_force(replace(snapshot, services=services))

    async def _end(self) -> None:
        systemd.notify("STOPPING=1", "STATUS=Draining")
        log.info("stopping", extra={"fields": {"event": "stopping"}})
        await self._tasks.close()
        await self._observer.close()
        await self._registrar.close()
        await self._keeper.stop()
        await self._supervisor.drain()
        for server in self._servers:
            await server.close()
        await self._client.close()

    # Reconciling

    def _mark(self) -> None:
        self._dirty.set()

    async def _reconcile_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(DEBOUNCE)
            self._dirty.clear()
            async with self._reconciling:
                await self._reconcile()

    async def _patience(self) -> None:
        """What is due though nothing happened: READY without Consul, a first compilation from
        incomplete answers."""
        await asyncio.sleep(FIRST_PATIENCE)
        self._be_ready()
        self._mark()
        await asyncio.sleep(FULL_PATIENCE - FIRST_PATIENCE)
        self._mark()

    def _may_compile(self) -> bool:
        """Before every watch has answered once, a compilation would lack upstreams."""
        patience = FIRST_PATIENCE if self._snapshot is None else FULL_PATIENCE
        return self._observer.complete or self._loop.time() - self._started >= patience

    async def _reconcile(self) -> None:
        if not self._may_compile():
            self._tell()
            return
        compiled = compile_snapshot(self._settings, self._observer.observed, self._snapshot)
        if isinstance(compiled, list):
            self._problems = compiled
            self._tell()
            return
        self._problems = list(compiled.warnings)
        await self._put_in_force(compiled.snapshot)

    async def _put_in_force(self, snapshot: Snapshot) -> None:
        digest = snapshots.digest(snapshot)
        listeners = self._sockets.listeners
        if digest != self._digest:
            self._generation += 1
            await self._supervisor.publish(
                Publication(
                    self._generation, snapshots.encode(snapshot), listeners, self._sockets.sockets
                )
            )
            self._snapshot, self._digest = snapshot, digest
            keep_snapshot(snapshot)
            log.info(
                "generation %d is served: %d services, %d upstreams",
                self._generation,
                len(snapshot.services),
                len(snapshot.upstreams),
                extra={
                    "fields": {
                        "event": "published",
                        "generation": self._generation,
                        "digest": digest,
                    }
                },
            )
        await self._capture(self._settings, self._uids)
        self._register(snapshot)
        self._be_ready()
        self._tell()

    async def _capture(self, settings: Settings, uids: Mapping[str, int]) -> None:
        """Capture the services that have an identity."""
        services = self._snapshot.services if self._snapshot else ()
        identified = {service.name for service in services if service.leaf is not None}
        captured = replace(
            settings, services=tuple(s for s in settings.services if s.name in identified)
        )
        await self._keeper.apply(captured, self._ports.outbound, uids)

    def _register(self, snapshot: Snapshot) -> None:
        protocols = {service.name: service.protocol for service in snapshot.services}
        ready = frozenset(s.name for s in snapshot.services if s.leaf is not None)
        self._registrar.want(desired(self._settings, self._ports, protocols), ready)

    def _be_ready(self) -> None:
        if not self._ready:
            self._ready = True
            systemd.notify("READY=1")

    def _tell(self) -> None:
        sentence = reporting.sentence(
            self._snapshot,
            self._generation,
            len(self._refused) + len(self._problems),
            self._consul_error,
            self._keeper.status().state,
        )
        if self._refused:
            sentence = f"Reload refused: {self._refused[0]}"
        systemd.notify(f"STATUS={sentence}")

    # Reloading

    def _hangup(self) -> None:
        self._tasks.spawn(self.reload(), "reload")

    async def reload(self) -> list[Problem]:
        """Read the settings again. With problems nothing changes, but they are shown."""
        async with self._reconciling:
            problems = await self._reload()
            self._refused = problems
            if problems:
                log.error(
                    "reload refused: %s",
                    "; ".join(str(problem) for problem in problems),
                    extra={"fields": {"event": "reload_refused", "problems": len(problems)}},
                )
                self._tell()
            else:
                log.info("settings reloaded", extra={"fields": {"event": "reloaded"}})
        return problems

    async def _reload(self) -> list[Problem]:
        settings = await asyncio.to_thread(load, *self._files, users.resolve)
        if not isinstance(settings, Settings):
            return settings
        fixed = [
            Problem(
                f"{self._files[0]}: {key}", "does not change while the agent runs", "restart it"
            )
            for key in FIXED
            if getattr(settings, key) != getattr(self._settings, key)
        ]
        ports = allocate(settings, self._ports)
        if fixed or not isinstance(ports, Allocation):
            return fixed or list(ports if isinstance(ports, list) else ())
        uids = await asyncio.to_thread(_uids, settings)
        wanted = wanted_listeners(ports, settings.ports.plain)
        problems = self._sockets.open(wanted)
        if problems:
            before = wanted_listeners(self._ports, self._settings.ports.plain)
            self._sockets.open(before)
            self._sockets.close_unwanted(before)
            return problems
        await self._switch(settings, ports, uids)
        self._sockets.close_unwanted(wanted)
        return []

    async def _switch(self, settings: Settings, ports: Allocation, uids: dict[str, int]) -> None:
        staying = {service.name for service in settings.services}
        if any(service.name not in staying for service in self._settings.services):
            remaining = replace(
                self._settings,
                services=tuple(s for s in self._settings.services if s.name in staying),
            )
            await self._capture(remaining, self._uids)
        self._settings, self._ports, self._uids = settings, ports, uids
        save_ports(settings.state_dir, ports)
        systemd.setup_logging(settings.log_level)
        await self._supervisor.reconfigure(*_worker_arguments(settings))
        self._observer.retarget(settings)
        self._digest = ""  # listeners may have changed though the snapshot has not
        await self._reconcile()

    # What edge.admin.Agent and the metrics page ask

    async def status(self) -> Status:
        reports = await self._supervisor.collect()
        snapshot = self._snapshot
        observed = self._observer.observed
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime=self._loop.time() - self._started,
            node=observed.node or (snapshot.node if snapshot else ""),
            datacenter=observed.datacenter or (snapshot.datacenter if snapshot else ""),
            trust_domain=snapshot.trust_domain if snapshot else "",
            generation=self._generation,
            digest=self._digest,
            consul=ConsulStatus(
                address=self._client.address,
                reachable=not self._consul_error and self._last_contact is not None,
                last_contact=self._last_contact,
                error=self._consul_error,
            ),
            capture=self._keeper.status(),
            services=tuple(
                reporting.service_status(
                    service, snapshot, self._ports, self._uids, self._registrar.registered, reports
                )
                for service in self._settings.services
            ),
            upstreams=snapshot.upstreams if snapshot else (),
            workers=reporting.worker_statuses(self._supervisor),
            problems=(*self._refused, *self._problems),
            default_allow=snapshot.default_allow if snapshot else False,
        )

    async def figures(self) -> Figures:
        return reporting.figures(
            self._supervisor,
            await self._supervisor.collect(),
            self._keeper.status(),
            self._last_contact,
            not self._consul_error,
        )

    def snapshot(self) -> Snapshot | None:
        return self._snapshot

    async def capture_view(self) -> Any:
        return await self._keeper.view()

    async def capture_apply(self, confirm_within: float | None) -> Any:
        return await self._keeper.insist(confirm_within)

    async def capture_confirm(self) -> bool:
        return await self._keeper.confirm()

    async def capture_remove(self) -> Any:
        return await self._keeper.remove()

    @property
    def _consul_error(self) -> str:
        return next(iter(self._observer.failing.values()), self._registrar.error)

    @property
    def _last_contact(self) -> float | None:
        """Seconds since the last good answer."""
        at = self._observer.last_contact
        return None if at is None else self._loop.time() - at


def _worker_arguments(settings: Settings) -> tuple[int, WorkerSettings, float]:
    return (
        settings.workers or len(os.sched_getaffinity(0)),
        WorkerSettings(settings.http, settings.tcp, settings.log_level),
        settings.drain_timeout,
    )


def _uids(settings: Settings) -> dict[str, int]:
    """By service; one whose user has vanished since the settings were checked is left out, and so
    is not captured."""
    found = {}
    for service in settings.services:
        try:
            uid = users.uid_of(service)
        except users.UnknownUserError as error:
            log.error("%s: %s", service.name, error)
            continue
        if uid is not None:
            found[service.name] = uid
    return found


async def _beat(interval: float) -> None:
    """Tell the watchdog that the event loop turns."""
    while True:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)
