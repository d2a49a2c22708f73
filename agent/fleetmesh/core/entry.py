"""What a table has of each upstream and of each service of this host."""

from __future__ import annotations

from fleetmesh.core.admission import Admission
from fleetmesh.core.authz import Authorizer
from fleetmesh.core.budget import Budget
from fleetmesh.core.faults import Faults
from fleetmesh.core.lane import Lane
from fleetmesh.core.routes import Matcher
from fleetmesh.core.target import TargetEntry
from fleetmesh.core.way import Leg, default_way, route_way
from fleetmesh.model.snapshot import LocalService
from fleetmesh.model.traffic import Upstream
from fleetmesh.settings import UpstreamSettings


class UpstreamEntry:
    """An upstream with its targets by id. `matcher` is None when it has no routes; `ways` are
    those of the routes in order, and last the default, which is where its -1 leads. `chooses`:
    not every request just goes to the default's target. `budget` is what its retries share;
    `faults` were injected, None when none were."""

    __slots__ = (
        "budget",
        "chooses",
        "default",
        "faults",
        "matcher",
        "targets",
        "upstream",
        "ways",
    )

    def __init__(
        self,
        upstream: Upstream,
        targets: dict[str, TargetEntry],
        matcher: Matcher | None,
        budget: Budget,
        faults: Faults | None = None,
    ) -> None:
        self.budget = budget
        self.faults = faults
        self.upstream = upstream
        self.targets = targets
        self.matcher = matcher
        self.default = default_way(upstream, targets, budget)
        self.ways = [route_way(route, upstream, targets, budget) for route in upstream.routes]
        self.ways.append(self.default)
        self.chooses = (
            matcher is not None
            or self.default.divided
            or self.default.leg is not None
            or faults is not None
        )


class LocalEntry:
    """A service of this host: who may call it and the way to its application, with the leg of
    every request that takes it. `exposed` are the ways to its other ports that it exposes.
    `admission` None lets all requests in."""

    __slots__ = (
        "admission",
        "application",
        "authorizer",
        "exposed",
        "leg",
        "service",
        "spiffe_id",
    )

    def __init__(
        self,
        service: LocalService,
        default_allow: bool,
        application: Lane,
        admission: Admission | None = None,
    ) -> None:
        self.admission = admission
        self.service = service
        self.spiffe_id = str(service.spiffe_id)
        self.authorizer = Authorizer(service.intentions, default_allow)
        self.application = application
        self.exposed: dict[int, Lane] = {}
        timeout = service.request_timeout
        self.leg = None if timeout is None else Leg(timeout)

    def lanes(self) -> list[Lane]:
        return [self.application, *self.exposed.values()]

    def lane_to(self, port: int, before: LocalEntry | None, keeping: UpstreamSettings) -> Lane:
        """The way to a port of the application, as it was `before` if it is still the same."""
        application = self.application
        if port == application.port:
            return application
        lane = self.exposed.get(port)
        if lane is None and before is not None and before.application is application:
            lane = before.exposed.get(port)
        if lane is None:
            lane = Lane(application.endpoint_id, application.address, port, keeping=keeping)
        lane.connect_timeout = application.connect_timeout
        self.exposed[port] = lane
        return lane
