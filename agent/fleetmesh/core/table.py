"""A snapshot linked for lookups in a worker."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fleetmesh.balance import PICKERS
from fleetmesh.core.authz import Authorizer
from fleetmesh.core.pool import Pool
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.model.traffic import Endpoint, Health, Upstream
from fleetmesh.settings import UpstreamSettings

_DEFAULTS = UpstreamSettings()


class Lane:
    """The way from one identity to one address: connections are never shared between identities.

    `source` is the local service whose certificate is shown, `expected` the SPIFFE ID that the
    endpoint must prove; both are empty for an application on this host, which is reached in the
    clear. `session` is for the TLS layer to keep what it resumes from; `warmed` says that its
    first connections are opened, or tried to be, without waiting for a request.
    """

    __slots__ = (
        "address",
        "connect_timeout",
        "endpoint_id",
        "expected",
        "pool",
        "port",
        "session",
        "sni",
        "source",
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
        self.warmed = False
        self.pool: Pool[Any] = Pool(
            keeping.max_idle,
            keeping.idle_timeout if expected else keeping.application_idle_timeout,
            keeping.max_age,
            # One's own application has no other instance that could take what it must not.
            keeping.max_connections if expected else 0,
            keeping.max_requests if expected else 0,
        )


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


class Route:
    """An upstream with its eligible endpoints and the picker that goes around among them.

    `called_by` are those that called it in earlier tables.
    """

    __slots__ = ("_called_by", "_picker", "places", "upstream")

    def __init__(
        self,
        upstream: Upstream,
        places: list[Place],
        offset: int,
        called_by: frozenset[Caller] = frozenset(),
    ) -> None:
        self._called_by = called_by
        self.upstream = upstream
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
    """`routes` by upstream's service name, `by_destination` by the address that a caller dials,
    `services` by name, `by_port` by the application's port."""

    __slots__ = (
        "by_destination",
        "by_port",
        "generation",
        "places",
        "routes",
        "services",
        "snapshot",
    )

    def __init__(self, snapshot: Snapshot, generation: int) -> None:
        self.snapshot = snapshot
        self.generation = generation
        self.services: dict[str, LocalEntry] = {}
        self.by_port: dict[int, LocalEntry] = {}
        self.routes: dict[str, Route] = {}
        self.by_destination: dict[tuple[str, int], Route] = {}
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
        entry = LocalEntry(service, snapshot.default_allow, application)
        table.services[service.name] = entry
        table.by_port[service.port] = entry
    for upstream in snapshot.upstreams:
        target = upstream.target
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
            place = previous.places.get(key) if previous is not None else None
            if place is None:
                place = Place(endpoint, expected, target.sni, target.connect_timeout, keeping)
            place.endpoint = endpoint
            table.places[key] = place
            if endpoint.health is not Health.CRITICAL and endpoint.weight > 0:
                places.append(place)
            else:
                place.cool()
        before = previous.routes.get(upstream.service) if previous is not None else None
        route = Route(upstream, places, offset, before.callers() if before else frozenset())
        table.routes[upstream.service] = route
        for destination in upstream.destinations:
            table.by_destination[destination] = route
    return table


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
