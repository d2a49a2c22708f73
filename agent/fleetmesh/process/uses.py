"""Keeps watched what this host's services use: asked for by name or by address, seen in traffic."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import Direction, Report
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.addresses import owner
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.observed import (
    Observed,
    WatchInstances,
    absent,
    own_instances,
    upstream_watches,
    wanted_watches,
)
from fleetmesh.plan.uses import Uses, declared
from fleetmesh.process.front import Front
from fleetmesh.process.observing import Observer
from fleetmesh.process.tasks import TaskSet

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that somebody waits for an upstream, or for the answer whose an address is."""
FOLD_INTERVAL = 60.0
"""Seconds between looks at the traffic; shorter where upstreams are let go sooner."""
NOBODYS = 10.0
"""Seconds for which an address is nobody's, unless the catalog gets a new name."""
MOST_NOBODYS = 4096
SILENCE = 5.0
"""Seconds for which Consul is not asked again after it did not answer."""
BURST = 50
RATE = 10.0
"""Addresses looked up at once, and a second: each costs the server a walk over its catalog."""
LEAST_COST = 2
"""Watches of an upstream: its instances and its chain, also before the latter is known."""

Destination = tuple[str, int]


class Catalog(Protocol):
    """What is asked of Consul here: edge.consul.ConsulClient."""

    async def owners(self, address: str, port: int) -> tuple[Instance, ...]:
        """Raises ConsulError."""


