"""A snapshot linked for lookups in a worker."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fleetmesh.balance import PICKERS
from fleetmesh.core.authz import Authorizer
from fleetmesh.core.pool import Pool
from fleetmesh.core.routes import Matcher
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.model.traffic import Endpoint, Health, Match, Target, Upstream
from fleetmesh.settings import UpstreamSettings

_DEFAULTS = UpstreamSettings()


class Lane:
    """The way from one identity to one address: connections are never shared between identities.

    `source` is the local service whose certificate is shown, `expected` the SPIFFE ID that the
    endpoint must prove; both are empty for an application on this host, which is reached in the
    clear. `session` is for the TLS layer to keep what it resumes from, and to take another only
    after `session_after` (monotonic seconds). `pool` has the idle
    connections of HTTP, `streams` those that carry TCP streams one after another. `warmed` says
    that its first connections are opened, or tried to be, without waiting for a request.
    """

    __slots__ = (
        "address",
        "connect_timeout",
        "endpoint_id",
        "expected",
        "pool",
        "port",
        "session",
        "session_after",
        "sni",
        "source",
        "streams",
        "warmed",
    )

    def __init__(
        self,
        endpoint_id: str,
        address: str,
        port: int,
        *,
        source: str = "",
        expected: str = "",
        sni: str = "",
        connect_timeout: float = 5.0,
        keeping: UpstreamSettings = _DEFAULTS,
    ) -> None:
        self.endpoint_id = endpoint_id
        self.address = address
        self.port = port
        self.source = source
        self.expected = expected
        self.sni = sni
        self.connect_timeout = connect_timeout
        self.session: Any = None
        self.session_after = 0.0
        self.warmed = False
        idle = keeping.idle_timeout if expected else keeping.application_idle_timeout
        self.pool: Pool[Any] = Pool(
            keeping.max_idle,
            idle,
            keeping.max_age,
            # One's own application has no other instance that could take what it must not.
            keeping.max_connections if expected else 0,
            keeping.max_requests if expected else 0,
        )
        self.streams: Pool[Any] = Pool(keeping.max_idle, idle, keeping.max_age)

    @property
    def pools(self) -> tuple[Pool[Any], Pool[Any]]:
        return self.pool, self.streams


Caller = tuple[str, bool]
"""A local service and whether it dials IPv6."""


class Place:
    """An endpoint with what must outlive a snapshot: its lanes and their pools."""

    __slots__ = ("_keeping", "_lanes", "connect_timeout", "endpoint", "expected", "sni")

    def __init__(
        self,
        endpoint: Endpoint,
        expected: str,
        sni: str,
        connect_timeout: float,
        keeping: UpstreamSettings = _DEFAULTS,
    ) -> None:
        self._keeping = keeping
        self.endpoint = endpoint
        self.expected = expected
        self.sni = sni
        self.connect_timeout = connect_timeout
        self._lanes: dict[Caller, Lane] = {}

    def lane(self, source: str, ipv6: bool) -> Lane:
        """`ipv6`: the caller dialled an IPv6 address, so the endpoint's is preferred."""
        lane = self._lanes.get((source, ipv6))
        if lane is None:
            endpoint = self.endpoint
            lane = self._lanes[source, ipv6] = Lane(
                endpoint.id,
                endpoint.address6 if ipv6 and endpoint.address6 else endpoint.address,
                endpoint.port,
                source=source,
                expected=self.expected,
                sni=self.sni,
                connect_timeout=self.connect_timeout,
                keeping=self._keeping,
            )
        return lane

    def callers(self) -> Collection[Caller]:
        """Whose lanes there are."""
        return self._lanes.keys()

    def cool(self) -> None:
        """It gets no traffic for now: when it does again, it is as good as new."""
        for lane in self._lanes.values():
            lane.warmed = False

    def lanes(self) -> Collection[Lane]:
        return self._lanes.values()

    def forget_all_but(self, sources: Collection[str]) -> list[Lane]:
        """Remove and return the lanes of every other source."""
        gone = [key for key in self._lanes if key[0] not in sources]
        return [self._lanes.pop(key) for key in gone]


class TargetEntry:
    """A target with its eligible endpoints and the picker that goes around among them.

    `called_by` are those that called it in earlier tables.
    """

    __slots__ = ("_called_by", "_picker", "id", "places")

    def __init__(
        self,
        target_id: str,
        places: list[Place],
        offset: int,
        called_by: frozenset[Caller] = frozenset(),
    ) -> None:
        self._called_by = called_by
        self.id = target_id
        self.places = places
        weights = [place.endpoint.weight for place in places]
        self._picker = PICKERS["round_robin"](weights, offset) if places else None

    def pick(self, tried: Collection[str] = ()) -> Place | None:
        """The next endpoint, one that is not in `tried` (ids) if there is any such; None when
        no endpoint is eligible."""
        if self._picker is None:
            return None
        place = self.places[self._picker.pick()]
        if place.endpoint.id not in tried:
            return place
        others = (other for other in self.places if other.endpoint.id not in tried)
        return next(others, place)

    def callers(self) -> frozenset[Caller]:
        """Who has called it so far."""
        return self._called_by.union(*(place.callers() for place in self.places))


class Way:
    """What a route does with a request. The way of requests that no route is for has no `name`.

    `rewrites`: the target is forwarded changed, as `forwarded` says.
    """

    __slots__ = ("_cut", "_prefix", "name", "rewrites", "target")

    def __init__(self, name: str, target: TargetEntry, match: Match, prefix_rewrite: str) -> None:
        self.name = name
        self.target = target
        self.rewrites = bool(prefix_rewrite)
        self._prefix = prefix_rewrite.encode()
        self._cut = len(match.path_prefix.encode())

    def forwarded(self, target: bytes) -> bytes:
        """A request target that this way's route is for, with the matched part of its path
        replaced."""
        if self._cut:
            return self._prefix + target[self._cut :]
        _, mark, query = target.partition(b"?")
        return self._prefix + mark + query


