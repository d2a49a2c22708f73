"""What the controller has seen of Consul, folded from its watches, and what it should watch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from fleetmesh.plan.answers import Chain, Instance, IntentionEntry, LeafAnswer, Roots
from fleetmesh.plan.chain import InstanceQuery, queries
from fleetmesh.plan.defaults import ProxyDefaults, ServiceDefaults
from fleetmesh.plan.exposed import Rerouted
from fleetmesh.plan.names import MeshName, named
from fleetmesh.plan.subsets import ServiceResolver, subset_chain
from fleetmesh.settings import Settings

SIDECAR_SUFFIX = "-sidecar-proxy"

K = TypeVar("K")
V = TypeVar("V")


class Observed(msgspec.Struct, frozen=True):
    """None or an absent key means that Consul has not answered yet; empty means that it has.

    `default_allow` is Consul's decision on a pair of services that no intention names; `refusals`
    are the queries that Consul will not answer, with its reasons; `wanted` are the
    upstreams that are watched, `chains` and `virtual` addresses by upstream, as names.MeshName.key
    calls it. `resolvers` are only looked at where a subset is wanted. `rerouted` are checks of the
    services of this host. `remembered` asks for the instances of what was served before the agent
    started; it loses each of them with the first answer that is believed.
    """

    datacenter: str = ""
    node: str = ""
    zone: str = ""
    roots: Roots | None = None
    intentions: tuple[IntentionEntry, ...] | None = None
    default_allow: bool | None = None
    catalog: frozenset[str] | None = None
    leaves: dict[str, LeafAnswer] = {}
    chains: dict[str, Chain] = {}
    instances: dict[InstanceQuery, tuple[Instance, ...]] = {}
    refusals: dict[InstanceQuery, str] = {}
    service_defaults: tuple[ServiceDefaults, ...] = ()
    proxy_defaults: tuple[ProxyDefaults, ...] = ()
    resolvers: tuple[ServiceResolver, ...] | None = None
    wanted: frozenset[str] = frozenset()
    remembered: frozenset[InstanceQuery] = frozenset()
    virtual: dict[str, tuple[str, ...]] = {}
    rerouted: dict[str, Rerouted] | None = None


class WatchRoots(msgspec.Struct, frozen=True):
    """The certificate authority's roots."""


class WatchIntentions(msgspec.Struct, frozen=True):
    """All intentions."""


class WatchCatalog(msgspec.Struct, frozen=True):
    """The names of all services."""


class WatchServiceDefaults(msgspec.Struct, frozen=True):
    """All service-defaults that may be read."""


class WatchProxyDefaults(msgspec.Struct, frozen=True):
    """The defaults of all proxies."""


class WatchResolvers(msgspec.Struct, frozen=True):
    """All service-resolvers that may be read."""


class WatchLeaf(msgspec.Struct, frozen=True):
    service: str


class WatchChain(msgspec.Struct, frozen=True):
    """As seen from another datacenter, if one is named."""

    service: str
    datacenter: str = ""

    @property
    def key(self) -> str:
        return MeshName(self.service, "", self.datacenter).key("")


class WatchInstances(msgspec.Struct, frozen=True):
    query: InstanceQuery


Watch = (
    WatchRoots
    | WatchIntentions
    | WatchCatalog
    | WatchServiceDefaults
    | WatchProxyDefaults
    | WatchResolvers
    | WatchLeaf
    | WatchChain
    | WatchInstances
)


def wanted_watches(
    settings: Settings, observed: Observed, upstreams: Iterable[str]
) -> frozenset[Watch]:
    """Every blocking query that should run now: what the host itself needs, and what leads to
    `upstreams`, each watched once however many want it."""
    watches = host_watches(settings)
    for name in upstreams:
        watches |= upstream_watches(name, observed)
    watches.update(map(WatchInstances, outsider_queries(settings, observed).values()))
    return frozenset(watches)


def host_watches(settings: Settings) -> set[Watch]:
    local = {service.name for service in settings.services}
    watches: set[Watch] = {WatchRoots(), WatchIntentions(), WatchCatalog()}
    watches |= {WatchServiceDefaults(), WatchProxyDefaults()}
    watches.update(WatchLeaf(name) for name in local)
    watches.update(WatchChain(name) for name in local)
    return watches


