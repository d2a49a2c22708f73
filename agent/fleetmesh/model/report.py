"""What a worker tells the controller of its traffic."""

from __future__ import annotations

import enum

import msgspec


class Direction(enum.StrEnum):
    OUTBOUND = "outbound"
    INBOUND = "inbound"
    PLAIN = "plain"


class RequestCount(msgspec.Struct, frozen=True, array_like=True):
    """`status` is the answer's status code; `source` and `destination` are service names; `route`
    is empty for requests that no route chose."""

    direction: Direction
    source: str
    destination: str
    status: int
    count: int
    route: str = ""


class ConnectionCount(msgspec.Struct, frozen=True, array_like=True):
    """`kind` is http, tcp, tls (a ClientHello came where the protocol is found out), passthrough
    (outbound, not in the mesh) or permissive (plain). `seconds` is how long all those together
    were open that have ended, `opened` less `active`."""

    direction: Direction
    source: str
    destination: str
    kind: str
    opened: int
    active: int
    bytes_sent: int
    bytes_received: int
    seconds: float = 0.0


class RefusalCount(msgspec.Struct, frozen=True, array_like=True):
    """`code` is Refusal.code."""

    direction: Direction
    source: str
    destination: str
    code: str
    count: int


class RetryCount(msgspec.Struct, frozen=True, array_like=True):
    """How often a request that `route` chose was sent once more, and how often only the budget kept
    it from being; how often to another endpoint while it was under way (`hedged`), and how often
    that one's answer was the first (`won`)."""

    direction: Direction
    source: str
    destination: str
    route: str
    count: int
    spared: int = 0
    hedged: int = 0
    won: int = 0


class EjectionCount(msgspec.Struct, frozen=True, array_like=True):
    """How often an endpoint of `service` was ejected for `reason`: 5xx, gateway, unanswered,
    failure_rate, latency, probe (it failed the request that was to bring it back)."""

    service: str
    reason: str
    count: int


class Ejected(msgspec.Struct, frozen=True, array_like=True):
    """An endpoint (its id) that gets no requests, and for which of the reasons above. `workers`
    count those that say so."""

    service: str
    endpoint: str
    reason: str
    workers: int = 1


class FaultCount(msgspec.Struct, frozen=True, array_like=True):
    """How many requests an injected fault struck; `kind` is delay or abort, `id` empty for those
    that are over."""

    id: str
    source: str
    destination: str
    kind: str
    count: int


class Ejection(msgspec.Struct, frozen=True, array_like=True):
    """What a worker tells the others of its host: an endpoint of a target (with this connect
    timeout) is ejected for so many `seconds`, or back, with an empty `reason`."""

    target: str
    connect_timeout: float
    endpoint: str
    reason: str
    seconds: float


class Latency(msgspec.Struct, frozen=True, array_like=True):
    """A histogram of whole-request seconds; `counts[i]` is up to and including `BUCKETS[i]`,
    the last is all that took longer. `code_class` is the first digit of the status codes."""

    direction: Direction
    source: str
    destination: str
    route: str
    code_class: int
    counts: tuple[int, ...]
    total: float


BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Served(msgspec.Struct, frozen=True, array_like=True):
    """The leaf that new handshakes of a service get from this worker."""

    service: str
    serial: str
    not_after: float


class UnderWay(msgspec.Struct, frozen=True, array_like=True):
    """The exchanges and relayed connections that a service's application has to end yet; `limit`
    is how many requests it gets at a time at the moment, 0.0 without adaptive concurrency."""

    service: str
    count: int
    limit: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """Totals since the worker began. Rates are the reader's business."""

    pid: int
    generation: int
    requests: tuple[RequestCount, ...] = ()
    connections: tuple[ConnectionCount, ...] = ()
    refusals: tuple[RefusalCount, ...] = ()
    latencies: tuple[Latency, ...] = ()
    served: tuple[Served, ...] = ()
    retries: tuple[RetryCount, ...] = ()
    under_way: tuple[UnderWay, ...] = ()
    ejections: tuple[EjectionCount, ...] = ()
    ejected: tuple[Ejected, ...] = ()
    faults: tuple[FaultCount, ...] = ()
