"""proxy-defaults: the one entry, `global`, for every proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fleetmesh.entries.shape import (
    Entry,
    EntryKind,
    Expose,
    MeshGateway,
    MutualTls,
    ProxyMode,
    TransparentProxy,
)
from fleetmesh.settings.decode import Reader, joined

PROTOCOLS = ("tcp", "http", "http2", "grpc")


class ProxyDefaults(Entry, frozen=True):
    """`config` is opaque to Consul."""

    config: dict[str, Any] = {}
    mesh_gateway: MeshGateway = MeshGateway()
    expose: Expose = Expose()
    mode: ProxyMode = ""
    transparent_proxy: TransparentProxy = TransparentProxy()
    mutual_tls_mode: MutualTls = ""
    access_logs: dict[str, Any] = {}
    failover_policy: dict[str, Any] = {}
    prioritize_by_locality: dict[str, Any] = {}
    envoy_extensions: tuple[dict[str, Any], ...] = ()


def check(entry: ProxyDefaults, reader: Reader, key: str) -> None:
    if entry.name != "global":
        reader.problem(joined(key, "Name"), f'is "{entry.name}"', "It can only be global")
    protocol = entry.config.get("protocol", "tcp")
    if protocol not in PROTOCOLS:
        reader.problem(joined(key, "Config.protocol"), f"must be one of {', '.join(PROTOCOLS)}")
    for path in _nulls(entry.config, joined(key, "Config")):
        reader.problem(
            path,
            "has no value, which ends a Consul 1.8 server in a panic",
            "Give it one or remove the line",
        )


def _nulls(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _nulls(item, joined(path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nulls(item, f"{path}[{index}]")
    elif value is None:
        yield path


KIND = EntryKind("proxy-defaults", ProxyDefaults, check)
