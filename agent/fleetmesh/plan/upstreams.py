"""What was observed of Consul → the upstreams of a snapshot."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Limits, PassiveHealth, Protocol, Target, Tries, Upstream
from fleetmesh.plan.addresses import Destination, destinations_of
from fleetmesh.plan.answers import Chain, Instance
from fleetmesh.plan.chain import InstanceQuery, Resolution, resolutions
from fleetmesh.plan.defaults import Calls, Defaults
from fleetmesh.plan.endpoints import endpoints
from fleetmesh.plan.meta import Meta
from fleetmesh.plan.names import named
from fleetmesh.plan.observed import Observed, absent, callable_services, chain_of, own_instances
from fleetmesh.plan.registration import declares_auto
from fleetmesh.plan.routing import routing

T = TypeVar("T")


def upstreams(
    observed: Observed, defaults: Defaults, trust_domain: str, previous: Snapshot | None
) -> tuple[tuple[Upstream, ...], tuple[Problem, ...]]:
    """Those that Consul has told of, and those of `previous` that are wanted still and of which it
    has not told yet."""
    found: list[Upstream] = []
    warnings: list[Problem] = []
    owners: dict[Destination, str] = {}
    served = _served(previous, trust_domain)
    elsewhere = (key for key in observed.wanted if named(key).datacenter)
    for key in (*callable_services(observed.catalog or ()), *sorted(elsewhere)):
        if absent(key, observed):
            continue
        before = served.get(key)
        own = observed.instances.get(own_instances(key, observed))
        chain = chain_of(key, observed)
        if own and chain is not None:
            upstream, more = _upstream(key, chain, observed, defaults, trust_domain, before)
            warnings.extend(more)
            upstream = replace(
                upstream,
                destinations=() if named(key).datacenter else destinations_of(own),
                virtual_addresses=observed.virtual.get(key, ()),
            )
        elif before is not None and key in observed.wanted:
            upstream = before
        else:
            continue
        for destination in upstream.destinations:
            owner = owners.setdefault(destination, key)
            if owner != key:
                warnings.append(_taken(key, destination, owner))
        owned = tuple(one for one in upstream.destinations if owners[one] == key)
        found.append(replace(upstream, destinations=owned))
    return tuple(found), tuple(warnings)


def protocol_of(chain: Chain | None, instances: tuple[Instance, ...] = ()) -> Protocol:
    """http2 and grpc are carried as tcp. What Consul's entries call tcp, or do not name, is found
    out where every one of `instances` does that too: while a fleet changes over, some of them
    still have an application that was declared to be tcp."""
    if chain is not None and chain.protocol == "http":
        return Protocol.HTTP
    if chain is None or chain.protocol == "tcp":
        metas = [instance.service.meta or {} for instance in instances]
        if metas and all(declares_auto(meta) for meta in metas):
            return Protocol.AUTO
    return Protocol.TCP


def _taken(key: str, destination: Destination, owner: str) -> Problem:
    address, port = destination
    return Problem(
        f"catalog: {key}",
        f"{address} port {port} is registered for {owner} too, which gets it",
        "give the two services different ports or addresses",
    )


def _upstream(
    key: str,
    chain: Chain,
    observed: Observed,
    defaults: Defaults,
    trust_domain: str,
    before: Upstream | None,
) -> tuple[Upstream, list[Problem]]:
    """A chain that leads to instances of this datacenter that Consul has not told yet waits: until
    then the upstream of `before` serves, else those targets have no endpoint."""
    found, warnings = resolutions(chain, observed.datacenter)
    waiting = any(
        not resolution.wide and resolution.query not in observed.instances
        for resolution in found.values()
    )
    if waiting and before is not None:
        return before, warnings
    for resolution in found.values():
        if (reason := observed.refusals.get(resolution.query)) is not None:
            place = f"service-resolver/{resolution.service}"
            if resolution.subset:
                place += f": Subsets[{resolution.subset}]"
            warnings.append(Problem(place, f"Consul does not tell its instances: {reason}"))
    calls, more = defaults.calls(chain.service)
    warnings.extend(more)
    targets: dict[str, Target] = {}
    for target_id, resolution in found.items():
        meta, more = defaults.meta(resolution.service)
        warnings.extend(more)
        instances = observed.instances.get(resolution.query, ())
        balancing = defaults.balancing(meta, resolution.balancing)
        resolution = replace(resolution, balancing=balancing)
        targets[target_id] = _target(resolution, instances, trust_domain, calls, meta)
    closed = Resolution(
        target_id=f"no route: {chain.service}",
        service=chain.service,
        datacenter=chain.datacenter,
        sni="",
        query=InstanceQuery(chain.service),
    )
    route = routing(chain, targets, _target(closed, (), trust_domain, calls, Meta()))
    warnings.extend(route.problems)
    own = found.get(route.default.target.id)
    instances = observed.instances.get(own.query, ()) if own is not None else ()
    protocol = protocol_of(chain, instances)
    if chain.protocol not in {"", "tcp", "http"}:
        warnings.append(_carried_as_tcp(chain, bool(route.routes or route.default.splits)))
    upstream = Upstream(
        service=key,
        protocol=protocol,
        target=route.default.target,
        routes=route.routes,
        splits=route.default.splits,
        timeout=route.default.timeout,
    )
    reached = {target.id for target in upstream.targets()}
    spares = tuple(targets[key] for key in sorted(targets) if key not in reached)
    return replace(upstream, spares=spares), warnings


def _served(previous: Snapshot | None, trust_domain: str) -> dict[str, Upstream]:
    """By service; nobody is called in the name of another trust domain."""
    if previous is None or previous.trust_domain != trust_domain.lower():
        return {}
    return {upstream.service: upstream for upstream in previous.upstreams}


def _carried_as_tcp(chain: Chain, routed: bool) -> Problem:
    lost = ", without its routes and splits" if routed else ""
    return Problem(
        f"service-defaults/{chain.service}: Protocol",
        f"{chain.protocol} is carried as tcp{lost}",
    )


def _first(one: T | None, other: T | None) -> T | None:
    return other if one is None else one


def _limits(said: Limits, meta: Meta) -> Limits:
    """What UpstreamConfig says goes before the Meta of the service that is called."""
    return Limits(
        _first(said.max_connections, meta.max_connections),
        _first(said.max_pending_requests, meta.max_pending_requests),
        _first(said.max_concurrent_requests, meta.max_concurrent_requests),
        meta.queue_wait,
    )


def _passive_health(said: PassiveHealth, meta: Meta) -> PassiveHealth:
    """As with limits."""
    return PassiveHealth(
        _first(said.interval, meta.outlier_interval),
        _first(said.max_failures, meta.outlier_max_failures),
        said.enforcing_consecutive_5xx,
        _first(said.max_ejection_percent, meta.outlier_max_ejection_percent),
        _first(said.base_ejection_time, meta.outlier_base_ejection_time),
    )


def _target(
    resolution: Resolution,
    instances: tuple[Instance, ...],
    trust_domain: str,
    calls: Calls,
    meta: Meta,
) -> Target:
    service, datacenter = resolution.service, resolution.datacenter
    timeout = calls.connect_timeout
    named = f"{resolution.subset}.{service}" if resolution.subset else service
    return Target(
        id=resolution.target_id,
        service=service,
        datacenter=datacenter,
        sni=resolution.sni or f"{named}.default.{datacenter}.internal.{trust_domain}",
        spiffe_id=SpiffeId(trust_domain.lower(), datacenter, service),
        endpoints=endpoints(instances, only_passing=resolution.only_passing, wide=resolution.wide),
        connect_timeout=resolution.connect_timeout if timeout is None else timeout,
        subset=resolution.subset,
        failover=resolution.failover,
        balancing=resolution.balancing,
        limits=_limits(calls.limits, meta),
        passive_health=_passive_health(calls.passive_health, meta),
        tries=Tries(meta.retries, meta.per_try_timeout, bool(meta.hedge), meta.stream_timeout),
    )