def upstream_watches(key: str, observed: Observed) -> set[Watch]:
    """Those of one upstream: its service's instances, and once it has any with sidecars, its chain
    and the instances that this leads to. None where the catalog does not have it."""
    name = named(key)
    query = own_instances(key, observed)
    if not callable_services((name.service,)):
        return set()
    if not query.datacenter and name.service not in (observed.catalog or ()):
        return set()
    watches: set[Watch] = {WatchInstances(query)}
    if name.subset:
        watches.add(WatchResolvers())
    if observed.instances.get(query):
        watches.add(WatchChain(name.service, query.datacenter))
        if (chain := chain_of(key, observed)) is not None:
            watches.update(map(WatchInstances, queries(chain, observed.datacenter)))
    return watches


def own_instances(key: str, observed: Observed) -> InstanceQuery:
    """All instances of an upstream's service, whatever its chain leads to."""
    name = named(key)
    away = name.datacenter != observed.datacenter
    return InstanceQuery(name.service, name.datacenter if away else "")


def chain_of(key: str, observed: Observed) -> Chain | None:
    """None where Consul has not told it yet, or does not have the subset."""
    name = named(key)
    query = own_instances(key, observed)
    chain = observed.chains.get(WatchChain(name.service, query.datacenter).key)
    if chain is None or not name.subset:
        return chain
    return subset_chain(chain, name.subset, observed.resolvers or ())


def absent(key: str, observed: Observed) -> bool:
    """Whether Consul has said that there is no such upstream."""
    name = named(key)
    query = own_instances(key, observed)
    if not callable_services((name.service,)) or observed.instances.get(query) == ():
        return True
    catalog = observed.catalog
    if not query.datacenter and catalog is not None and name.service not in catalog:
        return True
    known = observed.chains.get(WatchChain(name.service, query.datacenter).key)
    told = known is not None and observed.resolvers is not None
    return bool(name.subset) and told and chain_of(key, observed) is None


def called(observed: Observed) -> tuple[str, ...]:
    """The subsets and services of other datacenters that are wanted by name, and are there."""
    return tuple(
        key
        for key in sorted(observed.wanted)
        if named(key).datacenter
        and observed.instances.get(own_instances(key, observed))
        and chain_of(key, observed) is not None
    )


def outsider_queries(settings: Settings, observed: Observed) -> dict[str, InstanceQuery]:
    """The services that have no sidecar, and what to ask of each: none unless a setting is about
    them.

    The catalog tells of a sidecar under its usual name; under another it is known by its
    instances.
    """
    if settings.without_sidecar is None:
        return {}
    catalog = observed.catalog or frozenset()
    return {
        name: InstanceQuery(name, own=True)
        for name in callable_services(catalog)
        if name + SIDECAR_SUFFIX not in catalog and not observed.instances.get(InstanceQuery(name))
    }


def callable_services(catalog: Iterable[str]) -> tuple[str, ...]:
    """The names of a catalog that may be services with sidecars, sorted: not Consul itself, not
    the sidecars."""
    return tuple(
        sorted(name for name in catalog if name != "consul" and not name.endswith(SIDECAR_SUFFIX))
    )


def forget(observed: Observed, watch: Watch) -> Observed:
    """`observed` without what a cancelled watch had brought."""
    match watch:
        case WatchLeaf(service):
            return msgspec.structs.replace(observed, leaves=_without(observed.leaves, service))
        case WatchChain():
            return msgspec.structs.replace(observed, chains=_without(observed.chains, watch.key))
        case WatchResolvers():
            return msgspec.structs.replace(observed, resolvers=None)
        case WatchInstances(query):
            return msgspec.structs.replace(
                observed,
                instances=_without(observed.instances, query),
                refusals=_without(observed.refusals, query),
            )
        case _:
            return observed


def _without(mapping: dict[K, V], key: K) -> dict[K, V]:
    return {k: v for k, v in mapping.items() if k != key}
