"""service-defaults: what a service speaks, and how to reach it."""

from __future__ import annotations

from typing import Any

from fleetmesh.entries.shape import (
    Entry,
    EntryKind,
    Expose,
    MeshGateway,
    MutualTls,
    Protocol,
    ProxyMode,
    TransparentProxy,
    no_rules,
)


class ServiceDefaults(Entry, frozen=True):
    protocol: Protocol = "tcp"
    mesh_gateway: MeshGateway = MeshGateway()
    expose: Expose = Expose()
    external_sni: str = ""
    mode: ProxyMode = ""
    transparent_proxy: TransparentProxy = TransparentProxy()
    mutual_tls_mode: MutualTls = ""
    upstream_config: dict[str, Any] = {}
    local_connect_timeout_ms: int = 0
    local_request_timeout_ms: int = 0
    rate_limits: dict[str, Any] = {}
    destination: dict[str, Any] = {}
    max_inbound_connections: int = 0
    balance_inbound_connections: str = ""
    envoy_extensions: tuple[dict[str, Any], ...] = ()


KIND = EntryKind("service-defaults", ServiceDefaults, no_rules)
