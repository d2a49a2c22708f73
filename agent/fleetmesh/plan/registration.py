"""What this host registers with its Consul agent: each service and its sidecar."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from fleetmesh.model.traffic import Protocol
from fleetmesh.plan.answers import ServiceInstance
from fleetmesh.plan.ports import Allocation
from fleetmesh.settings import ServiceSettings, Settings

MANAGED_BY = "managed-by"
OURS = "fleetmesh"
DIGEST = "fleetmesh-digest"
UPSTREAMS = "fleetmesh-upstreams"
PROTOCOL = "fleetmesh-protocol"
MAX_META_VALUE = 512

HEARTBEAT_TTL = "30s"
# A restarted Consul agent takes every check for critical until it has run once, at some moment of
# its first interval: for so long the instance is out.
LISTENING_INTERVAL = "2s"
DEREGISTER_AFTER = "72h"


class Registration(msgspec.Struct, frozen=True):
    """The body of `/v1/agent/service/register`. `heartbeat` is the id of a sidecar's TTL check."""

    id: str
    service: str
    body: dict[str, Any]
    heartbeat: str | None = None

    @property
    def digest(self) -> str:
        digest: str = self.body["Meta"][DIGEST]
        return digest


def desired(
    settings: Settings, ports: Allocation, protocols: Mapping[str, Protocol]
) -> tuple[Registration, ...]:
    """The registrations of all declared services, a service before its sidecar.

    `protocols` are those that the workers serve, by service.
    """
    registrations: list[Registration] = []
    for service in settings.services:
        protocol = service.protocol or protocols.get(service.name, Protocol.TCP)
        registrations.append(_application(settings, service))
        registrations.append(_sidecar(settings, service, ports.sidecar[service.name], protocol))
    return tuple(registrations)


def _application(settings: Settings, service: ServiceSettings) -> Registration:
    body: dict[str, Any] = {
        "ID": service.service_id,
        "Name": service.name,
        **_common(settings, service, service.port),
        "Checks": [dict(check) for check in service.checks],
    }
    return _signed(service, body)


def _sidecar(
    settings: Settings, service: ServiceSettings, port: int, protocol: Protocol
) -> Registration:
    heartbeat = f"{service.sidecar_id}:heartbeat"
    common = _common(settings, service, port)
    if protocol is Protocol.AUTO:
        # Consul knows no such protocol; whoever does not read the meta carries it as tcp.
        common["Meta"][PROTOCOL] = protocol.value
        protocol = Protocol.TCP
    body: dict[str, Any] = {
        "Kind": "connect-proxy",
        "ID": service.sidecar_id,
        "Name": f"{service.name}-sidecar-proxy",
        **common,
        "Proxy": {
            "DestinationServiceName": service.name,
            "DestinationServiceID": service.service_id,
            "LocalServiceAddress": service.address,
            "LocalServicePort": service.port,
            "Config": {"protocol": protocol.value},
        },
        "Checks": [
            {
                "CheckID": f"{service.sidecar_id}:listening",
                "Name": "Sidecar is listening",
                "TCP": f"127.0.0.1:{port}",
                "Interval": LISTENING_INTERVAL,
                "Timeout": "2s",
                "Status": "passing",
            },
            {
                "CheckID": f"{service.sidecar_id}:alias",
                "Name": f"Alias of {service.service_id}",
                "AliasService": service.service_id,
            },
            {
                "CheckID": heartbeat,
                "Name": "Agent is alive",
                "TTL": HEARTBEAT_TTL,
                "Status": "passing",
                "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
            },
        ],
    }
    return _signed(service, body, heartbeat)


def _common(settings: Settings, service: ServiceSettings, port: int) -> dict[str, Any]:
    meta = {**service.meta, MANAGED_BY: OURS}
    if service.upstreams:
        # Consul before 1.10 demands a bind port for each entry of Proxy.Upstreams, and captured
        # traffic has none to name.
        meta[UPSTREAMS] = ",".join(service.upstreams)[:MAX_META_VALUE]
    tagged = {"lan_ipv4": {"Address": settings.address, "Port": port}}
    if ":" in settings.address:
        tagged = {"lan_ipv6": {"Address": settings.address, "Port": port}}
    if settings.address6:
        tagged["lan_ipv6"] = {"Address": settings.address6, "Port": port}
    return {
        "Port": port,
        "Address": settings.address,
        "TaggedAddresses": tagged,
        "Tags": list(service.tags),
        "Meta": meta,
        "Weights": {"Passing": service.weight, "Warning": 1},
    }


def _signed(
    service: ServiceSettings, body: dict[str, Any], heartbeat: str | None = None
) -> Registration:
    """With a digest of all of it in its meta: what Consul lists does not show the checks."""
    digest = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()[:16]
    body = {**body, "Meta": {**body["Meta"], DIGEST: digest}}
    return Registration(body["ID"], service.name, body, heartbeat)


def declared_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """`meta` of a registration as its operator declared it, sorted."""
    own = {MANAGED_BY, DIGEST, UPSTREAMS, PROTOCOL}
    return {key: meta[key] for key in sorted(meta) if key not in own}


def declares_auto(meta: Mapping[str, str]) -> bool:
    """Whether the sidecar with this `meta` finds out what each connection speaks."""
    return meta.get(PROTOCOL) == Protocol.AUTO


def is_ours(registered: ServiceInstance) -> bool:
    return (registered.meta or {}).get(MANAGED_BY) == OURS
