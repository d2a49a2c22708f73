"""Opens connections to endpoints before a request needs them."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.warm import cold
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.proxy.dial import Failure, dial
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.upstream import Upstream

_log = logging.getLogger(__name__)


class _Nowhere(Site):
    """Of a connection that serves no request: when it cannot be had, none takes its place."""

    __slots__ = ()

    def lane(self, tried: Collection[str], request: RequestHead | None = None) -> Lane | Refusal:
        return Refusal.NO_ENDPOINT


def warm(plane: Plane, count: int) -> None:
    """Begin to open `count` connections on every lane that is cold in the plane's table.

    Each proves its peer's identity like any other; one that fails is not tried again, for the
    first request will be the one to tell.
    """
    if not count or plane.draining:
        return
    for service, lane in cold(plane.table, plane.identities):
        lane.warmed = True
        site = _Nowhere(plane, Direction.OUTBOUND, lane.source, service, "http")
        plane.spawn(_connect(plane, site, lane, count))


async def _connect(plane: Plane, site: Site, lane: Lane, count: int) -> None:
    """One after the other: a burst of handshakes would make live requests wait."""
    pool = lane.pool
    while not pool.closed and len(pool) + pool.active + pool.opening < count:
        pool.opening += 1
        try:
            _, outcome = await dial(plane, site, lane, lambda lane: Upstream(plane, lane))
        finally:
            pool.opening -= 1
        if isinstance(outcome, Failure):
            _log.debug("not warmed, %s:%d: %s", lane.address, lane.port, outcome.detail)
            return
        pool.lend()
        outcome.shelve()
