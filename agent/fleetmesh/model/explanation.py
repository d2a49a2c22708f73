"""What becomes of one request or connection, and why: what `fleetmesh explain` shows.

Values as the data plane has them; texts are for people. Durations are seconds, shares hundredths
of a percent.
"""

from __future__ import annotations

import enum

import msgspec

from fleetmesh.model.traffic import Match


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request of the local service `source` with `method`, or a TCP connection without one.

    `host` and `port` are what the application dials: a name, or an address without brackets.
    `service`, where it is given, is the upstream, whatever `host` may be.
    """

    source: str
    host: str
    port: int
    method: str = ""
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""


class Outcome(enum.StrEnum):
    """PARTLY: some shares are served and some are not. UNKNOWN: the callee decides, by what is not
    known here. PASSES: not the mesh's, it goes on untouched."""

    ALLOWED = "allowed"
    DENIED = "denied"
    REFUSED = "refused"
    PARTLY = "partly"
    UNKNOWN = "unknown"
    PASSES = "passes"


class How(enum.StrEnum):
    """By what an upstream was found."""

    ADDRESS = "address"
    VIRTUAL_ADDRESS = "virtual address"
    NAME = "name"
    SERVICE = "service"
    NOTHING = "nothing"


class Found(msgspec.Struct, frozen=True):
    """`addresses` are the virtual ones that the name has."""

    how: How
    service: str = ""
    addresses: tuple[str, ...] = ()
    note: str = ""


class Criterion(msgspec.Struct, frozen=True):
    """A part of a match, and whether the request fulfils it."""

    text: str
    holds: bool


class RuleState(msgspec.Struct, frozen=True):
    """A rule that was asked. `entry` is where it stands in Consul, or its name in a file."""

    name: str
    entry: str
    criteria: tuple[Criterion, ...]
    taken: bool


class EndpointState(msgspec.Struct, frozen=True):
    """`out` is why it gets nothing; empty when it serves."""

    id: str
    address: str
    port: int
    health: str
    weight: int
    out: str = ""
    address6: str | None = None
    meta: dict[str, str] = {}
    zone: str = ""


class SpareState(msgspec.Struct, frozen=True):
    """A target that serves while those before it have no endpoint left."""

    id: str
    service: str
    datacenter: str
    endpoints: tuple[EndpointState, ...]


class TargetState(msgspec.Struct, frozen=True):
    """`serving` is the id of the target whose endpoints are used: its own, that of a failover, or
    none. `sni`, `spiffe_id` and `connect_timeout` are then those of that one. `picks` is the
    endpoint that the request's hash leads to, where one does; `filter` is what instances must
    fulfil, in Consul's words; `zone` the one whose endpoints are preferred. A request that finds no
    place waits `queue_wait` seconds."""

    id: str
    service: str
    subset: str
    datacenter: str
    endpoints: tuple[EndpointState, ...]
    serving: str
    failover: tuple[SpareState, ...]
    sni: str
    spiffe_id: str
    connect_timeout: float
    balancing: str
    hashed_by: tuple[str, ...] = ()
    picks: str = ""
    max_connections: int = 0
    max_requests: int = 0
    queue_wait: float = 0.0
    filter: str = ""
    zone: str = ""


class Decision(msgspec.Struct, frozen=True):
    """Whether the callee `destination` lets `source` in. `allowed` None is not known. `because` is
    the intention, with its permission, or the default policy; `precedence` 0 without an intention.
    `basis` says whose knowledge it is; `consul` is Consul's own answer, None when it gave none."""

    destination: str
    allowed: bool | None
    because: str
    basis: str
    precedence: int = 0
    permission: str = ""
    consul: bool | None = None
    note: str = ""


class LegState(msgspec.Struct, frozen=True):
    """Where a share of such requests goes. `steps` are the nodes of Consul's chain on the way;
    `refusal` the code of what the caller's agent would answer in its place. Timeouts are seconds,
    0.0 is none; `*_by` is what sets a value; `try_timeout` is for each try, `hedge` sends a slow
    request to a second endpoint; `rates` is what the callee takes of such requests, in words.
    `request_changes` are the field lines that differ (`+`, `-`) on this request, `response_changes`
    what is asked for."""

    share: int
    target: TargetState
    forwarded: str = ""
    refusal: str = ""
    decision: Decision | None = None
    timeout: float = 0.0
    timeout_by: str = ""
    idle_timeout: float = 0.0
    idle_timeout_by: str = ""
    retries: int = 0
    retried: tuple[str, ...] = ()
    retries_by: str = ""
    try_timeout: float = 0.0
    try_timeout_by: str = ""
    stream_timeout: float = 0.0
    stream_timeout_by: str = ""
    hedge: bool = False
    hedge_by: str = ""
    rates: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    request_changes: tuple[str, ...] = ()
    response_changes: tuple[str, ...] = ()


class IdentityState(msgspec.Struct, frozen=True):
    """The caller's own certificate; without one `serial` is empty."""

    spiffe_id: str
    serial: str = ""
    not_after: float = 0.0
    seconds_left: float = 0.0


class Explanation(msgspec.Struct, frozen=True):
    """`kind` is http, tcp or passthrough; `route` the name of the rule that decided, empty when
    none did, and `decided_by` that rule's entry, or what decides in its place."""

    question: Question
    outcome: Outcome
    reason: str
    found: Found
    identity: IdentityState
    generation: int = 0
    upstream: str = ""
    protocol: str = ""
    kind: str = ""
    rules: tuple[RuleState, ...] = ()
    route: str = ""
    decided_by: str = ""
    legs: tuple[LegState, ...] = ()
    notes: tuple[str, ...] = ()


class RouteState(msgspec.Struct, frozen=True):
    """A rule of an upstream as it stands; the last one, without a name, is for the rest. `legs` are
    shares and targets' ids."""

    name: str
    entry: str
    match: Match
    criteria: tuple[str, ...]
    legs: tuple[tuple[int, str], ...]
    does: tuple[str, ...] = ()


class Routes(msgspec.Struct, frozen=True):
    service: str
    protocol: str
    routes: tuple[RouteState, ...]


class Endpoints(msgspec.Struct, frozen=True):
    """`others` are instances that are in none of the targets, with why."""

    service: str
    targets: tuple[TargetState, ...]
    others: tuple[EndpointState, ...] = ()


class Difference(msgspec.Struct, frozen=True):
    """`path` in both answers; either side is None where it has nothing there."""

    path: str
    in_force: object
    consul: object
