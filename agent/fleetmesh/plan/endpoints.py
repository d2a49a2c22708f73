"""Instances as Consul's health endpoints tell of them → the endpoints of a target."""

from __future__ import annotations

from msgspec.structs import replace

from fleetmesh.model.traffic import Endpoint, Health
from fleetmesh.plan.adoption import is_ours
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.registration import declared_meta

NODE_CHECK = "serfHealth"
UNFIT = frozenset({"critical", "maintenance"})
"""Statuses of checks."""
EXAMINING = frozenset({"tcp", "http", "grpc", "h2ping", "udp", "docker", "script", "alias"})
"""Types of checks that the Consul agent makes by itself: not ttl, which others report, and not
maintenance."""
MAX_WEIGHT = 128
"""As Consul clamps for Envoy."""


def endpoints(
    instances: tuple[Instance, ...], *, only_passing: bool, wide: bool
) -> tuple[Endpoint, ...]:
    """Sorted by id. `wide`: they are of another datacenter, and dialled from here."""
    found = [_endpoint(instance, only_passing, wide) for instance in instances]
    if all(endpoint.health is Health.CRITICAL for endpoint in found):
        found = [
            replace(endpoint, health=Health.WARNING) if _nobody_looked(instance) else endpoint
            for instance, endpoint in zip(instances, found, strict=True)
        ]
    return tuple(sorted(found, key=lambda endpoint: endpoint.id))


def zone_of(meta: dict[str, str] | None) -> str:
    """Where a node is, by its meta."""
    return (meta or {}).get("zone", "")


def endpoint_id(instance: Instance) -> str:
    return f"{instance.node.name}/{instance.service.id}"


def health_of(instance: Instance) -> Health:
    """As the worst of its checks says."""
    statuses = {check.status for check in instance.checks or ()}
    if statuses & UNFIT:
        return Health.CRITICAL
    return Health.WARNING if "warning" in statuses else Health.PASSING


def _nobody_looked(instance: Instance) -> bool:
    """Whether all that speaks against an instance is that its host's Consul agent is gone, or has
    just come back and not made its checks yet: they are critical without output until then. That
    says little of the service: where nothing better is left, its last known state stands."""
    checks = instance.checks or ()
    critical = [check for check in checks if check.status in UNFIT]
    return bool(critical) and all(
        check.id == NODE_CHECK or (check.type in EXAMINING and not check.output)
        for check in critical
    )


def _endpoint(instance: Instance, only_passing: bool, wide: bool) -> Endpoint:
    """Critical, too, when the weight for its health is below one: it gets no traffic."""
    node, service = instance.node, instance.service
    health, weight = health_of(instance), service.weights.passing
    if health is Health.WARNING:
        weight = service.weights.warning
    if weight < 1 or (only_passing and health is Health.WARNING):
        health = Health.CRITICAL
    tagged = service.tagged_addresses or {}
    address, port = _wide_address(instance) if wide else (service.address or node.address, 0)
    address6 = tagged["lan_ipv6"].address if "lan_ipv6" in tagged else None
    return Endpoint(
        id=endpoint_id(instance),
        address=address,
        port=port or service.port,
        address6=None if wide else address6 or None,
        weight=min(max(weight, 1), MAX_WEIGHT),
        health=health,
        meta=declared_meta(service.meta or {}),
        shares=is_ours(service),
        zone=zone_of(node.meta),
    )


def _wide_address(instance: Instance) -> tuple[str, int]:
    """Where other datacenters reach an instance; port 0 is its usual one."""
    node, service = instance.node, instance.service
    tagged = (service.tagged_addresses or {}).get("wan")
    if tagged is not None and tagged.address:
        return tagged.address, tagged.port
    return service.address or (node.tagged_addresses or {}).get("wan") or node.address, 0
