"""What the controller has seen of Consul, folded from its watches, and what it should watch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from fleetmesh.plan.answers import Chain, Instance, IntentionEntry, LeafAnswer, Roots
from fleetmesh.plan.chain import InstanceQuery, queries
from fleetmesh.plan.defaults import ProxyDefaults, ServiceDefaults
from fleetmesh.settings import Settings

SIDECAR_SUFFIX = "-sidecar-proxy"

K = TypeVar("K")
V = TypeVar("V")


class Observed(msgspec.Struct, frozen=True):
    """None or an absent key means that Consul has not answered yet; empty means that it has.

    `default_allow` is Consul's decision on a pair of services that no intention names; `refusals`
    are the queries that Consul will not answer, with its reasons; `virtual` are the virtual
    addresses of services.
    """

    datacenter: str = ""
    node: str = ""
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
    virtual: dict[str, tuple[str, ...]] = {}


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


class WatchLeaf(msgspec.Struct, frozen=True):
    service: str


class WatchChain(msgspec.Struct, frozen=True):
    service: str


class WatchInstances(msgspec.Struct, frozen=True):
    query: InstanceQuery


Watch = (
    WatchRoots
    | WatchIntentions
    | WatchCatalog
    | WatchServiceDefaults
    | WatchProxyDefaults
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
    return frozenset(watches)


def host_watches(settings: Settings) -> set[Watch]:
    local = {service.name for service in settings.services}
    watches: set[Watch] = {WatchRoots(), WatchIntentions(), WatchCatalog()}
    watches |= {WatchServiceDefaults(), WatchProxyDefaults()}
    watches.update(WatchLeaf(name) for name in local)
    watches.update(WatchChain(name) for name in local)
    return watches


def upstream_watches(name: str, observed: Observed) -> set[Watch]:
    """Those of one upstream: its instances, and once it has any with sidecars, its chain and the
    instances that this leads to. None where the catalog does not have it."""
    if name not in (observed.catalog or ()) or not callable_services((name,)):
        return set()
    watches: set[Watch] = {WatchInstances(InstanceQuery(name))}
    if observed.instances.get(InstanceQuery(name)):
        watches.add(WatchChain(name))
        if (chain := observed.chains.get(name)) is not None:
            watches.update(map(WatchInstances, queries(chain, observed.datacenter)))
    return watches


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
        case WatchChain(service):
            return msgspec.structs.replace(observed, chains=_without(observed.chains, service))
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
