"""A subset that is called by its name: an end of a chain that its service's own may not have.

Where the chain does not lead to the subset, its service-resolver says what it is. Failover is then
left out: it is Consul that compiles it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from fleetmesh.plan.chain_answer import (
    Chain,
    ChainNode,
    ChainTarget,
    Duration,
    LoadBalancer,
    Part,
    Resolver,
    Subset,
)


class ServiceResolver(Part, frozen=True):
    """An element of `/v1/config/service-resolver`."""

    name: str
    subsets: dict[str, Subset] | None = None
    connect_timeout: Duration = ""
    request_timeout: Duration = ""
    load_balancer: LoadBalancer | None = None


def subset_chain(chain: Chain, subset: str, resolvers: Iterable[ServiceResolver]) -> Chain | None:
    """`chain` cut down to what leads to `subset` of its service; None where that has none of this
    name."""
    for key in sorted(chain.nodes):
        resolver = chain.nodes[key].resolver
        target = chain.targets.get(resolver.target) if resolver else None
        if target and (target.service, target.service_subset) == (chain.service, subset):
            return replace(chain, start=key, nodes={key: chain.nodes[key]})
    entry = next((one for one in resolvers if one.name == chain.service), None)
    found = (entry.subsets or {}).get(subset) if entry else None
    if entry is None or found is None:
        return None
    name = f"{subset}.{chain.service}.default.{chain.datacenter}"
    target = _like(chain, name, subset, found)
    resolver = Resolver(
        target=name,
        connect_timeout=entry.connect_timeout,
        request_timeout=entry.request_timeout,
    )
    node = ChainNode(
        type="resolver", name=name, resolver=resolver, load_balancer=entry.load_balancer
    )
    return replace(chain, start=name, nodes={name: node}, targets={name: target})


def _like(chain: Chain, name: str, subset: str, definition: Subset) -> ChainTarget:
    """Reached as the targets of the same service in the same datacenter are."""
    for key in sorted(chain.targets):
        one = chain.targets[key]
        if (one.service, one.datacenter) == (chain.service, chain.datacenter) and not one.peer:
            sni = one.sni if one.external else ""
            return replace(one, id=name, service_subset=subset, subset=definition, sni=sni)
    return ChainTarget(
        id=name,
        service=chain.service,
        datacenter=chain.datacenter,
        service_subset=subset,
        subset=definition,
    )
