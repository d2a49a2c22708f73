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
    are the queries that Consul will not answer, with its reasons.
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


def wanted_watches(settings: Settings, observed: Observed) -> frozenset[Watch]:
    """Every blocking query that should run now.

    One for the instances of each service in the catalog; a chain only for local services and for
    those with sidecars, and the instances that the chain leads to.
    """
    local = {service.name for service in settings.services}
    watches: set[Watch] = {WatchRoots(), WatchIntentions(), WatchCatalog()}
    watches |= {WatchServiceDefaults(), WatchProxyDefaults()}
    watches.update(WatchLeaf(name) for name in local)
    watches.update(WatchChain(name) for name in local)
    for name in callable_services(observed.catalog or ()):
        watches.add(WatchInstances(InstanceQuery(name)))
        if observed.instances.get(InstanceQuery(name)):
            watches.add(WatchChain(name))
            if (chain := observed.chains.get(name)) is not None:
                watches.update(map(WatchInstances, queries(chain, observed.datacenter)))
    watches.update(map(WatchInstances, outsider_queries(settings, observed).values()))
    return frozenset(watches)


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
