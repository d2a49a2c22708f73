"""Where a connection stands: between whom, in which direction, by which way onwards."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Protocol

from fleetmesh.core.authz import Rules, Verdict
from fleetmesh.core.entry import UpstreamEntry
from fleetmesh.core.faults import FaultRule, Faults
from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.retry import Policy
from fleetmesh.core.table import Table
from fleetmesh.core.target import TargetEntry
from fleetmesh.core.way import Leg, Way
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Mode


class Serving(Protocol):
    """Who knows the table of the moment."""

    @property
    def table(self) -> Table: ...

    @property
    def now(self) -> float:
        """Seconds of the monotonic clock, a sweep late at most."""
        ...

    def draw(self) -> int:
        """64 random bits."""
        ...


class Site:
    """`source` and `destination` are service names for logs and counters; `default_host` is the
    Host of a request that has none, `added` the field lines that the mesh adds to requests.

    `refusal` stands in the way of every request until `recheck` takes it away; `verdict` is the
    intention's. `failure` is what an unreachable endpoint means here. `route_name` is the route's
    that the current request takes, empty when it takes none, and `leg` what that and its split say
    of it. `extra` are lines for the head of the current answer, `fault` is what the current request
    suffers of what was injected. `detected`: the protocol was
    found out from the first bytes; `sni` is the name in them where they were TLS. `identity` is
    the SPIFFE ID that the caller has proved. `later` are the lines of a refusal that say when to
    come again.
    """

    __slots__ = (
        "_serving",
        "added",
        "default_host",
        "destination",
        "detected",
        "direction",
        "extra",
        "failure",
        "fault",
        "identity",
        "kind",
        "later",
        "leg",
        "refusal",
        "route_name",
        "sni",
        "source",
        "verdict",
    )

    def __init__(
        self,
        serving: Serving,
        direction: Direction,
        source: str,
        destination: str,
        kind: str,
        default_host: bytes = b"",
    ) -> None:
        self._serving = serving
        self.direction = direction
        self.source = source
        self.destination = destination
        self.kind = kind
        self.default_host = default_host
        self.added = b""
        self.refusal: Refusal | None = None
        self.verdict = Verdict(True)
        self.failure = Refusal.CONNECT_FAILED
        self.detected = False
        self.sni = ""
        self.identity = ""
        self.route_name = ""
        self.later = b""
        self.leg: Leg | None = None
        self.extra = b""
        self.fault: FaultRule | None = None

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        """The way for the next request, away from the endpoints already `tried` if possible.

        A new `request` may choose among routes, and its target is changed as its route says;
        without one the way leads where that of the last request did.
        """
        raise NotImplementedError

    def retries(self) -> Policy | None:
        """When the current request is to be sent again; None: never."""
        leg = self.leg
        return None if leg is None else leg.retries

    def stream_timeout(self) -> float:
        """Seconds that a connection may be relayed for; 0.0 for ever."""
        return 0.0

    def recheck(self, request: RequestHead | None = None) -> bool:
        """Whether the table of the moment permits what was permitted before: the connection, and
        the `request` that is under way on it. `verdict` says why not."""
        return True


class OutboundSite(Site):
    """From the local service `source` to the upstream `destination`. `client` is the address that
    the connection came from. `_number` is what the current request's endpoint is chosen by where
    that is hashed, negative before there was any."""

    __slots__ = ("_client", "_ipv6", "_number", "_way")

    def __init__(
        self,
        serving: Serving,
        source: str,
        destination: str,
        kind: str,
        host: bytes,
        ipv6: bool,
        client: bytes = b"",
    ) -> None:
        super().__init__(serving, Direction.OUTBOUND, source, destination, kind, host)
        self._ipv6 = ipv6
        self._client = client
        self._number = -1
        self._way: Way | None = None

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        table = self._serving.table
        entry = table.upstreams.get(self.destination)
        if entry is None:
            return Refusal.UNKNOWN_DESTINATION
        service = table.services.get(self.source)
        if service is None or service.service.leaf is None:
            return Refusal.NO_IDENTITY
        target = entry.default.target
        if request is not None:
            if entry.chooses or self._way is not None:
                target = self._choose(entry, request).target
                if entry.faults is not None:
                    struck = self._struck(entry.faults, target, request)
                    if struck is not None:
                        return struck
        elif self._way is not None:
            # Chosen when the request began, perhaps of an older table: what that target is now.
            target = entry.targets.get(self._way.target.id, self._way.target)
        number = self._draw(target, request) if target.draws else 0
        place = target.pick(tried, number, self._serving.now)
        return Refusal.NO_ENDPOINT if place is None else place.lane(self.source, self._ipv6)

    def retries(self) -> Policy | None:
        """The route's own go before those that its target has by default."""
        leg = self.leg
        if leg is not None and leg.retries is not None:
            return leg.retries
        entry = self._serving.table.upstreams.get(self.destination)
        if entry is None:
            return None
        target = (self._way or entry.default).target
        return entry.targets.get(target.id, target).retries

    def stream_timeout(self) -> float:
        entry = self._serving.table.upstreams.get(self.destination)
        return 0.0 if entry is None else entry.default.target.stream_timeout

    def _choose(self, entry: UpstreamEntry, request: RequestHead) -> Way:
        matcher = entry.matcher
        way = entry.default
        if matcher is not None:
            way = entry.ways[matcher.find(request.method, request.target, request)]
        if way.rewrites:
            request.target = way.forwarded(request.target)
        if way.divided:
            way = way.drawn(self._serving.draw())
        # None: the routes and splits that there were are gone.
        self._way = way if entry.chooses else None
        self.route_name = way.name
        self.leg = way.leg
        self.extra = b""
        return way

    def _struck(
        self, faults: Faults, target: TargetEntry, request: RequestHead
    ) -> Lane | Refusal | None:
        """Where a fault sends a new `request` in place of an endpoint. None is picked for it yet:
        a delayed one goes to one of the time when it is sent."""
        serving = self._serving
        fault = faults.strike(self.source, request, serving.now, serving.draw())
        if fault is None:
            return None
        if target.draws:
            self._draw(target, request)
        self.fault = fault
        self.extra += fault.line
        return Refusal.FAULT if fault.status else fault.pause

    def _draw(self, target: TargetEntry, request: RequestHead | None) -> int:
        """Another attempt of a request that was hashed has its number."""
        drawn = self._serving.draw()
        hashing = target.hashing
        if hashing is None:
            return drawn
        if request is not None or self._number < 0:
            self._number = hashing.number(request, self._client, drawn)
            self.extra = hashing.set_cookie
        return self._number