class UpstreamEntry:
    """An upstream with its targets by id. `matcher` is None when it has no routes; `ways` are
    those of the routes in order, and last the default, which is where its -1 leads."""

    __slots__ = ("default", "matcher", "targets", "upstream", "ways")

    def __init__(
        self, upstream: Upstream, targets: dict[str, TargetEntry], matcher: Matcher | None
    ) -> None:
        self.upstream = upstream
        self.targets = targets
        self.matcher = matcher
        self.default = Way("", targets[upstream.target.id], Match(), "")
        self.ways = [
            Way(
                route.name,
                targets[(route.target or upstream.target).id],
                route.match,
                route.prefix_rewrite,
            )
            for route in upstream.routes
        ]
        self.ways.append(self.default)


class LocalEntry:
    """A service of this host: who may call it and the way to its application."""

    __slots__ = ("application", "authorizer", "service", "spiffe_id")

    def __init__(self, service: LocalService, default_allow: bool, application: Lane) -> None:
        self.service = service
        self.spiffe_id = str(service.spiffe_id)
        self.authorizer = Authorizer(service.intentions, default_allow)
        self.application = application


PlaceKey = tuple[str, str, str | None, str, int, str, str, float]


class Table:
    """`upstreams` by service name, `by_destination` by the address that a caller dials,
    `services` by name, `by_port` by the application's port."""

    __slots__ = (
        "by_destination",
        "by_port",
        "generation",
        "places",
        "services",
        "snapshot",
        "upstreams",
    )

    def __init__(self, snapshot: Snapshot, generation: int) -> None:
        self.snapshot = snapshot
        self.generation = generation
        self.services: dict[str, LocalEntry] = {}
        self.by_port: dict[int, LocalEntry] = {}
        self.upstreams: dict[str, UpstreamEntry] = {}
        self.by_destination: dict[tuple[str, int], UpstreamEntry] = {}
        self.places: dict[PlaceKey, Place] = {}

    def lanes(self) -> list[Lane]:
        lanes = [entry.application for entry in self.services.values()]
        for place in self.places.values():
            lanes.extend(place.lanes())
        return lanes


def link(
    snapshot: Snapshot,
    generation: int,
    previous: Table | None,
    offset: int,
    keeping: UpstreamSettings = _DEFAULTS,
) -> Table:
    """A table of `snapshot`. What did not change keeps its places, lanes and pools.

    `offset` is the worker's number, for pickers; `keeping` is for new pools.
    """
    table = Table(snapshot, generation)
    for service in snapshot.services:
        application = None
        if previous is not None and (known := previous.services.get(service.name)) is not None:
            application = known.application
        if application is None or (application.address, application.port) != (
            service.address,
            service.port,
        ):
            application = Lane(service.id, service.address, service.port, keeping=keeping)
        local = LocalEntry(service, snapshot.default_allow, application)
        table.services[service.name] = local
        table.by_port[service.port] = local
    for upstream in snapshot.upstreams:
        entry = _upstream(upstream, table, previous, offset, keeping)
        table.upstreams[upstream.service] = entry
        for destination in upstream.destinations:
            table.by_destination[destination] = entry
    return table


def _upstream(
    upstream: Upstream,
    table: Table,
    previous: Table | None,
    offset: int,
    keeping: UpstreamSettings,
) -> UpstreamEntry:
    matcher = None
    known = previous.upstreams.get(upstream.service) if previous is not None else None
    if upstream.routes:
        matches = [route.match for route in upstream.routes]
        if known is not None and matches == [route.match for route in known.upstream.routes]:
            matcher = known.matcher
        else:
            matcher = Matcher(matches)
    targets: dict[str, TargetEntry] = {}
    for target in upstream.targets():
        before = known.targets.get(target.id) if known is not None else None
        targets[target.id] = TargetEntry(
            target.id,
            _places(target, table, previous, keeping),
            offset,
            before.callers() if before is not None else frozenset(),
        )
    return UpstreamEntry(upstream, targets, matcher)


def _places(
    target: Target, table: Table, previous: Table | None, keeping: UpstreamSettings
) -> list[Place]:
    """The eligible places of `target`; all of them are put down in `table`. Upstreams that share
    a target share its places."""
    expected = str(target.spiffe_id)
    places: list[Place] = []
    for endpoint in target.endpoints:
        key = (
            endpoint.id,
            endpoint.address,
            endpoint.address6,
            target.id,
            endpoint.port,
            expected,
            target.sni,
            target.connect_timeout,
        )
        place = table.places.get(key)
        if place is None and previous is not None:
            place = previous.places.get(key)
        if place is None:
            place = Place(endpoint, expected, target.sni, target.connect_timeout, keeping)
        place.endpoint = endpoint
        table.places[key] = place
        if endpoint.health is not Health.CRITICAL and endpoint.weight > 0:
            places.append(place)
        else:
            place.cool()
    return places


def dropped(previous: Table, table: Table) -> list[Lane]:
    """The lanes of `previous` that lead nowhere any more: their idle connections are to close.

    A lane goes with its endpoint, with its application's address or with the local service
    whose identity it carries.
    """
    lanes: list[Lane] = []
    for name, entry in previous.services.items():
        successor = table.services.get(name)
        if successor is None or successor.application is not entry.application:
            lanes.append(entry.application)
    for key, place in previous.places.items():
        if table.places.get(key) is place:
            lanes.extend(place.forget_all_but(table.services))
        else:
            lanes.extend(place.lanes())
    return lanes
