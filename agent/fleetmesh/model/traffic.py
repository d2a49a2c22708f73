"""Where traffic can go: endpoints, targets, routes, upstreams."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

from fleetmesh.model.identity import SpiffeId

VIRTUAL4 = "240.0.0.0/4"
VIRTUAL6 = "fd4f:1ee7:7e5f:240::/64"
"""The networks of virtual addresses. The second is random, as RFC 4193 wants it, and the same in
every mesh."""


class Protocol(enum.StrEnum):
    """What the mesh understands of a connection. Anything newer than http acts as tcp; auto is
    found out from the first bytes of each."""

    TCP = "tcp"
    HTTP = "http"
    AUTO = "auto"


class Health(enum.StrEnum):
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


class Endpoint(msgspec.Struct, frozen=True):
    """One instance's sidecar. `id` is unique in its target: `<node>/<sidecar's service id>`.

    `shares`: it may take TCP streams one after another on a connection, as fleetmesh does. `zone`
    is where it is, as its node's meta says.
    """

    id: str
    address: str
    port: int
    address6: str | None = None
    weight: int = 1
    health: Health = Health.PASSING
    meta: dict[str, str] = {}
    shares: bool = True
    zone: str = ""


class HashPolicy(msgspec.Struct, frozen=True):
    """What of a request a hash is taken from: exactly one of header, cookie, query parameter,
    source address. `terminal`: once it has given a hash, the policies after it are not asked.

    A cookie that is missing is set in the answer when `cookie_ttl` (seconds) is given; 0.0 there
    makes it a session's.
    """

    header: str = ""
    cookie: str = ""
    cookie_ttl: float | None = None
    cookie_path: str = ""
    query: str = ""
    source_address: bool = False
    terminal: bool = False


class Balancing(msgspec.Struct, frozen=True):
    """How one endpoint is chosen of many: `policy` is a name in `balance.PICKERS`, empty for the
    agent's default. Sizes of rings and the count of choices are as in service-resolver. Endpoints
    of `local_zone`, if there is one, are preferred until one that is picked has `spill` requests of
    the worker under way."""

    policy: str = ""
    choice_count: int = 2
    minimum_ring_size: int = 1024
    maximum_ring_size: int = 8388608
    hash_policies: tuple[HashPolicy, ...] = ()
    local_zone: str = ""
    spill: int = 8


class Limits(msgspec.Struct, frozen=True):
    """Per caller and worker; None is no limit of Consul's. A request waits `queue_wait` seconds
    for a place where all are taken, None for as long as the settings say."""

    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_concurrent_requests: int | None = None
    queue_wait: float | None = None


class PassiveHealth(msgspec.Struct, frozen=True):
    """What Consul says of ejecting endpoints that fail: seconds, counts and percent; None is what
    the host's settings say."""

    interval: float | None = None
    max_failures: int | None = None
    enforcing_consecutive_5xx: int | None = None
    max_ejection_percent: int | None = None
    base_ejection_time: float | None = None


class Tries(msgspec.Struct, frozen=True):
    """How requests to a target are tried where their route does not say otherwise; None is what
    the host's settings say. `retries` are the default ones: of idempotent methods, after a connect
    that failed or a reset. `stream_timeout` (seconds, 0.0 for none) bounds what goes there, of any
    protocol, from beginning to end."""

    retries: int | None = None
    per_try_timeout: float | None = None
    hedge: bool = False
    stream_timeout: float | None = None


class Target(msgspec.Struct, frozen=True):
    """What a discovery chain ends in. `id` is Consul's and opaque.

    `spiffe_id` is the identity that every endpoint must prove; `connect_timeout` in seconds.
    Endpoints that Consul calls critical are listed too, so that `status` can show them; the
    table leaves them out. `failover` are the ids of other targets of the same upstream, which
    serve in this order while all before them have no endpoint left.
    """

    id: str
    service: str
    datacenter: str
    sni: str
    spiffe_id: SpiffeId
    endpoints: tuple[Endpoint, ...] = ()
    connect_timeout: float = 5.0
    subset: str = ""
    failover: tuple[str, ...] = ()
    balancing: Balancing = Balancing()
    limits: Limits = Limits()
    passive_health: PassiveHealth = PassiveHealth()
    tries: Tries = Tries()


class FieldMatch(msgspec.Struct, frozen=True):
    """A criterion on one header field: exactly one of `present` to `regex`, turned round by
    `invert`.

    Lines of the same name count as one value, joined by ", ". A field that is missing satisfies
    nothing but `present` inverted, as with Envoy.
    """

    name: str
    present: bool = False
    exact: str = ""
    prefix: str = ""
    suffix: str = ""
    regex: str = ""
    invert: bool = False


class QueryMatch(msgspec.Struct, frozen=True):
    """A criterion on one query parameter: exactly one of `present`, `exact`, `regex`.

    The first parameter of the name counts, as it is written: nothing is decoded.
    """

    name: str
    present: bool = False
    exact: str = ""
    regex: str = ""


class Match(msgspec.Struct, frozen=True):
    """Which requests a route is for: all criteria hold, and one of `methods` if there are any.

    Of the paths at most one is given, none is the prefix `/`. They are compared with the path as
    it is written (letters of either case are the same with `ignore_case`), without the query;
    `path_prefix` is a prefix of text, not of segments. A regex is RE2's and matches the whole.
    """

    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    ignore_case: bool = False
    headers: tuple[FieldMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    methods: tuple[str, ...] = ()


class RateLimit(msgspec.Struct, frozen=True):
    """Requests a second that an instance of a service takes of all its callers, or of each
    (`per_caller`), where they `match`; `burst` at once, 0 for those of a second. `name` is told to
    whoever passes it."""

    name: str
    per_second: float
    burst: int = 0
    match: Match = Match()
    per_caller: bool = False


class FieldChanges(msgspec.Struct, frozen=True):
    """Header fields to change, in this order: `remove`, `set` (in place of all lines of the name),
    `add` (one line more). Pairs are name and value."""

    add: tuple[tuple[str, str], ...] = ()
    set: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Retries(msgspec.Struct, frozen=True):
    """`count` is how many times more than once a request may be sent. `on` are Envoy's names of
    conditions: connect-failure, reset, 5xx, gateway-error, retriable-4xx, refused-stream;
    `statuses` are status codes that are retried beside them. A try whose answer has not begun after
    `per_try_timeout` seconds (None: what the target says) is given up, as after a reset."""

    count: int = 0
    on: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    per_try_timeout: float | None = None


class Split(msgspec.Struct, frozen=True):
    """A share of the requests. `weight` is in hundredths of a percent: 10000 is all of them."""

    weight: int
    target: Target
    request_fields: FieldChanges = FieldChanges()
    response_fields: FieldChanges = FieldChanges()


class Route(msgspec.Struct, frozen=True):
    """Where the requests go that match. `target` None is the upstream's own; `splits`, if there
    are any, decide in place of it, anew for every request.

    `prefix_rewrite` takes the place of the path's matched part in the forwarded request: of the
    prefix, or of the whole path that is matched exactly. The query stays. `timeout` is seconds
    for the whole request, its retries and its answer included, None what the settings say (which
    is for the answer to begin), 0.0 none at all. `hedge`: a request of an idempotent method whose
    answer has not begun after the p95 is sent to another endpoint too; None is what its target
    says.
    """

    name: str
    match: Match = Match()
    target: Target | None = None
    prefix_rewrite: str = ""
    splits: tuple[Split, ...] = ()
    timeout: float | None = None
    idle_timeout: float | None = None
    retries: Retries = Retries()
    request_fields: FieldChanges = FieldChanges()
    response_fields: FieldChanges = FieldChanges()
    hedge: bool | None = None


class Upstream(msgspec.Struct, frozen=True):
    """A service as callers see it.

    `destinations` are the (address, port) pairs of the catalog's instances: a captured
    connection to one of them belongs to this service. Addresses are in canonical text form;
    those in `virtual_addresses` are this service's on every port.
    Of `routes` the first that matches a request decides; `target`, or `splits` in its place, get
    what none matches, within `timeout`. What is not http goes to `target`. `spares` are the
    targets that only a failover leads to.
    """

    service: str
    protocol: Protocol
    target: Target
    destinations: tuple[tuple[str, int], ...] = ()
    routes: tuple[Route, ...] = ()
    splits: tuple[Split, ...] = ()
    spares: tuple[Target, ...] = ()
    timeout: float | None = None
    virtual_addresses: tuple[str, ...] = ()

    def targets(self) -> list[Target]:
        """All that traffic can go to, its own first, each once."""
        found = {self.target.id: self.target}
        for target in self._others():
            found.setdefault(target.id, target)
        return list(found.values())

    def _others(self) -> Iterator[Target]:
        yield from (split.target for split in self.splits)
        for route in self.routes:
            if route.target is not None:
                yield route.target
            yield from (split.target for split in route.splits)
        yield from self.spares
