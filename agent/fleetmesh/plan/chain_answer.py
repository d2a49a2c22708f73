"""Consul's compiled discovery chain as values (`/v1/discovery-chain/<service>`).

Keys of nodes and ids of targets are opaque: 1.21 has a part more in them than 1.8. Durations are
Go strings or nanoseconds, by version and by field; `null` stands for an empty list or map.
"""

from __future__ import annotations

import msgspec
from msgspec import field

Duration = str | int


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A part of a chain: fields are spelled as Consul does."""


class HeaderMatch(Part, frozen=True):
    name: str = ""
    present: bool = False
    exact: str = ""
    prefix: str = ""
    suffix: str = ""
    contains: str = ""
    regex: str = ""
    invert: bool = False
    ignore_case: bool = False


class ParameterMatch(Part, frozen=True):
    name: str = ""
    present: bool = False
    exact: str = ""
    regex: str = ""


class HttpMatch(Part, frozen=True):
    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    case_insensitive: bool = False
    header: list[HeaderMatch] | None = None
    query_param: list[ParameterMatch] | None = None
    methods: list[str] | None = None


class RouteMatch(Part, frozen=True):
    http: HttpMatch | None = field(name="HTTP", default=None)


class Modifiers(Part, frozen=True):
    """Changes of header fields."""

    add: dict[str, str] | None = None
    set: dict[str, str] | None = None
    remove: list[str] | None = None


class Destination(Part, frozen=True):
    """`request_timeout` is for the whole request, its retries included."""

    prefix_rewrite: str = ""
    request_timeout: Duration = ""
    idle_timeout: Duration = ""
    num_retries: int = 0
    retry_on_connect_failure: bool = False
    retry_on: list[str] | None = None
    retry_on_status_codes: list[int] | None = None
    request_headers: Modifiers | None = None
    response_headers: Modifiers | None = None


class RouteDefinition(Part, frozen=True):
    match: RouteMatch | None = None
    destination: Destination | None = None


class ChainRoute(Part, frozen=True):
    next_node: str = ""
    definition: RouteDefinition = RouteDefinition()


class SplitDefinition(Part, frozen=True):
    request_headers: Modifiers | None = None
    response_headers: Modifiers | None = None


class ChainSplit(Part, frozen=True):
    """`weight` in percent; Consul leaves it out when it is 0."""

    weight: float = 0.0
    next_node: str = ""
    definition: SplitDefinition | None = None


class Failover(Part, frozen=True):
    targets: list[str] | None = None


class Resolver(Part, frozen=True):
    target: str
    default: bool = False
    connect_timeout: Duration = "5s"
    request_timeout: Duration = ""
    failover: Failover | None = None


class RingHash(Part, frozen=True):
    minimum_ring_size: int = 0
    maximum_ring_size: int = 0


class LeastRequest(Part, frozen=True):
    choice_count: int = 0


class Cookie(Part, frozen=True):
    session: bool = False
    ttl: Duration = field(name="TTL", default="")
    path: str = ""


class HashPolicy(Part, frozen=True):
    field: str = ""
    field_value: str = ""
    cookie_config: Cookie | None = None
    source_ip: bool = msgspec.field(name="SourceIP", default=False)
    terminal: bool = False


class LoadBalancer(Part, frozen=True):
    policy: str = ""
    ring_hash_config: RingHash | None = None
    least_request_config: LeastRequest | None = None
    hash_policies: list[HashPolicy] | None = None


class ChainNode(Part, frozen=True):
    """`type` is router, splitter or resolver."""

    type: str
    name: str = ""
    routes: list[ChainRoute] | None = None
    splits: list[ChainSplit] | None = None
    resolver: Resolver | None = None
    load_balancer: LoadBalancer | None = None


class Subset(Part, frozen=True):
    filter: str = ""
    only_passing: bool = False


class MeshGateway(Part, frozen=True):
    mode: str = ""


class ChainTarget(Part, frozen=True):
    """`mesh_gateway` has a mode only where the target is in another datacenter. `sni` is what is
    sent, the operator's own name for a service outside (`external`)."""

    id: str = field(name="ID")
    service: str
    datacenter: str = ""
    service_subset: str = ""
    namespace: str = "default"
    partition: str = "default"
    peer: str = ""
    subset: Subset = Subset()
    mesh_gateway: MeshGateway = MeshGateway()
    external: bool = False
    connect_timeout: Duration = ""
    sni: str = field(name="SNI", default="")


class Chain(Part, frozen=True):
    service: str = field(name="ServiceName")
    datacenter: str
    start: str = field(name="StartNode")
    protocol: str = "tcp"
    nodes: dict[str, ChainNode] = {}
    targets: dict[str, ChainTarget] = {}


class ChainAnswer(Part, frozen=True):
    chain: Chain
