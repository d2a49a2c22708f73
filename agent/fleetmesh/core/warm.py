"""Which connections to open before anybody asks for them."""

from __future__ import annotations

from collections.abc import Collection

from fleetmesh.core.lane import Caller, Lane
from fleetmesh.core.table import Table
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.traffic import Protocol


def cold(table: Table, ready: Collection[str]) -> list[tuple[str, Lane]]:
    """The upstream's name and the lane, of each that leads from one of the services in `ready`
    (those that can prove who they are) to an endpoint that it will probably call, and that was
    not warmed yet.

    Only over HTTP does a connection wait for a request; and where a peer finds out what a
    connection speaks, silence would mean tcp.
    """
    found: dict[Lane, str] = {}
    for entry in table.upstreams.values():
        if entry.upstream.protocol is not Protocol.HTTP:
            continue
        service = entry.upstream.service
        for target in entry.targets.values():
            for source, ipv6 in sorted(_callers(table, service, target)):
                if source in ready:
                    for lane in (place.lane(source, ipv6) for place in target.places):
                        if not lane.warmed:
                            found.setdefault(lane, service)
    return [(service, lane) for lane, service in found.items()]


def _callers(table: Table, service: str, target: TargetEntry) -> set[Caller]:
    """Who has called it, and who is declared to."""
    called = set(target.callers())
    known = {source for source, _ in called}
    declared = {
        (source, False)
        for source, entry in table.services.items()
        if service in entry.service.upstreams and source not in known
    }
    return called | declared
