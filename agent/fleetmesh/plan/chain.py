"""Where a compiled discovery chain leads."""

from __future__ import annotations

import msgspec

from fleetmesh.model.problem import Problem
from fleetmesh.plan.answers import Chain, ChainTarget, Resolver, seconds

DEFAULT_CONNECT_TIMEOUT = 5.0


class InstanceQuery(msgspec.Struct, frozen=True):
    """The arguments of `/v1/health/connect`; an empty datacenter is the agent's own."""

    service: str
    datacenter: str = ""
    filter: str = ""


class Resolution(msgspec.Struct, frozen=True):
    """The end of a chain: which instances, under which name, dialled how. An empty `sni` stands for
    the service's own."""

    target_id: str
    service: str
    datacenter: str
    sni: str
    query: InstanceQuery
    only_passing: bool = False
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    warnings: tuple[Problem, ...] = ()


def resolve(chain: Chain, datacenter: str) -> Resolution:
    """The one target that connections to the chain's service go to.

    Redirects and default subsets are followed. Routes and splits are not applied: all instances
    of the service serve then, and a warning says so.
    """
    start = chain.nodes.get(chain.start)
    if start is None or start.resolver is None:
        kind = f"service-{start.type}" if start else "discovery-chain"
        return _unrouted(chain, kind)
    target = chain.targets.get(start.resolver.target)
    if target is None:
        return _unrouted(chain, "service-resolver")
    return _at(target, start.resolver, chain, datacenter)


def _at(target: ChainTarget, resolver: Resolver, chain: Chain, datacenter: str) -> Resolution:
    own = datacenter or chain.datacenter
    warnings = []
    if resolver.failover is not None:
        warnings.append(
            Problem(f"service-resolver/{chain.service}: Failover", "failover is not applied")
        )
    return Resolution(
        target_id=target.id,
        service=target.service,
        datacenter=target.datacenter,
        sni=target.sni,
        query=InstanceQuery(
            target.service,
            "" if target.datacenter == own else target.datacenter,
            target.subset.filter,
        ),
        only_passing=target.subset.only_passing,
        connect_timeout=seconds(resolver.connect_timeout) or DEFAULT_CONNECT_TIMEOUT,
        warnings=tuple(warnings),
    )


def _unrouted(chain: Chain, kind: str) -> Resolution:
    return Resolution(
        target_id=chain.service,
        service=chain.service,
        datacenter=chain.datacenter,
        sni="",
        query=InstanceQuery(chain.service),
        warnings=(
            Problem(
                f"{kind}/{chain.service}",
                "its routing is not applied: every instance of the service is used",
            ),
        ),
    )
