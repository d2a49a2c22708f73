"""What this host registers with its Consul agent: each service and its sidecar."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from fleetmesh.model.traffic import Protocol
from fleetmesh.plan import holds
from fleetmesh.plan.adoption import MANAGED_BY, NOTHING, OURS, Adopted
from fleetmesh.plan.answers import ServiceInstance, Weights
from fleetmesh.plan.holds import Held
from fleetmesh.plan.ports import Allocation
from fleetmesh.settings import ServiceSettings, Settings

OWN_META = "fleetmesh-"
DIGEST = "fleetmesh-digest"
PROTOCOL = "fleetmesh-protocol"
OWN_KEYS = 3
CONSUL_META = "consul-"
"""Begins keys that no registration may have."""
MAX_META = 64

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

    @property
    def checks(self) -> frozenset[str]:
        return frozenset(check["CheckID"] for check in self.body["Checks"])


class Wanted(msgspec.Struct, frozen=True):
    """What the registrations follow from. `protocols` are those that the workers serve, by
    service, `held` the services that an operator holds back; `ready` have their certificate in
    every worker."""

    settings: Settings
    ports: Allocation
    protocols: Mapping[str, Protocol] = {}
    ready: frozenset[str] = frozenset()
    held: Mapping[str, Held] = {}


def desired(
    wanted: Wanted, adopted: Adopted = NOTHING, *, modes: bool = True
) -> tuple[Registration, ...]:
    """The registrations of all declared services, a service before its sidecar; of one that is
    adopted only the sidecar.

    `modes`: Consul knows Proxy.Mode, since 1.10; before it refuses what it does not know.
    """
    registrations: list[Registration] = []
    for service in wanted.settings.services:
        theirs = adopted.services.get(service.name)
        if theirs is None:
            registrations.append(_application(wanted, service))
        registrations.append(_sidecar(wanted, service, theirs, modes))
    return tuple(r for r in registrations if r.id not in adopted.taken)


def _application(wanted: Wanted, service: ServiceSettings) -> Registration:
    prefix = f"service:{service.service_id}"  # as Consul names them; more of them change no id
    named = [
        {"CheckID": f"{prefix}:{number}" if len(service.checks) > 1 else prefix, **check}
        for number, check in enumerate(service.checks, 1)
    ]
    body: dict[str, Any] = {
        "ID": service.service_id,
        "Name": service.name,
        **_common(wanted.settings, service, service.port),
        "Checks": named + holds.checks(service.service_id, wanted.held.get(service.name)),
    }
    return _signed(service, body)


def _sidecar(
    wanted: Wanted, service: ServiceSettings, theirs: ServiceInstance | None, modes: bool
) -> Registration:
    port = wanted.ports.sidecar[service.name]
    protocol = service.protocol or wanted.protocols.get(service.name, Protocol.TCP)
    destination = theirs.id if theirs is not None else service.service_id
    if theirs is not None:
        service = _following(service, theirs)
    common = _common(wanted.settings, service, port)
    if protocol is Protocol.AUTO:
        # Consul knows no such protocol; whoever does not read the meta carries it as tcp.
        common["Meta"][PROTOCOL] = protocol.value
        protocol = Protocol.TCP
    proxy: dict[str, Any] = {
        "DestinationServiceName": service.name,
        "DestinationServiceID": destination,
        "LocalServiceAddress": service.address,
        "LocalServicePort": service.port,
        "Config": {"protocol": protocol.value},
    }
    outbound = wanted.ports.outbound.get(service.name)
    captured = outbound is not None and wanted.settings.capture.enabled
    if modes:
        proxy["Mode"] = "transparent" if captured else "direct"
    if outbound is not None:
        proxy["Upstreams"] = [_upstream(name, outbound) for name in service.upstreams]
    heartbeat = f"{service.sidecar_id}:heartbeat"
    body: dict[str, Any] = {
        "Kind": "connect-proxy",
        "ID": service.sidecar_id,
        "Name": f"{service.name}-sidecar-proxy",
        **common,
        "Proxy": proxy,
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
                "Name": f"Alias of {destination}",
                "AliasService": destination,
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
    if theirs is not None:
        # What is declared to us stands on what is ours: the service itself stays as it is.
        body["Checks"] += [
            {**check, "CheckID": f"{service.sidecar_id}:check:{number}"}
            for number, check in enumerate(service.checks, 1)
        ]
    # Not left to the alias: Consul 1.8 takes up to a minute to tell its servers of that.
    body["Checks"] += holds.checks(service.sidecar_id, wanted.held.get(service.name))
    return _signed(service, body, heartbeat)


def _following(service: ServiceSettings, theirs: ServiceInstance) -> ServiceSettings:
    """`service` as the other tool has it: its meta and weights before ours, its tags beside ours.
    Subsets filter sidecars by these."""
    meta = {**service.meta, **(theirs.meta or {})}
    free = [key for key in sorted(meta) if not _is_own(key) and not key.startswith(CONSUL_META)]
    changed = replace(
        service,
        meta={key: meta[key] for key in free[: MAX_META - OWN_KEYS]},
        tags=tuple(dict.fromkeys((*(theirs.tags or ()), *service.tags))),
    )
    if theirs.weights == Weights():  # what Consul says where nothing was said
        return changed
    weights = theirs.weights
    return replace(changed, weight=weights.passing, warning_weight=weights.warning)


def _upstream(name: str, outbound: int) -> dict[str, Any]:
    """Consul demands a port, and that no two upstreams have the same address and port. All arrive
    at the one outbound port, and the name is what the application dials."""
    return {
        "DestinationType": "service",
        "DestinationName": name,
        "LocalBindAddress": f"{name}.mesh",
        "LocalBindPort": outbound,
    }


def _common(settings: Settings, service: ServiceSettings, port: int) -> dict[str, Any]:
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
        "Meta": {**service.meta, MANAGED_BY: OURS},
        "Weights": {"Passing": service.weight, "Warning": service.warning_weight},
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
    return {key: meta[key] for key in sorted(meta) if not _is_own(key)}


def _is_own(key: str) -> bool:
    return key == MANAGED_BY or key.startswith(OWN_META)


def declares_auto(meta: Mapping[str, str]) -> bool:
    """Whether the sidecar with this `meta` finds out what each connection speaks."""
    return meta.get(PROTOCOL) == Protocol.AUTO