class PassthroughSite(Site):
    """From a local service to an address outside the mesh, untouched."""

    __slots__ = ("_lane",)

    def __init__(self, serving: Serving, source: str, address: str, port: int) -> None:
        super().__init__(serving, Direction.OUTBOUND, source, "", "passthrough")
        self._lane = Lane("passthrough", address, port)

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        return self._lane


class ApplicationSite(Site):
    """To the application of the local service `destination`."""

    __slots__ = ()

    def __init__(
        self, serving: Serving, direction: Direction, source: str, destination: str, kind: str
    ) -> None:
        super().__init__(serving, direction, source, destination, kind, b"localhost")
        self.failure = Refusal.APPLICATION_DOWN

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        entry = self._serving.table.services.get(self.destination)
        if entry is None:
            return Refusal.APPLICATION_DOWN
        self.leg = entry.leg
        admission = entry.admission
        if admission is not None and request is not None:
            refusal = admission.judge(self.source, request, time.monotonic())
            if refusal is not None:
                self.later = admission.lines
                return refusal
        return entry.application


class InboundSite(ApplicationSite):
    """From a peer of this mesh to the application of the local service `destination`.

    `trust_domain` is the one that the peer's certificate names. `_rules` judge the requests one
    by one, where the source has permissions; without them its connection is judged alone.
    """

    __slots__ = ("_rules", "_trust_domain")

    def __init__(
        self, serving: Serving, source: str, destination: str, kind: str, trust_domain: str
    ) -> None:
        super().__init__(serving, Direction.INBOUND, source, destination, kind)
        self._trust_domain = trust_domain
        self._rules: Rules | None = None
        self.recheck()

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        rules = self._rules
        if rules is not None and request is not None:
            verdict = self.verdict = rules.settle(request)
            if not verdict.allowed:
                return Refusal.AMBIGUOUS if verdict.ambiguous else Refusal.DENIED
        return super().lane(tried, request)

    def recheck(self, request: RequestHead | None = None) -> bool:
        table = self._serving.table
        entry = table.services.get(self.destination)
        self._rules = None
        if entry is None:
            self.refusal = Refusal.APPLICATION_DOWN
            return False
        if self._trust_domain != table.snapshot.trust_domain.lower():
            self.verdict = Verdict(False)
            self.refusal = Refusal.UNTRUSTED_PEER
            return False
        if self.kind == "http":
            self._rules = rules = entry.authorizer.rules(self.source)
            if rules is not None:
                self.refusal = None
                if request is not None:
                    self.verdict = rules.settle(request)
                return request is None or self.verdict.allowed
        self.verdict = entry.authorizer.decide(self.source)
        self.refusal = None if self.verdict.allowed else Refusal.DENIED
        return self.verdict.allowed


class ExposedSite(Site):
    """From anybody, or a `neighbour` on this host, to what the services here expose on `port`; each
    request says of which one it wants something."""

    __slots__ = ("_neighbour", "_port", "_way")

    def __init__(self, serving: Serving, port: int, neighbour: bool) -> None:
        super().__init__(serving, Direction.PLAIN, "", "", "exposed", b"localhost")
        self.failure = Refusal.APPLICATION_DOWN
        self._port = port
        self._neighbour = neighbour
        self._way: tuple[str, Lane] | None = None
        self.recheck()

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        table = self._serving.table
        if request is not None:
            self._way = self._wanted(request)
        entry = table.services.get(self._way[0]) if self._way is not None else None
        if self._way is None or entry is None:
            return Refusal.NOT_EXPOSED
        self.leg = entry.leg
        return self._way[1]

    def recheck(self, request: RequestHead | None = None) -> bool:
        exposed = self._serving.table.exposed.get(self._port)
        self.destination = ", ".join(exposed.services()) if exposed is not None else ""
        if exposed is None or (request is not None and self._wanted(request) is None):
            self.refusal = Refusal.NOT_EXPOSED
            return False
        self.refusal = None
        return True

    def _wanted(self, request: RequestHead) -> tuple[str, Lane] | None:
        exposed = self._serving.table.exposed.get(self._port)
        return None if exposed is None else exposed.way(request.target, self._neighbour)


class PlainSite(ApplicationSite):
    """From somebody without the mesh to the application of `destination`."""

    __slots__ = ()

    def __init__(self, serving: Serving, destination: str) -> None:
        super().__init__(serving, Direction.PLAIN, "", destination, "permissive")
        self.recheck()

    def recheck(self, request: RequestHead | None = None) -> bool:
        entry = self._serving.table.services.get(self.destination)
        permitted = entry is not None and entry.service.mode is Mode.PERMISSIVE
        self.refusal = None if permitted else Refusal.PLAINTEXT
        return permitted
