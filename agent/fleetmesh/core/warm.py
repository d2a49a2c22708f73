"""Which connections to open before anybody asks for them."""

from __future__ import annotations

from collections.abc import Collection

from fleetmesh.core.table import Caller, Lane, Table, UpstreamEntry
from fleetmesh.model.traffic import Protocol


def cold(table: Table, ready: Collection[str]) -> list[tuple[str, Lane]]:
    """The upstream's name and the lane, of each that leads from one of the services in `ready`
    (those that can prove who they are) to an endpoint that it will probably call, and that was
    not warmed yet.

    Only over HTTP does a connection wait for a request; and where a peer finds out what a
    connection speaks, silence would mean tcp.
    """
    found: list[tuple[str, Lane]] = []
    for entry in table.upstreams.values():
        if entry.upstream.protocol is not Protocol.HTTP:
            continue
        places = [place for target in entry.targets.values() for place in target.places]
        for source, ipv6 in sorted(_callers(table, entry)):
            if source in ready:
                lanes = [place.lane(source, ipv6) for place in places]
                found.extend((entry.upstream.service, lane) for lane in lanes if not lane.warmed)
    return found


def _callers(table: Table, entry: UpstreamEntry) -> set[Caller]:
    """Who has called it, and who is declared to."""
    called = set(entry.callers())
    known = {source for source, _ in called}
    name = entry.upstream.service
    declared = {
        (source, False)
        for source, local in table.services.items()
        if name in local.service.upstreams and source not in known
    }
    return called | declared
