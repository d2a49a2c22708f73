"""Settings and what was observed of Consul → the snapshot that workers serve."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.intention import Intention
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import ExposedPath, Leaf, LocalService, Snapshot
from fleetmesh.model.traffic import Protocol
from fleetmesh.plan.answers import LeafAnswer
from fleetmesh.plan.defaults import Defaults
from fleetmesh.plan.exposed import Rerouted, exposed, settled
from fleetmesh.plan.intentions import for_destination, not_for_tcp, readable
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.outsiders import outsiders
from fleetmesh.plan.upstreams import protocol_of, upstreams
from fleetmesh.settings import ServiceSettings, Settings, WithoutSidecar


class Compiled(msgspec.Struct, frozen=True):
    """A snapshot and what in Consul could not be honoured in it."""

    snapshot: Snapshot
    warnings: tuple[Problem, ...] = ()


def compile_snapshot(
    settings: Settings, observed: Observed, previous: Snapshot | None = None
) -> Compiled | list[Problem]:
    """Problems while Consul has not yet answered what no snapshot can be without: see `missing`.

    What it has not told yet of a service or an upstream is as in `previous`, of the same identity
    or trust domain: who is called in the mesh must not be called past it meanwhile.
    """
    roots = observed.roots
    problems = missing(observed)
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
    called, more = upstreams(observed, defaults, roots.trust_domain, previous)
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
            upstreams=called,
            default_allow=bool(observed.default_allow),
            mesh_destinations_only=settings.mesh_destinations_only,
            outsiders=outsiders(settings, observed, previous),
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


def missing(observed: Observed) -> list[Problem]:
    """The roots, the datacenter, the intentions and the catalog, where they are not known."""
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
    return kept, warnings + found


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
    before = _kept(identity, previous)
    kept_leaf = before.leaf if before is not None else None
    protocol = before.protocol if before is not None and chain is None else protocol_of(chain)
    return LocalService(
        name=service.name,
        id=service.service_id,
        address=service.address,
        port=service.port,
        protocol=service.protocol or protocol,
        mode=service.mode,
        spiffe_id=identity,
        intentions=for_destination(service.name, intentions),
        leaf=_leaf(answer) if answer else kept_leaf,
        upstreams=service.upstreams,
        connect_timeout=local.connect_timeout,
        request_timeout=local.request_timeout,
        max_connections=local.max_connections,
        adaptive_concurrency=local.adaptive_concurrency,
        rate_limits=local.rate_limits,
    )


def _kept(identity: SpiffeId, previous: Snapshot | None) -> LocalService | None:
    services = previous.services if previous else ()
    return next((s for s in services if s.spiffe_id == identity), None)


def _leaf(answer: LeafAnswer) -> Leaf:
    return Leaf(
        serial=answer.serial,
        not_before=answer.valid_after.timestamp(),
        not_after=answer.valid_before.timestamp(),
        chain=answer.cert,
        key=answer.key,
    )
