"""Consul's answers as values: what of them the mesh reads, and nothing else.

Unknown fields are ignored and missing ones have defaults, so that answers of any server version
decode; `null` stands for an empty list or map as Go writes it.
"""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal

import msgspec
from msgspec import field

from fleetmesh.plan.chain_answer import Chain as Chain
from fleetmesh.plan.chain_answer import ChainAnswer as ChainAnswer


class Root(msgspec.Struct, frozen=True):
    cert: str = field(name="RootCert")
    active: bool = field(name="Active", default=False)
    intermediates: list[str] | None = field(name="IntermediateCerts", default=None)


class Roots(msgspec.Struct, frozen=True):
    """`/v1/agent/connect/ca/roots`."""

    trust_domain: str = field(name="TrustDomain")
    roots: list[Root] | None = field(name="Roots", default=None)


class LeafAnswer(msgspec.Struct, frozen=True):
    """`/v1/agent/connect/ca/leaf/<service>`: the chain in PEM, leaf first, and its key."""

    serial: str = field(name="SerialNumber")
    cert: str = field(name="CertPEM")
    key: str = field(name="PrivateKeyPEM")
    service: str = field(name="Service")
    uri: str = field(name="ServiceURI")
    valid_after: datetime.datetime = field(name="ValidAfter")
    valid_before: datetime.datetime = field(name="ValidBefore")

    def __repr__(self) -> str:
        return f"LeafAnswer(service={self.service!r}, serial={self.serial!r})"


class PermissionHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str = field(name="Name")
    present: bool = field(name="Present", default=False)
    exact: str = field(name="Exact", default="")
    prefix: str = field(name="Prefix", default="")
    suffix: str = field(name="Suffix", default="")
    contains: str = field(name="Contains", default="")
    regex: str = field(name="Regex", default="")
    invert: bool = field(name="Invert", default=False)
    ignore_case: bool = field(name="IgnoreCase", default=False)


class PermissionHttp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path_exact: str = field(name="PathExact", default="")
    path_prefix: str = field(name="PathPrefix", default="")
    path_regex: str = field(name="PathRegex", default="")
    headers: list[PermissionHeader] | None = field(name="Header", default=None)
    methods: list[str] | None = field(name="Methods", default=None)


class PermissionEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An element of an intention's `Permissions`. What is unknown here is not ignored: it could be
    a condition."""

    action: Literal["allow", "deny"] = field(name="Action")
    http: PermissionHttp | None = field(name="HTTP", default=None)
    jwt: Any = field(name="JWT", default=None)


class IntentionEntry(msgspec.Struct, frozen=True):
    """An element of `/v1/connect/intentions`; with permissions (since 1.9) `action` is empty.

    `permissions` are PermissionEntry, if they can be understood, which is asked of each intention
    by itself: one of them must not take the others away. `jwt` are demands on all sources.
    """

    source: str = field(name="SourceName")
    destination: str = field(name="DestinationName")
    action: str = field(name="Action", default="")
    precedence: int = field(name="Precedence", default=0)
    id: str = field(name="ID", default="")
    permissions: Any = field(name="Permissions", default=None)
    jwt: Any = field(name="JWT", default=None)
    source_peer: str = field(name="SourcePeer", default="")
    source_partition: str = field(name="SourcePartition", default="")
    destination_partition: str = field(name="DestinationPartition", default="")
    source_namespace: str = field(name="SourceNS", default="default")
    destination_namespace: str = field(name="DestinationNS", default="default")


class Node(msgspec.Struct, frozen=True):
    name: str = field(name="Node")
    address: str = field(name="Address", default="")
    datacenter: str = field(name="Datacenter", default="")
    tagged_addresses: dict[str, str] | None = field(name="TaggedAddresses", default=None)
    meta: dict[str, str] | None = field(name="Meta", default=None)


class TaggedAddress(msgspec.Struct, frozen=True):
    address: str = field(name="Address", default="")
    port: int = field(name="Port", default=0)


class Weights(msgspec.Struct, frozen=True):
    passing: int = field(name="Passing", default=1)
    warning: int = field(name="Warning", default=1)


class Proxy(msgspec.Struct, frozen=True):
    destination: str = field(name="DestinationServiceName", default="")
    destination_id: str = field(name="DestinationServiceID", default="")
    local_port: int = field(name="LocalServicePort", default=0)


class ServiceInstance(msgspec.Struct, frozen=True):
    """A registration; `name` of a sidecar is the sidecar's own."""

    id: str = field(name="ID")
    name: str = field(name="Service")
    kind: str = field(name="Kind", default="")
    address: str = field(name="Address", default="")
    port: int = field(name="Port", default=0)
    tags: list[str] | None = field(name="Tags", default=None)
    meta: dict[str, str] | None = field(name="Meta", default=None)
    tagged_addresses: dict[str, TaggedAddress] | None = field(name="TaggedAddresses", default=None)
    weights: Weights = field(name="Weights", default=Weights())
    proxy: Proxy | None = field(name="Proxy", default=None)


class Check(msgspec.Struct, frozen=True):
    status: str = field(name="Status", default="")
    id: str = field(name="CheckID", default="")
    service_id: str = field(name="ServiceID", default="")
    notes: str = field(name="Notes", default="")
    type: str = field(name="Type", default="")
    output: str = field(name="Output", default="")
    exposed_port: int = field(name="ExposedPort", default=0)


class Instance(msgspec.Struct, frozen=True):
    """An element of `/v1/health/connect/<service>`."""

    node: Node = field(name="Node")
    service: ServiceInstance = field(name="Service")
    checks: list[Check] | None = field(name="Checks", default=None)


class NodeServices(msgspec.Struct, frozen=True):
    """`/v1/catalog/node/<node>`; `null` for one that is gone."""

    node: Node | None = field(name="Node", default=None)
    services: dict[str, ServiceInstance] | None = field(name="Services", default=None)

    def instances(self) -> tuple[Instance, ...]:
        """Its sidecars."""
        if self.node is None:
            return ()
        services = (self.services or {}).values()
        return tuple(Instance(self.node, one) for one in services if one.proxy is not None)


class ServiceSummary(msgspec.Struct, frozen=True):
    """An element of `/v1/internal/ui/services`."""

    nodes: list[str] | None = field(name="Nodes", default=None)


class AgentConfig(msgspec.Struct, frozen=True):
    datacenter: str = field(name="Datacenter", default="")
    node: str = field(name="NodeName", default="")
    version: str = field(name="Version", default="")


class AgentSelf(msgspec.Struct, frozen=True):
    """`/v1/agent/self`."""

    config: AgentConfig = field(name="Config", default=AgentConfig())
    meta: dict[str, str] | None = field(name="Meta", default=None)


class KeyValue(msgspec.Struct, frozen=True):
    """An element of `/v1/kv/<prefix>?recurse`; the value is in Base64 there."""

    key: str = field(name="Key")
    value: bytes | None = field(name="Value", default=None)


CatalogServices = dict[str, list[str] | None]
AgentServices = dict[str, ServiceInstance]
AgentChecks = dict[str, Check]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def seconds(duration: str | int) -> float:
    """A Go duration (`"1m30s"`, or nanoseconds as a number) in seconds; 0.0 for what is none.

    >>> seconds("1m30s"), seconds("-250ms"), seconds(3_000_000_000), seconds("")
    (90.0, -0.25, 3.0, 0.0)
    """
    if isinstance(duration, int):
        return duration / 1e9
    value = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(duration))
    return -value if duration.startswith("-") else value
