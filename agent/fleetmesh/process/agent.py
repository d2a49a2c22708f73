"""The running agent around its Front and its Mesh: signals, readiness, watchdog, the admin API,
the metrics page."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleetmesh import __version__
from fleetmesh.edge import admin, host, metrics, systemd
from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.ktls import kernel_tls
from fleetmesh.edge.metrics import Figures
from fleetmesh.edge.releases import Home, own_home
from fleetmesh.model.explanation import Question
from fleetmesh.model.fault import Fault, Order
from fleetmesh.model.problem import Problem
from fleetmesh.model.record import Record
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.status import CaptureStatus, ConsulStatus, FaultStatus, Status
from fleetmesh.plan.addresses import canonical
from fleetmesh.plan.destination import key_of
from fleetmesh.plan.faults import permission
from fleetmesh.plan.holds import Hold, HoldKind
from fleetmesh.plan.observed import WatchLeaf
from fleetmesh.process import probation, reporting
from fleetmesh.process.explaining import Explainer
from fleetmesh.process.faulting import FaultKeeper
from fleetmesh.process.front import Front
from fleetmesh.process.mesh import Mesh
from fleetmesh.process.tasks import TaskSet
from fleetmesh.process.verifying import Verifier
from fleetmesh.settings import AccessLogMode

log = logging.getLogger(__name__)

READY_PATIENCE = 5.0
"""Seconds until the agent is READY although Consul has not answered."""
READY_POLL = 0.2
EXIT_FAILED = 1


class Agent:
    """Implements edge.admin.Agent."""

    def __init__(self, files: tuple[Path, Path], front: Front, client: ConsulClient) -> None:
        self._front = front
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._mesh = Mesh(files, front, client, self._changed)
        self._verifier = Verifier(front)
        self._faults = FaultKeeper(
            front,
            lambda key: permission(key, self._mesh.observer.observed),
            self._mesh.republish,
        )
        self._servers: list[admin.Server] = []
        self._tasks = TaskSet()
        self._stop = asyncio.Event()
        self._ready = False
        self._succeeded = False
        self._kernel_tls = kernel_tls()
        home = own_home()
        state_dir = Path(front.settings.state_dir)
        self._home = None if home is None else Home(home, state_dir)
        self._overflows = host.listen_overflows() or 0

    async def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hangup)
        if systemd.supervised():
            self._loop.add_signal_handler(signal.SIGWINCH, self._expect_successor)
        if (interval := systemd.watchdog_interval()) is not None:
            self._tasks.spawn(_beat(interval), "watchdog")
        try:
            await self._serve()
        except OSError as error:
            log.error("admin API or metrics page: %s", error)
            return EXIT_FAILED
        await self._mesh.start()
        self._changed()
        self._verifier.start()
        self._tasks.spawn(self._be_patient(), "patience")
        if self._home is not None:
            probation.tell_of_fallback(self._home.read())
            self._tasks.spawn(probation.serve_out(self._home, self._serves), "probation")
        log.info(
            "agent %s started with %d services",
            __version__,
            len(self._front.settings.services),
            extra={"fields": {"event": "started", "version": __version__}},
        )
        await self._stop.wait()
        await self._end()
        return 0

    async def _serve(self) -> None:
        """Raises OSError."""
        settings, sockets = self._front.settings, self._front.sockets
        page = metrics.application(self.figures, lambda: self._front.supervisor.serving)
        self._servers = [
            admin.Server(admin.application(self), sockets.admin(settings.admin_socket)),
            admin.Server(page, sockets.metrics(settings.metrics_address)),
        ]
        for server in self._servers:
            await server.start()

    async def _end(self) -> None:
        systemd.notify("STOPPING=1", "STATUS=Draining")
        log.info("stopping", extra={"fields": {"event": "stopping"}})
        await self._verifier.close()
        await self._faults.close()
        await self._mesh.end(self._succeeded)
        for server in self._servers:
            await server.close()
        await self._tasks.close()

    async def _be_patient(self) -> None:
        await asyncio.sleep(READY_PATIENCE)
        while not self._ready:
            self._be_ready()
            await asyncio.sleep(READY_POLL)

    def _be_ready(self) -> None:
        """Not before the workers serve what is known: a release whose workers do not is none."""
        front = self._front
        if not self._ready and (front.snapshot is None or front.supervisor.serving):
            self._ready = True
            systemd.notify("READY=1")

    def _serves(self) -> bool:
        return self._ready and self._front.supervisor.serving

    def _changed(self) -> None:
        """The mesh has something new: be ready with the first snapshot, tell systemd."""
        mesh, front = self._mesh, self._front
        self._faults.fit()
        if front.snapshot is not None:
            self._be_ready()
        systemd.notify(
            "STATUS="
            + reporting.sentence(
                front.snapshot,
                front.generation,
                [*mesh.refused, *mesh.problems, *mesh.uses.problems, *front.cache.problems],
                self._consul_error,
                mesh.keeper.status().state,
            )
        )

    def _expect_successor(self) -> None:
        """ExecStop= of the unit: what follows is a restart."""
        self._succeeded = True

    def _hangup(self) -> None:
        self._tasks.spawn(self.reload(), "reload")

    async def reload(self, token: str | None = None) -> Sequence[Problem]:
        problems = await self._mesh.reload(token)
        systemd.setup_logging(self._front.settings.log_level)
        return problems

    async def status(self) -> Status:
        mesh, front = self._mesh, self._front
        reports = await front.supervisor.collect()
        snapshot, observed = front.snapshot, mesh.observer.observed
        error, last_contact = self._consul_error, self._last_contact
        handshakes = self._verifier.handshakes()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime=self._loop.time() - self._started,
            node=observed.node or (snapshot.node if snapshot else ""),
            datacenter=observed.datacenter or (snapshot.datacenter if snapshot else ""),
            trust_domain=snapshot.trust_domain if snapshot else "",
            generation=front.generation,
            digest=front.digest,
            consul=ConsulStatus(
                address=self._client.address,
                reachable=not error and last_contact is not None,
                last_contact=last_contact,
                error=error,
                watches=mesh.observer.watches(),
            ),
            capture=mesh.keeper.status(),
            services=tuple(
                reporting.service_status(
                    service,
                    snapshot,
                    front.ports,
                    mesh.uids,
                    mesh.registrar.registered,
                    reports,
                    renewable=WatchLeaf(service.name) not in mesh.observer.failing,
                    handshake=handshakes.get(service.name),
                    adopted=mesh.registrar.adopted.get(service.name, ""),
                    hold=mesh.holder.status(service.name),
                )
                for service in front.settings.services
            ),
            upstreams=snapshot.upstreams if snapshot else (),
            workers=reporting.worker_statuses(front.supervisor),
            problems=(
                *mesh.refused,
                *mesh.problems,
                *mesh.uses.problems,
                *mesh.registrar.problems,
                *front.cache.problems,
            ),
            default_allow=snapshot.default_allow if snapshot else False,
            kernel_tls=self._kernel_tls,
            ejected=reporting.ejected(reports),
            releases=None if self._home is None else self._home.read(),
            overflows=max((host.listen_overflows() or 0) - self._overflows, 0),
            faults=self._faults.statuses(reports),
        )

    async def figures(self) -> Figures:
        supervisor = self._front.supervisor
        handshakes = self._verifier.handshakes()
        return reporting.figures(
            supervisor,
            await supervisor.collect(),
            self._mesh.keeper.status(),
            self._last_contact,
            not self._consul_error,
            dns=self._mesh.naming.counts,
            watches=self._mesh.observer.watches(),
            renewals=reporting.renewals(
                self._front.snapshot,
                {w.service for w in self._mesh.observer.failing if isinstance(w, WatchLeaf)},
                handshakes,
            ),
            handshakes=handshakes,
            faults=self._front.faults,
        )

    async def records(self, limit: int) -> tuple[Record, ...] | None:
        if self._front.settings.access_log.mode is not AccessLogMode.RING:
            return None
        return await self._front.supervisor.records(limit)

    def snapshot(self) -> Snapshot | None:
        return self._front.snapshot

    async def explain(self, question: Question) -> Any:
        """Who asks of an upstream uses it, as if a connection had been made."""
        snapshot, uses = self._front.snapshot, self._mesh.uses
        address = canonical(question.host)
        if address is not None:
            await uses.resolve(address, question.port)
        elif snapshot is not None:
            await uses.want(question.service or key_of(question.host, snapshot))
        return await (await self._explainer()).explanation(question)

    async def routes(self, service: str) -> Any:
        await self._mesh.uses.want(service)
        return await (await self._explainer()).routes(service)

    async def endpoints(self, service: str) -> Any:
        await self._mesh.uses.want(service)
        return await (await self._explainer()).endpoints(service)

    async def _explainer(self) -> Explainer:
        front, observed = self._front, self._mesh.observer.observed
        ejected = reporting.ejected(await front.supervisor.collect())
        settings, snapshot = front.settings, front.snapshot
        return Explainer(
            self._client,
            settings,
            snapshot,
            observed,
            front.generation,
            ejected,
            front.faults,
        )

    async def capture_view(self) -> Any:
        return await self._mesh.keeper.view()

    async def capture_apply(self, confirm_within: float | None) -> Any:
        return await self._mesh.keeper.insist(confirm_within)

    async def capture_confirm(self) -> bool:
        return await self._mesh.keeper.confirm()

    async def capture_remove(self) -> Any:
        return await self._mesh.keeper.remove()

    async def bypass(self, seconds: float, by: str, why: str) -> CaptureStatus | Problem:
        return await self._mesh.keeper.suspend(seconds, by, why)

    async def unbypass(self, by: str) -> bool:
        return await self._mesh.keeper.resume(by)

    async def faults(self) -> tuple[FaultStatus, ...]:
        return self._faults.statuses(await self._front.supervisor.collect())

    async def inject(self, order: Order, by: str) -> Fault | list[Problem]:
        """Who injects into an upstream uses it, as if a connection had been made."""
        await self._mesh.uses.want(order.service)
        return await self._faults.inject(order, by)

    async def clear(self, fault_id: str, by: str) -> list[str]:
        return await self._faults.clear(fault_id, by)

    def hold(self, service: str, kind: str, why: str, within: float) -> list[str] | None:
        names = self._declared(service)
        for name in names:
            self._mesh.holder.hold(Hold(name, HoldKind(kind), why, time.time(), within))
        return names or None

    def release(self, service: str, kind: str) -> list[str] | None:
        names = self._declared(service)
        released = [name for name in names if self._mesh.holder.release(name, HoldKind(kind))]
        return released if names else None

    def _declared(self, service: str) -> list[str]:
        """The service of that name, or all of them for an empty one."""
        names = [one.name for one in self._front.settings.services]
        return [name for name in names if name == service] if service else names

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
