"""Settings and what was observed of Consul → the snapshot that workers serve."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec.structs import replace

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.intention import Intention
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import ExposedPath, Leaf, LocalService, Snapshot
from fleetmesh.model.traffic import Limits, PassiveHealth, Protocol, Target, Tries, Upstream
from fleetmesh.plan.addresses import Destination, destinations_of
from fleetmesh.plan.answers import Chain, Instance, LeafAnswer
from fleetmesh.plan.chain import InstanceQuery, Resolution, resolutions
from fleetmesh.plan.defaults import Calls, Defaults
from fleetmesh.plan.endpoints import endpoints
from fleetmesh.plan.exposed import Rerouted, exposed, settled
from fleetmesh.plan.intentions import for_destination, not_for_tcp, readable
from fleetmesh.plan.meta import Meta
from fleetmesh.plan.observed import Observed, callable_services, called, chain_of
from fleetmesh.plan.outsiders import outsiders
from fleetmesh.plan.registration import declares_auto
from fleetmesh.plan.routing import routing
from fleetmesh.settings import ServiceSettings, Settings, WithoutSidecar

T = TypeVar("T")


class Compiled(msgspec.Struct, frozen=True):
    """A snapshot and what in Consul could not be honoured in it."""

    snapshot: Snapshot
    warnings: tuple[Problem, ...] = ()


def compile_snapshot(
    settings: Settings, observed: Observed, previous: Snapshot | None = None
) -> Compiled | list[Problem]:
    """Problems while Consul has not yet answered what no snapshot can be without: the roots, the
    datacenter, the intentions and the catalog.

    A service whose certificate has not been fetched yet keeps the one that `previous` has for
    the same identity.
    """
    roots = observed.roots
    problems = _missing(observed)
    if roots is None or problems:
        return problems
    intentions, warnings = readable(observed.intentions or ())
    local = (service.name for service in settings.services)
    defaults = Defaults(
        observed.service_defaults,
        observed.proxy_defaults,
        local,
        observed.zone,
        settings.upstream,
    )
    upstreams, more = _upstreams(observed, defaults, roots.trust_domain, previous)
    services, found = _services(settings, observed, defaults, intentions, previous)
    warnings += found
    for service in services:
        if service.protocol is Protocol.TCP:
            warnings += not_for_tcp(service.name, service.intentions)
            if service.adaptive_concurrency or service.rate_limits:
                warnings += (_for_http(service.name),)
    return Compiled(
        Snapshot(
            trust_domain=roots.trust_domain.lower(),
            datacenter=observed.datacenter,
            node=observed.node,
            roots=tuple(root.cert for root in roots.roots or ()),
            services=services,
            upstreams=upstreams,
            default_allow=bool(observed.default_allow),
            mesh_destinations_only=settings.mesh_destinations_only,
            outsiders=outsiders(settings, observed),
            refuse_outsiders=settings.without_sidecar is WithoutSidecar.REFUSE,
        ),
        tuple(dict.fromkeys((*warnings, *defaults.problems(), *more))),
    )


def _for_http(service: str) -> Problem:
    return Problem(
        f"service-defaults/{service}",
        "adaptive concurrency and rates are of HTTP requests, and this service is carried as tcp",
        "Give it Protocol http",
    )


def _missing(observed: Observed) -> list[Problem]:
    problems = []
    if observed.roots is None or not observed.roots.roots:
        problems.append(
            Problem(
                "consul: /v1/agent/connect/ca/roots",
                "no certificate authority yet",
                "enable connect on the Consul servers",
            )
        )
    if not observed.datacenter:
        problems.append(Problem("consul: datacenter", "not known yet"))
    if observed.intentions is None or observed.default_allow is None:
        problems.append(Problem("consul: /v1/connect/intentions", "not known yet"))
    if observed.catalog is None:
        problems.append(Problem("consul: /v1/catalog/services", "not known yet"))
    return problems


def _services(
    settings: Settings,
    observed: Observed,
    defaults: Defaults,
    intentions: tuple[Intention, ...],
    previous: Snapshot | None,
) -> tuple[tuple[LocalService, ...], tuple[Problem, ...]]:
    services: list[LocalService] = []
    warnings: tuple[Problem, ...] = ()
    for declared in sorted(settings.services, key=lambda service: service.name):
        service = _local(declared, observed, defaults, intentions, previous)
        expose, place = defaults.exposed(service.name)
        paths, found = exposed(expose, place, service)
        warnings += found
        checks, more = _checks(service, observed, previous)
        warnings += more
        services.append(replace(service, exposed=paths + checks))
    kept, found = settled(services, settings)
    return kept, tuple(dict.fromkeys(warnings + found))


def _checks(
    service: LocalService, observed: Observed, previous: Snapshot | None
) -> tuple[tuple[ExposedPath, ...], tuple[Problem, ...]]:
    """Those that Consul's agent does look for: it follows `Expose.Checks` late, and 1.8 no more
    once it is off. Until it has told them, those of `previous` are served on."""
    if observed.rerouted is None:
        before = previous.services if previous is not None else ()
        known = (path for one in before if one.name == service.name for path in one.exposed)
        return tuple(path for path in known if path.address), ()
    rerouted = observed.rerouted.get(service.name, Rerouted())
    return rerouted.paths, tuple(
        Problem(
            f"service-defaults/{service.name}: Expose.Checks",
            f"is not honoured for {check_id}: Consul's agent makes it where nobody listens",
            "Make it an HTTP check, or do not expose checks: they reach the application without",
        )
        for check_id in rerouted.others
    )


def _local(
    service: ServiceSettings,
    observed: Observed,
    defaults: Defaults,
    intentions: tuple[Intention, ...],
    previous: Snapshot | None,
) -> LocalService:
    chain = observed.chains.get(service.name)
    trust_domain = observed.roots.trust_domain if observed.roots else ""
    identity = SpiffeId(trust_domain.lower(), observed.datacenter, service.name)
    local = defaults.local(service.name)
    answer = observed.leaves.get(service.name)
    return LocalService(
        name=service.name,
        id=service.service_id,
        address=service.address,
        port=service.port,
        protocol=service.protocol or _protocol(chain),
        mode=service.mode,
        spiffe_id=identity,
        intentions=for_destination(service.name, intentions),
        leaf=_leaf(answer) if answer else _kept_leaf(identity, previous),
        upstreams=service.upstreams,
        connect_timeout=local.connect_timeout,
        request_timeout=local.request_timeout,
        max_connections=local.max_connections,
        adaptive_concurrency=local.adaptive_concurrency,
        rate_limits=local.rate_limits,
    )


def _kept_leaf(identity: SpiffeId, previous: Snapshot | None) -> Leaf | None:
    services = previous.services if previous else ()
    return next((s.leaf for s in services if s.spiffe_id == identity), None)


def _leaf(answer: LeafAnswer) -> Leaf:
    return Leaf(
        serial=answer.serial,
        not_before=answer.valid_after.timestamp(),
        not_after=answer.valid_before.timestamp(),
        chain=answer.cert,
        key=answer.key,
    )


def _protocol(chain: Chain | None, instances: tuple[Instance, ...] = ()) -> Protocol:
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


def _upstreams(
    observed: Observed, defaults: Defaults, trust_domain: str, previous: Snapshot | None
) -> tuple[tuple[Upstream, ...], tuple[Problem, ...]]:
    upstreams: list[Upstream] = []
    warnings: list[Problem] = []
    owners: dict[Destination, str] = {}
    for name in callable_services(observed.catalog or ()):
        own = observed.instances.get(InstanceQuery(name))
        chain = observed.chains.get(name)
        if not own or chain is None:
            continue
        destinations = destinations_of(own)
        for destination in destinations:
            owner = owners.setdefault(destination, name)
            if owner != name:
                address, port = destination
                warnings.append(
                    Problem(
                        f"catalog: {name}",
                        f"{address} port {port} is registered for {owner} too, which gets it",
                        "give the two services different ports or addresses",
                    )
                )
        upstream, found = _upstream(name, chain, observed, defaults, trust_domain, previous)
        warnings.extend(found)
        owned = tuple(d for d in destinations if owners[d] == name)
        virtual = observed.virtual.get(name, ())
        upstreams.append(replace(upstream, destinations=owned, virtual_addresses=virtual))
    for key in called(observed):
        if (chain := chain_of(key, observed)) is not None:
            upstream, found = _upstream(key, chain, observed, defaults, trust_domain, previous)
            warnings.extend(found)
            virtual = observed.virtual.get(key, ())
            upstreams.append(replace(upstream, virtual_addresses=virtual))
    return tuple(upstreams), tuple(dict.fromkeys(warnings))


def _upstream(
    key: str,
    chain: Chain,
    observed: Observed,
    defaults: Defaults,
    trust_domain: str,
    previous: Snapshot | None,
) -> tuple[Upstream, list[Problem]]:
    """A chain that leads to instances of this datacenter that Consul has not told yet waits: until
    then the upstream of `previous` serves, else those targets have no endpoint."""
    found, warnings = resolutions(chain, observed.datacenter)
    waiting = any(
        not resolution.wide and resolution.query not in observed.instances
        for resolution in found.values()
    )
    if waiting and (kept := _kept_upstream(key, trust_domain, previous)) is not None:
        return kept, warnings
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
    protocol = _protocol(chain, instances)
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


def _kept_upstream(service: str, trust_domain: str, previous: Snapshot | None) -> Upstream | None:
    if previous is None or previous.trust_domain != trust_domain.lower():
        return None
    return next((u for u in previous.upstreams if u.service == service), None)


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
