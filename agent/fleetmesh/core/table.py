"""A snapshot linked for lookups in a worker."""

from __future__ import annotations

from collections.abc import Collection

from fleetmesh.balance import PICKERS
from fleetmesh.core.authz import Authorizer
from fleetmesh.core.lane import DEFAULTS, Caller, Lane, Place
from fleetmesh.core.retry import Policy, policy
from fleetmesh.core.routes import Matcher
from fleetmesh.model.snapshot import LocalService, Snapshot
from fleetmesh.model.traffic import Health, Match, Target, Upstream
from fleetmesh.settings import UpstreamSettings


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

    `rewrites`: the target is forwarded changed, as `forwarded` says. `limits`: it has a
    `timeout` or an `idle_timeout` of its own (seconds, None: the settings'). `retries` is None
    where nothing is retried.
    """

    __slots__ = (
        "_cut",
        "_prefix",
        "idle_timeout",
        "limits",
        "name",
        "retries",
        "rewrites",
        "target",
        "timeout",
    )

    def __init__(
        self,
        name: str,
        target: TargetEntry,
        match: Match,
        prefix_rewrite: str,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        retries: Policy | None = None,
    ) -> None:
        self.retries = retries
        self.timeout = timeout
        self.idle_timeout = idle_timeout
        self.limits = timeout is not None or idle_timeout is not None
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
    those of the routes in order, and last the default, which is where its -1 leads. `plain`: no
    request needs a way chosen, the default's target is all that there is to know."""

    __slots__ = ("default", "matcher", "plain", "targets", "upstream", "ways")

    def __init__(
        self, upstream: Upstream, targets: dict[str, TargetEntry], matcher: Matcher | None
    ) -> None:
        self.upstream = upstream
        self.targets = targets
        self.matcher = matcher
        self.default = Way("", targets[upstream.target.id], Match(), "", upstream.timeout)
        self.plain = matcher is None and not self.default.limits
        self.ways = [
            Way(
                route.name,
                targets[(route.target or upstream.target).id],
                route.match,
                route.prefix_rewrite,
                route.timeout,
                route.idle_timeout,
                policy(route.retries),
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
    keeping: UpstreamSettings = DEFAULTS,
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
