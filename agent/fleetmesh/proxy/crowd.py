"""More connections than a worker can hold: the newest are turned away, what it has goes on."""

from __future__ import annotations

import errno
from typing import Final

from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.proxy.address import peer_name
from fleetmesh.proxy.conduit import Conduit, Quiet
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site

SPARE_FILES: Final = 128
"""What a worker needs beside connections: sockets that listen, its channel, logs, and room for
connections that are being closed."""
LEAST: Final = 16
OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


def most_connections(said: int, open_files: int) -> int:
    """What was `said`, else what `open_files` allow: each connection may need another onwards."""
    return said or max((open_files - SPARE_FILES) // 2, LEAST)


class TurnedAway(Quiet):
    """Closed before anything is read: whoever dialled through a mesh tries another host, and no
    handshake is paid for."""

    __slots__ = ("_direction", "_plane", "_service", "_upstream")

    def __init__(
        self, plane: Plane, direction: Direction, service: str = "", upstream: str = ""
    ) -> None:
        self._plane = plane
        self._direction = direction
        self._service = service
        self._upstream = upstream

    def connection_made(self, transport: Conduit) -> None:
        outbound = self._direction is Direction.OUTBOUND
        source = self._service if outbound else ""
        destination = self._upstream if outbound else self._service
        site = Site(self._plane, self._direction, source, destination, "tcp")
        self._plane.refused(site, Refusal.TOO_MANY_CONNECTIONS, peer_name(transport))
        transport.abort()


def release_idle(plane: Plane) -> int:
    """Close the connections that wait for a next request; how many those were."""
    released = 0
    for lane in plane.table.lanes():
        for pool in lane.pools:
            for connection in pool.idle():
                connection.close()
                released += 1
    return released
