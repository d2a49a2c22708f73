"""The end of a drain: connections end although something is under way."""

from __future__ import annotations

from fleetmesh.model.report import Direction
from fleetmesh.proxy.downstream import Downstream
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.reader import GONE, IDLE
from fleetmesh.proxy.relay import Relay
from fleetmesh.proxy.site import Site


def part(plane: Plane, service: str) -> int:
    """End what callers have to the local service, each as politely as it can be: how many were in
    the middle of something. Idle connections have a moment to go by themselves."""
    cut = 0
    for held in tuple(plane.connections):
        if isinstance(held, Downstream):
            if not _to(held.site, service) or held.phase == GONE:
                continue
            if held.phase == IDLE:
                held.retire(plane.now)
                continue
            held.abort()
        elif isinstance(held, Relay) and _to(held.site, service):
            held.part()
        else:
            continue
        cut += 1
    return cut


def end_older(plane: Plane, since: float) -> int:
    """End what began before `since` (monotonic seconds): how much that was. Requests that began
    later came on connections that were busy then, so that nobody could be told; those that are idle
    have deadlines of their own."""
    older = [
        held
        for held in plane.connections
        if not isinstance(held, Downstream) or (held.phase != IDLE and held.started <= since)
    ]
    for held in older:
        held.abort()
    return len(older)


def _to(site: Site, service: str) -> bool:
    return site.destination == service and site.direction is not Direction.OUTBOUND
