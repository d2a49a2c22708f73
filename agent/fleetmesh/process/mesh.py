"""This host's part of the mesh: what is in force, and the order in which a change comes into it.

A change, wherever it comes from, ends in one place (`Mesh._reconcile`), which makes before it
breaks: sockets, then certificates and snapshot to the workers, their acknowledgements, only then
capture rules and registrations; what is gone loses its capture first and its sockets last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from fleetmesh.edge import consul_link, users
from fleetmesh.edge.consul import ConsulClient
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.compile import compile_snapshot, missing
from fleetmesh.plan.ports import Allocation, allocate
from fleetmesh.plan.registration import Wanted
from fleetmesh.process.capturing import CaptureKeeper
from fleetmesh.process.front import Front
from fleetmesh.process.holding import Holder
from fleetmesh.process.naming import Naming
from fleetmesh.process.observing import Observer
from fleetmesh.process.registering import Registrar
from fleetmesh.process.tasks import TaskSet
from fleetmesh.process.uses import UsesKeeper
from fleetmesh.settings import Settings
from fleetmesh.settings.load import load

log = logging.getLogger(__name__)

DEBOUNCE = 0.05
FIRST_PATIENCE = 5.0
"""Seconds for which a first snapshot that could be compiled waits for what Consul has not answered
yet."""
FULL_PATIENCE = 30.0
"""The same when there is a snapshot from before the restart: that one is worth waiting longer."""
FIXED = ("admin_socket", "metrics_address", "state_dir", "consul", "dns")
"""Settings that only a restart changes."""


class Mesh:
    """`refused` are the problems of the last reload, `problems` those of the last compilation.
    `changed` is called when something came into force or was refused."""

    def __init__(
        self,
        files: tuple[Path, Path],
        front: Front,
        client: ConsulClient,
        changed: Callable[[], None],
    ) -> None:
        self.front = front
        self.uids = _uids(front.settings)
        self.refused: list[Problem] = []
        self._logged: frozenset[Problem] = frozenset()
        self.problems: list[Problem] = []
        self.observer = Observer(client, front.settings, self._mark, lambda: self.registrar.nudge())
        self.uses = UsesKeeper(client, self.observer, front)
        self.registrar = Registrar(client, self.observer.contact, self._mark)
        self.holder = Holder(
            front.settings.state_dir,
            front.supervisor,
            self._held,
            lambda: self.registrar.registered,
        )
        self.keeper = CaptureKeeper(front.settings)
        self.naming = Naming(
            client, front, lambda: self.observer.observed, self._mark, self.uses.want
        )
        self._client = client
        self._files = files
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._patience = FIRST_PATIENCE
        self._waiting_since = self._loop.time()
        self._enough = False
        self._dirty = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._tasks = TaskSet()

    async def start(self) -> None:
        """Put in force what the workers serve already, if anything, then ask Consul."""
        await self.keeper.start()
        await self.naming.start()
        self.holder.retain({service.name for service in self.front.settings.services})
        if self.front.snapshot is not None:
            self._patience = FULL_PATIENCE
            async with self._reconciling:
                await self._put_in_force(self.front.snapshot)
        self.uses.start()
        self.observer.start(self.front.snapshot)
        self.front.supervisor.resolve_with(self._resolve)
        self.registrar.start()
        self.holder.start()
        self._tasks.spawn(self._reconcile_for_ever(), "reconcile")
        self._loop.call_later(self._patience, self._mark)

    async def end(self, succeeded: bool) -> None:
        """Stop deciding, then let the workers finish, or serve on until the agent that is about to
        start has its own. Capture rules stay."""
        await self._tasks.close()
        await self.uses.close()
        await self.observer.close()
        await self.holder.close()
        await self.registrar.close()
        await self.keeper.stop()
        if succeeded:
            await self.front.hand_over(self.naming.hand_over)
        else:
            await self.front.supervisor.drain()
        await self.naming.close()
        await self.front.cache.close()

    async def _resolve(self, address: str, port: int) -> None:
        """Have watched and served whose a dialled address is; without a port it is the key of an
        upstream."""
        service = self.naming.owner(address) if port else address
        if service is None:
            await self.uses.resolve(address, port)
        else:
            await self.uses.want(service)

    def _mark(self) -> None:
        self._dirty.set()

    async def _reconcile_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(DEBOUNCE)
            self._dirty.clear()
            async with self._reconciling:
                try:
                    await self._reconcile()
                except Exception:
                    # What is in force stays in force; the next change tries again.
                    log.exception("reconciling failed", extra={"fields": {"event": "defect"}})

    def _may_compile(self) -> bool:
        """Before every watch has answered once, a compilation would lack what Consul is about to
        tell: servers that come back after an hour do not answer everything at once either."""
        if not self._enough and not missing(self.observer.observed):
            self._enough, self._waiting_since = True, self._loop.time()
            self._loop.call_later(self._patience, self._mark)
        waited = self._loop.time() - self._waiting_since
        return self.observer.complete or waited >= self._patience

    async def _reconcile(self, again: bool = False) -> None:
        front = self.front
        if self._may_compile():
            observed = replace(
                self.naming.named(self.observer.observed), rerouted=self.registrar.rerouted
            )
            compiled = compile_snapshot(front.settings, observed, front.snapshot)
            if isinstance(compiled, list):
                self.problems = compiled
            else:
                self.problems = [*compiled.warnings, *self.naming.problems]
                self._log_new(compiled.warnings)
                await self._put_in_force(compiled.snapshot, again)
                self.uses.published(observed)
        self._changed()

    def _log_new(self, warnings: tuple[Problem, ...]) -> None:
        """Each once, for as long as it lasts."""
        for problem in warnings:
            if problem not in self._logged:
                log.warning(
                    "not honoured: %s",
                    problem,
                    extra={"fields": {"event": "not_honoured", "path": problem.path}},
                )
        self._logged = frozenset(warnings)

    async def _put_in_force(self, snapshot: Snapshot, again: bool = False) -> None:
        self.problems += await self.front.publish(snapshot, again)
        await self._capture(self.front.settings)
        self._want()

    async def republish(self) -> list[Problem]:
        """Have the workers serve what they serve with the faults of the moment."""
        async with self._reconciling:
            snapshot = self.front.snapshot
            return [] if snapshot is None else await self.front.publish(snapshot)

    def _want(self) -> None:
        front = self.front
        services = front.snapshot.services if front.snapshot is not None else ()
        self.registrar.want(
            Wanted(
                settings=front.settings,
                ports=front.ports,
                protocols={service.name: service.protocol for service in services},
                ready=frozenset(s.name for s in services if s.leaf is not None),
                held=self.holder.held(),
            )
        )

    def _held(self) -> None:
        if self.front.snapshot is not None:
            self._want()
        self._changed()

    async def _capture(self, settings: Settings) -> None:
        """Capture those services that have an identity, or had one: a certificate that has run
        out, or that Consul gives no more, is no reason to let them talk in the clear."""
        services = self.front.snapshot.services if self.front.snapshot else ()
        identified = {service.name for service in services if service.leaf is not None}
        await self.keeper.apply(
            _only(settings, identified | self.keeper.captured),
            self.front.ports.outbound,
            self.uids,
            self.naming.port,
        )

    async def reload(self, handed: str | None = None) -> list[Problem]:
        """Read the settings again, and the token, unless one is `handed` over. With problems
        nothing changes, but they are shown."""
        async with self._reconciling:
            self.refused = await self._reload(handed)
        if self.refused:
            log.error(
                "reload refused: %s",
                "; ".join(str(problem) for problem in self.refused),
                extra={"fields": {"event": "reload_refused", "problems": len(self.refused)}},
            )
        else:
            log.info("settings reloaded", extra={"fields": {"event": "reloaded"}})
        self._changed()
        return self.refused

    async def _reload(self, handed: str | None) -> list[Problem]:
        settings = await asyncio.to_thread(load, *self._files, users.resolve)
        if not isinstance(settings, Settings):
            return settings
        fixed = [
            Problem(
                f"{self._files[0]}: {key}",
                "cannot change while the agent runs",
                "restart it: systemctl restart fleetmesh-agent",
            )
            for key in FIXED
            if getattr(settings, key) != getattr(self.front.settings, key)
        ]
        if fixed:
            return fixed
        try:
            token = await asyncio.to_thread(
                consul_link.next_token, settings.consul, handed, self._client.token
            )
            await asyncio.to_thread(consul_link.renew, self._client.tls, settings.consul)
        except consul_link.UnfitError as error:
            return [error.of(self._files[0])]
        ports = allocate(settings, self.front.ports)
        if not isinstance(ports, Allocation):
            return ports
        uids = await asyncio.to_thread(_uids, settings)
        problems = self.front.try_listeners(settings, ports)
        if problems:
            return problems
        self._client.use_token(token)
        await self._switch(settings, ports, uids)
        self.registrar.nudge()
        self.front.close_unwanted()
        return []

    async def _switch(self, settings: Settings, ports: Allocation, uids: Mapping[str, int]) -> None:
        before = self.front.settings
        staying = {service.name for service in settings.services}
        if not staying.issuperset(service.name for service in before.services):
            await self._capture(_only(before, staying))
        self.uids = dict(uids)
        await self.front.switch(settings, ports)
        self.holder.retain(staying)
        self.observer.retarget(settings)
        self.uses.fit()
        await self._reconcile(again=True)


def _only(settings: Settings, names: set[str]) -> Settings:
    return replace(settings, services=tuple(s for s in settings.services if s.name in names))


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
