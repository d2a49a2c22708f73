"""A snapshot linked for lookups in a worker."""

from __future__ import annotations

from fleetmesh.balance.hashing import digest, mixed
from fleetmesh.core.admission import admission
from fleetmesh.core.buckets import Buckets
from fleetmesh.core.budget import Budget
from fleetmesh.core.entry import LocalEntry, UpstreamEntry
from fleetmesh.core.exposed import Exposed
from fleetmesh.core.faults import Faults, Hits, kept, linked
from fleetmesh.core.lane import DEFAULTS, Lane, Place
from fleetmesh.core.line import Lines, TargetKey, lines_of
from fleetmesh.core.outlier import Outliers, Standing
from fleetmesh.core.outlier_rules import Rules
from fleetmesh.core.routes import Matcher
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.fault import Fault
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Ejected, Ejection, EjectionCount, UnderWay
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Health, Target, Upstream
from fleetmesh.settings import UpstreamSettings

PlaceKey = tuple[str, str, str | None, str, int, str, str, float, bool]


class Table:
    """`upstreams` by service name, `by_destination` by the address and port that a caller dials,
    `by_address` by the address where every port is the upstream's, `services` by name, `by_port`
    by the application's port, `exposed` what is served in the clear by the port it is asked for on,
    `outsiders` names of services without a sidecar by destination.
    `ejections` are counted by service and reason, and for as long as there are tables; so are the
    `hits` of `faults`, which are by upstream. `seed` and `now` are for outliers that begin with
    this one."""

    __slots__ = (
        "by_address",
        "by_destination",
        "by_port",
        "ejections",
        "exposed",
        "faults",
        "generation",
        "hits",
        "lines",
        "now",
        "outliers",
        "outsiders",
        "places",
        "seed",
        "services",
        "snapshot",
        "upstreams",
    )

    def __init__(
        self, snapshot: Snapshot, generation: int, now: float = 0.0, seed: int = 0
    ) -> None:
        self.snapshot = snapshot
        self.generation = generation
        self.services: dict[str, LocalEntry] = {}
        self.by_port: dict[int, LocalEntry] = {}
        self.exposed: dict[int, Exposed] = {}
        self.upstreams: dict[str, UpstreamEntry] = {}
        self.by_destination: dict[tuple[str, int], UpstreamEntry] = {}
        self.by_address: dict[str, UpstreamEntry] = {}
        self.places: dict[PlaceKey, Place] = {}
        self.lines: dict[TargetKey, Lines] = {}
        self.outliers: dict[TargetKey, Outliers] = {}
        self.ejections: dict[tuple[str, str], int] = {}
        self.faults: dict[str, Faults] = {}
        self.hits: Hits = {}
        self.now = now
        self.seed = seed
        self.outsiders = {
            destination: outsider.name
            for outsider in snapshot.outsiders
            for destination in outsider.destinations
        }

    def closed(self, destination: tuple[str, int]) -> Refusal | None:
        """Why nothing goes to a `destination` that is no upstream's; None where it passes."""
        if destination in self.outsiders:
            return Refusal.NO_SIDECAR if self.snapshot.refuse_outsiders else None
        return Refusal.UNKNOWN_DESTINATION if self.snapshot.mesh_destinations_only else None

    def owner(self, destination: tuple[str, int]) -> UpstreamEntry | None:
        """Whose address and port, or virtual address, it is."""
        entry = self.by_destination.get(destination)
        return self.by_address.get(destination[0]) if entry is None else entry

    def lanes(self) -> list[Lane]:
        lanes: list[Lane] = []
        for entry in self.services.values():
            lanes.extend(entry.lanes())
        for place in self.places.values():
            lanes.extend(place.lanes())
        return lanes

    def under_way(self) -> tuple[UnderWay, ...]:
        """What goes on at the applications of this host, by service."""
        found: list[UnderWay] = []
        for name, entry in self.services.items():
            pool = entry.application.pool
            admission = entry.admission
            limit = 0.0
            if admission is not None and admission.concurrency is not None:
                limit = admission.concurrency.limit
            found.append(UnderWay(name, pool.active + pool.opening, limit))
        return tuple(found)

    def ejection_counts(self) -> tuple[EjectionCount, ...]:
        return tuple([EjectionCount(*key, count) for key, count in self.ejections.items()])

    def end_faults(self) -> None:
        """Strike no further request."""
        self.faults = {}
        for entry in self.upstreams.values():
            entry.faults = None

    def heard(self, ejection: Ejection, now: float) -> None:
        """What another worker found."""
        outliers = self.outliers.get((ejection.target, ejection.connect_timeout))
        if outliers is not None:
            outliers.heard(ejection.endpoint, ejection.reason, ejection.seconds, now)

    def ejected(self) -> tuple[Ejected, ...]:
        """The endpoints that get no requests at the moment."""
        found: list[Ejected] = []
        for outliers in self.outliers.values():
            out = [one for one in outliers.standings if one.out]
            found += [Ejected(outliers.service, one.endpoint_id, one.reason) for one in out]
        return tuple(found)