class UsesKeeper:
    """Tells the observer which upstreams to watch.

    `problems` says which upstreams there were too many of. `published` is to be called after each
    publication.
    """

    def __init__(self, client: Catalog, observer: Observer, front: Front) -> None:
        self.problems: tuple[Problem, ...] = ()
        self.uses = Uses()
        self._client = client
        self._observer = observer
        self._front = front
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Event()
        self._published: Observed | None = None
        self._served: tuple[Snapshot | None, frozenset[str]] = (None, frozenset())
        self._looking: dict[Destination, asyncio.Task[None]] = {}
        self._nobodys: dict[Destination, float] = {}
        self._names: frozenset[str] | None = None
        self._silent_until = 0.0
        self._tokens, self._refilled = float(BURST), self._loop.time()
        self._counts: dict[str, int] = {}
        self._tasks = TaskSet()
        self._closed = False

    def start(self) -> None:
        """With what was in use before a restart."""
        if self._front.settings.on_demand.enabled and self._front.snapshot is not None:
            self._use(upstream.service for upstream in self._front.snapshot.upstreams)
        self.fit()
        self._tasks.spawn(self._let_go_for_ever(), "uses")

    async def close(self) -> None:
        """What is served is known to `want` still."""
        self._closed = True
        await self._tasks.close()

    def published(self, observed: Observed) -> None:
        """What was observed before has come into force."""
        self._published = observed
        self.fit()
        self._turn.set()
        self._turn = asyncio.Event()

    def fit(self) -> None:
        """Watch what is declared and what is used, within the limit."""
        settings, observed = self._front.settings, self._observer.observed
        always = declared(settings)
        limit = settings.on_demand.max_watches
        self.uses = self.uses.without(always)
        if not settings.on_demand.enabled:
            self.uses = Uses()
        fixed = len(wanted_watches(settings, observed, always))
        leaving = self.uses.surplus(self._cost, limit - fixed, self._loop.time())
        if leaving:
            self._let_go(leaving, "there is no room for more watches")
        self.problems = _problems(fixed, limit, leaving) or (
            self.problems if fixed <= limit else ()
        )
        self._observer.follow_upstreams(always.union(self.uses.undeclared))

    async def want(self, service: str) -> bool:
        """Watch `service` from now on; whether the workers serve it, for which this waits, but
        not longer than `PATIENCE`."""
        if self._closed or not self._front.settings.on_demand.enabled:
            return self._serves(service)
        if absent(service, self._observer.observed):
            return False
        known = service in self.uses.undeclared
        self._use((service,))
        if self._ready(service):
            return True
        if not known:
            self.fit()
        try:
            async with asyncio.timeout(PATIENCE):
                while not self._ready(service):
                    if self._hopeless(service):
                        return False
                    await self._turn.wait()
        except TimeoutError:
            return self._serves(service)
        return True

    async def resolve(self, address: str, port: int) -> None:
        """Find whose an address is and let the workers know that upstream. Returns at once where
        the answer is known or Consul is not there to be asked."""
        destination = (address, port)
        looking = self._looking.get(destination)
        if looking is None:
            if not self._may_look(destination):
                return
            looking = self._tasks.started(self._look(destination), f"owner of {address}:{port}")
            self._looking[destination] = looking
            looking.add_done_callback(lambda _: self._looking.pop(destination, None))
        await asyncio.wait({looking}, timeout=PATIENCE)

    async def _look(self, destination: Destination) -> None:
        now = self._loop.time()
        try:
            async with asyncio.timeout(PATIENCE):
                instances = await self._client.owners(*destination)
        except (ConsulError, TimeoutError) as error:
            self._silent_until = self._loop.time() + SILENCE
            log.warning(
                "whose %s port %d is could not be found out: %s",
                *destination,
                str(error) or "no answer",
                extra={"fields": {"event": "owner_unknown"}},
            )
            return
        service = owner(instances, destination)
        if service is None or not await self.want(service):
            while len(self._nobodys) >= MOST_NOBODYS:
                del self._nobodys[next(iter(self._nobodys))]
            self._nobodys[destination] = now + NOBODYS

    def _may_look(self, destination: Destination) -> bool:
        now = self._loop.time()
        observer = self._observer
        if observer.failing or observer.last_contact is None or now < self._silent_until:
            return False
        if self._names is not observer.observed.catalog:
            self._names = observer.observed.catalog
            self._nobodys.clear()
        if self._nobodys.get(destination, 0.0) > now:
            return False
        self._nobodys.pop(destination, None)
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * RATE)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def seen(self, reports: Iterable[Report]) -> None:
        """Upstreams with connections that are open or new since the last time are in use."""
        counts: dict[str, int] = {}
        busy: set[str] = set()
        for report in reports:
            for connection in report.connections:
                if connection.direction is Direction.OUTBOUND and connection.destination:
                    name = connection.destination
                    counts[name] = counts.get(name, 0) + connection.opened
                    if connection.active:
                        busy.add(name)
        busy.update(name for name, count in counts.items() if count != self._counts.get(name, 0))
        self._counts = counts
        self._use(name for name in busy if name in self.uses.undeclared)

    def _use(self, services: Iterable[str]) -> None:
        always = declared(self._front.settings)
        undeclared = tuple(name for name in services if name not in always)
        self.uses = self.uses.used(undeclared, self._loop.time())

    def _serves(self, service: str) -> bool:
        snapshot, names = self._served
        if snapshot is not self._front.snapshot:
            snapshot = self._front.snapshot
            names = frozenset(one.service for one in snapshot.upstreams) if snapshot else names
            self._served = (snapshot, names)
        return service in names

    def _ready(self, service: str) -> bool:
        """Whether it is served, with all the instances that it may lead to."""
        if not self._serves(service):
            return False
        observed = self._published
        return observed is None or all(
            watch.query in observed.instances
            for watch in upstream_watches(service, observed)
            if isinstance(watch, WatchInstances)
        )

    def _hopeless(self, service: str) -> bool:
        """Whether Consul has said that it is no service of the mesh, or it is not watched."""
        observed = self._observer.observed
        return absent(service, observed) or not self._observer.runs(
            WatchInstances(own_instances(service, observed))
        )

    def _cost(self, name: str) -> int:
        found = len(upstream_watches(name, self._observer.observed))
        return max(found, LEAST_COST) if found else 0

    def _let_go(self, services: tuple[str, ...], why: str) -> None:
        self.uses = self.uses.without(services)
        for service in services:
            log.info(
                "upstream %s is let go: %s",
                service,
                why,
                extra={"fields": {"event": "upstream_let_go", "destination": service}},
            )

    async def _let_go_for_ever(self) -> None:
        while True:
            timeout = self._front.settings.on_demand.idle_timeout
            await asyncio.sleep(min(FOLD_INTERVAL, max(timeout / 4, 0.25)))
            self.seen(await self._front.supervisor.collect())
            self._let_idle_go(timeout)
            self.fit()

    def _let_idle_go(self, timeout: float) -> None:
        """Not while Consul does not answer: a call to what the workers no longer have could not be
        told from one to somebody outside the mesh."""
        idle = self.uses.idle(self._loop.time(), timeout)
        if idle and not self._observer.failing:
            self._let_go(idle, f"unused for {timeout:g} s")
            self.problems = ()


def _problems(fixed: int, limit: int, leaving: tuple[str, ...]) -> tuple[Problem, ...]:
    remedy = "Raise it, and http_max_conns_per_client of the Consul agent above it"
    if fixed > limit:
        what = f"is {limit}, but what is declared on this host takes {fixed} queries"
        return (Problem("on_demand.max_watches", what, remedy),)
    if leaving:
        what = f"is {limit}, too few for the upstreams in use: not watched is {', '.join(leaving)}"
        return (Problem("on_demand.max_watches", what, remedy),)
    return ()
