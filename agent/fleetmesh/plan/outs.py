"""Why instances get no traffic, in words: from the answers that the snapshot was compiled of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fleetmesh.model.explanation import EndpointState
from fleetmesh.model.traffic import Endpoint, Health
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.chain import InstanceQuery, Resolution, resolutions
from fleetmesh.plan.observed import Observed

Reasons = dict[tuple[str, str], str]
"""By target and endpoint."""

UNFIT = frozenset({"critical", "maintenance"})


def reasons(observed: Observed, service: str) -> Reasons:
    """Of the targets of `service`'s chain; none while Consul has not told it."""
    return {
        (target, endpoint_id(instance)): why
        for target, resolution in _resolutions(observed, service).items()
        for instance in observed.instances.get(resolution.query, ())
        if (why := _why(instance, resolution))
    }


def state(endpoint: Endpoint, why: str = "") -> EndpointState:
    """`why` is what is known of one that is out; else its health says it."""
    live = endpoint.health is not Health.CRITICAL and endpoint.weight > 0
    return EndpointState(
        id=endpoint.id,
        address=endpoint.address,
        port=endpoint.port,
        health=endpoint.health.value,
        weight=endpoint.weight,
        out="" if live else why or "critical",
        address6=endpoint.address6,
        meta=endpoint.meta,
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


def endpoint_id(instance: Instance) -> str:
    return f"{instance.node.name}/{instance.service.id}"


def _resolutions(observed: Observed, service: str) -> dict[str, Resolution]:
    chain = observed.chains.get(service)
    return {} if chain is None else resolutions(chain, observed.datacenter)[0]


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
    statuses = {check.status for check in instance.checks or ()}
    worst = next((one for one in ("critical", "warning") if one in statuses), "passing")
    return EndpointState(
        id=endpoint_id(instance),
        address=service.address or node.address,
        port=service.port,
        health="critical" if "maintenance" in statuses else worst,
        weight=service.weights.passing,
        out=why,
    )