def link(
    snapshot: Snapshot,
    generation: int,
    previous: Table | None,
    offset: int,
    keeping: UpstreamSettings = DEFAULTS,
    now: float = 0.0,
    seed: int = 0,
    workers: int = 1,
    faults: tuple[Fault, ...] = (),
    buckets: Buckets | None = None,
) -> Table:
    """A table of `snapshot`, with `faults`. What did not change keeps its places, lanes and pools.

    `offset` is the worker's number, for pickers; `keeping` is for new pools. `now` is of the clock
    that endpoints' outcomes are told by, `seed` any number, different from caller to caller.
    `workers` share what an instance may do, and the `buckets` of its rates (None: of their own).
    """
    table = Table(snapshot, generation, now, seed)
    if previous is not None:
        table.ejections = previous.ejections
        table.hits = kept(previous.hits, faults)
    table.faults = linked(faults, table.hits)
    for service in snapshot.services:
        application = admitted = None
        if previous is not None and (known := previous.services.get(service.name)) is not None:
            application = known.application
            admitted = known.admission
        if application is None or (application.address, application.port) != (
            service.address,
            service.port,
        ):
            application = Lane(service.id, service.address, service.port, keeping=keeping)
        application.connect_timeout = service.connect_timeout
        application.pool.limit(service.max_connections, 0, 0)
        admitted = admission(service, application, workers, now, admitted, buckets)
        local = LocalEntry(service, snapshot.default_allow, application, admitted)
        table.services[service.name] = local
        table.by_port[service.port] = local
        before = previous.services.get(service.name) if previous is not None else None
        for path in service.exposed:
            lane = local.lane_to(path.port, before, keeping)
            table.exposed.setdefault(path.listener_port, Exposed()).add(path, service.name, lane)
    for upstream in snapshot.upstreams:
        entry = _upstream(upstream, table, previous, offset, keeping)
        table.upstreams[upstream.service] = entry
        for destination in upstream.destinations:
            table.by_destination[destination] = entry
        for address in upstream.virtual_addresses:
            table.by_address[address] = entry
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
    if known is not None:
        budget = known.budget
    else:
        budget = Budget(keeping.retry_budget, keeping.min_retries_per_second)
    targets: dict[str, TargetEntry] = {}
    for target in upstream.targets():
        before = known.targets.get(target.id) if known is not None else None
        places = _places(target, table, previous, keeping)
        outliers = _outliers(target, places, table, previous, keeping)
        entry = TargetEntry(target.id, places, offset, target.balancing, before, outliers)
        entry.treat(target.tries, keeping, budget)
        targets[target.id] = entry
    for target in upstream.targets():
        targets[target.id].fail_over([targets[other] for other in target.failover])
    return UpstreamEntry(upstream, targets, matcher, budget, table.faults.get(upstream.service))


def _places(
    target: Target, table: Table, previous: Table | None, keeping: UpstreamSettings
) -> list[Place]:
    """The eligible places of `target`; all of them are put down in `table`. Upstreams that share
    a target share its places."""
    expected = str(target.spiffe_id)
    before = previous.lines if previous is not None else {}
    lines = lines_of(target, keeping.queue_wait, table.lines, before)
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
            endpoint.shares,
        )
        place = table.places.get(key)
        if place is None and previous is not None:
            place = previous.places.get(key)
        if place is None:
            place = Place(endpoint, expected, target.sni, target.connect_timeout, keeping)
        place.endpoint = endpoint
        place.limit(target.limits, lines)
        table.places[key] = place
        if endpoint.health is not Health.CRITICAL and endpoint.weight > 0:
            places.append(place)
        else:
            place.cool()
    return places


def _outliers(
    target: Target,
    places: list[Place],
    table: Table,
    previous: Table | None,
    keeping: UpstreamSettings,
) -> Outliers | None:
    """None where one endpoint, or none, has all requests whatever it does with them."""
    if len(places) < 2:
        for place in places:
            place.watch(None)
        return None
    key = (target.id, target.connect_timeout)
    outliers = table.outliers.get(key)
    if outliers is not None:
        return outliers
    rules = Rules(keeping.outlier, keeping.slow_start, target.passive_health)
    outliers = previous.outliers.get(key) if previous is not None else None
    if outliers is None:
        seed = mixed(table.seed ^ digest(target.id.encode()))
        outliers = Outliers(target.service, rules, seed, table.ejections)
    standings: list[Standing] = []
    for place in places:
        standing = place.standing
        if standing is None:
            standing = Standing(place.endpoint.id, outliers)
            place.watch(standing)
        standings.append(standing)
    outliers.hold(standings, rules, table.now)
    table.outliers[key] = outliers
    return outliers


def dropped(previous: Table, table: Table) -> list[Lane]:
    """The lanes of `previous` that lead nowhere any more: their idle connections are to close.

    A lane goes with its endpoint, with its application's address or with the local service
    whose identity it carries.
    """
    lanes: list[Lane] = []
    for name, entry in previous.services.items():
        successor = table.services.get(name)
        kept = set(map(id, successor.lanes())) if successor is not None else set()
        lanes.extend([lane for lane in entry.lanes() if id(lane) not in kept])
    for key, place in previous.places.items():
        if table.places.get(key) is place:
            lanes.extend(place.forget_all_but(table.services))
        else:
            lanes.extend(place.lanes())
    return lanes
