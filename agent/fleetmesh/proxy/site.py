"""Where a connection stands: between whom, in which direction, by which way onwards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from fleetmesh.core.authz import Verdict
from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import Table, UpstreamEntry, Way
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Mode


class Serving(Protocol):
    """Who knows the table of the moment."""

    @property
    def table(self) -> Table: ...


class Site:
    """`source` and `destination` are service names for logs and counters; `default_host` is the
    Host of a request that has none, `added` the field lines that the mesh adds to requests.

    `refusal` stands in the way of every request until `recheck` takes it away; `verdict` is the
    intention's. `failure` is what an unreachable endpoint means here. `route_name` is the route's
    that the current request takes, empty when it takes none, `way` what is to be done with it, None
    when that is nothing of note. `detected`: the protocol was found out from the first bytes; `sni`
    is the name in them where they were TLS.
    """

    __slots__ = (
        "_serving",
        "added",
        "default_host",
        "destination",
        "detected",
        "direction",
        "failure",
        "kind",
        "refusal",
        "route_name",
        "sni",
        "source",
        "verdict",
        "way",
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
        self.route_name = ""
        self.way: Way | None = None

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        """The way for the next request, away from the endpoints already `tried` if possible.

        A new `request` may choose among routes, and its target is changed as its route says;
        without one the way leads where that of the last request did.
        """
        raise NotImplementedError

    def recheck(self) -> bool:
        """Whether the table of the moment permits what was permitted before."""
        return True


class OutboundSite(Site):
    """From the local service `source` to the upstream `destination`."""

    __slots__ = ("_ipv6",)

    def __init__(
        self, serving: Serving, source: str, destination: str, kind: str, host: bytes, ipv6: bool
    ) -> None:
        super().__init__(serving, Direction.OUTBOUND, source, destination, kind, host)
        self._ipv6 = ipv6

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
            if not entry.plain or self.way is not None:
                target = self._choose(entry, request).target
        elif self.way is not None:
            # Chosen when the request began, perhaps of an older table: what that target is now.
            target = entry.targets.get(self.way.target.id, self.way.target)
        place = target.pick(tried)
        return Refusal.NO_ENDPOINT if place is None else place.lane(self.source, self._ipv6)

    def _choose(self, entry: UpstreamEntry, request: RequestHead) -> Way:
        matcher = entry.matcher
        if matcher is None:  # no routes, or they are gone
            self.way = None if entry.plain else entry.default
            self.route_name = ""
            return entry.default
        way = entry.ways[matcher.find(request.method, request.target, request)]
        if way.rewrites:
            request.target = way.forwarded(request.target)
        self.way = way
        self.route_name = way.name
        return way


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
        return Refusal.APPLICATION_DOWN if entry is None else entry.application


class InboundSite(ApplicationSite):
    """From a peer of this mesh to the application of the local service `destination`.

    `trust_domain` is the one that the peer's certificate names.
    """

    __slots__ = ("_trust_domain",)

    def __init__(
        self, serving: Serving, source: str, destination: str, kind: str, trust_domain: str
    ) -> None:
        super().__init__(serving, Direction.INBOUND, source, destination, kind)
        self._trust_domain = trust_domain
        self.recheck()

    def recheck(self) -> bool:
        table = self._serving.table
        entry = table.services.get(self.destination)
        if entry is None:
            self.refusal = Refusal.APPLICATION_DOWN
            return False
        if self._trust_domain != table.snapshot.trust_domain.lower():
            self.verdict = Verdict(False)
            self.refusal = Refusal.UNTRUSTED_PEER
            return False
        self.verdict = entry.authorizer.decide(self.source)
        self.refusal = None if self.verdict.allowed else Refusal.DENIED
        return self.verdict.allowed


class PlainSite(ApplicationSite):
    """From somebody without the mesh to the application of `destination`."""

    __slots__ = ()

    def __init__(self, serving: Serving, destination: str) -> None:
        super().__init__(serving, Direction.PLAIN, "", destination, "permissive")
        self.recheck()

    def recheck(self) -> bool:
        entry = self._serving.table.services.get(self.destination)
        permitted = entry is not None and entry.service.mode is Mode.PERMISSIVE
        self.refusal = None if permitted else Refusal.PLAINTEXT
        return permitted
