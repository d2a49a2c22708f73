"""The watches on Consul, folded into one Observed value."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable

from msgspec.structs import replace

from fleetmesh.edge.consul import PROBE_DESTINATION, PROBE_SOURCE, ConsulClient
from fleetmesh.edge.consul_http import Answer, ConsulError
from fleetmesh.edge.watch import MAX_BACKOFF, follow
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.status import WatchStatus
from fleetmesh.plan.answers import CatalogServices, Chain, Instance, IntentionEntry, LeafAnswer
from fleetmesh.plan.answers import Roots as RootsAnswer
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.defaults import ProxyDefaults, ServiceDefaults
from fleetmesh.plan.endpoints import zone_of
from fleetmesh.plan.observed import (
    Observed,
    Watch,
    WatchCatalog,
    WatchChain,
    WatchInstances,
    WatchIntentions,
    WatchLeaf,
    WatchProxyDefaults,
    WatchResolvers,
    WatchRoots,
    WatchServiceDefaults,
    forget,
    own_instances,
    wanted_watches,
)
from fleetmesh.plan.staleness import statuses
from fleetmesh.plan.subsets import ServiceResolver
from fleetmesh.plan.vanished import ONE, catalog_with_doubted, is_believed
from fleetmesh.process.tasks import TaskSet
from fleetmesh.settings import Settings

log = logging.getLogger(__name__)


class Observer:
    """Runs exactly the watches that settings and observations ask for.

    `changed` is called after each fold, when a watch has its first answer, and when Consul stops
    and begins again to answer; `reconnected` only then. `failing` holds the error of each watch
    that Consul does not answer now; `last_contact` is the loop's time of the last good answer, and
    `answered` that of each watch's; `aged` the seconds for which such an answer was old already,
    because the Consul agent gave it from memory.
    """

    def __init__(
        self,
        client: ConsulClient,
        settings: Settings,
        changed: Callable[[], None],
        reconnected: Callable[[], None],
    ) -> None:
        self.observed = Observed()
        self.failing: dict[Watch, str] = {}
        self.last_contact: float | None = None
        self.answered: dict[Watch, float] = {}
        self.aged: dict[Watch, float] = {}
        self._client = client
        self._settings = settings
        self._changed = changed
        self._reconnected = reconnected
        self._tasks = TaskSet()
        self._running: dict[Watch, asyncio.Task[None]] = {}
        self._begun: float | None = None
        self._listed: frozenset[str] = frozenset()
        self._vanished: dict[InstanceQuery, float] = {}

    def start(self, before: Snapshot | None = None) -> None:
        """What was served `before` is believed to be gone as late as what was seen since."""
        self._begun = asyncio.get_running_loop().time()
        if before is not None:
            known = Observed(datacenter=before.datacenter)
            queries = (own_instances(upstream.service, known) for upstream in before.upstreams)
            self.observed = replace(self.observed, remembered=frozenset(queries))
        self._adjust()

    async def close(self) -> None:
        await self._tasks.close()

    def retarget(self, settings: Settings) -> None:
        self._settings = settings
        self._adjust()

    def follow_upstreams(self, upstreams: frozenset[str]) -> None:
        """Watch these and no others."""
        self._fold(replace(self.observed, wanted=upstreams))

    @property
    def complete(self) -> bool:
        """Whether every watch has brought an answer."""
        return self.answered.keys() >= self._running.keys()

    def watches(self) -> tuple[WatchStatus, ...]:
        now = asyncio.get_running_loop().time()
        return statuses(
            self._running, self.answered, self.aged, self.failing, now, self._begun or now
        )

    def contact(self) -> None:
        """Consul has just answered, to whatever question."""
        self.last_contact = asyncio.get_running_loop().time()

    def runs(self, watch: Watch) -> bool:
        return watch in self._running

    def _adjust(self) -> None:
        wanted = wanted_watches(self._settings, self.observed, self.observed.wanted)
        for watch in self._running.keys() - wanted:
            self._running.pop(watch).cancel()
            self.failing.pop(watch, None)
            self.answered.pop(watch, None)
            self.aged.pop(watch, None)
            if isinstance(watch, WatchInstances):
                self._vanished.pop(watch.query, None)
            self.observed = forget(self.observed, watch)
        for watch in wanted - self._running.keys():
            self._running[watch] = self._tasks.started(self._keep_following(watch), repr(watch))

    def _fold(self, observed: Observed) -> None:
        if observed != self.observed:
            self.observed = observed
            self._adjust()
            self._changed()

    async def _keep_following(self, watch: Watch) -> None:
        """A defect of ours in one answer must not silence the watch for good."""
        while True:
            try:
                await self._follow(watch)
            except Exception as error:
                log.exception("%r failed", watch, extra={"fields": {"event": "defect"}})
                self.failing[watch] = f"{watch!r}: {error}"
                await asyncio.sleep(MAX_BACKOFF)

    async def _follow(self, watch: Watch) -> None:
        def failed(error: ConsulError | None, age: float = 0.0) -> None:
            self._note(watch, error, age)

        client = self._client
        match watch:
            case WatchRoots():
                await follow(client.roots, self._roots, failed)
            case WatchIntentions():
                await follow(client.intentions, self._intentions, failed)
            case WatchCatalog():
                await follow(client.catalog, self._catalog, failed)
            case WatchServiceDefaults():
                await follow(client.service_defaults, self._service_defaults, failed)
            case WatchProxyDefaults():
                await follow(client.proxy_defaults, self._proxy_defaults, failed)
            case WatchResolvers():
                await follow(client.resolvers, self._resolvers, failed)
            case WatchLeaf(service):
                await follow(lambda index: client.leaf(service, index), self._leaf, failed)
            case WatchChain(service, datacenter):
                await follow(
                    lambda index: client.chain(service, index, datacenter),
                    lambda answer: self._chain(watch.key, answer),
                    failed,
                )
            case WatchInstances(query):
                await follow(
                    lambda index: client.instances(query, index),
                    lambda answer: self._instances(query, answer),
                    failed,
                )

    def _note(self, watch: Watch, error: ConsulError | None, age: float) -> None:
        if error is None:
            self.contact()
            first = watch not in self.answered
            self.answered[watch] = asyncio.get_running_loop().time()
            self.aged[watch] = age
            if first:
                self._changed()
            if self.failing.pop(watch, None) is not None and not self.failing:
                log.info("Consul answers again", extra={"fields": {"event": "consul_up"}})
                self._changed()
                self._reconnected()
            return
        if not self.failing:
            log.warning(
                "Consul query failed: %s",
                error,
                extra={"fields": {"event": "consul_down", "error": str(error)}},
            )
            self._changed()
        self.failing[watch] = str(error)

    async def _roots(self, answer: Answer[RootsAnswer]) -> None:
        if not self.observed.node:
            await self._learn_node()
        self._fold(replace(self.observed, roots=answer.value))

    async def _learn_node(self) -> None:
        """The node's name and datacenter; a token that may not ask is told by the servers it sees
        in the catalog, else by the first leaf or chain."""
        try:
            agent = await self._client.agent_self()
        except ConsulError as error:
            if error.status != 403:
                raise
            datacenter = await self._client.datacenter() or self.observed.datacenter
            node = socket.gethostname()
            self.observed = replace(self.observed, node=node, datacenter=datacenter)
            return
        self.observed = replace(
            self.observed,
            node=agent.config.node,
            datacenter=agent.config.datacenter,
            zone=zone_of(agent.meta),
        )

    async def _intentions(self, answer: Answer[tuple[IntentionEntry, ...]]) -> None:
        """Servers before 1.9 do not tell the default policy: two names that nobody has are
        decided by it (or by `* => *`, which then decides everything)."""
        allow = answer.default_allow
        if allow is None:
            allow = await self._client.intention_allowed(PROBE_SOURCE, PROBE_DESTINATION)
        await self._believe(self.observed.intentions, answer.value)
        self._fold(replace(self.observed, intentions=answer.value, default_allow=allow))

    async def _catalog(self, answer: Answer[CatalogServices]) -> None:
        if self.observed.catalog is None:
            # A token that sees no node is told of no instance, without a word.
            await self._client.check_token()
        self._listed = frozenset(answer.value)
        self._fold_catalog()

    def _fold_catalog(self) -> None:
        catalog = catalog_with_doubted(self._listed, self.observed)
        self._fold(replace(self.observed, catalog=catalog))

    async def _service_defaults(self, answer: Answer[tuple[ServiceDefaults, ...]]) -> None:
        self._fold(replace(self.observed, service_defaults=answer.value))

    async def _proxy_defaults(self, answer: Answer[tuple[ProxyDefaults, ...]]) -> None:
        self._fold(replace(self.observed, proxy_defaults=answer.value))

    async def _resolvers(self, answer: Answer[tuple[ServiceResolver, ...]]) -> None:
        self._fold(replace(self.observed, resolvers=answer.value))

    async def _leaf(self, answer: Answer[LeafAnswer]) -> None:
        leaf = answer.value
        identity = SpiffeId.parse(leaf.uri)
        datacenter = self.observed.datacenter or (identity.datacenter if identity else "")
        before = self.observed.leaves.get(leaf.service)
        if before is None or before.serial != leaf.serial:
            _log_leaf(leaf)
        leaves = {**self.observed.leaves, leaf.service: leaf}
        self._fold(replace(self.observed, leaves=leaves, datacenter=datacenter))

    async def _chain(self, key: str, answer: Answer[Chain]) -> None:
        chain = answer.value
        chains = {**self.observed.chains, key: chain}
        own = chain.datacenter if key == chain.service else ""
        datacenter = self.observed.datacenter or own
        self._fold(replace(self.observed, chains=chains, datacenter=datacenter))

    async def _instances(self, query: InstanceQuery, answer: Answer[tuple[Instance, ...]]) -> None:
        """What Consul refuses to answer leaves things as they were known."""
        known = self.observed.instances.get(query) or ()
        if not answer.refusal:
            await self._believe(known, answer.value)
            if (known or query in self.observed.remembered) and not answer.value:
                # Consul has answered, whatever we think of it: registrations must not wait.
                self._note(WatchInstances(query), None, answer.age)
                answer = await self._second_look(query)
        found = known if answer.refusal else answer.value
        if found:
            self._vanished.pop(query, None)
        refusals = {q: why for q, why in self.observed.refusals.items() if q != query}
        if answer.refusal:
            refusals[query] = answer.refusal
        observed = replace(self.observed, refusals=refusals)
        if not answer.refusal or query not in observed.remembered:
            observed = replace(
                observed,
                instances={**observed.instances, query: found},
                remembered=observed.remembered - {query},
            )
        self._fold(observed)
        if not found and self.observed.catalog is not None:
            self._fold_catalog()

    async def _second_look(self, query: InstanceQuery) -> Answer[tuple[Instance, ...]]:
        """What is there of a list that has just lost all: nothing once that is to be believed,
        what is there again before. Raises ConsulError."""
        loop = asyncio.get_running_loop()
        if query.filter and (await self._client.instances(replace(query, filter=""))).value:
            return Answer((), 0)  # only no longer of this subset
        self._vanished.setdefault(query, loop.time())
        log.warning(
            "no instances of %s any more: looking again before that is believed",
            query.service,
            extra={"fields": {"event": "vanished", "service": query.service}},
        )
        while True:
            await asyncio.sleep(ONE * random.uniform(0.9, 1.1))  # noqa: S311
            answer = await self._client.instances(query)
            if answer.value or answer.refusal:
                return answer
            await self._client.check_token()
            if is_believed(query, self._vanished, self.observed, loop.time()):
                self._vanished.pop(query, None)
                return answer

    async def _believe(self, before: tuple[object, ...] | None, after: tuple[object, ...]) -> None:
        """Raises ConsulError when a list came back empty because our token lost its rights:
        Consul before 1.16 answers 200 with nothing then."""
        if before and not after:
            await self._client.check_token()


def _log_leaf(leaf: LeafAnswer) -> None:
    log.info(
        "certificate of %s until %s",
        leaf.service,
        leaf.valid_before.isoformat(),
        extra={
            "fields": {
                "event": "leaf_received",
                "service": leaf.service,
                "serial": leaf.serial,
                "spiffe_id": leaf.uri,
            }
        },
    )
