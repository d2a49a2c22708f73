"""Why instances get no traffic, and by which nodes a chain leads to them: from the answers that the
snapshot was compiled of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fleetmesh.model.explanation import EndpointState
from fleetmesh.model.report import Ejected
from fleetmesh.model.traffic import Endpoint, Health
from fleetmesh.plan.answers import Chain, Instance
from fleetmesh.plan.chain import InstanceQuery, Resolution, resolutions
from fleetmesh.plan.endpoints import UNFIT, endpoint_id, health_of
from fleetmesh.plan.observed import Observed


class Reasons(msgspec.Struct, frozen=True):
    """Of the targets of one chain, all empty while Consul has not told it. `why` is by target and
    endpoint, `filters` by target. `ejected` are by id the endpoints that workers leave out."""

    why: dict[tuple[str, str], str] = {}
    filters: dict[str, str] = {}
    chain: Chain | None = None
    ejected: Mapping[str, str] = {}

    def steps(self, target: str, route: int, split: int) -> tuple[str, ...]:
        """The chain's nodes on the way to `target`, as Consul names them: by the rule number
        `route`, -1 for the last one, and the `split` of that number. None where Consul has told
        another chain than the one in force."""
        chain = self.chain
        if chain is None:
            return ()
        found = [chain.start]
        node = chain.nodes.get(chain.start)
        if node is not None and node.routes and route < len(node.routes):
            found.append(node.routes[route].next_node)
            node = chain.nodes.get(found[-1])
        if node is not None and node.splits and split < len(node.splits):
            found.append(node.splits[split].next_node)
            node = chain.nodes.get(found[-1])
        known = node is not None and node.resolver is not None and node.resolver.target == target
        return tuple(found) if known else ()


def reasons(observed: Observed | None, service: str, ejected: Iterable[Ejected]) -> Reasons:
    outs = {
        one.endpoint: f"ejected by {one.workers} of the workers: {one.reason}"
        for one in ejected
        if one.service == service
    }
    chain = observed.chains.get(service) if observed is not None else None
    if observed is None or chain is None:
        return Reasons(ejected=outs)
    found = resolutions(chain, observed.datacenter)[0]
    why = {
        (target, endpoint_id(instance)): reason
        for target, resolution in found.items()
        for instance in observed.instances.get(resolution.query, ())
        if (reason := _why(instance, resolution))
    }
    filters = {target: _filter(resolution) for target, resolution in found.items()}
    return Reasons(why, filters, chain, outs)


def state(endpoint: Endpoint, why: str = "", ejected: str = "") -> EndpointState:
    """`why` is what is known of one that is out; else its health says it. `ejected` is why one that
    is not gets nothing nevertheless."""
    live = endpoint.health is not Health.CRITICAL and endpoint.weight > 0
    return EndpointState(
        id=endpoint.id,
        address=endpoint.address,
        port=endpoint.port,
        health=endpoint.health.value,
        weight=endpoint.weight,
        out=ejected if live else why or "critical",
        address6=endpoint.address6,
        meta=endpoint.meta,
        zone=endpoint.zone,
    )


def others(
    observed: Observed, service: str, known: Iterable[str], plain: Iterable[Instance]
) -> tuple[EndpointState, ...]:
    """Instances of `service` that are in none of its targets. `known` are the endpoints that are;
    `plain` all registrations of the service, with sidecars or without."""
    inside = set(known)
    found = [
        _outside(instance, "filtered: in no subset that is led to")
        for instance in observed.instances.get(InstanceQuery(service), ())
        if endpoint_id(instance) not in inside
    ]
    found += [_outside(instance, "no sidecar") for instance in without_sidecar(observed, plain)]
    return tuple(sorted(found, key=lambda one: one.id))


def without_sidecar(observed: Observed, plain: Iterable[Instance]) -> Iterator[Instance]:
    """Those of `plain` that no sidecar that was observed stands before."""
    before = {
        (instance.node.name, instance.service.proxy.destination_id)
        for instances in observed.instances.values()
        for instance in instances
        if instance.service.proxy is not None
    }
    for instance in plain:
        if instance.service.kind or (instance.node.name, instance.service.id) in before:
            continue
        yield instance


def _filter(resolution: Resolution) -> str:
    parts = [resolution.query.filter, "OnlyPassing" if resolution.only_passing else ""]
    return " and ".join(part for part in parts if part)


def _why(instance: Instance, resolution: Resolution) -> str:
    checks = instance.checks or ()
    bad = [check.id or "a check" for check in checks if check.status in UNFIT]
    if bad:
        return f"critical: {', '.join(bad)}"
    warned = [check.id or "a check" for check in checks if check.status == "warning"]
    if warned and resolution.only_passing:
        return f"not passing (warning: {', '.join(warned)}), and OnlyPassing is set"
    weights = instance.service.weights
    weight = weights.warning if warned else weights.passing
    return f"weight {weight} while {'warning' if warned else 'passing'}" if weight < 1 else ""


def _outside(instance: Instance, why: str) -> EndpointState:
    node, service = instance.node, instance.service
    return EndpointState(
        id=endpoint_id(instance),
        address=service.address or node.address,
        port=service.port,
        health=health_of(instance).value,
        weight=service.weights.passing,
        out=why,
    )
