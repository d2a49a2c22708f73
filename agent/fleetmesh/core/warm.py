"""Which connections to open before anybody asks for them."""

from __future__ import annotations

from collections.abc import Collection

from fleetmesh.core.table import Caller, Lane, Route, Table
from fleetmesh.model.traffic import Protocol


def cold(table: Table, ready: Collection[str]) -> list[tuple[str, Lane]]:
    """The upstream's name and the lane, of each that leads from one of the services in `ready`
    (those that can prove who they are) to an endpoint that it will probably call, and that was
    not warmed yet.

    Only over HTTP does a connection wait for a request; and where a peer finds out what a
    connection speaks, silence would mean tcp.
    """
    found: list[tuple[str, Lane]] = []
    for route in table.routes.values():
        if route.upstream.protocol is not Protocol.HTTP:
            continue
        for source, ipv6 in sorted(_callers(table, route)):
            if source in ready:
                lanes = [place.lane(source, ipv6) for place in route.places]
                found.extend((route.upstream.service, lane) for lane in lanes if not lane.warmed)
    return found


def _callers(table: Table, route: Route) -> set[Caller]:
    """Who has called it, and who is declared to."""
    called = set(route.callers())
    known = {source for source, _ in called}
    name = route.upstream.service
    declared = {
        (source, False)
        for source, entry in table.services.items()
        if name in entry.service.upstreams and source not in known
    }
    return called | declared
